"""People, their hospitals and who falls ill: the liability threshold model (Falconer, Ann Hum Genet 1965;29:51-76).

Liability is what genes, age, sex, ancestry's surroundings, hospital and chance add up to; its variance is about 1, and
the share of people above a threshold is ill. Effects have heavy tails; those of two ancestries correlate with 0.9, and
so do those of the hospitals' trait and of the one that the public statistics are of.
"""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Literal, NamedTuple

import numpy as np
from numpy.random import Generator, default_rng
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass as checked

from genopact_server.simulate.coalescent import coalescent
from genopact_server.simulate.haplotypes import CHROMOSOME, MOST_MEGABASES, Advance, Ints, bundled
from genopact_shared.recipes.table import Codes, Floats

Mask = NDArray[np.bool_]
TYPED, CAUSAL = 0.85, 20
"""Share of variants in files; causal ones in a megabase."""
HELD_OUT = 5
"""One of so many people of each hospital."""
AGE, AGE_SD = 55.0, 14.0
_BY_AGE, _BY_SEX, _SURROUNDINGS = 0.28, 0.14, np.array([0.12, 0.0, -0.12])
_OTHER_VARIANCE = 0.10
"""Of liability, by age and sex."""
_SHARED = 0.9
"""Correlation of effects."""
_GWAS = (0.08, 0.84, 0.08)
_RARE = 5
"""Alleles that fewer of all copies are say nothing: beta 0, and a large error."""
_LETTERS = np.array(list("ACGT"))


class Hospital(NamedTuple):
    """mix: of ANCESTRIES; shift: of liability; older: standard deviations of age."""

    name: str
    size: float
    mix: Sequence[float]
    shift: float
    older: float


_TEXT = files("genopact_server.simulate").joinpath("hospitals.toml").read_text("utf-8")
HOSPITALS = tuple(Hospital(name, *row) for name, row in tomllib.loads(_TEXT).items())


@checked(frozen=True)
class Design:
    """What is simulated. `density`: typed variants a megabase; None: 300, or of the coalescent all that are common.

    `gwas`: people of the summary statistics for each one that the hospitals train on; `panel`: people of the public
    panel, as many of each ancestry. Raises pydantic's ValidationError, a ValueError.
    """

    people: int = Field(default=2400, ge=60)
    seed: int = Field(default=1, ge=0)
    hospitals: int = Field(default=len(HOSPITALS), ge=2, le=len(HOSPITALS))
    megabases: float = Field(default=5.0, ge=0.1, le=MOST_MEGABASES)
    method: Literal["bundled", "coalescent"] = "bundled"
    prevalence: float = Field(default=0.15, ge=0.01, le=0.5)
    heritability: float = Field(default=0.5, ge=0, le=0.85)
    density: int | None = Field(default=None, ge=50, le=5000)
    panel: int = Field(default=600, ge=30, multiple_of=3)
    gwas: float = Field(default=20.0, ge=1)


class Gwas(NamedTuple):
    """One ancestry's score tests of n people. frequency, beta, se: (V,) of ALT, beta and se on the log-odds scale."""

    n: int
    frequency: Floats
    beta: Floats
    se: Floats


@dataclass(frozen=True, eq=False)
class Cohort:
    """n people of hospitals, in the hospitals' order, P people of the panel, M variants of which V are typed.

    Attributes:
        chrom: (M,) int64, in order.
        pos: (M,) int64, from 1, in GRCh38.
        ref: (M,) letters.
        alt: (M,) letters.
        typed: (M,) bool, which of them the files have.
        dosages: (n, V) int8 copies of ALT.
        hospital: (n,) int8 index in HOSPITALS.
        ancestry: (n,) int8 index in ANCESTRIES.
        held_out: (n,) bool, not for training.
        age: (n,) float64 years.
        sex: (n,) int8, 0 female, 1 male.
        genetic: (n,) float64 share of `liability`, of the design's heritability in each ancestry.
        liability: (n,) float64.
        disease: (n,) int8 0, 1.
        effects: (M, 3) float64 of a copy of ALT, before scaling to the heritability; 0 where not causal.
        public_effects: (M, 3) the same of the public statistics' trait.
        panel: (P, V) int8 copies of ALT.
        panel_ancestry: (P,) int8.
        gwas: of each ancestry.
    """

    design: Design
    chrom: Ints
    pos: Ints
    ref: NDArray[np.str_]
    alt: NDArray[np.str_]
    typed: Mask
    dosages: Codes
    hospital: Codes
    ancestry: Codes
    held_out: Mask
    age: Floats
    sex: Codes
    genetic: Floats
    liability: Floats
    disease: Codes
    effects: Floats
    public_effects: Floats
    panel: Codes
    panel_ancestry: Codes
    gwas: tuple[Gwas, ...]


