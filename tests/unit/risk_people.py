"""Made-up people of two ancestries in blocks of linked variants: a reference panel, a score, patients."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from genopact_server.design.panel import Panel
from genopact_server.design.tokens import Tokens, design
from genopact_shared.published import Published
from genopact_shared.recipes.network import NetPlan
from genopact_shared.recipes.risk_net import RISK_NET, RiskNetParameters
from genopact_shared.recipes.table import Codes, Table

BLOCKS, WIDE = 4, 6
VARIANTS = BLOCKS * WIDE - 1
"""The last block is one variant shorter."""
FORMS = [{"architecture": "mlp"}, {"architecture": "mlp", "depth": 2}, {"architecture": "transformer", "heads": 2}]


@dataclass(frozen=True)
class Held:
    """Genotypes in memory; see `table.Genotypes`."""

    codes: Codes

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> "Held":
        return Held(self.codes[rows])

    def dosages(self, some: slice) -> Codes:
        return self.codes[some].copy()


def block() -> NDArray[np.intp]:
    return np.repeat(np.arange(BLOCKS), WIDE)[:VARIANTS]


def people(n: int, seed: int, missing: float = 0.0) -> tuple[Codes, NDArray[np.intp]]:
    """(n, V) dosages and (n,) ancestries; a variant resembles its neighbour in the block."""
    rng, first = np.random.default_rng(seed), np.random.default_rng(1).uniform(0.1, 0.25, VARIANTS)
    ancestry = np.arange(n) % 2
    cuts = norm.ppf([first, 1 - first])[ancestry]
    own, shared = rng.normal(size=(2, n, VARIANTS)), rng.normal(size=(2, n, BLOCKS))
    codes = (0.9 * own + 0.436 * shared[..., block()] < cuts).sum(axis=0).astype(np.int8)
    codes[rng.random(codes.shape) < missing] = -1
    return codes, ancestry


def weights() -> NDArray[np.float64]:
    return np.random.default_rng(2).normal(0, 0.3, VARIANTS)


def panel(of: NDArray[np.float64] | None = None) -> Tokens:
    codes, ancestry = people(120, 3, missing=0.02)
    blocks = tuple(np.flatnonzero(block() == at) for at in range(BLOCKS))
    return Tokens(Panel(codes, ancestry, ("one", "two"), blocks), weights() if of is None else of)


def designed() -> tuple[bytes, dict[str, int]]:
    return design(panel(), directions=2, tops=1)


def table(n: int, seed: int, missing: float = 0.05) -> Table:
    """Patients whose risk follows the score, and a dominant variant."""
    rng, (codes, _) = np.random.default_rng(seed), people(n, seed, missing)
    log_odds = np.maximum(codes, 0) @ weights() + 2.0 * (codes[:, 3] == 1) - 1.5
    y = (rng.random(n) < 1 / (1 + np.exp(-(log_odds - log_odds.mean())))).astype(np.float64)
    y[rng.random(n) < missing] = np.nan
    age = np.where(rng.random(n) < missing, np.nan, rng.uniform(20, 90, n))
    return Table({"age": age, "sex": rng.integers(-1, 2, n).astype(np.int8), "disease": y}, n, Held(codes))


def plan(folder: Path, **parameters: Any) -> NetPlan:
    data, found = designed()
    published = Published(folder / "published")
    given = {"variants": "0" * 64, "design": published.add(data), **found, **parameters}
    return NetPlan(RISK_NET, RiskNetParameters.model_validate(given), {"here": 100}, published)
