"""Haplotypes of three ancestries, with linkage disequilibrium, by copying: no package beyond numpy.

Frequencies drift from common ancestors (Balding & Nichols, Genetica 1995;96:3-12), first out of Africa, then in Europe
and in East Asia. Each founder is a mosaic of unseen ancestors: a few numbers, drawn anew where he recombined, and an
allele is carried by the founders who reach farthest in its own direction. The directions are of the variant, not of
the ancestry, so that neighbours are linked in the same sense everywhere, in Africa over shorter distances; and most
variants share direction and frequencies with one nearby, as mutations on one branch of a genealogy do. People copy
mosaics of their ancestry's founders (Li & Stephens, Genetics 2003;165:2213-2233).
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from genopact_shared.recipes.table import Codes, Floats

Ints = NDArray[np.int64]
Advance = Callable[[int], object]
Drawn = tuple[Ints, list[Codes]]
"""Positions of M variants, ascending, and of each ancestry (M, people) copies of ALT."""

ANCESTRIES = ("afr", "eur", "eas")
CHROMOSOME, LENGTH, START, MOST_MEGABASES = 22, 50_818_468, 17_000_000, 33
"""Length in GRCh38; variants begin after the centromere."""
DENSITY = 353
"""Variants a megabase where nobody says how many: 300 of them typed."""
COMMON = 0.01
"""The least frequency of the rarer allele, in one ancestry at least."""
# The numbers below bring allele frequencies and r2 by distance near those of `coalescent`.
_OUT, _DRIFT = 0.14, (0.04, 0.07, 0.10)
"""Drift out of Africa, and by ancestry."""
_REACH = (35e3, 110e3, 120e3)
"""Bases between two recombinations of a founder, by ancestry."""
_COPIED = 250e3
"""Bases between two switches of a person to another founder."""
_FOUNDERS = 400
_OWN = 0.03
"""Standard deviation of what a founder has beside his ancestor's numbers, for each variant."""
_NEAR, _OWN_BRANCH = 20e3, 0.2
"""Variants lie on the branch of one so many bases before, but for this share."""


def bundled(
    rng: Generator, people: Sequence[int], megabases: float, variants: int | None, advance: Advance = lambda _: None
) -> Drawn:
    """Copies by the model above. `people`: by ancestry; `advance` is called once for each."""
    variants = variants or round(DENSITY * megabases)
    pos = START + np.sort(rng.choice(round(megabases * 1e6), variants, replace=False))
    gaps = np.diff(pos, prepend=-np.inf)
    branch = _branches(rng, pos)
    frequencies = _frequencies(rng, variants)[:, branch]
    angle = rng.uniform(0, 2 * np.pi, variants)[branch]
    directions = np.column_stack([np.cos(angle), np.sin(angle)])
    found = list[Codes]()
    for n, frequency, reach in zip(people, frequencies, _REACH, strict=True):
        founders = _founders(rng, -np.expm1(-gaps / reach), directions, frequency)
        found.append(_mosaics(rng, -np.expm1(-gaps / _COPIED), founders, n))
        advance(1)
    return pos, found


def _branches(rng: Generator, pos: Ints) -> Ints:
    """(variants,) which variant's frequencies and direction each one has: its own or those of one a little before."""
    found = np.searchsorted(pos, pos - rng.uniform(0, _NEAR, len(pos)))
    own = rng.random(len(pos)) < _OWN_BRANCH
    found[own] = np.flatnonzero(own)
    for row, before in enumerate(found.tolist()):
        found[row] = found[before]
    return found


def _frequencies(rng: Generator, variants: int) -> Floats:
    """(3, variants) of ALT in each ancestry."""

    def drifted(frequency: Floats, drift: float) -> Floats:
        scale = 1 / drift - 1
        frequency = frequency.clip(1e-4, 1 - 1e-4)
        return rng.beta(frequency * scale, (1 - frequency) * scale)

    ancestral = rng.beta(0.5, 1.0, 4 * variants + 100)  # some turn out rare everywhere
    out = drifted(ancestral, _OUT)
    found = np.stack([drifted(before, drift) for before, drift in zip((ancestral, out, out), _DRIFT, strict=True)])
    common = np.minimum(found, 1 - found).max(axis=0) >= 1.5 * COMMON  # people's frequencies vary around it
    return found[:, np.flatnonzero(common)[:variants]]


def _founders(rng: Generator, anew: Floats, directions: Floats, frequency: Floats) -> Codes:
    """(variants, founders) alleles, exactly as frequent as asked. `anew`: chance to recombine before each variant."""
    found, ancestor = np.zeros((len(anew), _FOUNDERS), np.int8), np.zeros((_FOUNDERS, 2))
    for at, chance in enumerate(anew):
        new = rng.random(_FOUNDERS) < chance
        ancestor[new] = rng.standard_normal((np.count_nonzero(new), 2))
        reached = ancestor @ directions[at] + _OWN * rng.standard_normal(_FOUNDERS)
        found[at, np.argsort(reached)[: round(frequency[at] * _FOUNDERS)]] = 1
    return found


def _mosaics(rng: Generator, anew: Floats, founders: Codes, n: int) -> Codes:
    """(variants, n) copies in people. `anew`: chance to switch to another founder before each variant."""
    found, copied = np.empty((len(founders), n), np.int8), rng.integers(0, _FOUNDERS, 2 * n, np.int16)
    for at, chance in enumerate(anew):
        switched = rng.integers(0, 2 * n, rng.binomial(2 * n, chance))
        copied[switched] = rng.integers(0, _FOUNDERS, len(switched))
        alleles = founders[at][copied]
        found[at] = alleles[:n] + alleles[n:]
    return found
