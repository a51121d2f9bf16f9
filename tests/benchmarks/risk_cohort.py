"""The frozen three-ancestry disease cohort as features of a logistic head, and their public second moments.

Everything but a patient's own row comes from public data: the score's weights (sparse Bayesian regression on published
summary statistics with the reference panel's LD), frequencies, principal components, ancestry centroids, scales.
"""

import lzma
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genopact_shared.recipes.table import Floats

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "benchmarks" / "risk"
PEOPLE, REFERENCE, ANCESTRIES, COMPONENTS = 24_000, 3_000, 3, 4
PREVALENCE = 0.15
BLOCK = 1_000_000
THINNING = 7
LD_SHRINK = 0.05
MIN_SD = 0.08
SLABS = np.array([1e-4, 0.3, 3.0, 30.0, 150.0])
"""Prior variances of an effect, in units of 1 / variants; their first shares are START."""
START = np.array([0.95, 0.02, 0.02, 0.007, 0.003])
SWEEPS = 25
Counts = NDArray[np.float32]
Dosages = Callable[[NDArray[np.intp]], Counts]


@dataclass(frozen=True, eq=False)
class RiskCohort:
    """`rows`: d -> (24000, d) features, 12 or 87; `moments`: d -> (d, d) public. `y` float64, `test` bool (24000,)."""

    rows: dict[int, Floats]
    moments: dict[int, Floats]
    y: Floats
    test: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Public:
    """Allele frequencies (p, 3), pooled sd (p,), 1 Mb blocks of variants, and score weights (p,) per sd."""

    frequency: Floats
    sd: Floats
    blocks: list[NDArray[np.intp]]
    weights: Floats


def load(seed: int, folder: Path = FOLDER) -> RiskCohort:
    """The cohort with the phenotype of that seed."""
    private = np.load(folder / f"patients_seed{seed}.npz")
    published = dict(np.load(folder / f"public_seed{seed}.npz"))
    people = unpacked(folder / "genotypes_2bit.npy.xz", PEOPLE)
    panel, label = unpacked(folder / "reference_2bit.npy.xz", REFERENCE), published["ref_pop"]
    public = public_of(published, panel)
    thin = np.arange(0, len(public.sd), THINNING)
    axes, mean, sd = _components(panel(thin), public, thin)
    pcs = {"people": (_standardised(people(thin), public, thin) @ axes - mean) / sd}
    pcs["panel"] = (_standardised(panel(thin), public, thin) @ axes - mean) / sd
    centroid = np.stack([pcs["panel"][label == k, :2].mean(axis=0) for k in range(ANCESTRIES)])
    group = {who: ((pc[:, None, :2] - centroid) ** 2).sum(axis=2).argmin(axis=1) for who, pc in pcs.items()}
    score = {"people": _scores(people, public, group["people"]), "panel": _scores(panel, public, group["panel"])}
    scale = np.array([score["panel"][group["panel"] == k].sum(axis=1).std() for k in range(ANCESTRIES)])
    spread = np.maximum(score["panel"].std(axis=0), 1e-6)

    def features(who: str, age: Floats, sex: Floats) -> Floats:
        ancestry = (group[who][:, None] == np.array([0, 2])).astype(np.float64)
        total = np.clip(score[who].sum(axis=1) / scale[group[who]], -4, 4)[:, None]
        covariates = [np.ones(len(age)), np.clip(age, -3, 3), sex, np.clip(pcs[who], -3, 3)]
        return np.column_stack([*covariates, total, total * ancestry, ancestry, np.clip(score[who] / spread, -3, 3)])

    rows, nobody = features("people", private["age"], private["sex"]), np.zeros(REFERENCE)
    reference = features("panel", nobody, nobody)
    moments = reference.T @ reference / REFERENCE
    moments[[1, 2], [1, 2]] = 1.0  # age and sex are scaled so, and the panel has neither
    head = rows.shape[1] - len(public.blocks)
    return RiskCohort(
        {d: np.ascontiguousarray(rows[:, :d]) for d in (head, rows.shape[1])},
        {d: moments[:d, :d] for d in (head, rows.shape[1])},
        private["y"].astype(np.float64),
        private["test"],
    )


def unpacked(path: Path, people: int) -> Dosages:
    """Variants -> (people, variants) alternate-allele counts."""
    with lzma.open(path) as file:
        packed = np.load(file)

    def take(variants: NDArray[np.intp]) -> Counts:
        pairs = (packed[variants][:, :, None] >> np.arange(0, 8, 2, dtype=np.uint8)) & 3
        counts: Counts = pairs.reshape(len(variants), -1)[:, :people].T.astype(np.float32)
        return counts

    return take


