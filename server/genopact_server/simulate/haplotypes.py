"""Haplotypes of three ancestries, with linkage disequilibrium, by copying: no package beyond numpy.

Frequencies drift from common ancestors (Balding & Nichols, Genetica 1995;96:3-12), first out of Africa, then in Europe
and in East Asia. Each founder is a mosaic of unseen ancestors: a few numbers, drawn anew where he recombined, and an
allele is carried by the founders who reach farthest in its own direction. The directions are of the variant, not of
the ancestry, so that neighbours are linked in the same sense everywhere, in Africa over shorter distances; and most
variants share direction and frequencies with one nearby, as mutations on one branch of a genealogy do. People copy
mosaics of their ancestry's founders (Li & Stephens, Genetics 2003;165:2213-2233).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bits = NDArray[np.uint8]
Advance = Callable[[int], object]

ANCESTRIES = ("afr", "eur", "eas")
CHROMOSOMES = {20: (64_444_167, 31_000_000), 21: (46_709_983, 14_000_000), 22: (50_818_468, 17_000_000)}
"""Length in GRCh38, and where variants may begin: after the centromere. The last one is filled first."""
MOST_MEGABASES = sum((length - start) // 1_000_000 for length, start in CHROMOSOMES.values())
COMMON = 0.01
"""The least frequency of the rarer allele, in one ancestry at least."""
# The numbers below bring allele frequencies and r2 by distance near those of `coalescent`.
_DRIFT = {"afr": 0.04, "out": 0.14, "eur": 0.07, "eas": 0.10}
_REACH = (35e3, 110e3, 120e3)
"""Bases between two recombinations of a founder, by ancestry."""
_COPIED = 250e3
"""Bases between two switches of a person to another founder."""
_FOUNDERS, _DIRECTIONS = 400, 2
_OWN = 0.03
"""Standard deviation of what a founder has beside his ancestor's numbers, for each variant."""
_NEAR, _OWN_BRANCH = 20e3, 0.2
"""Variants lie on the branch of one so many bases before, but for this share."""


@dataclass(frozen=True, eq=False)
class Haplotypes:
    """Of one ancestry. bits: (variants, 2 * people / 8, rounded up) uint8, two neighbouring bits a person, 1 is ALT."""

    bits: Bits
    people: int

    def dosages(self, rows: slice | Ints, first: int = 0, stop: int | None = None) -> Bits:
        """(rows, stop - first) copies of ALT in people first .. stop - 1."""
        stop = self.people if stop is None else stop
        alleles = np.unpackbits(self.bits[rows, : -(-stop // 4)], axis=1, count=2 * stop)[:, 2 * first :]
        return np.asarray(alleles[:, ::2] + alleles[:, 1::2])


class Drawn(NamedTuple):
    """Variants in order, chrom and pos (M,) int64, and the haplotypes of each ancestry."""

    chrom: Ints
    pos: Ints
    haplotypes: list[Haplotypes]


def regions(megabases: float) -> list[tuple[int, int, int]]:
    """(chromosome, first position, bases) in order."""
    found, left = list[tuple[int, int, int]](), round(megabases * 1e6)
    for chrom, (length, start) in reversed(CHROMOSOMES.items()):
        bases = min(left, length - start)
        left -= bases
        if bases:
            found.insert(0, (chrom, start, bases))
    return found


def bundled(
    rng: Generator, people: Sequence[int], megabases: float, variants: int, advance: Advance = lambda _: None
) -> Drawn:
    """Haplotypes by the model above. `people`: by ancestry; `advance` is called once for each."""
    chrom, pos = _places(rng, megabases, variants)
    gaps = np.where(np.diff(chrom, prepend=0) == 0, np.diff(pos, prepend=0), np.inf)
    branch = _branches(rng, chrom * 10**9 + pos)
    frequencies = _frequencies(rng, variants)[:, branch]
    directions = rng.standard_normal((variants, _DIRECTIONS))[branch]
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    found = list[Haplotypes]()
    for n, frequency, reach in zip(people, frequencies, _REACH, strict=True):
        founders = _founders(rng, -np.expm1(-gaps / reach), directions, frequency)
        found.append(Haplotypes(_mosaics(rng, -np.expm1(-gaps / _COPIED), founders, 2 * n), n))
        advance(1)
    return Drawn(chrom, pos, found)


def _places(rng: Generator, megabases: float, variants: int) -> tuple[Ints, Ints]:
    """Chromosomes and positions, none twice."""
    chroms, starts, bases = np.array(regions(megabases), np.int64).T
    ends = bases.cumsum()
    at = np.sort(rng.choice(ends[-1], variants, replace=False))
    which = np.searchsorted(ends, at, side="right")
    return chroms[which], starts[which] + at - (ends - bases)[which]


def _branches(rng: Generator, at: Ints) -> Ints:
    """(variants,) which variant's frequencies and direction each one has: its own or those of one a little before."""
    found = np.searchsorted(at, at - rng.uniform(0, _NEAR, len(at)))
    own = rng.random(len(at)) < _OWN_BRANCH
    found[own] = np.flatnonzero(own)
    for row, before in enumerate(found.tolist()):
        found[row] = found[before]
    return found


def _frequencies(rng: Generator, variants: int) -> Floats:
    """(3, variants) of ALT in each ancestry."""

    def drifted(frequency: Floats, name: str) -> Floats:
        scale = 1 / _DRIFT[name] - 1
        frequency = frequency.clip(1e-4, 1 - 1e-4)
        return rng.beta(frequency * scale, (1 - frequency) * scale)

    ancestral = rng.beta(0.5, 1.0, 4 * variants + 100)  # some turn out rare everywhere
    out = drifted(ancestral, "out")
    found = np.stack([drifted(ancestral, "afr"), drifted(out, "eur"), drifted(out, "eas")])
    common = np.minimum(found, 1 - found).max(axis=0) >= 1.5 * COMMON  # people's frequencies vary around it
    return found[:, np.flatnonzero(common)[:variants]]


def _founders(rng: Generator, anew: Floats, directions: Floats, frequency: Floats) -> Bits:
    """(variants, founders) alleles, exactly as frequent as asked. `anew`: chance to recombine before each variant."""
    found = np.zeros((len(anew), _FOUNDERS), np.uint8)
    ancestor = np.zeros((_FOUNDERS, _DIRECTIONS))
    carriers = np.rint(frequency * _FOUNDERS).astype(int)
    for at, chance in enumerate(anew):
        new = rng.random(_FOUNDERS) < chance
        ancestor[new] = rng.standard_normal((np.count_nonzero(new), _DIRECTIONS))
        reached = ancestor @ directions[at] + _OWN * rng.standard_normal(_FOUNDERS)
        found[at, np.argsort(reached)[: carriers[at]]] = 1
    return found


def _mosaics(rng: Generator, anew: Floats, founders: Bits, n: int) -> Bits:
    """(variants, n / 8) packed haplotypes. `anew`: chance to switch to another founder before each variant."""
    found = np.empty((len(founders), -(-n // 8)), np.uint8)
    copied = np.zeros(n, np.intp)
    for at, chance in enumerate(anew):
        switched = slice(None) if chance == 1 else rng.integers(0, n, rng.binomial(n, chance))
        copied[switched] = rng.integers(0, _FOUNDERS, len(copied[switched]))
        found[at] = np.packbits(founders[at][copied])
    return found
