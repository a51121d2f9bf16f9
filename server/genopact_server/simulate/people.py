"""People, their hospitals and who falls ill: the liability threshold model (Falconer, Ann Hum Genet 1965;29:51-76).

Liability is what genes, age, sex, ancestry's surroundings, hospital and chance add up to; its variance is about 1, and
the share of people above a threshold is ill. Effects have heavy tails; those of two ancestries correlate with 0.9, and
so do those of the hospitals' trait and of the one that the public statistics are of.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.random import Generator, default_rng
from numpy.typing import NDArray

from genopact_server.simulate.coalescent import coalescent
from genopact_server.simulate.haplotypes import ANCESTRIES, MOST_MEGABASES, Advance, Drawn, Floats, Ints, bundled
from genopact_server.simulate.public import Gwas, genetic, score_tests
from genopact_shared.errors import GenopactError

Codes = NDArray[np.int8]
Mask = NDArray[np.bool_]
TYPED, DENSITY, CAUSAL = 0.85, 300, 20
"""Share of variants in files; of these, and of causal ones typed or not, in a megabase."""
HELD_OUT = 5
"""One of so many people of each hospital."""
AGE, AGE_SD = 55.0, 14.0
_BY_AGE, _BY_SEX, _SURROUNDINGS = 0.28, 0.14, np.array([0.12, 0.0, -0.12])
_OTHER_VARIANCE = 0.10
"""Of liability, by age and sex."""
_SHARED = 0.9
"""Correlation of effects."""
_GWAS = (0.08, 0.84, 0.08)


class Hospital(NamedTuple):
    """mix: of ANCESTRIES; shift: of liability; older: standard deviations of age."""

    name: str
    size: float
    mix: tuple[float, float, float]
    shift: float
    older: float


HOSPITALS = (
    Hospital("northgate", 5.0, (0.04, 0.92, 0.04), 0.00, 0.0),
    Hospital("eastharbour", 3.4, (0.04, 0.28, 0.68), -0.15, -0.1),
    Hospital("riverside", 3.2, (0.70, 0.24, 0.06), -0.25, -0.2),
    Hospital("hillcrest", 2.0, (0.06, 0.90, 0.04), 0.30, 0.4),
    Hospital("southfield", 3.6, (0.10, 0.85, 0.05), 0.10, 0.2),
    Hospital("westbrook", 2.8, (0.36, 0.38, 0.26), -0.05, 0.0),
    Hospital("lakeside", 2.2, (0.76, 0.18, 0.06), 0.15, -0.3),
    Hospital("kingsferry", 1.6, (0.20, 0.44, 0.36), -0.35, 0.1),
)


@dataclass(frozen=True)
class Design:
    """What is simulated. `density`: typed variants a megabase; None: 300, or of the coalescent all that are common.

    `gwas`: people of the summary statistics for each one that the hospitals train on; `panel`: people of the public
    panel, as many of each ancestry. Raises USAGE.
    """

    people: int = 2400
    seed: int = 1
    hospitals: int = len(HOSPITALS)
    megabases: float = 5.0
    method: Literal["bundled", "coalescent"] = "bundled"
    prevalence: float = 0.15
    heritability: float = 0.5
    density: int | None = None
    panel: int = 600
    gwas: float = 20.0

    def __post_init__(self) -> None:
        rules = {
            f"2 to {len(HOSPITALS)} hospitals": 2 <= self.hospitals <= len(HOSPITALS),
            "at least 30 people a hospital": self.people >= 30 * self.hospitals,
            f"0.1 to {MOST_MEGABASES} megabases": 0.1 <= self.megabases <= MOST_MEGABASES,
            "a prevalence of 0.01 to 0.5": 0.01 <= self.prevalence <= 0.5,
            "a heritability of 0 to 0.85": 0 <= self.heritability <= 0.85,
            "a density of 50 to 5000": self.density is None or 50 <= self.density <= 5000,
            "a panel of at least 30 people, a multiple of 3": self.panel >= 30 and self.panel % 3 == 0,
            "at least one person of the public statistics for each in training": self.gwas >= 1,
            "a seed of at least 0": self.seed >= 0,
        }
        if wrong := [rule for rule, holds in rules.items() if not holds]:
            raise GenopactError("USAGE", "needed: " + "; ".join(wrong))


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
        age: (n,) float64 years.
        sex: (n,) int8, 0 female, 1 male.
        disease: (n,) int8 0, 1.
        held_out: (n,) bool, not for training.
        genetic: (n,) float64 share of `liability`, of the design's heritability in each ancestry.
        liability: (n,) float64.
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
    age: Floats
    sex: Codes
    disease: Codes
    held_out: Mask
    genetic: Floats
    liability: Floats
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
    rng, letters, chance = (default_rng([design.seed, stage]) for stage in range(3))
    hospital, ancestry, held_out = _admitted(rng, design)
    n = np.bincount(ancestry, minlength=3)
    each = design.panel // 3
    studied = parts(round(design.gwas * np.count_nonzero(~held_out)), _GWAS)
    drawn = _drawn(rng, design, (n + each + studied).tolist(), advance)
    typed, causal = _chosen(rng, design, len(drawn.pos))
    dosages, panel = np.empty((len(hospital), len(typed)), np.int8), np.empty((3, each, len(typed)), np.int8)
    for k, of in enumerate(drawn.haplotypes):
        dosages[ancestry == k] = of.dosages(slice(None), 0, n[k]).T
        panel[k] = of.dosages(slice(None), n[k], n[k] + each).T
    effects, public_effects = _effects(rng, causal, panel.mean(axis=1).T / 2)

    sums = np.einsum("ij,ij->i", dosages[:, causal] @ effects[causal], np.eye(3)[ancestry])
    sites = [HOSPITALS[at] for at in range(design.hospitals)]
    shift, older = (np.array([getattr(site, name) for site in sites])[hospital] for name in ("shift", "older"))
    age, sex = _age_and_sex(chance, older)
    own, liability, disease = _ill(chance, design, sums, ancestry, shift, age, sex)
    ref, alt = _letters(letters, len(typed))
    return Cohort(
        design, drawn.chrom, drawn.pos, ref, alt, typed, np.ascontiguousarray(dosages[:, typed]), hospital, ancestry,
        age, sex, disease, held_out, own, liability, effects, public_effects,
        panel[:, :, typed].reshape(design.panel, -1), np.repeat(np.arange(3, dtype=np.int8), each),
        _statistics(chance, design, drawn, n + each, typed, public_effects, advance),
    )  # fmt: skip


def parts(total: int, weights: tuple[float, ...] | list[float]) -> Ints:
    """Whole numbers that add up to `total`, as near to the weights as can be."""
    exact = total * np.array(weights) / sum(weights)
    found = np.floor(exact).astype(np.int64)
    found[np.argsort(found - exact, kind="stable")[: total - found.sum()]] += 1
    return found


def _admitted(rng: Generator, design: Design) -> tuple[Codes, Codes, Mask]:
    """Hospital, ancestry and who is held out, each (n,)."""
    sizes = parts(design.people, [site.size for site in HOSPITALS[: design.hospitals]])
    ancestries, held_out = list[Ints](), list[Mask]()
    for site, size in zip(HOSPITALS, sizes.tolist(), strict=False):
        ancestries.append(rng.permutation(np.repeat(np.arange(3), parts(size, site.mix))))
        held_out.append(rng.permutation(size) < size // HELD_OUT)
    hospital = np.repeat(np.arange(design.hospitals, dtype=np.int8), sizes)
    return hospital, np.concatenate(ancestries).astype(np.int8), np.concatenate(held_out)


def _drawn(rng: Generator, design: Design, people: list[int], advance: Advance) -> Drawn:
    """A density is of typed variants."""
    if design.method == "bundled":
        variants = round((design.density or DENSITY) * design.megabases / TYPED)
        return bundled(rng, people, design.megabases, variants, advance)
    drawn = coalescent(rng, people, design.megabases, advance)
    wanted = round(design.density * design.megabases / TYPED) if design.density else len(drawn.pos)
    if wanted >= len(drawn.pos):
        return drawn
    rows = np.sort(rng.choice(len(drawn.pos), wanted, replace=False))
    fewer = [type(of)(of.bits[rows], of.people) for of in drawn.haplotypes]
    return Drawn(drawn.chrom[rows], drawn.pos[rows], fewer)


def _chosen(rng: Generator, design: Design, variants: int) -> tuple[Mask, Ints]:
    """(M,) which are typed, and the numbers of the causal ones, typed or not."""
    typed = rng.permutation(variants) < round(TYPED * variants)
    return typed, np.sort(rng.permutation(variants)[: max(5, round(CAUSAL * design.megabases))])


def _effects(rng: Generator, causal: Ints, frequency: Floats) -> tuple[Floats, Floats]:
    """(M, 3) of the hospitals' trait and of the public one. Rarer alleles have somewhat larger effects."""
    base = rng.standard_t(5, len(causal))

    def alike(trait: Floats, correlation: float) -> Floats:
        chance = rng.normal(0, base.std() * np.sqrt(1 - correlation**2), len(trait))
        return correlation * trait + chance

    scale = np.maximum((2 * frequency * (1 - frequency)).mean(axis=1), 0.005)[causal] ** -0.25
    found = np.zeros((2, *frequency.shape))
    for at, trait in enumerate((base, alike(base, _SHARED))):
        for k in range(len(ANCESTRIES)):
            found[at, causal, k] = scale * alike(trait, np.sqrt(_SHARED))
    return found[0], found[1]


