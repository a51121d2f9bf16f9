"""Quality of a site's genotypes: one pass over the people, then statistics of variants, people and batches.

What is compared with others (F, frequencies, principal components) uses the manifest's public frequencies, never the
site's own: it means the same at every site, and one pass is enough. Nothing is dropped here: flags say why a row or a
variant is doubtful, and the thresholds, which are policy, say which flags exclude.
"""

from collections.abc import Iterable, Mapping
from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from genopact_ingest.counts import LEAST_EXPECTED, Bytes, Flags, Floats, People, Scan, inbreeding, rates, scanned, share
from genopact_ingest.hardy_weinberg import exact_tests
from genopact_ingest.kinship import FEWEST, Kinship, panel_columns, related
from genopact_shared.manifest import VariantManifest
from genopact_shared.recipes.table import Table
from genopact_shared.study import Frozen

PersonReason = Literal["call_rate", "heterozygosity", "sex_mismatch", "sex_unclear", "duplicate", "relative", "batch"]
VariantReason = Literal["call_rate", "hardy_weinberg", "rare", "frequency", "flipped", "batch"]


class QualityThresholds(Frozen):
    """Site policy. `people_out` and `variants_out`: the flags that exclude."""

    variant_call_rate: float = Field(default=0.95, ge=0, le=1)
    sample_call_rate: float = Field(default=0.98, ge=0, le=1)
    hardy_weinberg: float = Field(default=1e-6, ge=0, le=1)
    maf: float = Field(default=0.0, ge=0, le=0.5)
    heterozygosity_sds: float = Field(default=5.0, gt=0)
    frequency_difference: float = Field(default=0.2, gt=0, le=1)
    batch_p: float = Field(default=1e-8, gt=0, lt=1)
    batch_share: float = Field(default=0.01, ge=0, le=1)
    female_x_f: float = 0.5
    male_x_f: float = 0.8
    male_y_called: float = Field(default=0.5, ge=0, le=1)
    duplicate: float = 0.354
    first_degree: float = 0.177
    second_degree: float = 0.0884
    people_out: tuple[PersonReason, ...] = ("call_rate", "heterozygosity", "sex_mismatch", "duplicate")
    variants_out: tuple[VariantReason, ...] = ("call_rate", "hardy_weinberg", "flipped")


DEFAULTS = QualityThresholds()


class Batch(NamedTuple):
    """One level of a batch column against the rest of the site.

    difference: median absolute difference of frequencies. inflation: median chi-square of the variants over its
    expectation, 1 without a difference. deviating: share of the tested variants beyond `batch_p`.
    """

    column: str
    level: str
    people: int
    call_rate: float
    difference: float
    inflation: float
    deviating: float
    outlier: bool


