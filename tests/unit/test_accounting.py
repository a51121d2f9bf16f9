"""Noise from budgets and epsilon from facts, against independent computations."""

import math
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from scipy.special import ive

from genopact_shared.errors import GenopactError
from genopact_shared.privacy import accounting, noise
from genopact_shared.privacy.mechanisms import NoisedSum, SampledSgd, Unprotected


def fact(z: str) -> NoisedSum:
    return NoisedSum(noise_multiplier=z, clip="2.5", scale=1024, dims=25, honest_minimum=2)


def delta_by_integration(epsilon: float, mu: float) -> float:
    """The naive reference: the hockey-stick divergence of N(mu, 1) and N(0, 1), integrated where it is positive."""
    start = epsilon / mu + mu / 2
    value, _ = integrate.quad(
        lambda x: stats.norm.pdf(x, mu) - math.exp(epsilon) * stats.norm.pdf(x), start, start + 40, epsabs=0, limit=200
    )
    return float(value)


@settings(deadline=None)
@given(st.floats(0.05, 8.0), st.floats(0.1, 3.0))
def test_the_gaussian_curve_equals_its_integral(epsilon: float, mu: float) -> None:
    assert accounting.gaussian_delta(epsilon, mu) == pytest.approx(
        delta_by_integration(epsilon, mu), rel=1e-5, abs=1e-12
    )


@settings(max_examples=15, deadline=None)
@given(st.integers(200, 8000), st.integers(1, 12), st.sampled_from(["0.000001", "0.00001"]))
def test_a_plan_costs_what_it_may_cost_and_hardly_less(epsilon_milli: int, steps: int, delta: str) -> None:
    weights = np.arange(1.0, steps + 1)
    multipliers = accounting.noise_multipliers(epsilon_milli, delta, list(weights / weights.sum()))
    spent = accounting.epsilon([fact(z) for z in multipliers], delta)
    assert 0.99 * epsilon_milli / 1000 < spent <= epsilon_milli / 1000


def test_composition_of_two_accountants_agrees() -> None:
    """A run of Poisson-sampled steps, against Opacus' PRV accountant."""
    from opacus.accountants import PRVAccountant

    plan = SampledSgd(noise_multiplier="1.5", clip="1", sampling_rate="0.1", steps=60)
    second = PRVAccountant()
    second.history = [(1.5, 0.1, 60)]
    assert accounting.epsilon([plan], "0.00001") == pytest.approx(second.get_epsilon(delta=1e-5), rel=0.02)


@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning", "ignore:Optimal order:UserWarning")  # Opacus' own
@pytest.mark.parametrize(
    ("epsilon_milli", "rate", "steps"),
    [(300, "0.25", 50), (1000, "0.5", 40), (3000, "0.5", 40), (8000, "0.05", 100), (2000, "1.0", 10)],
)
def test_the_least_noise_of_sampled_steps(epsilon_milli: int, rate: str, steps: int) -> None:
    """Within the budget, a thousandth less noise is not, and Opacus' PRV accountant (error 0.01) agrees."""
    from opacus.accountants import PRVAccountant

    multiplier = accounting.sgd_noise_multiplier(epsilon_milli, "0.000001", rate, steps)
    less = str(Decimal(multiplier) - Decimal("0.001"))
    plan, cheaper = (
        SampledSgd(noise_multiplier=z, clip="1", sampling_rate=rate, steps=steps) for z in (multiplier, less)
    )
    budget = epsilon_milli / 1000
    assert accounting.epsilon([plan], "0.000001") <= budget < accounting.epsilon([cheaper], "0.000001")
    second = PRVAccountant()
    second.history = [(float(multiplier), float(rate), steps)]
    assert second.get_epsilon(delta=1e-6) == pytest.approx(budget, rel=0.005, abs=0.02)


def test_a_generous_budget_still_gets_some_noise() -> None:
    assert accounting.sgd_noise_multiplier(20_000, "0.0001", "0.001", 1) == "0.2"


def test_a_budget_that_no_noise_can_keep_is_refused() -> None:
    with pytest.raises(GenopactError, match="PLAN_IMPOSSIBLE"):
        accounting.sgd_noise_multiplier(1, "0.0000000000000000000000000001", "1.0", 100_000)