def _age_and_sex(rng: Generator, older: Floats) -> tuple[Floats, Codes]:
    """Years with one decimal, and 0 female or 1 male."""
    age = (AGE + AGE_SD * rng.normal(older, 1.0)).clip(18, 100).round(1)
    return age, rng.integers(0, 2, len(age), dtype=np.int8)


def _ill(  # noqa: PLR0917 - one term of liability each
    rng: Generator, design: Design, sums: Floats, ancestry: Codes, shift: Floats, age: Floats, sex: Codes
) -> tuple[Floats, Floats, Codes]:
    """The genetic share of liability, liability and disease, each (n,)."""
    own = np.zeros(len(sums))
    for mine in (ancestry == k for k in np.unique(ancestry)):
        own[mine] = (sums[mine] - sums[mine].mean()) * np.sqrt(design.heritability) / max(sums[mine].std(), 1e-9)
    others = _BY_AGE * (age - AGE) / AGE_SD + _BY_SEX * (2 * sex - 1) + _SURROUNDINGS[ancestry] + shift
    liability = own + others + rng.normal(0, np.sqrt(1 - design.heritability - _OTHER_VARIANCE), len(sums))
    return own, liability, (liability > np.quantile(liability, 1 - design.prevalence)).astype(np.int8)


def _statistics(  # noqa: PLR0917
    rng: Generator, design: Design, drawn: Drawn, first: Ints, typed: Mask, effects: Floats, advance: Advance
) -> tuple[Gwas, ...]:
    """Of the people from `first` on in each ancestry."""
    causal, each = np.flatnonzero(effects.any(axis=1)), list(zip(drawn.haplotypes, first.tolist(), strict=True))
    sums = [genetic(of, causal, effects[causal, k], start) for k, (of, start) in enumerate(each)]
    ancestry = np.repeat(np.arange(3, dtype=np.int8), list(map(len, sums)))
    age, sex = _age_and_sex(rng, np.zeros(len(ancestry)))
    disease = _ill(rng, design, np.concatenate(sums), ancestry, np.zeros(len(age)), age, sex)[2].astype(np.float64)
    covariates, found = np.stack([age, sex.astype(np.float64)], axis=1), list[Gwas]()
    for k, (of, start) in enumerate(each):
        found.append(score_tests(of, np.flatnonzero(typed), start, disease[ancestry == k], covariates[ancestry == k]))
        advance(1)
    return tuple(found)


def _letters(rng: Generator, variants: int) -> tuple[NDArray[np.str_], NDArray[np.str_]]:
    """REF and ALT, two of three a transition."""
    letters, ref = np.array(list("ACGT")), rng.integers(0, 4, variants)
    return letters[ref], letters[(ref + rng.choice((1, 2, 2, 2, 2, 3), variants)) % 4]
