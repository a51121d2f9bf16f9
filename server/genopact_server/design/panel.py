"""A public reference panel: frequencies, linkage and principal components by ancestry.

x_j = (g_j - 2 p_jk) / sd_j for a person of ancestry k, where sd_j is common to all ancestries, so that effects of x are
comparable between them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genopact_shared import durable
from genopact_shared.errors import GenopactError, require
from genopact_shared.recipes.table import Codes, Floats

COMPONENTS = 4
THINNING = 7
"""Every seventh variant serves the components: neighbours say the same."""
LEAST_SD = 0.08
SHRINK, FLOOR = 0.25, 0.005
"""Of linkage towards its diagonal, times variants over people: a small panel knows little of it, and other people vary
in directions that it seems to lack. What is added to the diagonal: for variants that an ancestry lacks."""
SHRINKS = 0.05, 0.9
"""At least and at most."""
MAGIC = b"\x6c\x1b\x01"
Indices = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Panel:
    """n people and V variants.

    Attributes:
        dosages: (n, V) int8 copies of the effect allele, -1 missing.
        ancestry: (n,) index of `names`.
        blocks: variants of each linkage block, ascending.
        identifiers: of the people, where they are known.
    """

    dosages: Codes
    ancestry: Indices
    names: tuple[str, ...]
    blocks: tuple[Indices, ...]
    identifiers: tuple[str, ...] = ()

    @cached_property
    def frequency(self) -> Floats:
        """(K, V) of the effect allele by ancestry."""
        groups = (self.dosages[self.ancestry == k] for k in range(len(self.names)))
        counts = [(np.maximum(own, 0).sum(axis=0), np.maximum((own >= 0).sum(axis=0), 1)) for own in groups]
        return np.array([copies / (2 * people) for copies, people in counts])

    @cached_property
    def sd(self) -> Floats:
        """(V,) root of the mean variance of dosages, at least LEAST_SD."""
        f = self.frequency
        return np.asarray(np.maximum(np.sqrt((2 * f * (1 - f)).mean(axis=0)), LEAST_SD), dtype=np.float64)

    def people(self, k: int) -> int:
        """How many of ancestry k."""
        return int((self.ancestry == k).sum())

    def standardised(self, k: int, variants: Indices) -> Floats:
        """(n_k, v) x of the people of ancestry k; missing is 0."""
        own = self.dosages[np.ix_(self.ancestry == k, variants)]
        centred = np.where(own < 0, 0.0, own - 2 * self.frequency[k, variants])
        return np.asarray(centred / self.sd[variants], dtype=np.float64)

    def linkage(self, k: int, block: int) -> Floats:
        """(v, v) second moments of x in a block, positive definite."""
        x = self.standardised(k, self.blocks[block])
        moments = x.T @ x / len(x)
        diagonal = np.diag(np.diag(moments))
        shrink = min(max(SHRINKS[0], SHRINK * len(moments) / len(x)), SHRINKS[1])
        return (1 - shrink) * moments + shrink * diagonal + FLOOR * np.eye(len(moments))

    @cached_property
    def loadings(self) -> Floats:
        """(V, COMPONENTS) directions of the leading components on x centred at the mean frequency; mostly zeros."""
        from scipy.sparse.linalg import svds

        thin = np.arange(0, len(self.sd), max(1, min(THINNING, len(self.sd) // (4 * COMPONENTS))))
        mean = self.frequency.mean(axis=0)[thin]
        x = np.where(self.dosages[:, thin] < 0, 0.0, self.dosages[:, thin] - 2 * mean) / self.sd[thin]
        right: Any = svds(x, k=COMPONENTS, v0=np.ones(min(x.shape)))[2]
        found = np.zeros((len(self.sd), COMPONENTS))
        found[thin] = right[::-1].T
        return found


def blocks_of(names: Sequence[str]) -> tuple[Indices, ...]:
    """Variants of each block, in order of first appearance, from the block's name of each variant."""
    _, first, inverse = np.unique(np.array(names), return_index=True, return_inverse=True)
    return tuple(np.flatnonzero(inverse == at) for at in np.argsort(first))


def read_plink(prefix: Path) -> tuple[Codes, list[list[str]], list[list[str]]]:
    """PLINK 1 files: (n, V) int8 copies of A1, the rows of .fam and of .bim.

    Source: www.cog-genomics.org/plink/1.9/formats.

    Raises:
        GenopactError: PANEL_INVALID.
    """
    fam, bim = (_rows(Path(f"{prefix}.{end}")) for end in ("fam", "bim"))
    data, width = durable.read(Path(f"{prefix}.bed"), "PANEL_INVALID"), -(-len(fam) // 4)
    if data[:3] != MAGIC or len(data) != 3 + width * len(bim):
        raise GenopactError("PANEL_INVALID", f"{prefix}.bed does not fit its .bim and .fam, or is not variant-major")
    packed = np.frombuffer(data, np.uint8, offset=3).reshape(len(bim), width)
    codes = (packed[:, :, None] >> np.arange(0, 8, 2, dtype=np.uint8)) & 3
    copies = np.array([2, -1, 1, 0], np.int8)[codes.reshape(len(bim), -1)[:, : len(fam)]]
    return np.ascontiguousarray(copies.T), fam, bim


def _rows(path: Path) -> list[list[str]]:
    rows = list(map(str.split, durable.read(path, "PANEL_INVALID").decode("utf-8", "replace").splitlines()))
    require(rows and not any(len(row) != 6 for row in rows), "PANEL_INVALID", f"{path}: six columns a line")
    return rows
