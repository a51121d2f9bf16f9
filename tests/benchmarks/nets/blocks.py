"""The published file of recipe `risk-net`: what becomes of a block of genotypes, from a reference panel and a score.

Nothing here comes from a patient. Weights and means are rounded to a grid, so that what sites compute from the file is
exact; the public numbers that standardise it are those of the rounded weights.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from genopact_shared import canonical, wire
from genopact_shared.recipes.protocol import Codes, Floats

WEIGHT_GRID, MEAN_GRID = 1 << 20, 1 << 10
SMALLEST = 1e-3
"""Standard deviations below are taken for this; columns that a block has no variants for stay zero."""
LINKED = 0.5
"""Squared correlation from which two variants count as one."""
AXIS_VARIANTS = 4096
"""From which components of ancestry are computed, evenly spaced, at most."""


@dataclass(frozen=True)
class BlockDesign:
    """The file, and what a study's parameters say of it."""

    data: bytes
    parameters: dict[str, int | str]


@dataclass(frozen=True, eq=False)
class Panel:
    """Public reference people.

    `dosages`: (n, V) int8 copies of the effect alleles, -1 missing, in the order of the variant manifest.
    `ancestry`: (n,) from 0, each label somebody's. `block`: (V,) labels of linkage blocks, a block's variants side by
    side. `weights`: (V,) of a public score, log odds a copy.

    Raises:
        ValueError: arrays that do not belong together.
    """

    dosages: Codes
    ancestry: NDArray[np.intp]
    block: NDArray[np.intp]
    weights: Floats

    def __post_init__(self) -> None:
        n, v = self.dosages.shape
        if (self.ancestry.shape, self.block.shape, self.weights.shape) != ((n,), (v,), (v,)):
            raise ValueError("Expected one ancestry a person, one block and one weight a variant")
        if len(self.starts) - 1 != len(np.unique(self.block)):
            raise ValueError("Expected the variants of a block side by side")
        if not np.array_equal(np.unique(self.ancestry), np.arange(self.ancestries)):
            raise ValueError("Expected ancestries from 0, none of them empty")

    @property
    def ancestries(self) -> int:
        """How many."""
        return int(self.ancestry.max()) + 1

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """(blocks + 1,) where each block begins, and the end of the last."""
        return np.flatnonzero(np.r_[True, self.block[1:] != self.block[:-1], True]).astype(np.int64)

    @cached_property
    def missing(self) -> Floats:
        """(V, 2) what stands for a missing dosage and for a missing indicator of a heterozygote, on the grid."""
        known = np.maximum((self.dosages >= 0).sum(axis=0), 1)
        sums = np.stack([np.maximum(self.dosages, 0).sum(axis=0), (self.dosages == 1).sum(axis=0)], axis=1)
        return _gridded(sums / known[:, None], MEAN_GRID)

    def copies(self, own: slice | NDArray[np.intp]) -> Floats:
        """(n, v) float64 copies of the effect allele."""
        codes = self.dosages[:, own]
        return np.where(codes < 0, self.missing[own, 0], codes).astype(np.float64)

    def mixed(self, own: slice) -> Floats:
        """(n, v) float64, 1 for a heterozygote."""
        codes = self.dosages[:, own]
        return np.where(codes < 0, self.missing[own, 1], codes == 1).astype(np.float64)

    def within(self, rows: Floats) -> Floats:
        """Rows less the mean of their ancestry."""
        means = np.stack([rows[self.ancestry == k].mean(axis=0) for k in range(self.ancestries)])
        return np.asarray(rows - means[self.ancestry], dtype=np.float64)


