"""Noise from budgets and epsilon from facts, against independent computations."""

import math
from decimal import Decimal
from typing import Any

import mpmath  # type: ignore[import-untyped]
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mpf
from scipy import integrate, stats

from genopact_shared.errors import GenopactError
from genopact_shared.plan import plan_of
from genopact_shared.privacy import accounting, noise
from genopact_shared.privacy.mechanisms import NoisedSum, SampledSgd, Unprotected
from tests.unit.test_plan import PLANNED, study


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


# --- what Skellam sums cost above Gaussian ones (docs/decisions/0009)


def debye(k: int, variance: Any) -> Any:
    """log(exp(-v) I_k(v)) for large v: DLMF 10.41.3, whose next term is below 1 / v^3."""
    r = mpmath.sqrt(k * k + variance * variance)
    p = k / r
    first = (3 * p - 5 * p**3) / 24
    second = (81 * p**2 - 462 * p**4 + 385 * p**6) / 1152
    series = 1 + first * p / k / p + second / k**2 if k else 1 + 1 / (8 * variance) + 9 / (128 * variance**2)
    return k**2 / (r + variance) - k * mpmath.asinh(k / variance) + mpmath.log(series / mpmath.sqrt(2 * mpmath.pi * r))


def log_skellam(k: int, variance: Any) -> Any:
    if variance > 20_000:
        return debye(k, variance)
    return mpmath.log(mpmath.besseli(k, variance)) - variance


def log_rounded(k: int, variance: Any) -> Any:
    wide = mpmath.sqrt(2 * variance)
    return mpmath.log((mpmath.erfc((k - mpf(0.5)) / wide) - mpmath.erfc((k + mpf(0.5)) / wide)) / 2)


def ratio(k: int, variance: Any) -> Any:
    return log_skellam(k, variance) - log_rounded(k, variance)


@pytest.mark.parametrize("variance", [1e3, 3e3, 2e4, 1e6, 2.0**27, 2.0**36])
def test_no_coordinate_s_log_ratio_exceeds_its_bounds(variance: float) -> None:
    with mpmath.workdps(120):
        v = mpf(variance)
        found = [float(ratio(int(t * math.sqrt(variance)), v)) * variance for t in np.arange(0, 10.01, 0.05)]
        beyond = [float(ratio(int(t * math.sqrt(variance)), v)) for t in (10, 10.5, 12, 13.9)]
    assert max(found) <= accounting.WORST < 1.1 * max(found)
    assert min(found) >= -accounting.LEAST
    assert min(beyond) > 0


def test_the_expansion_for_large_variances_is_that_of_the_bessel_function() -> None:
    with mpmath.workdps(60):
        for k in (0, 1, 90, 1000):
            v = mpf(10_000)
            assert abs(debye(k, v) - (mpmath.log(mpmath.besseli(k, v)) - v)) < 1e-11


@pytest.mark.parametrize("variance", [1000, 2500])
def test_moments_and_tail_of_the_log_ratio(variance: int) -> None:
    """Naive sums over every integer, in high precision."""
    with mpmath.workdps(60):
        v, last = mpf(variance), int(10 * math.sqrt(variance))
        inside = [(1 if k == 0 else 2, mpmath.exp(log_skellam(k, v)), ratio(k, v)) for k in range(last + 1)]
        up = [(n * p, x) for n, p, x in inside]
        down = [(n * p * mpmath.exp(-x), -x) for n, p, x in inside]
        for masses in (up, down):
            assert mpmath.fsum(p * x * x for p, x in masses) < accounting.MOMENT / v**2
            assert mpmath.fsum(p * x for p, x in masses) < 0.75 * accounting.MOMENT / v**2
            assert 1 - mpmath.fsum(p for p, _ in masses) < accounting.TAIL


