"""The audit's accountant against integration, against closed forms and against the reporting accountant."""

import ast
import math
from collections import Counter
from pathlib import Path

import pytest
from scipy.integrate import quad
from scipy.stats import norm

from genopact_server.audit import accountant
from genopact_server.audit.accountant import Bounds, Fact, _drift, epsilon_bounds, gaussian_epsilon
from genopact_shared.privacy import accounting
from genopact_shared.privacy.mechanisms import NoisedSum, SampledSgd, Unprotected

DELTA = "0.000001"


def noised(z: str, dims: int = 10, scale: int = 65536) -> NoisedSum:
    return NoisedSum(noise_multiplier=z, clip="1", scale=scale, dims=dims, honest_minimum=1)


def sgd(z: str, rate: str, steps: int) -> SampledSgd:
    return SampledSgd(noise_multiplier=z, clip="1", sampling_rate=rate, steps=steps)


def naive_delta(epsilon: float, sigma: float, rate: float) -> float:
    """The larger hockey-stick divergence of one sampled Gaussian step, by integration over the noisy value."""

    def with_patient(x: float) -> float:
        return float((1 - rate) * norm.pdf(x, 0, sigma) + rate * norm.pdf(x, 1, sigma))

    def without(x: float) -> float:
        return float(norm.pdf(x, 0, sigma))

    pairs = [(with_patient, without), (without, with_patient)]
    edge = 30 * sigma
    return max(
        float(
            quad(lambda x, p=p, q=q: max(0.0, p(x) - math.exp(epsilon) * q(x)), -edge, edge, limit=2000, points=[0, 1])[
                0
            ]
        )
        for p, q in pairs
    )


@pytest.mark.parametrize("mu", [0.01, 0.3, 1.0, 4.0, 25.0])
def test_gaussian_epsilon_inverts_the_exact_curve(mu: float) -> None:
    epsilon = gaussian_epsilon(mu, 1e-6)
    if epsilon > 0:
        assert accounting.gaussian_delta(epsilon, mu) == pytest.approx(1e-6, rel=1e-4)
        assert accounting.gaussian_delta(epsilon * 0.999, mu) > 1e-6


def test_gaussian_sums_compose_as_one() -> None:
    many = epsilon_bounds([noised("8", scale=1 << 24)] * 16, DELTA)
    one = epsilon_bounds([noised("2", scale=1 << 24)], DELTA)
    assert many.low == pytest.approx(one.low, rel=1e-9)
    assert epsilon_bounds([sgd("8", "1", 16)], DELTA).low == pytest.approx(one.low, rel=1e-9)


@pytest.mark.parametrize(("z", "rate"), [("1.0", "0.1"), ("0.7", "0.02"), ("3.0", "0.5")])
def test_one_sampled_step_lies_within_the_bounds(z: str, rate: str) -> None:
    delta = 1e-4
    bounds = epsilon_bounds([sgd(z, rate, 1)], "0.0001")
    assert naive_delta(bounds.low - 1e-3, float(z), float(rate)) > delta
    assert naive_delta(bounds.high + 1e-3, float(z), float(rate)) < delta
    assert 0 <= bounds.high - bounds.low < 0.01


PLANS: dict[str, list[Fact]] = {
    "few steps": [sgd("1.0", "0.02", 10)],
    "many steps": [sgd("1.0", "0.01", 200)],
    "high rate": [sgd("5", "0.5", 40)],
    "little noise": [sgd("0.6", "0.01", 50)],
    "sums": [noised("9.3")] * 30,
    "sums and steps": [*[noised("12")] * 10, sgd("1.0", "0.01", 50), sgd("2.0", "0.1", 20)],
}


@pytest.mark.parametrize("name", PLANS)
def test_the_reporting_accountant_lies_within_the_bounds(name: str) -> None:
    bounds, reported = epsilon_bounds(PLANS[name], DELTA), accounting.epsilon(PLANS[name], DELTA)
    assert bounds.low <= reported <= bounds.high * 1.001
    assert bounds.high <= bounds.low * 1.01


