"""Bounds from guesses: equal to naive enumeration, valid for the worst mechanisms, and never surer than they may be."""

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr

from genopact_server.audit.canaries import (
    LEVELS,
    SHARES,
    Evidence,
    gaussian,
    membership,
    one_run,
    p_value,
    shaped,
    surest,
)
from genopact_server.audit.rehearsal import ratios


def outcomes(chances: list[float]) -> Iterator[tuple[int, float]]:
    """(number of ones, chance) of every outcome of independent coins."""
    for bits in itertools.product((0, 1), repeat=len(chances)):
        yield sum(bits), math.prod(p if bit else 1 - p for bit, p in zip(bits, chances, strict=True))


def naive(epsilon: float, delta: float, correct: int, guesses: int, canaries: int) -> float:
    """The theorem word for word, each probability by enumeration of all guesses."""
    q = math.exp(epsilon) / (1 + math.exp(epsilon))
    counted = list(outcomes([q] * guesses))
    tail = math.fsum(chance for ones, chance in counted if ones >= correct)
    gaps = [
        math.fsum(chance for ones, chance in counted if correct - i <= ones < correct) / i
        for i in range(1, canaries + 1)
    ]
    return min(1.0, tail + 2 * canaries * delta * max(gaps))


def evidence(scores: np.ndarray, included: np.ndarray, gains: np.ndarray | None = None) -> Evidence:
    told = np.zeros((len(scores), len(LEVELS)), dtype=bool)
    return Evidence(included, scores, told, scores if gains is None else gains)


@pytest.mark.parametrize("epsilon", [0.0, 0.7, 2.5])
@pytest.mark.parametrize("delta", [0.0, 1e-3])
@pytest.mark.parametrize(("guesses", "canaries"), [(1, 1), (3, 5), (7, 7)])
def test_the_p_value_is_the_theorem(epsilon: float, delta: float, guesses: int, canaries: int) -> None:
    for correct in range(guesses + 1):
        expected = naive(epsilon, delta, correct, guesses, canaries)
        assert p_value(epsilon, delta, correct, guesses, canaries) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("epsilon", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("delta", [0.0, 0.01, 0.2])
def test_no_private_mechanism_beats_the_p_value(epsilon: float, delta: float) -> None:
    """Randomised response; with leaks of each coin on its own; with a leak of all coins at once: enumerated."""
    m, q = 6, math.exp(epsilon) / (1 + math.exp(epsilon))
    honest = dict.fromkeys(range(m + 1), 0.0)
    leaking = dict.fromkeys(range(m + 1), 0.0)
    for ones, chance in outcomes([q] * m):
        honest[ones] += chance
    for ones, chance in outcomes([delta + (1 - delta) * q] * m):
        leaking[ones] += chance
    together = {ones: (1 - delta) * chance + delta * (ones == m) for ones, chance in honest.items()}
    for chances in (honest, leaking, together):
        for correct in range(m + 1):
            reached = math.fsum(chance for ones, chance in chances.items() if ones >= correct)
            assert reached <= p_value(epsilon, delta, correct, m, m) + 1e-12


def test_without_the_delta_term_a_leak_of_all_coins_would_refute_a_private_mechanism() -> None:
    delta, m = 1e-3, 40
    assert p_value(1.0, 0.0, m, m, m) < 1e-5 < delta <= p_value(1.0, delta, m, m, m)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 400), st.data())
def test_the_bound_is_where_the_p_value_meets_the_failure(guesses: int, data: st.DataObject) -> None:
    correct = data.draw(st.integers(0, guesses))
    failure = data.draw(st.sampled_from([0.05, 1e-6]))
    bound = one_run(correct, guesses, guesses, 1e-9, failure)
    assert p_value(bound + 1e-6, 1e-9, correct, guesses, guesses) >= failure * (1 - 1e-3)
    if bound > 1e-6:
        assert p_value(bound - 1e-6, 1e-9, correct, guesses, guesses) <= failure * (1 + 1e-3)
        assert one_run(correct, guesses, guesses, 1e-4, failure) <= bound
        assert one_run(correct, guesses, 2 * guesses, 1e-9, failure) <= bound
    assert one_run(max(0, correct - 1), guesses, guesses, 1e-9, failure) <= bound + 1e-9


def test_known_values() -> None:
    """All of r guesses right: q^r = failure."""
    expected = -math.log(0.05 ** (-1 / 100) - 1)
    assert one_run(100, 100, 100, 0.0, 0.05) == pytest.approx(expected, abs=1e-9)
    assert one_run(50, 100, 100, 0.0, 0.05) == 0.0
    with pytest.raises(ValueError, match="Expected"):
        p_value(1.0, 0.0, 3, 2, 4)


