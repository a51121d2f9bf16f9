"""What a report says of a risk model: released measures with the error of noise and sampling, or that they drown."""

import numpy as np
import pytest
from sklearn.metrics import precision_recall_curve, roc_curve

from genopact_server.report.plots import precision, roc
from genopact_server.report.risk import _shown, calibration, errors
from genopact_shared.recipes.protocol import Metrics
from genopact_shared.recipes.risk_metrics import BINS, middles, released
from genopact_shared.recipes.table import Floats

NOMINAL = -1.5


def table(people: int, seed: int = 1) -> Floats:
    rng = np.random.default_rng(seed)
    p = 1 / (1 + np.exp(-middles(NOMINAL)))
    counts = np.zeros((2, BINS, 2))
    for group in range(2):
        size = rng.multinomial(people, np.full(BINS, 1 / BINS))
        counts[group, :, 1] = rng.binomial(size, p)
        counts[group, :, 0] = size - counts[group, :, 1]
    return counts


def measured(flat: Floats) -> Metrics:
    return released(flat, ("one", "two"), NOMINAL, 2)


@pytest.mark.parametrize("spread", [0.0, 4.0])
def test_errors_are_those_of_repeated_studies(spread: float) -> None:
    """Against as many studies with patients of their own."""
    rng, truth = np.random.default_rng(5), table(2000)
    told = errors(measured, (truth + rng.normal(0, spread, truth.shape)).ravel(), spread)
    repeated = []
    for _ in range(300):
        each = rng.poisson(truth) + rng.normal(0, spread, truth.shape)
        repeated.append(measured(each.ravel())["all"])
    for name in ("patients", "cases", "auc", "brier"):
        spread_of = np.std([row[name] for row in repeated])
        assert 0.7 * spread_of < told["all"][name] < 1.4 * spread_of, name


def test_a_group_of_fewer_than_the_noise_makes_up_is_not_shown() -> None:
    assert _shown({"patients": 500.0, "cases": 70.0}, {"patients": 40.0, "cases": 20.0})
    assert not _shown({"patients": 500.0, "cases": 50.0}, {"patients": 40.0, "cases": 20.0})
    assert not _shown({"patients": 100.0, "cases": 90.0}, {"patients": 40.0, "cases": 20.0})
    assert not _shown({}, {"patients": 1.0, "cases": 1.0})


def test_ranking_curves_are_those_of_the_patients() -> None:
    """Of counts in bins, against the curves of patients one by one."""
    from matplotlib.figure import Figure

    counts = table(300)[0]
    counts[:3] = 0
    scores = np.repeat(np.repeat(np.arange(BINS), 2), counts.ravel().astype(int))
    y = np.repeat(np.tile([0, 1], BINS), counts.ravel().astype(int))
    drawn = Figure().add_subplot()
    roc(drawn, counts={"one": counts})
    false, true, _ = roc_curve(y, scores, drop_intermediate=False)
    line = np.unique(np.asarray(drawn.lines[0].get_xydata()), axis=0)
    assert line == pytest.approx(np.unique(np.column_stack([false, true]), axis=0))
    drawn = Figure().add_subplot()
    precision(drawn, counts={"one": counts})
    exact, recall, _ = precision_recall_curve(y, scores)
    line = np.unique(np.asarray(drawn.lines[0].get_xydata()), axis=0)
    assert line == pytest.approx(np.unique(np.column_stack([recall, exact])[:-1], axis=0))


def test_calibration_shows_bins_that_say_something() -> None:
    points = calibration(table(4000), NOMINAL, 3.0)
    assert len(points) > 8
    for point in points:
        assert abs(point["observed"] - point["predicted"]) < 5 * point["error"]
        assert point["error"] < 0.1
    assert calibration(table(40), NOMINAL, 30.0) == []
