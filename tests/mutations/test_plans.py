"""Quick tests that kill: noise, plans, accountants."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from genopact_server.audit.accountant import epsilon_bounds
from genopact_shared.plan import plan_of
from genopact_shared.privacy import accounting
from genopact_shared.privacy.mechanisms import NoisedSum, SampledSgd
from tests.mutations.checks import CHECKS
from tests.unit.test_plan import NETWORK, PLANNED, study

DELTA = "0.000001"


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_statistics(check: Callable[[], None]) -> None:
    check()


# --- the plan


def test_the_honest_minimum_of_shares_is_all_of_the_noise() -> None:
    plan = plan_of(study(), PLANNED)
    for step in plan.steps:
        assert isinstance(step.fact, NoisedSum)
        assert step.fact.honest_minimum == 2
        sd = float(step.fact.noise_multiplier) * float(step.fact.clip) * step.fact.scale
        assert 2 * step.share_variance == pytest.approx(sd**2, rel=1e-9)


@pytest.mark.parametrize("recipe", [{}, {"recipe": NETWORK}], ids=["sums", "network"])
def test_a_plan_pays_for_its_spare_attempts(recipe: dict[str, Any]) -> None:
    privacy = {"mode": "local", "epsilon_milli": 2000, "spare_attempts": 2}
    plan = plan_of(study(privacy=privacy, **recipe), PLANNED)
    facts = [step.fact for step in plan.steps]
    dearest = max(facts, key=lambda fact: accounting.renyi_cost(fact, 5))
    assert accounting.epsilon([*facts, dearest, dearest], plan.delta) <= 2.0
    if isinstance(facts[0], SampledSgd):
        assert (facts[0].sampling_rate, facts[0].steps) == ("0.5", 3)


# --- accounting


def gaussian_delta(epsilon: float, mu: float) -> float:
    """Balle and Wang, 2018, theorem 8."""

    def phi(x: float) -> float:
        return math.erfc(-x / math.sqrt(2)) / 2

    return phi(mu / 2 - epsilon / mu) - math.exp(epsilon) * phi(-mu / 2 - epsilon / mu)


def exact(mu: float) -> float:
    low, high = 0.0, 50.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if gaussian_delta(middle, mu) > float(DELTA) else (low, middle)
    return high


SUM = NoisedSum(noise_multiplier="6", clip="1", scale=4096, dims=10, honest_minimum=2)
STEPS = SampledSgd(noise_multiplier="12", clip="1", sampling_rate="1.0", steps=3)


def test_epsilon_is_that_of_gaussian_sums() -> None:
    """Full batches compose in closed form: add or remove one patient, sensitivity one clip."""
    assert accounting.epsilon([SUM] * 5, DELTA) == pytest.approx(exact(math.sqrt(5) / 6), rel=0.01)
    assert accounting.epsilon([STEPS] * 2, DELTA) == pytest.approx(exact(math.sqrt(6) / 12), rel=0.01)


def test_the_audit_s_epsilon_is_that_of_gaussian_sums() -> None:
    assert epsilon_bounds([SUM] * 5, DELTA).low == pytest.approx(exact(math.sqrt(5) / 6), rel=0.01)
    assert epsilon_bounds([STEPS] * 2, DELTA).low == pytest.approx(exact(math.sqrt(6) / 12), rel=0.01)


def test_epsilon_of_sampled_steps() -> None:
    """Of 2,000 steps at rate 0.051, noise 2: 5.828 by dp-accounting on a grid ten times finer, 5.838 by Opacus' PRV."""
    steps = SampledSgd(noise_multiplier="2", clip="1", sampling_rate="0.0512", steps=2000)
    assert accounting.epsilon([steps], "0.000005") == pytest.approx(5.83, rel=0.01)


def test_epsilon_of_a_few_sampled_steps() -> None:
    """Between the bounds of the audit's own accountant."""
    steps = SampledSgd(noise_multiplier="1.2", clip="1", sampling_rate="0.3", steps=3)
    bounds = epsilon_bounds([steps] * 2, DELTA)
    assert bounds.low - 0.01 <= accounting.epsilon([steps] * 2, DELTA) <= bounds.high + 0.01


def test_the_cost_of_a_release_is_its_renyi_divergence() -> None:
    assert accounting.renyi_cost(SUM, 7) == pytest.approx(7 / 72, rel=1e-3)
    assert accounting.renyi_cost(STEPS, 7) == pytest.approx(3 * 7 / 288, rel=1e-9)