@pytest.mark.parametrize(("correct", "guesses"), [(70, 100), (10, 10), (990, 1000)])
def test_the_shaped_bound_inverts_the_binomial_tail(correct: int, guesses: int) -> None:
    """At the mu of the bound so many right guesses have a chance of `failure`; its epsilon is that of delta."""
    failure, delta = 0.01, 1e-6
    epsilon = gaussian(correct, guesses, delta, failure)
    low, high = 0.0, 30.0
    for _ in range(80):
        mu = (low + high) / 2
        spent = ndtr(mu / 2 - epsilon / mu) - math.exp(epsilon) * ndtr(-mu / 2 - epsilon / mu)
        low, high = (mu, high) if spent <= delta else (low, mu)
    accuracy = float(ndtr(low / 2))
    tail = math.fsum(
        math.comb(guesses, k) * accuracy**k * (1 - accuracy) ** (guesses - k) for k in range(correct, guesses + 1)
    )
    assert tail == pytest.approx(failure, rel=1e-5)


def test_no_right_guess_shows_nothing() -> None:
    assert gaussian(0, 10, 1e-6, 0.05) == 0.0
    assert gaussian(50, 100, 1e-6, 0.05) == 0.0


def test_no_false_alarms_at_a_mechanism_that_spends_all() -> None:
    """Randomised response at epsilon 1: the bound passes 1 no more often than it may, one time in twenty."""
    rng, wrong = np.random.default_rng(5), 0
    for _ in range(100):
        included = rng.random((4, 50)) < 0.5
        kept = rng.random(included.shape) < math.e / (1 + math.e)
        scores = np.where(kept == included, 1.0, -1.0) * rng.random(included.shape)
        wrong += surest(evidence(scores, included), 0.0, 0.05) > 1.0
    assert wrong <= 19  # more: a chance below 1e-6


def test_no_false_alarms_at_a_gaussian_mechanism() -> None:
    rng, mu, wrong = np.random.default_rng(6), 1.5, 0
    certified = gaussian_epsilon_of(mu, 1e-6)
    for _ in range(200):
        included = rng.random((300, 1)) < 0.5
        seen = mu * included + rng.normal(size=included.shape)
        told = (seen > np.array(LEVELS) * mu) == included
        found = Evidence(included, seen, told, seen)
        assert shaped(found, 1e-6, 1e-6) < certified
        wrong += shaped(found, 1e-6, 0.05) > certified
    assert wrong <= 27  # more: a chance below 1e-5, for this seed


def gaussian_epsilon_of(mu: float, delta: float) -> float:
    low, high = 0.0, 50.0
    for _ in range(80):
        epsilon = (low + high) / 2
        spent = ndtr(mu / 2 - epsilon / mu) - math.exp(epsilon) * ndtr(-mu / 2 - epsilon / mu)
        low, high = (epsilon, high) if spent > delta else (low, epsilon)
    return low


def test_the_surest_guesses_come_first() -> None:
    """Only the twentieth with the largest scores knows anything."""
    rng = np.random.default_rng(7)
    included = rng.random((10, 400)) < 0.5
    scores = rng.normal(size=included.shape) * 0.1
    known = np.arange(400) < 20
    scores[:, known] = np.where(included[:, known], 9.0, -9.0)
    assert surest(evidence(scores, included), 0.0, 0.05) == pytest.approx(
        one_run(200, 200, 4000, 0.0, 0.05 / len(SHARES))
    )


def test_membership_is_pairs_counted() -> None:
    rng = np.random.default_rng(8)
    included = rng.random((1, 300)) < 0.5
    gains = rng.normal(size=(1, 300)).round(1) + 0.8 * included
    auc, (at_10, at_0) = membership(evidence(gains, included, gains), (0.1, 0.0))
    inside, outside = gains[included], gains[~included]
    pairs = [(a > b) + 0.5 * (a == b) for a in inside for b in outside]
    assert auc == pytest.approx(sum(pairs) / len(pairs))
    allowed = [t for t in outside if (outside > t).mean() <= 0.1]
    assert at_10 == pytest.approx((inside > min(allowed)).mean())
    assert at_0 == pytest.approx((inside > outside.max()).mean())


def test_membership_compares_each_canary_with_itself() -> None:
    rng = np.random.default_rng(9)
    included = rng.random((40, 30)) < 0.5
    gains = 100 * rng.normal(size=30) + 3.0 * included + 0.1 * rng.normal(size=(40, 30))
    assert membership(evidence(gains, included, gains))[0] > 0.95
    assert membership(evidence(gains, np.ones_like(included), gains)) == (0.5, [0.0, 0.0])


def test_ratios_are_those_of_gaussians() -> None:
    """Against the formula with one inverse a canary; and right where canaries do not overlap."""
    rng = np.random.default_rng(10)
    shifts, y = rng.normal(size=(6, 9)), rng.normal(size=9)
    for i, found in enumerate(ratios(y, shifts)):
        others = np.delete(shifts, i, axis=0)
        inverse = np.linalg.inv(np.eye(9) + others.T @ others / 4)
        expected = shifts[i] @ inverse @ (y - others.sum(axis=0) / 2 - shifts[i] / 2)
        assert found == pytest.approx(expected)
    alone = ratios(np.array([2.0, 0.0]), np.array([[2.0, 0.0], [0.0, 3.0]]))
    assert alone == pytest.approx([2.0, -4.5])
