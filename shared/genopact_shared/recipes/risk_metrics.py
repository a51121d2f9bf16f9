"""How well predicted risk meets outcomes, from one noised table: bins of predicted odds x outcome, by ancestry."""

from collections.abc import Sequence

import numpy as np

from genopact_shared.recipes.head import probability
from genopact_shared.recipes.protocol import Metrics
from genopact_shared.recipes.risk_design import Indices
from genopact_shared.recipes.table import Floats

WIDTH, BINS = 0.4, 16
"""Of a bin in log odds, and how many; the middle edge is the nominal prevalence, the outer bins are open."""
CELLS = 2 * BINS
ALL = "all"
"""The group of everybody."""
MEASURES = ("patients", "cases", "auc", "brier", "calibration", "odds_ratio")


def middles(nominal: float) -> Floats:
    """(BINS,) log odds that stand for the bins."""
    return np.asarray(nominal + WIDTH * (np.arange(BINS) - (BINS - 1) / 2), dtype=np.float64)


def cells(odds: Floats, y: Floats, group: Indices, groups: int, nominal: float) -> Floats:
    """(n, groups x CELLS): a one in the cell of the patient's group, bin and outcome; none in another group.

    Args:
        odds: (n,) predicted log odds; nominal: those of the nominal prevalence.
        y: (n,) 0 or 1. group: (n,).
    """
    place = np.clip(np.floor((odds - nominal) / WIDTH) + BINS // 2, 0, BINS - 1)
    cell = (group * BINS + place) * 2 + np.nan_to_num(y)
    return np.asarray(cell[:, None] == np.arange(groups * CELLS), dtype=np.float64)


def released(table: Floats, names: Sequence[str], nominal: float, ancestries: int) -> Metrics:
    """Group and "all" (of the first `ancestries`) -> MEASURES, from groups x CELLS counts.

    A group without patients or cases has no measures. All carry the release's noise. auc: ties within a bin count half.
    calibration: cases over those expected. odds_ratio: of one standard deviation of the predicted log odds.
    """
    groups = dict(zip(names, table.reshape(len(names), BINS, 2), strict=True))
    groups[ALL] = np.sum(list(groups.values())[:ancestries], axis=0)
    return {name: measured(counts, nominal) for name, counts in groups.items()}


def auc(counts: Floats) -> Floats:
    """(...,) of (..., BINS, 2) counts; NaN without cases or without others."""
    others, cases = counts[..., 0], counts[..., 1]
    below = np.cumsum(others, axis=-1) - others / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((below * cases).sum(axis=-1) / (others.sum(axis=-1) * cases.sum(axis=-1)))


def measured(released: Floats, nominal: float) -> dict[str, float]:
    """MEASURES of one group, from (BINS, 2) counts. Negative counts stay, so that noise moves no mean."""
    found = {"patients": float(released.sum()), "cases": float(released[:, 1].sum())}
    if min(released.sum(axis=0)) < 1:
        return found
    odds, all_, cases = middles(nominal), released.sum(axis=1), released[:, 1]
    p, n = probability(odds), all_.sum()
    spread = np.sqrt(max((all_ * odds**2).sum() / n - ((all_ * odds).sum() / n) ** 2, 1e-12))
    brier = (cases * (1 - p) ** 2 + released[:, 0] * p**2).sum() / n
    rows, own = np.column_stack([np.ones(BINS), odds]), np.array([0.0, 1.0])
    for _ in range(25):
        fitted = probability(rows @ own)
        matrix = rows.T @ (rows * (all_ * fitted * (1 - fitted))[:, None]) + 1e-6 * np.eye(2)
        own = np.clip(own + np.linalg.solve(matrix, rows.T @ (cases - all_ * fitted)), -10, 10)
    found |= {"auc": float(np.clip(auc(released), 0, 1)), "brier": float(np.clip(brier, 0, 1))}
    found |= {"calibration": float(cases.sum() / max((all_ * p).sum(), 1e-9))}
    return found | {"odds_ratio": float(np.exp(own[1] * spread))}
