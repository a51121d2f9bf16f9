"""Certificates against plans whose epsilon was integrated without the project's accountants."""

import json
from collections import Counter
from typing import Any

import pytest

from genopact_shared.privacy import accounting
from genopact_shared.privacy.mechanisms import MECHANISM
from tests.golden import epsilon_plans

PLANS: list[dict[str, Any]] = json.loads(epsilon_plans.PATH.read_text("utf-8"))


def test_there_are_a_hundred_plans_of_every_kind() -> None:
    kinds = Counter(tuple(sorted({each["fact"]["kind"] for each in plan["facts"]})) for plan in PLANS)
    assert len(PLANS) == 100
    assert len(kinds) == 3
    assert min(kinds.values()) >= 30
    assert min(plan["epsilon"] for plan in PLANS) < 0.1
    assert max(plan["epsilon"] for plan in PLANS) > 15


@pytest.mark.parametrize("plan", PLANS[::4], ids=range(0, 100, 4))
def test_a_certificate_is_the_true_epsilon_or_hardly_more(plan: dict[str, Any]) -> None:
    facts = [MECHANISM.validate_python(each["fact"]) for each in plan["facts"] for _ in range(each["times"])]
    certificate = accounting.epsilon(facts, plan["delta"])
    assert plan["epsilon"] * (1 - 1e-6) <= certificate <= plan["epsilon"] * 1.01


@pytest.mark.parametrize("number", [7, 42, 77])
def test_the_file_is_what_the_generator_computes(number: int) -> None:
    plan = PLANS[number]
    again = epsilon_plans.true_epsilon(epsilon_plans.steps_of(plan["facts"]), float(plan["delta"]))
    assert again == pytest.approx(plan["epsilon"], rel=1e-6)


@pytest.mark.parametrize("mu", [0.05, 0.4, 3.0])
def test_the_generator_inverts_the_curve_of_the_gaussian_mechanism(mu: float) -> None:
    epsilon = epsilon_plans.true_epsilon([(1 / mu, 1.0, 1)], 1e-6)
    assert accounting.gaussian_delta(epsilon, mu) == pytest.approx(1e-6, rel=1e-6)


@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning", "ignore:Optimal order:UserWarning")  # Opacus' own
def test_the_generator_agrees_with_opacus() -> None:
    from opacus.accountants import PRVAccountant

    steps = [(1.5, 0.05, 100), (9.0, 1.0, 4)]
    second = PRVAccountant()
    second.history = list(steps)
    assert 0 < second.get_epsilon(delta=1e-6, eps_error=0.01) - epsilon_plans.true_epsilon(steps, 1e-6) < 0.011
