"""One pass over the people: what quality control needs of their genotypes, in the memory of a few columns."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from genopact_shared.compiled import compiled
from genopact_shared.errors import GenopactError, require
from genopact_shared.manifest import VariantManifest

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]

TWO, MISSING, ONE, NONE = range(4)
"""PLINK-1 codes: two copies of the effect allele, missing, one, none."""
AUTOSOME, X, PLAIN_AUTOSOME, PLAIN_X, Y, MT = range(6)
"""Kinds of variants. PAR counts as autosome. The plain ones have no known frequency: nothing is expected of them."""
_KINDS = {"autosome": AUTOSOME, "par": AUTOSOME, "x": X, "y": Y, "mt": MT}
MAX_COUNTS = 1 << 28
RUN = 4096
LEAST_EXPECTED = 5.0
"""Heterozygotes on X, or alleles in a cell of a chi-square: below, nothing is concluded."""


@dataclass(frozen=True, eq=False)
class People:
    """What is known of n people beside their genotypes, in the order in which their genotypes come.

    rows: (n,) int64 row numbers of the store.
    sex: (n,) int8 recorded sex, 0 female, 1 male, -1 unknown.
    controls: (n,) bool, on whom Hardy-Weinberg is tested; None: on everybody.
    ancestry: (n,) int8 groups that are tested apart; None: one group.
    batches: column such as array, platform or batch -> n labels.
    """

    rows: Ints
    sex: NDArray[np.int8]
    controls: Flags | None = None
    ancestry: NDArray[np.int8] | None = None
    batches: Mapping[str, Sequence[str]] = field(default_factory=dict)


class Scan(NamedTuple):
    """What the pass over the people leaves.

    groups: (G, 3 + batch columns) sex, control, ancestry and batch levels that occur together; group: (n,) a person's.
    counts: (G, V, 4) codes; tally: (n, 6, 4) codes of each kind. weights: (V, 4, 2 + k) of a code in the sums: expected
    heterozygosity on autosomes and X, then components; sums: (n, 2 + k). panel: (n, m / 4) codes for kinship.
    """

    kind: Ints
    groups: Ints
    group: Ints
    weights: NDArray[np.float32]
    counts: NDArray[np.int32]
    tally: NDArray[np.int32]
    sums: Floats
    panel: Bytes

    def pooled(self, chosen: Flags) -> Floats:
        """(4, V) copies of the effect allele, of both alleles, calls and people of some groups; no women on Y."""
        pool = np.zeros((4, len(self.kind)))
        for sex, count in zip(self.groups[chosen, 0], self.counts[chosen], strict=True):
            two, _, one, none = count.T.astype(np.float64)
            haploid = (self.kind >= Y) | (np.isin(self.kind, (X, PLAIN_X)) & (sex == 1))
            copies = np.where(haploid, [two, two + none], [2 * two + one, 2 * (two + one + none)])
            pool += ((self.kind != Y) | (sex == 1)) * np.stack([*copies, two + one + none, count.sum(axis=1)])
        return pool


def scanned(chunks: Iterable[Bytes], manifest: VariantManifest, people: People, columns: Ints) -> Scan:
    """Count; `columns`: the kinship panel. Raises QUALITY_INPUT if people, rows and manifest do not fit together."""
    n, size, frequency = len(people.rows), len(manifest), manifest.frequency
    controls = np.ones(n) if people.controls is None else people.controls
    ancestry = np.zeros(n) if people.ancestry is None else people.ancestry
    levels = (np.unique(np.array(labels, np.str_), return_inverse=True)[1] for labels in people.batches.values())
    facts = [np.asarray(fact, np.int64).ravel() for fact in (people.sex, controls, ancestry, *levels)]
    if n == 0 or any(len(fact) != n for fact in facts) or not set(np.unique(people.sex)) <= {-1, 0, 1}:
        raise GenopactError("QUALITY_INPUT", "people")
    groups, group = np.unique(np.column_stack(facts), axis=0, return_inverse=True)
    if len(groups) * size > MAX_COUNTS:
        raise GenopactError("QUALITY_INPUT", f"{len(groups)} combinations of sex, ancestry and batches")
    usable, kind = (frequency > 0) & (frequency < 1), np.array([_KINDS[name] for name in manifest.kind])
    kind += PLAIN_AUTOSOME * (~usable & (kind <= X))
    weights, counts = _weights(manifest, kind), np.zeros((len(groups), size, 4), np.int32)
    tally, sums = np.zeros((n, 6, 4), np.int32), np.zeros((n, weights.shape[2]))
    panel = np.zeros((n, len(columns) // 4), np.uint8)
    runs = np.unique(np.concatenate([np.flatnonzero(np.diff(kind)) + 1, np.arange(0, size, RUN), [size]]))
    at, shift = 0, (2 * (columns & 3)).astype(np.uint8)
    for chunk in chunks:
        here = slice(at, at + len(chunk))
        at += len(chunk)
        require(chunk.dtype == np.uint8 and chunk.shape[1:] == (-(-size // 4),) and at <= n, "QUALITY_INPUT", "rows")
        compiled(_count)(chunk, (group[here], kind, runs, weights), (counts, tally[here], sums[here]))
        codes = ((chunk[:, columns >> 2] >> shift) & 3).reshape(len(chunk), panel.shape[1], 4)
        panel[here] = np.bitwise_or.reduce(codes << np.array([0, 2, 4, 6], np.uint8), axis=2)
    require(at == n, "QUALITY_INPUT", "rows")
    nobody = kind[counts.sum(axis=0)[:, MISSING] == n]  # what no file had says nothing about a person
    tally[:, :, MISSING] -= np.bincount(nobody, minlength=6).astype(np.int32)
    return Scan(kind, groups, group, weights, counts, tally, sums, panel)


def _weights(manifest: VariantManifest, kind: Ints) -> NDArray[np.float32]:
    """See Scan; a variant without a usable frequency or loading weighs nothing, a missing call is the mean."""
    loadings = [values for name, values in manifest.extra.items() if name.startswith("pc")]
    weights = np.zeros((len(kind), 4, 2 + len(loadings)), np.float32)
    p = np.where((manifest.frequency > 0) & (manifest.frequency < 1), manifest.frequency, np.nan)[:, None]
    for code, copies in ((TWO, 2), (ONE, 1), (NONE, 0)):
        weights[:, code, :2] = np.where(kind[:, None] == (AUTOSOME, X), 2 * p * (1 - p), 0)
        for k, values in enumerate(loadings, start=2):
            weights[:, code, k] = np.nan_to_num(values * ((copies - 2 * p) / np.sqrt(2 * p * (1 - p)))[:, 0])
    return weights


def _count(rows: Bytes, of: tuple[Any, ...], into: tuple[Any, ...]) -> None:
    """Codes by group and variant, and by person and kind; runs of one kind are short enough for the cache."""
    (group, kind, runs, weights), (counts, tally, sums) = of, into
    for run in range(len(runs) - 1):
        for i in range(len(rows)):
            packed = 0  # four counts of 16 bits
            for j in range(runs[run], runs[run + 1]):
                code = (rows[i, j >> 2] >> (2 * (j & 3))) & 3
                counts[group[i], j, code] += 1
                packed += 1 << (16 * code)
                for k in range(weights.shape[2]):
                    sums[i, k] += weights[j, code, k]
            for code in range(4):
                tally[i, kind[runs[run]], code] += (packed >> (16 * code)) & 0xFFFF


def share(part: Floats, whole: Floats) -> Floats:
    """part / whole, NaN where there is no whole."""
    return np.asarray(np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole > 0))


def rates(tally: Floats) -> tuple[Floats, Floats, Floats]:
    """(n,) call rate, heterozygosity and share of Y calls of (n, 6, 4) codes."""
    autosomes, y = tally[:, AUTOSOME] + tally[:, PLAIN_AUTOSOME], tally[:, Y]
    every, whole = tally.sum(axis=1) - y, autosomes.sum(axis=1)
    rates = (1 - share(codes[:, MISSING], codes.sum(axis=1)) for codes in (every, y))
    return next(rates), share(autosomes[:, ONE], whole - autosomes[:, MISSING]), next(rates)


def inbreeding(scan: Scan, sex: NDArray[np.int8]) -> tuple[Floats, Floats]:
    """(n,) F on the autosomes and on X.

    Import clears heterozygous X calls of recorded men. So their missing X calls count as heterozygous, as far as they
    exceed the autosomes' missing share: else every recorded man would look like one.
    """
    auto, x = scan.tally[:, AUTOSOME].astype(np.float64), scan.tally[:, X].astype(np.float64)
    missing, size = x[:, MISSING], x.sum(axis=1)
    excess = missing - size * np.nan_to_num(share(auto[:, MISSING], auto.sum(axis=1)))
    cleared = np.where(sex == 1, np.maximum(excess, 0), 0)
    lost = scan.weights[:, NONE, 1].sum() - scan.sums[:, 1]
    expected = scan.sums[:, 1] + lost * np.nan_to_num(share(cleared, missing))
    enough = (expected >= LEAST_EXPECTED) & (missing <= size / 2)
    x_f = np.where(enough, 1 - share(x[:, ONE] + cleared, expected), np.nan)
    return 1 - share(auto[:, ONE], scan.sums[:, 0]), x_f