def design(panel: Panel, *, directions: int = 3, tops: int = 2, components: int = 4) -> BlockDesign:
    """The file for tokens of 1 + directions + 2 x tops numbers.

    A block's token is its part of the score; the leading directions of linkage disequilibrium within ancestries, scaled
    so that a common variant counts for more; and of the variants that the score weighs most, none of them linked with
    another, dosage and heterozygote. The first is in standard deviations of the whole score, the others have a standard
    deviation of 1 / sqrt(blocks), so that no block and no kind of column outweighs the others.
    """
    columns, blocks = 1 + directions + 2 * tops, len(panel.starts) - 1
    dosage, heterozygote = np.zeros((2, len(panel.block), columns))
    raw = np.empty((len(panel.dosages), blocks, columns))
    for at, (first, last) in enumerate(zip(panel.starts, panel.starts[1:], strict=False)):
        own = slice(int(first), int(last))
        dosage[own], heterozygote[own] = _columns(panel, own, directions, tops)
        raw[:, at] = panel.copies(own) @ dosage[own] + panel.mixed(own) @ heterozygote[own]
    thin = np.unique(np.linspace(0, len(panel.block) - 1, AXIS_VARIANTS).astype(np.intp))
    axes = np.zeros((len(panel.block), components))
    axes[thin] = _axes(panel.copies(thin), components)
    position = panel.copies(thin) @ axes[thin]
    axes_centre, axes_scale = position.mean(axis=0), np.maximum(position.std(axis=0), SMALLEST)
    groups = [panel.ancestry == k for k in range(panel.ancestries)]
    total = panel.within(raw[:, :, 0].sum(axis=1))
    spread = np.maximum(panel.within(raw).std(axis=0), SMALLEST) * blocks**0.5
    scale = np.stack([spread] * len(groups))
    scale[:, :, 0] = np.maximum([total[group].std() for group in groups], SMALLEST)[:, None]
    seen = (position - axes_centre) / axes_scale
    data = wire.pack({
        "starts": panel.starts, "dosage": dosage.astype(np.float32), "heterozygote": heterozygote.astype(np.float32),
        "missing": panel.missing.astype(np.float32), "axes": axes.astype(np.float32), "axes_centre": axes_centre,
        "axes_scale": axes_scale, "centroids": np.stack([seen[group, :2].mean(axis=0) for group in groups]),
        "centre": np.stack([raw[group].mean(axis=0) for group in groups]), "scale": scale,
    })  # fmt: skip
    told = {"blocks": blocks, "columns": columns, "components": components, "ancestries": len(groups)}
    score = {"score_milli": round(1000 * float(total.std()))}
    return BlockDesign(data, {"design": canonical.digest(data), **told, **score})


def _columns(panel: Panel, own: slice, directions: int, tops: int) -> tuple[Floats, Floats]:
    """(v, columns) weights of a block's dosages, and of its heterozygotes."""
    rows, weights = panel.within(panel.copies(own)), panel.weights[own]
    sd = np.maximum(rows.std(axis=0), SMALLEST)
    dosage, heterozygote = np.zeros((2, len(weights), 1 + directions + 2 * tops))
    dosage[:, 0] = weights
    scaled = rows / np.sqrt(sd)
    leading = np.linalg.eigh(scaled.T @ scaled)[1].T[::-1][:directions]
    leading *= np.sign(leading[np.arange(len(leading)), np.abs(leading).argmax(axis=1)])[:, None]
    dosage[:, 1 : 1 + len(leading)] = (leading / np.sqrt(sd)).T
    left = np.abs(weights) * sd
    for column in range(1 + directions, 1 + directions + 2 * tops, 2):
        if not left.any():
            break
        top = int(left.argmax())
        dosage[top, column], heterozygote[top, column + 1] = 1.0, 1.0
        left[(rows.T @ rows[:, top] / len(rows) / sd / sd[top]) ** 2 > LINKED] = 0.0
        left[top] = 0.0
    return _gridded(dosage, WEIGHT_GRID), _gridded(heterozygote, WEIGHT_GRID)


def _axes(rows: Floats, components: int) -> Floats:
    """(v, components) loadings of the leading components of (n, v) dosages, standardised."""
    from scipy.sparse.linalg import svds

    sd = np.maximum(rows.std(axis=0), SMALLEST)
    rows = (rows - rows.mean(axis=0)) / sd
    _, _, found = svds(rows, k=components, v0=np.ones(min(rows.shape)))
    right = np.asarray(found, dtype=np.float64)[::-1]
    right *= np.sign(right[np.arange(components), np.abs(right).argmax(axis=1)])[:, None]
    return _gridded((right / sd).T, WEIGHT_GRID)


def _gridded(values: Floats, grid: int) -> Floats:
    return np.rint(values * grid) / grid