class Quality(NamedTuple):
    """Statistics and flags of V variants, in manifest order, and n people, in the order of `people.rows`.

    called: (V,) share of calls; Y among recorded males.
    frequency: (V,) of the effect allele; males count once on X, and alone on Y.
    hardy_weinberg: (groups, V) exact p of the controls of each ancestry group, women alone on X; NaN on Y and MT.
    expected: (V,) the manifest's frequencies that were compared with; `reference` is their column.
    call_rate: (n,) without Y, which men lose with age. heterozygosity: (n,) of autosomal calls.
    f: (n,) inbreeding coefficient, 1 - observed / expected heterozygous autosomal calls. x_f: (n,) the same on X.
    y_called: (n,) share of Y calls. genetic_sex: (n,) int8 as in People.
    pcs: (n, k) projections on the manifest's loadings; a missing call counts as the mean.
    kinship: None with fewer than 1,000 variants to compare.
    person_flags, variant_flags: reason -> (n,) or (V,) bool.
    """

    people: People
    thresholds: QualityThresholds
    called: Floats
    frequency: Floats
    hardy_weinberg: Floats
    expected: Floats
    reference: str
    call_rate: Floats
    heterozygosity: Floats
    f: Floats
    x_f: Floats
    y_called: Floats
    genetic_sex: NDArray[np.int8]
    pcs: Floats
    kinship: Kinship | None
    batches: tuple[Batch, ...]
    person_flags: Mapping[PersonReason, Flags]
    variant_flags: Mapping[VariantReason, Flags]

    @property
    def keep_people(self) -> Flags:
        """(n,) people without an excluding flag."""
        out = (self.person_flags[reason] for reason in self.thresholds.people_out)
        return ~sum(out, np.zeros(len(self.f), np.bool_))

    @property
    def keep_variants(self) -> Flags:
        """(V,) variants without an excluding flag."""
        out = (self.variant_flags[reason] for reason in self.thresholds.variants_out)
        return ~sum(out, np.zeros(len(self.called), np.bool_))

    @property
    def agreement(self) -> float:
        """Correlation of the site's frequencies with the manifest's; NaN if it has none."""
        return _correlation(self.frequency, self.expected)

    def covariates(self) -> Table:
        """The n people in the schema of recipe `cohort-summary`."""
        flags, known = self.person_flags, (self.people.sex >= 0) & (self.genetic_sex >= 0)
        sex = np.select([flags["sex_mismatch"], flags["sex_unclear"], known], [1, 2, 0], -1)
        related = flags["duplicate"] | flags["relative"]
        codes = {"sex_check": sex, "related": related, "batch_outlier": flags["batch"]}
        numbers = {"call_rate": self.call_rate, "heterozygosity_f": np.clip(self.f, -1, 1)}
        return Table(numbers | {name: code.astype(np.int8) for name, code in codes.items()}, len(known))


def assess(
    chunks: Iterable[Bytes], manifest: VariantManifest, people: People, policy: QualityThresholds = DEFAULTS
) -> Quality:
    """All statistics and flags of V variants and n people.

    Args:
        chunks: (b, ceil(V / 4)) uint8 PLINK-1 codes of b people each, in the order of `people`.

    Guarantees:
        Memory grows with 16 bytes for each variant and each combination of sex, control, ancestry and batch that
        occurs, and with a quarter byte for each person and variant of the kinship panel; genotypes are not kept.

    Raises:
        GenopactError: QUALITY_INPUT if people, rows and manifest do not fit together.
    """
    columns = panel_columns(manifest)
    scan = scanned(chunks, manifest, people, columns)
    copies, alleles, calls, present = scan.pooled(np.ones(len(scan.groups), np.bool_))
    frequency, called = share(copies, alleles), share(calls, present)
    reference, expected = _closest(manifest, frequency)
    call_rate, heterozygosity, y_called = rates(scan.tally.astype(np.float64))
    sound = called[columns] >= policy.variant_call_rate
    kinship = related(scan.panel, sound, policy.second_degree) if sound.sum() >= FEWEST else None
    f, x_f = inbreeding(scan, people.sex)
    man, woman = y_called >= policy.male_y_called, y_called < policy.male_y_called  # both false without Y variants
    sexes = [(x_f > policy.male_x_f) & ~woman, (x_f < policy.female_x_f) & ~man]
    genetic = np.select(sexes, [1, 0], -1).astype(np.int8)
    batches, deviating, odd = _batches(scan, people, call_rate, policy)
    duplicate, relative = _relatives(kinship, call_rate, policy)
    tested = exact_tests(scan)
    difference, spread = np.abs(frequency - expected), np.sqrt(share(expected * (1 - expected), alleles))
    far = difference > np.maximum(policy.frequency_difference, 4 * spread)
    person_flags: dict[PersonReason, Flags] = {
        "call_rate": ~(call_rate >= policy.sample_call_rate),
        "heterozygosity": _outlying(f, scan.sums[:, 2:], policy.heterozygosity_sds),
        "sex_mismatch": (genetic >= 0) & (people.sex >= 0) & (genetic != people.sex),
        "sex_unclear": np.isfinite(x_f) & (genetic < 0),
        "duplicate": duplicate,
        "relative": relative,
        "batch": odd,
    }
    variant_flags: dict[VariantReason, Flags] = {
        "call_rate": ~(called >= policy.variant_call_rate),
        "hardy_weinberg": np.any(tested < policy.hardy_weinberg, axis=0),
        "rare": np.minimum(frequency, 1 - frequency) < policy.maf,
        "frequency": far,
        "flipped": far & (np.abs(frequency + expected - 1) < difference / 2),
        "batch": deviating,
    }
    return Quality(
        people, policy, called, frequency, tested, expected, reference, call_rate, heterozygosity, f, x_f, y_called,
        genetic, scan.sums[:, 2:], kinship, batches, person_flags, variant_flags,
    )  # fmt: skip


