"""Released metrics of `risk`: against scikit-learn on binned scores, and under noise."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, roc_auc_score

from genopact_shared.recipes.risk_metrics import BINS, CELLS, MEASURES, auc, cells, middles, released
from genopact_shared.recipes.table import Floats
from tests.unit.risk_panel import NAMES


def binned(counts: Floats, nominal: float) -> tuple[Floats, Floats]:
    """(n,) log odds and outcomes of the people of a (BINS, 2) table."""
    whole = counts.astype(int)
    odds = np.repeat(np.repeat(middles(nominal), 2), whole.ravel())
    return odds, np.repeat(np.tile([0.0, 1.0], BINS), whole.ravel())


@settings(deadline=None, max_examples=4)
@given(st.integers(0, 1000))
def test_measures_are_those_of_binned_scores(seed: int) -> None:
    rng, nominal = np.random.default_rng(seed), -1.386294
    n = 2000
    odds, ancestry = rng.normal(nominal, 1.0, n), rng.integers(0, 2, n)
    y = (rng.random(n) < 1 / (1 + np.exp(-0.8 * odds))).astype(np.float64)
    table = cells(odds, y, ancestry, 2, nominal).sum(axis=0)
    found = released(table, NAMES, nominal, 2)
    assert list(found) == [*NAMES, "all"]
    groups = table.reshape(2, BINS, 2)
    for name, counts in zip((*NAMES, "all"), [*groups, groups.sum(axis=0)], strict=True):
        score, truth = binned(counts, nominal)
        p = 1 / (1 + np.exp(-score))
        fit = LogisticRegression(C=np.inf, tol=1e-10).fit(score[:, None], truth)
        assert tuple(found[name]) == MEASURES
        assert found[name]["patients"] == len(score)
        assert found[name]["cases"] == truth.sum()
        assert found[name]["auc"] == pytest.approx(roc_auc_score(truth, score))
        assert found[name]["brier"] == pytest.approx(brier_score_loss(truth, p))
        assert found[name]["calibration"] == pytest.approx(truth.sum() / p.sum())
        assert found[name]["odds_ratio"] == pytest.approx(math.exp(fit.coef_[0, 0] * score.std()), rel=1e-4)


def test_a_group_without_cases_or_patients_has_no_measures() -> None:
    table = np.zeros((3, BINS, 2))
    table[0, 4:9], table[1, 3, 0], table[2] = 10, 50, -0.4
    found = released(table.ravel(), ("one", "two", "three"), -1.4, 3)
    assert set(found["one"]) == set(MEASURES)
    assert found["two"] == {"patients": 50, "cases": 0}
    assert found["three"] == pytest.approx({"patients": -0.4 * 2 * BINS, "cases": -0.4 * BINS})
    assert set(found["all"]) == set(MEASURES)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**6), st.sampled_from([0.5, 5.0, 500.0, 1e6]))
def test_measures_stay_sane_under_any_noise(seed: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    table = rng.poisson(3.0, 2 * CELLS) + rng.normal(0, spread, 2 * CELLS)
    for row in released(table, NAMES, -1.4, 2).values():
        assert all(map(math.isfinite, row.values()))
        assert "auc" not in row or (0 <= row["auc"] <= 1 and 0 <= row["brier"] <= 1 and row["odds_ratio"] > 0)


def test_cells_beyond_the_table_count_in_the_last_and_nobody_twice() -> None:
    odds = np.array([-1e9, 1e9, -1.4, -1.4 - 1e-9, np.inf, -np.inf])
    found = cells(odds, np.array([0, 1, 0, 0, 1, np.nan]), np.array([0, 1, 0, 0, 1, 1]), 2, -1.4)
    assert found.sum(axis=1).tolist() == [1] * 6
    places = found.argmax(axis=1)
    assert places.tolist() == [0, 2 * CELLS - 1, BINS, BINS - 2, 2 * CELLS - 1, CELLS]
    assert math.isnan(auc(np.zeros((BINS, 2))))