@pytest.mark.parametrize("fact", [Unprotected(dims=1, scale=1), noised("0"), noised("0.000"), sgd("0", "0.1", 1)])
def test_without_noise_epsilon_is_unbounded(fact: Fact) -> None:
    assert epsilon_bounds([noised("9"), fact], DELTA) == Bounds(math.inf, math.inf)


def test_nothing_costs_nothing() -> None:
    assert epsilon_bounds([], DELTA) == epsilon_bounds([sgd("1", "0", 5)], DELTA) == Bounds(0.0, 0.0)


def test_coarse_integers_cost_more_than_fine_ones() -> None:
    coarse, fine, coarsest = (epsilon_bounds([noised("2", 1000, scale)], DELTA) for scale in (1 << 6, 1 << 16, 8))
    assert coarse.low == fine.low < fine.high < coarse.high < coarsest.high == math.inf


@pytest.mark.parametrize(("dims", "scale", "times"), [(1, 1 << 12, 1), (87, 1 << 10, 20), (10**6, 1 << 14, 50)])
def test_two_bounds_on_what_skellam_sums_cost_agree(dims: int, scale: int, times: int) -> None:
    """Bernstein in closed form (reporting) lies above Chernoff by integration (audit), and both are small."""
    facts = [noised("9", dims, scale)] * times
    bounds, reported = epsilon_bounds(facts, DELTA), accounting.epsilon(facts, DELTA)
    assert bounds.low < bounds.high < bounds.low * 1.001
    assert bounds.low < reported < bounds.low * 1.001
    inverse = Counter({(9.0 * scale) ** -2: dims * times})
    for worst, sign in ((accounting.WORST, 1), (accounting.LEAST, -1)):
        assert _drift(inverse, 20.0, sign) < 1.15 * accounting._drift([(dims * times, (9.0 * scale) ** -2)], worst, 20)


@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning", "ignore:Optimal order:UserWarning")  # Opacus' own
@pytest.mark.parametrize("name", ["few steps", "many steps", "high rate", "sums and steps"])
def test_opacus_numerical_accountant_agrees(name: str) -> None:
    """A third accountant (PRV, Gopi et al. 2021), which charges a sum as one full-batch step; its error is 0.01."""
    from opacus.accountants import PRVAccountant

    third = PRVAccountant()
    third.history = [
        (float(f.noise_multiplier), float(f.sampling_rate), f.steps)
        if isinstance(f, SampledSgd)
        else (float(f.noise_multiplier), 1.0, 1)
        for f in PLANS[name]
        if not isinstance(f, Unprotected)
    ]
    bounds = epsilon_bounds(PLANS[name], DELTA)
    assert bounds.low - 0.011 <= third.get_epsilon(delta=1e-6, eps_error=0.01) <= bounds.high + 0.021


def test_the_audit_s_accountant_shares_nothing_with_the_reporting_one() -> None:
    """Neither dp-accounting nor the reporting module is imported; facts are all they have in common."""
    source = Path(str(accountant.__file__)).read_text("utf-8")
    imported = {node.module for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)}
    assert not any("accounting" in str(module) for module in imported)
    assert "dp_accounting" not in source


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ([sgd("1.0", "0.01", 50)], [sgd("1.0", "0.01", 51)]),
        ([sgd("1.1", "0.01", 50)], [sgd("1.0", "0.01", 50)]),
        ([sgd("1.0", "0.01", 50)], [sgd("1.0", "0.011", 50)]),
        ([sgd("1.0", "0.01", 50)], [sgd("1.0", "0.01", 50), noised("5")]),
    ],
)
def test_more_steps_less_noise_or_more_sampling_never_costs_less(less: list[Fact], more: list[Fact]) -> None:
    assert epsilon_bounds(less, DELTA).low < epsilon_bounds(more, DELTA).low
    assert epsilon_bounds(less, DELTA).high < epsilon_bounds(more, DELTA).high


def test_a_plan_beyond_the_grid_gets_wide_bounds_not_wrong_ones() -> None:
    bounds = epsilon_bounds([sgd("2.0", "0.02", 20_000)], DELTA)
    assert bounds.low < accounting.epsilon([sgd("2.0", "0.02", 20_000)], DELTA) < bounds.high