def _outlying(f: Floats, pcs: Floats, sds: float) -> Flags:
    """(n,) F far from what is usual for the ancestry: from its fit by the components and their squares."""
    known = np.isfinite(f)
    if not known.any():
        return known
    design = np.column_stack([np.ones(len(f)), pcs, pcs**2])
    design = design if known.sum() > 10 * design.shape[1] else design[:, :1]
    residual: Floats = f - design @ np.linalg.lstsq(design[known], f[known])[0]
    away = np.abs(residual - np.median(residual[known]))
    return np.asarray(away > sds * max(float(np.median(away[known])) / NormalDist().inv_cdf(0.75), 1e-6))


def _relatives(kinship: Kinship | None, call_rate: Floats, policy: QualityThresholds) -> tuple[Flags, Flags]:
    """(n,) the poorer of each pair of duplicates; everybody with a relative who is no duplicate."""
    duplicate, relative = np.zeros((2, len(call_rate)), np.bool_)
    if kinship is not None:
        same = kinship.coefficient > policy.duplicate
        one, other = kinship.pairs[same].T
        duplicate[np.where(call_rate[one] < call_rate[other], one, other)] = True
        relative[kinship.pairs[~same]] = True
    return duplicate, relative


def _correlation(one: Floats, other: Floats) -> float:
    known = np.isfinite(one) & np.isfinite(other)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.corrcoef(one[known], other[known])[0, 1]) if known.sum() > 1 else float("nan")


def _closest(manifest: VariantManifest, frequency: Floats) -> tuple[str, Floats]:
    """The manifest's frequency column that is most like the site's: sites differ in ancestry."""
    columns = {"frequency": manifest.frequency}
    columns |= {name: values for name, values in manifest.extra.items() if name.startswith("af_")}
    best = max(columns, key=lambda name: np.nan_to_num(_correlation(frequency, columns[name]), nan=-2))
    return best, columns[best]


def _batches(
    scan: Scan, people: People, call_rate: Floats, policy: QualityThresholds
) -> tuple[tuple[Batch, ...], Flags, Flags]:
    """Each level against the rest, by chi-squares of allele counts; (V,) variants and (n,) people at fault."""
    limit, median = NormalDist().inv_cdf(policy.batch_p / 2) ** 2, NormalDist().inv_cdf(0.75) ** 2
    found, deviating, odd = [], np.zeros(len(scan.kind), np.bool_), np.zeros(len(call_rate), np.bool_)
    copies, alleles, *_ = scan.pooled(np.ones(len(scan.groups), np.bool_))
    for column, (name, labels) in enumerate(people.batches.items(), start=3):
        for code, level in enumerate(np.unique(np.array(labels, np.str_)).tolist()):
            a, own, *_ = scan.pooled(scan.groups[:, column] == code)
            least = share(np.minimum(own, alleles - own) * np.minimum(copies, alleles - copies), alleles)
            (tested,) = np.nonzero(least >= LEAST_EXPECTED)
            a, own, c, of = a[tested], own[tested], copies[tested], alleles[tested]
            difference = a / own - (c - a) / (of - own)
            square = difference**2 * own * (of - own) * of / (c * (of - c))
            inside = scan.groups[scan.group, column] == code
            rate, beyond = float(call_rate[inside].mean()), tested[square > limit]
            part = len(beyond) / max(1, len(tested))
            outlier = not rate >= policy.sample_call_rate or part > policy.batch_share
            deviating[beyond] = True
            odd |= inside & outlier
            apart, lift = (float(np.median(x)) if len(x) else np.nan for x in (np.abs(difference), square / median))
            found.append(Batch(name, level, int(inside.sum()), rate, apart, lift, part, outlier))
    return tuple(found), deviating, odd