def public_of(published: dict[str, NDArray[np.float64]], panel: Dosages) -> Public:
    meta, label = published["meta"], published["ref_pop"]
    _, block = np.unique(meta[:, 0] * 1000 + meta[:, 2] // BLOCK, return_inverse=True)
    blocks = [np.flatnonzero(block == b) for b in range(block.max() + 1)]
    p, size = len(meta), max(map(len, blocks))
    frequency, sd = np.empty((p, ANCESTRIES)), np.empty(p)
    information, gradient = np.zeros((len(blocks), size, size)), np.zeros((len(blocks), size))
    for b, own in enumerate(blocks):
        dosage = panel(own)
        frequency[own] = np.stack([dosage[label == k].mean(axis=0) / 2 for k in range(ANCESTRIES)], axis=1)
        sd[own] = np.maximum(np.sqrt((2 * frequency[own] * (1 - frequency[own])).mean(axis=1)), MIN_SD)
        for k in range(ANCESTRIES):
            centred = (dosage[label == k] - 2 * frequency[own, k]) / sd[own]
            ld = centred.T @ centred / len(centred)
            ld = (1 - LD_SHRINK) * ld + LD_SHRINK * np.diag(np.diag(ld))
            odds = PREVALENCE * (1 - PREVALENCE)
            information[b, : len(own), : len(own)] += published["n"][k] * odds * ld
            gradient[b, : len(own)] += published["xty"][own, k] / sd[own] * odds / published["rvar"][k]
    effects = _effects(information, gradient, np.array([len(own) for own in blocks]))
    weights = np.empty(p)
    for own, found in zip(blocks, effects, strict=True):
        weights[own] = found[: len(own)]
    return Public(frequency, sd, blocks, weights)


def _effects(information: Floats, gradient: Floats, sizes: NDArray[np.intp]) -> Floats:
    """(blocks, size) posterior means by coordinate ascent under a scale mixture of normals whose shares are learnt."""
    slabs, shares = SLABS / sizes.sum(), START
    diagonal = np.einsum("bii->bi", information)
    mean, fitted = np.zeros_like(gradient), np.zeros_like(gradient)
    for sweep in range(SWEEPS):
        before, counts = mean.copy(), np.zeros(len(slabs))
        for j in np.random.default_rng(sweep).permutation(gradient.shape[1]):
            there = j < sizes
            rest = gradient[:, j] - fitted[:, j] + diagonal[:, j] * mean[:, j]
            variance = 1 / (diagonal[:, j, None] + 1 / slabs)
            log = np.log(shares + 1e-12) + 0.5 * np.log(variance / slabs) + 0.5 * rest[:, None] ** 2 * variance
            odds = np.exp(log - log.max(axis=1, keepdims=True))
            odds /= odds.sum(axis=1, keepdims=True)
            new = np.where(there, (odds * variance).sum(axis=1) * rest, 0.0)
            fitted += information[:, j] * (new - mean[:, j])[:, None]
            mean[:, j] = new
            counts += odds[there].sum(axis=0)
        if sweep > 2:
            shares = (counts + 0.5) / (counts + 0.5).sum()
        if np.abs(mean - before).max() < 1e-4:
            break
    return mean


def _standardised(dosage: Counts, public: Public, variants: NDArray[np.intp]) -> Counts:
    centred = dosage - 2 * public.frequency[variants].mean(axis=1).astype(np.float32)
    scaled: Counts = centred / public.sd[variants].astype(np.float32)
    return scaled


def _components(dosage: Counts, public: Public, variants: NDArray[np.intp]) -> tuple[Floats, Floats, Floats]:
    from scipy.sparse.linalg import svds

    rows = _standardised(dosage, public, variants)
    _, _, right = svds(rows, k=COMPONENTS, v0=np.ones(min(rows.shape)))
    axes = np.asarray(right, dtype=np.float64)[::-1].T
    projected = rows @ axes
    return axes, projected.mean(axis=0), projected.std(axis=0)


def _scores(people: Dosages, public: Public, group: NDArray[np.intp]) -> Floats:
    """(n, blocks), centred at the person's own ancestry."""
    columns = []
    for own in public.blocks:
        per_allele = public.weights[own] / public.sd[own]
        columns.append(people(own) @ per_allele - (2 * per_allele @ public.frequency[own])[group])
    return np.column_stack(columns)
