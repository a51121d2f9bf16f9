"""The published file of recipe `risk-net`: what becomes of a block of genotypes, from a reference panel and a score.

Nothing here comes from a patient. Weights and means are rounded to a grid, so that what sites compute from the file is
exact; the public numbers that standardise it are those of the rounded weights.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genopact_server.design.panel import Indices, Panel
from genopact_shared import wire
from genopact_shared.recipes.risk_net import projected
from genopact_shared.recipes.table import Floats

WEIGHT_GRID, MEAN_GRID = 1 << 20, 1 << 10
SMALLEST = 1e-3
"""Standard deviations below are taken for this; columns that a block has no variants for stay zero."""
LINKED = 0.5
"""Squared correlation from which two variants count as one."""


@dataclass(frozen=True, eq=False)
class Tokens:
    """Of a panel whose blocks' variants stand side by side. `weights`: (V,) of a public score, log odds a copy.

    Raises:
        ValueError: arrays that do not belong together.
    """

    panel: Panel
    weights: Floats

    def __post_init__(self) -> None:
        if not np.array_equal(np.concatenate(self.panel.blocks), np.arange(len(self.weights))):
            raise ValueError("Expected one weight a variant, and the variants of a block side by side")

    @cached_property
    def missing(self) -> Floats:
        """(V, 2) what stands for a missing dosage and for a missing indicator of a heterozygote, on the grid."""
        codes = self.panel.dosages
        sums = np.stack([np.maximum(codes, 0).sum(axis=0), (codes == 1).sum(axis=0)], axis=1)
        return _gridded(sums / np.maximum((codes >= 0).sum(axis=0), 1)[:, None], MEAN_GRID)

    def copies(self, own: Indices) -> Floats:
        """(n, v) float64 copies of the effect allele."""
        codes = self.panel.dosages[:, own]
        return np.where(codes < 0, self.missing[own, 0], codes).astype(np.float64)

    def within(self, rows: Floats) -> Floats:
        """Rows less the mean of their ancestry."""
        label = self.panel.ancestry
        means = np.stack([rows[label == k].mean(axis=0) for k in range(len(self.panel.names))])
        return np.asarray(rows - means[label], dtype=np.float64)

    def columns(self, own: Indices, directions: int, tops: int) -> tuple[Floats, Floats]:
        """(v, columns) weights of a block's dosages, and of its heterozygotes."""
        rows, weights = self.within(self.copies(own)), self.weights[own]
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


def design(of: Tokens, *, directions: int = 3, tops: int = 2) -> tuple[bytes, dict[str, int]]:
    """The file for tokens of 1 + directions + 2 x tops numbers, and what a study's parameters say of it.

    A block's token is its part of the score; the leading directions of linkage disequilibrium within ancestries, scaled
    so that a common variant counts for more; and of the variants that the score weighs most, none of them linked with
    another, dosage and heterozygote. The first is in standard deviations of the whole score, the others have a standard
    deviation of 1 / sqrt(blocks), so that no block and no kind of column outweighs the others.
    """
    panel, columns = of.panel, 1 + directions + 2 * tops
    blocks, groups = len(panel.blocks), [panel.ancestry == k for k in range(len(panel.names))]
    dosage, heterozygote = np.zeros((2, len(of.weights), columns), np.float32)
    for own in panel.blocks:
        dosage[own], heterozygote[own] = of.columns(own, directions, tops)
    axes = _gridded(panel.loadings / panel.sd[:, None], WEIGHT_GRID)
    file: dict[str, NDArray[Any]] = {
        "starts": np.cumsum([0, *map(len, panel.blocks)]), "dosage": dosage, "heterozygote": heterozygote,
        "missing": of.missing.astype(np.float32), "axes": axes.astype(np.float32),
    }  # fmt: skip
    raw, position = projected(panel.dosages, file)
    axes_centre, axes_scale = position.mean(axis=0), np.maximum(position.std(axis=0), SMALLEST)
    total = of.within(raw[:, :, 0].sum(axis=1))
    spread = np.maximum(of.within(raw).std(axis=0), SMALLEST) * blocks**0.5
    scale = np.stack([spread] * len(groups))
    scale[:, :, 0] = np.maximum([total[group].std() for group in groups], SMALLEST)[:, None]
    seen = (position - axes_centre) / axes_scale
    data = wire.pack(file | {
        "axes_centre": axes_centre, "axes_scale": axes_scale,
        "centroids": np.stack([seen[group, :2].mean(axis=0) for group in groups]),
        "centre": np.stack([raw[group].mean(axis=0) for group in groups]), "scale": scale,
    })  # fmt: skip
    told = {"blocks": blocks, "columns": columns, "components": axes.shape[1], "ancestries": len(groups)}
    return data, told | {"score_milli": round(1000 * float(total.std()))}


def _gridded(values: Floats, grid: int) -> Floats:
    return np.rint(values * grid) / grid