def cohort(design: Design, advance: Advance = lambda _: None) -> Cohort:
    """The whole cohort; the same design gives the same one. `advance` is called with steps, six in all.

    Raises:
        GenopactError: MSPRIME_MISSING.
    """
    rng, n = default_rng(design.seed), design.people
    hospital = dealt(n, [site.size for site in HOSPITALS[: design.hospitals]])
    sizes = np.bincount(hospital).tolist()
    mixed = [rng.permutation(dealt(size, site.mix)) for size, site in zip(sizes, HOSPITALS, strict=False)]
    ancestry = np.concatenate([*mixed, dealt(design.panel, (1, 1, 1))])
    held_out = np.arange(n) % HELD_OUT == 0  # whoever comes fifth is of any ancestry
    first, studied = np.bincount(ancestry), dealt(round(design.gwas * np.count_nonzero(~held_out)), _GWAS)

    method = bundled if design.method == "bundled" else coalescent
    variants = design.density and round(design.density * design.megabases / TYPED)
    pos, drawn = method(rng, (first + np.bincount(studied)).tolist(), design.megabases, variants, advance)
    copies = np.empty((len(ancestry), len(pos)), np.int8)
    for k, of in enumerate(drawn):
        copies[ancestry == k] = of[:, : first[k]].T
    typed = rng.permutation(len(pos)) < round(TYPED * len(pos))
    ref = rng.integers(0, 4, len(pos))
    alt = (ref + rng.choice((1, 2, 2, 2, 2, 3), len(pos))) % 4  # two of three are transitions
    sites = np.full(len(pos), CHROMOSOME), pos, _LETTERS[ref], _LETTERS[alt], typed

    causal = rng.permutation(len(pos))[: max(5, round(CAUSAL * design.megabases))]  # typed or not
    own, public = np.zeros((2, len(pos), 3))
    own[causal], public[causal] = _effects(rng, copies[n:, causal].reshape(3, -1, len(causal)).mean(axis=1).T / 2)
    sums = (copies[:n, causal] @ own[causal])[np.arange(n), ancestry[:n]]
    patients = _patients(rng, design, sums, ancestry[:n], hospital)
    gwas = list[Gwas]()
    for k, of in enumerate(drawn):
        others = of[:, first[k] :]
        own_group, as_northgate = np.full(others.shape[1], k, np.int8), np.zeros(others.shape[1], np.int8)
        age, sex, _, _, disease = _patients(rng, design, public[causal, k] @ others[causal], own_group, as_northgate)
        gwas.append(_score_tests(others[typed], disease, np.stack([age, sex.astype(np.float64)])))
        advance(1)
    shown = copies.compress(typed, axis=1)
    arrays = *sites, shown[:n], hospital, ancestry[:n], held_out, *patients, own, public, shown[n:], ancestry[n:]
    return Cohort(design, *arrays, tuple(gwas))


def dealt(n: int, weights: Sequence[float]) -> Codes:
    """(n,) ascending groups 0, 1, ..., each as often as its weight has it, but for less than one."""
    return np.searchsorted(np.cumsum(weights) / sum(weights), (np.arange(n) + 0.5) / n).astype(np.int8)


def _effects(rng: Generator, frequency: Floats) -> Floats:
    """(2, c, 3) of c causal variants: the hospitals' trait and the public one. Rarer alleles have larger effects."""
    base = rng.standard_t(5, len(frequency))

    def alike(trait: Floats, correlation: float) -> Floats:
        return correlation * trait + rng.normal(0, base.std() * np.sqrt(1 - correlation**2), trait.shape)

    traits = np.stack([base, alike(base, _SHARED)])[:, :, None]
    scale = np.maximum((2 * frequency * (1 - frequency)).mean(axis=1, keepdims=True), 0.005) ** -0.25
    return np.asarray(scale * alike(np.repeat(traits, 3, axis=2), np.sqrt(_SHARED)))


def _patients(
    rng: Generator, design: Design, sums: Floats, ancestry: Codes, hospital: Codes
) -> tuple[Floats, Codes, Floats, Floats, Codes]:
    """Age, sex, the genetic share of liability, liability and disease, each (n,)."""
    shift, older = np.array([(site.shift, site.older) for site in HOSPITALS])[hospital].T
    age = (AGE + AGE_SD * rng.normal(older, 1.0)).clip(18, 100).round(1)
    sex = rng.integers(0, 2, len(sums), dtype=np.int8)
    own = np.zeros(len(sums))
    for mine in (ancestry == k for k in np.unique(ancestry)):
        own[mine] = (sums[mine] - sums[mine].mean()) * np.sqrt(design.heritability) / max(sums[mine].std(), 1e-9)
    others = _BY_AGE * (age - AGE) / AGE_SD + _BY_SEX * (2 * sex - 1) + _SURROUNDINGS[ancestry] + shift
    liability = own + others + rng.normal(0, np.sqrt(1 - design.heritability - _OTHER_VARIANCE), len(sums))
    disease = (liability > np.quantile(liability, 1 - design.prevalence)).astype(np.int8)
    return age, sex, own, liability, disease


def _score_tests(copies: Codes, disease: Codes, covariates: Floats) -> Gwas:
    """The association of each variant with the disease.

    The null model is linear, and the variance of its residual stands for that of each person's outcome: one pass over
    the genotypes gives what a logistic score test gives, as long as effects are small.

    Args:
        copies: (V, n) of ALT, of one ancestry.
        disease: (n,) 0 or 1.
        covariates: (c, n) without a constant.
    """
    n, null = len(disease), np.vstack([np.ones(len(disease)), covariates]).T
    residual = disease - null @ np.linalg.lstsq(null, disease, rcond=None)[0]
    rows = (row.astype(np.float64) for row in copies)
    score, total, squares = np.array([(row @ residual, row.sum(), row @ row) for row in rows]).T
    score[np.minimum(total, 2 * n - total) < _RARE] = 0
    spread = max(residual.var(), 1e-6)  # 0 where nobody is ill
    information = spread * np.maximum(squares - total**2 / n, 1)
    return Gwas(n, total / (2 * n), score / information, 1 / np.sqrt(information))
