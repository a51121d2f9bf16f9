"""The logistic head: gradients against differences, isolation of patients, frozen bits, convergence, exact totals."""

import hashlib
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genopact_client.release.quantise import clipped_integers
from genopact_shared.recipes.head import CLIP, RATE, RIDGE, Head, probability
from genopact_shared.recipes.protocol import Model
from genopact_shared.recipes.table import Floats

SIZE, WIDE = 5, 40
MIXING = np.eye(SIZE - 1) + 0.3 * np.tri(SIZE - 1, k=-1)
PUBLIC = np.eye(SIZE)
PUBLIC[1:, 1:] = MIXING.T @ MIXING


def patients(n: int, seed: int) -> tuple[Floats, Floats]:
    """Correlated standardised features with a constant, and outcomes of a logistic model at 15 to 20 %."""
    rng = np.random.default_rng(seed)
    rows = np.column_stack([np.ones(n), rng.normal(size=(n, SIZE - 1)) @ MIXING])
    truth = np.array([-1.9, 0.6, -0.4, 0.3, 0.2])
    return rows, (rng.random(n) < probability(rows @ truth)).astype(np.float64)


def head(planned_total: int = 1000) -> Head:
    return Head(PUBLIC, 0.15, planned_total)


def wide() -> Head:
    """Enough features that the order of additions shows; moments by arithmetic alone."""
    i = np.arange(WIDE)
    return Head(np.eye(WIDE) + 1 / (1.0 + i + i[:, None]), 0.15, 1000)


def some_model(seed: int) -> Model:
    return {"coefficients": np.random.default_rng(seed).normal(0, 0.5, SIZE)}


def trained(of: Head, sites: list[tuple[Floats, Floats]], clip: float | None, times: int = 1) -> Model:
    """Without noise, through the kernel's integers, the whole schedule `times` over."""
    model = of.initial()
    for step in of.steps(1.0) * times:
        rows = [of.contribution(model, of.whitened(x), y) for x, y in sites]
        total = np.sum([clipped_integers(each, clip, step.scale).sum(axis=0) for each in rows], axis=0)
        model = of.advance(model, total / step.scale)
    return model


def logistic_fit(rows: Floats, y: Floats) -> Floats:
    """Newton's method, the naive reference."""
    coefficients = np.zeros(rows.shape[1])
    for _ in range(25):
        p = 1 / (1 + np.exp(-rows @ coefficients))
        coefficients += np.linalg.solve((rows * (p * (1 - p))[:, None]).T @ rows, rows.T @ (y - p))
    return coefficients


def test_steps_share_out_the_weight_and_later_ones_get_more() -> None:
    steps = head().steps(0.1)
    weights = [step.weight for step in steps]
    assert math.fsum(weights) == pytest.approx(0.1)
    assert weights == sorted(weights)
    assert min(weights) > 0
    assert {(step.dims, step.clip) for step in steps} == {(SIZE, CLIP * math.sqrt(SIZE))}


def test_starts_at_the_nominal_prevalence() -> None:
    rows, _ = patients(20, 0)
    assert np.allclose(probability(rows @ head().initial()["coefficients"]), 0.15)


def test_whitens_the_public_population() -> None:
    factor = head().whitened(np.eye(SIZE)).T
    assert np.allclose(factor @ (PUBLIC + RIDGE * np.eye(SIZE)) @ factor.T, np.eye(SIZE))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 500))
def test_rows_are_numeric_gradients_in_whitened_coordinates(seed: int) -> None:
    rows, y = patients(6, seed)
    model, of, h = some_model(seed), head(), 1e-5

    def log_likelihood(coefficients: Floats) -> Floats:
        odds = rows @ coefficients
        return y * odds - np.logaddexp(0, odds)

    # u = L'w, so that d/du_j moves w along column j of inverse(L').
    directions = np.linalg.inv(np.linalg.cholesky(PUBLIC + RIDGE * np.eye(SIZE)).T).T
    start = model["coefficients"]
    numeric = [
        (log_likelihood(start + h * along) - log_likelihood(start - h * along)) / (2 * h) for along in directions
    ]
    assert np.allclose(of.contribution(model, of.whitened(rows), y), np.array(numeric).T, atol=1e-8)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 500), st.integers(0, 39), st.integers(1, 40))