def test_rounds_of_a_plan_cost_what_all_their_steps_cost() -> None:
    multiplier = accounting.sgd_noise_multiplier(2000, "0.000001", "0.25", 40)
    rounds = [SampledSgd(noise_multiplier=multiplier, clip="1", sampling_rate="0.25", steps=4)] * 10
    assert 1.99 < accounting.epsilon(rounds, "0.000001") <= 2.0
    assert accounting.epsilon(rounds[1:], "0.000001") < 1.95


def test_anything_unprotected_costs_everything() -> None:
    assert accounting.epsilon([fact("8"), Unprotected(dims=1, scale=1)], "0.000001") == math.inf
    assert accounting.epsilon([], "0.000001") == 0.0


@pytest.mark.parametrize("weights", [[0.5, 0.4], [1.5, -0.5], [0.0, 1.0]])
def test_weights_are_shares(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weights"):
        accounting.noise_multipliers(1000, "0.000001", weights)


@pytest.mark.parametrize("variance", [0.5, 30.0, 9_999.0, 10_001.0, 2e6])
def test_the_survival_table_is_that_of_the_skellam_distribution(variance: float) -> None:
    """The naive reference: the probability mass function exp(-v) I_k(v), summed from the tail."""
    k = np.arange(int(13 * np.sqrt(variance)) + 60)
    mass = ive(k, variance) * np.where(k == 0, 1.0, 2.0)
    survival = np.array([math.fsum(mass[i + 1 :]) for i in range(0, len(k), max(1, len(k) // 50))])
    table = noise._survival(variance)[::-1][:: max(1, len(k) // 50)]
    assert np.allclose(table, survival, rtol=1e-9, atol=1e-30)


@pytest.mark.parametrize("variance", [0.8, 50.0, 1e6, 2.0**36])
def test_skellam_values_have_the_moments_of_their_distribution(variance: float) -> None:
    n = 100_000
    values = noise.skellam(variance, n).astype(float)
    kurtosis = 3 + 1 / variance
    assert abs(values.mean()) < 6 * math.sqrt(variance / n)
    assert abs(values.var() / variance - 1) < 6 * math.sqrt((kurtosis - 1) / n)
    assert abs((values**4).mean() / variance**2 / kurtosis - 1) < 0.25


@pytest.mark.parametrize("sd", [1e-3, 1.0, 3e7])
def test_gaussian_values_follow_the_normal_distribution(sd: float) -> None:
    n = 100_001
    values = noise.gaussian(sd, n) / sd
    assert values.shape == (n,)
    assert abs(values.mean()) < 6 / math.sqrt(n)
    assert abs(values.var() - 1) < 6 * math.sqrt(2 / n)
    assert abs((values**4).mean() - 3) < 6 * math.sqrt(96 / n)
    assert stats.kstest(values, "norm").pvalue > 1e-6
    half = (n + 1) // 2  # where the cosines end and the sines begin
    assert abs(np.corrcoef(values[: half - 1], values[half:])[0, 1]) < 6 / math.sqrt(half)
    assert abs(np.corrcoef(values[: half - 1] ** 2, values[half:] ** 2)[0, 1]) < 6 / math.sqrt(half)


@pytest.mark.parametrize("sd", [0.0, -1.0, float("nan"), float("inf")])
def test_a_deviation_that_is_none_is_refused(sd: float) -> None:
    with pytest.raises(ValueError, match="deviation"):
        noise.gaussian(sd, 1)


def test_noise_is_never_repeated() -> None:
    assert len({noise.keystream(32) for _ in range(50)}) == 50
    assert (noise.skellam(1e6, 64) != noise.skellam(1e6, 64)).any()
    assert not np.intersect1d(noise.gaussian(1.0, 64), noise.gaussian(1.0, 64)).size


@pytest.mark.parametrize("variance", [0.0, -1.0, float("nan"), 2.0**37])
def test_a_variance_outside_the_sampler_is_refused(variance: float) -> None:
    with pytest.raises(ValueError, match="variance"):
        noise.skellam(variance, 1)


def test_the_skellam_penalty_shrinks_with_the_scale() -> None:
    coarse, fine = (fact("10").model_copy(update={"scale": scale}) for scale in (16, 4096))
    assert accounting.skellam_penalty(fine) < accounting.skellam_penalty(coarse) / 200