@pytest.mark.parametrize(("scale", "z"), [(40, 1.0), (200, 0.5), (1500, 0.7), (1024, 8.0)])
def test_a_certificate_holds_for_the_exact_skellam_curve(scale: int, z: float) -> None:
    """The hockey-stick divergence of a shifted Skellam variable, summed over every integer."""
    one = NoisedSum(noise_multiplier=str(z), clip="1", scale=scale, dims=1, honest_minimum=1)
    variance, epsilon = (z * scale) ** 2, accounting.epsilon([one], "0.000001")
    k = np.arange(-int(13 * math.sqrt(variance)), int(13 * math.sqrt(variance)) + scale)
    here, shifted = (np.exp(noise._log_pmf(np.abs(each).astype(float), variance)) for each in (k, k - scale))
    assert np.maximum(here - math.exp(epsilon) * shifted, 0).sum() <= 1e-6
    assert np.maximum(here - math.exp(0.9 * epsilon) * shifted, 0).sum() > 1e-6 or variance < 1e4


def test_bernstein_bounds_the_drift_of_many_coordinates() -> None:
    """Drawn at v = 1e4, where the log ratio is known: 2,000 draws of 400 coordinates stay below the bound at 1e-6."""
    v, count = 10_000.0, 400
    t = noise.skellam(v, 2000 * count) / math.sqrt(v)
    drawn = ((t**4 - 7 * t**2 + 4) / (24 * v)).reshape(2000, count).sum(axis=1)
    for values, worst in ((drawn, accounting.WORST), (-drawn, accounting.LEAST)):
        bound = accounting._drift([(count, 1 / v)], worst, math.log(1e6))
        assert values.max() < bound < 60 * values.std() + worst * 10 / v


@settings(max_examples=40, deadline=None)
@given(
    st.integers(100, 20_000), st.integers(1, 60), st.integers(1, 10**6), st.sampled_from([1 << 12, 1 << 16]),
    st.sampled_from(["0.000001", "0.00001", "0.00000001"]),
)  # fmt: skip
def test_no_plan_of_skellam_sums_costs_more_than_its_cap(
    epsilon_milli: int, steps: int, dims: int, scale: int, delta: str
) -> None:
    weights = np.arange(1.0, steps + 1)
    multipliers = accounting.noise_multipliers(epsilon_milli, delta, list(weights / weights.sum()))
    facts = [fact(z).model_copy(update={"dims": dims, "scale": scale}) for z in multipliers]
    assert 0.99 * epsilon_milli < 1000 * accounting.epsilon(facts, delta) <= epsilon_milli


@settings(max_examples=15, deadline=None)
@given(st.integers(300, 20_000), st.integers(0, 3))
def test_no_study_s_plan_costs_more_than_its_cap(epsilon_milli: int, spares: int) -> None:
    privacy = {"mode": "distributed", "epsilon_milli": epsilon_milli, "honest_minimum": 2, "spare_attempts": spares}
    plan = plan_of(study(privacy=privacy), PLANNED)
    assert 1000 * plan.epsilon <= epsilon_milli
    if not spares:
        assert 1000 * plan.epsilon > 0.99 * epsilon_milli


def test_coarse_integers_cost_more_and_the_coarsest_are_not_accounted() -> None:
    fine, coarse, coarsest = (
        accounting.epsilon([fact("10").model_copy(update={"scale": scale})], "0.000001") for scale in (4096, 16, 1)
    )
    assert fine < coarse < coarsest == math.inf
    many = fact("10").model_copy(update={"dims": 10**9, "scale": 4096})
    assert accounting.epsilon([many] * 1000, "0.000000000001") == math.inf  # the tails alone exceed delta


# --- the filter for studies that are chosen one after the other


def integrated_divergence(rate: float, sigma: float, order: int) -> float:
    """The naive reference: the Renyi divergence of one sampled step, integrated."""

    def power(x: float) -> float:
        loss = math.log1p(rate * math.expm1((2 * x - 1) / (2 * sigma**2)))
        return float(stats.norm.pdf(x, 0, sigma)) * math.exp(order * loss)

    return math.log(integrate.quad(power, -12 * sigma, order + 12 * sigma, limit=500)[0]) / (order - 1)