def test_a_patient_moves_only_their_own_row(seed: int, row: int, n: int) -> None:
    rng, of = np.random.default_rng(seed), wide()
    rows, other = rng.normal(size=(n, WIDE)), rng.normal(0, 10, WIDE)
    y, model = (rng.random(n) < 0.2).astype(np.float64), {"coefficients": rng.normal(size=WIDE)}
    row, before = row % n, of.contribution(model, of.whitened(rows), y)
    others = np.arange(n) != row
    # Left out, or somebody else: the others keep their very bits, so that no rounding flips elsewhere.
    assert (of.contribution(model, of.whitened(rows[others]), y[others]) == before[others]).all()
    rows[row], y[row] = other, 1 - y[row]
    assert (of.contribution(model, of.whitened(rows), y)[others] == before[others]).all()


def test_whitening_a_patient_alone_gives_the_same_bits() -> None:
    rows, of = np.random.default_rng(5).normal(size=(257, WIDE)), wide()
    together = of.whitened(rows)
    assert all((of.whitened(rows[i : i + 1])[0] == together[i]).all() for i in range(257))


def test_a_patient_without_an_outcome_contributes_zeros() -> None:
    rows, y = patients(4, 1)
    y[2] = np.nan
    found = head().contribution(some_model(1), head().whitened(rows), y)
    assert (found[2] == 0).all()
    assert (found[[0, 1, 3]] != 0).any(axis=1).all()
    assert head().contribution(some_model(1), np.zeros((0, SIZE)), np.zeros(0)).shape == (0, SIZE)


@pytest.mark.filterwarnings("error")
def test_extreme_patients_stay_finite() -> None:
    rows = np.column_stack([np.ones(2), np.full((2, SIZE - 1), 1e6)])
    found = head().contribution({"coefficients": np.full(SIZE, 1e3)}, head().whitened(rows), np.array([0.0, 1.0]))
    assert np.isfinite(found).all()
    assert probability(np.array([-1e9, 0.0, 1e9])).tolist() == [0.0, 0.5, 1.0]


def test_a_step_is_a_damped_newton_step_of_the_public_population() -> None:
    total, model = np.random.default_rng(2).normal(0, 30, SIZE), some_model(2)
    kept = model["coefficients"].copy()
    upper = np.linalg.cholesky(PUBLIC + RIDGE * np.eye(SIZE)).T
    expected = kept + RATE / (1000 * 0.15 * 0.85) * np.linalg.solve(upper, total)
    assert np.allclose(head().advance(model, total)["coefficients"], expected)
    assert (model["coefficients"] == kept).all()


def test_the_divisor_is_the_planned_cohort() -> None:
    total, model = np.ones(SIZE), head().initial()
    move = [of.advance(model, total)["coefficients"] - model["coefficients"] for of in (head(1000), head(2000))]
    assert np.allclose(move[0], 2 * move[1])


def test_the_steps_have_frozen_bits() -> None:
    """Sites on other processors have to compute the same model."""
    model = wide().initial()
    for index in range(8):
        model = wide().advance(model, np.arange(WIDE, dtype=np.float64) * 7 - 10 + index)
    assert hashlib.sha256(model["coefficients"].tobytes()).hexdigest()[:16] == "40cd8575667600df"


def test_without_clip_it_converges_to_the_logistic_fit() -> None:
    rows, y = patients(3000, 3)
    found = trained(Head(PUBLIC, 0.15, 3000), [(rows, y)], None, times=12)
    assert np.allclose(found["coefficients"], logistic_fit(rows, y), atol=0.02)  # rounding towards zero leaves 1/512


def test_clipped_steps_come_near_the_logistic_fit() -> None:
    rows, y = patients(3000, 4)
    of = Head(PUBLIC, 0.15, 3000)
    found = rows @ trained(of, [(rows, y)], of.steps(1.0)[0].clip)["coefficients"]
    assert np.corrcoef(found, rows @ logistic_fit(rows, y))[0, 1] > 0.99


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 200), st.lists(st.integers(0, 300), max_size=9))
def test_distributed_integers_are_those_of_one_table(seed: int, cuts: list[int]) -> None:
    rows, y = patients(300, seed)
    of = Head(PUBLIC, 0.15, 300)
    parts = np.split(np.arange(300), sorted(cuts))
    spread = trained(of, [(rows[part], y[part]) for part in parts], of.steps(1.0)[0].clip)
    assert spread["coefficients"].tobytes() == trained(of, [(rows, y)], of.steps(1.0)[0].clip)["coefficients"].tobytes()


def test_moments_of_no_population_are_refused() -> None:
    with pytest.raises(ValueError, match="positive definite"):
        Head(-np.eye(SIZE), 0.15, 10).whitened(np.eye(SIZE))
