"""Who is who's duplicate or relative within a site: KING-robust kinship on common variants that are nearly unlinked.

Source: Manichaikul et al., Bioinformatics 2010;26:2867-2873, equation 11: allele frequencies are not used, so people of
several ancestries may be mixed.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from genopact_shared.manifest import VariantManifest

Floats = NDArray[np.float64]

COMMON = 0.05
WINDOW = 250_000
"""Base pairs, where the manifest names no block."""
MOST = 10_000
FEWEST = 1000
"""With fewer variants, chance alone makes relatives."""
EDGES = np.linspace(-0.5, 0.5, 101)
NO_OPPOSITES = 0.005
"""Parent and child share an allele everywhere: opposite homozygotes are errors."""
_CODES = (np.arange(256)[:, None] >> np.array([0, 2, 4, 6])) & 3
_SIGN, _HET, _CALLED = np.array([[1, 0, 0, -1], [0, 0, 1, 0], [1, 0, 1, 1]], np.float32)[:, _CODES]


class Kinship(NamedTuple):
    """Related pairs.

    pairs: (m, 2) int64 places of the people in the panel, the smaller first.
    coefficient: (m,) float64 kinship, 0.5 for duplicates and twins, 0.25 first degree, 0.125 second.
    opposite: (m,) float64 share of variants at which the two are opposite homozygotes.
    histogram: (100,) int64 pairs between EDGES, all of them, those beyond counted at the ends.
    variants: how many variants were compared.
    """

    pairs: NDArray[np.int64]
    coefficient: Floats
    opposite: Floats
    histogram: NDArray[np.int64]
    variants: int

    def relation(self, pair: int, duplicate: float, first_degree: float) -> str:
        """What a pair is, in words."""
        if self.coefficient[pair] > duplicate:
            return "duplicate or twin"
        if self.coefficient[pair] <= first_degree:
            return "second degree"
        return "parent and child" if self.opposite[pair] < NO_OPPOSITES else "siblings"


def panel_columns(manifest: VariantManifest) -> NDArray[np.int64]:
    """(m,) at most MOST autosomal manifest rows: the most common variant of each block, or of each window without one.

    m is a multiple of 4. Chosen by the manifest's frequencies alone, so that one pass over the people is enough.
    """
    rarer = np.minimum(manifest.frequency, 1 - manifest.frequency)
    best: dict[str, int] = {}
    for row in np.flatnonzero(rarer >= COMMON).tolist():  # NaN is not
        if manifest.kind[row] == "autosome":
            block = manifest.block[row]
            key = block if block != "." else f"{manifest.chrom[row]}:{manifest.pos[row] // WINDOW}"
            if key not in best or rarer[row] > rarer[best[key]]:
                best[key] = row
    rows = np.array(sorted(best.values()), np.int64)
    return rows[np.linspace(0, len(rows) - 1, min(len(rows), MOST) // 4 * 4).astype(np.int64)]


def related(panel: NDArray[np.uint8], variants: NDArray[np.bool_], least: float, tile: int = 512) -> Kinship:
    """All pairs of n people whose kinship exceeds `least`.

    Args:
        panel: (n, ceil(m / 4)) uint8 PLINK-1 codes.
        variants: (m,) which of its variants to use.
        least: 0.0884 is the border between second and third degree.
        tile: people compared at once: memory grows with tile * m, not with n * n.
    """
    histogram = np.zeros(len(EDGES) - 1, np.int64)
    found: list[Floats] = [np.zeros((0, 4))]
    unused = np.bitwise_or.reduce(~variants.reshape(-1, 4) << np.array([0, 2, 4, 6], np.uint8), axis=1).astype(np.uint8)
    for start in range(0, len(panel), tile):
        one = _decoded(panel[start : start + tile], unused)
        for at in range(start, len(panel), tile):
            other = one if at == start else _decoded(panel[at : at + tile], unused)
            kinship, squares, hets, both = _compared(one, other)
            later = np.arange(at, at + kinship.shape[1]) > np.arange(start, start + len(kinship))[:, None]
            known = later & np.isfinite(kinship)
            histogram += np.histogram(np.clip(kinship[known], EDGES[0], EDGES[-1]), EDGES)[0]
            i, j = np.nonzero(known & (kinship > least))
            if len(i):
                opposite = (squares - hets + 2 * (one[1] @ other[1].T)) / 4
                columns: list[Any] = [i + start, j + at, kinship[i, j], opposite[i, j] / both[i, j]]
                found.append(np.column_stack(columns))
    rows = np.concatenate(found)
    rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
    return Kinship(rows[:, :2].astype(np.int64), rows[:, 2], rows[:, 3], histogram, int(variants.sum()))


def _decoded(panel: NDArray[np.uint8], unused: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    """Sign of the homozygote, heterozygous, called: (b, m) each. An unused variant is missing, code 1."""
    codes = (panel & ~(3 * unused)) | unused
    return [np.take(table, codes, axis=0).reshape(len(codes), -1) for table in (_SIGN, _HET, _CALLED)]


def _compared(one: list[NDArray[np.float32]], other: list[NDArray[np.float32]]) -> list[Floats]:
    """(b, c) kinship, squared difference, heterozygotes of both together, and calls, at what both people have.

    Sums of fewer than 2^24 small integers are exact in float32, whose matrix product is the fastest.
    """
    pairs = ((0, 0), (1, 2), (2, 1), (2, 2))
    same, hets, other_hets, both = ((one[a] @ other[b].T).astype(np.float64) for a, b in pairs)
    squares = 2 * both - hets - other_hets - 2 * same
    with np.errstate(divide="ignore", invalid="ignore"):
        return [0.5 - squares / (4 * np.minimum(hets, other_hets)), squares, hets + other_hets, both]