@pytest.mark.parametrize(("rate", "sigma", "order"), [("0.1", 1.0, 5), ("0.5", 3.0, 12), ("0.01", 0.8, 2)])
def test_the_renyi_cost_of_sampled_steps_is_the_integral(rate: str, sigma: float, order: int) -> None:
    step = SampledSgd(noise_multiplier=str(sigma), clip="1", sampling_rate=rate, steps=7)
    assert accounting.renyi_cost(step, order) == pytest.approx(7 * integrated_divergence(float(rate), sigma, order))
    whole = step.model_copy(update={"sampling_rate": "1"})
    assert accounting.renyi_cost(whole, order) == pytest.approx(7 * order / (2 * sigma**2))
    assert accounting.renyi_cost(step.model_copy(update={"sampling_rate": "0"}), order) == 0


@pytest.mark.parametrize("shift", [(30, 0, 0), (10, 20, 20), (1, 1, 1)])
@pytest.mark.parametrize("order", [2, 9])
def test_the_renyi_cost_of_a_skellam_sum_is_above_the_exact_one(shift: tuple[int, ...], order: int) -> None:
    l2, z = math.sqrt(sum(each**2 for each in shift)), 2.0
    one = NoisedSum(noise_multiplier=str(z), clip=repr(l2), scale=1, dims=3, honest_minimum=1)
    variance = (z * l2) ** 2
    exact = 0.0
    for each in shift:
        k = np.arange(-int(15 * math.sqrt(variance)) - 30, int(15 * math.sqrt(variance)) + 30)
        here, there = (noise._log_pmf(np.abs(x).astype(float), variance) for x in (k, k - each))
        exact += float(np.log(np.exp(order * here + (1 - order) * there).sum())) / (order - 1)
    assert exact <= accounting.renyi_cost(one, order)
    assert order / (2 * z**2) < accounting.renyi_cost(one, order)


@pytest.mark.parametrize("bad", [Unprotected(dims=1, scale=1), fact("0")])
def test_what_has_no_noise_no_filter_admits(bad: accounting.Fact) -> None:
    assert accounting.renyi_cost(bad, 5) == math.inf


@settings(max_examples=15, deadline=None)
@given(st.integers(50, 20_000), st.data())
def test_the_filter_admits_nothing_that_costs_more_than_the_cap(cap: int, data: st.DataObject) -> None:
    """An adversary who picks each release after the last one, greedily; loss distributions judge the whole."""
    delta = data.draw(st.sampled_from(["0.000001", "0.00001"]))
    order, budget = accounting.filter_budget(cap, delta)
    spent, admitted = 0.0, list[accounting.Fact]()
    for _ in range(30):
        z = str(data.draw(st.integers(500, 40_000)) / 1000)
        rate = data.draw(st.sampled_from(["0.02", "0.3", None]))
        chosen = fact(z) if rate is None else SampledSgd(noise_multiplier=z, clip="1", sampling_rate=rate, steps=3)
        if spent + accounting.renyi_cost(chosen, order) <= budget:
            spent += accounting.renyi_cost(chosen, order)
            admitted.append(chosen)
    assert 1000 * accounting.epsilon(admitted, delta) <= cap + 1e-3


@pytest.mark.parametrize("cap", [100, 1000, 8000])
def test_the_filter_loses_no_more_than_a_ninth_of_epsilon(cap: int) -> None:
    order, budget = accounting.filter_budget(cap, "0.000001")
    mu = math.sqrt(2 * budget / order)
    assert 0.89 * cap < 1000 * accounting._gaussian_epsilon(mu, 1e-6) < cap
    assert budget == pytest.approx(max(
        cap / 1000 - math.log((a - 1) / a) + math.log(1e-6 * a) / (a - 1) for a in [order]
    ))  # fmt: skip


def test_a_cap_of_nothing_admits_nothing() -> None:
    assert accounting.filter_budget(0, "0.000001")[1] < 0
