"""Plans of both kinds: they follow from the study and the planned cohorts alone, and stay within the budget."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from genopact_server.aggregate import check_update, combine, shares
from genopact_shared import wire
from genopact_shared.errors import GenopactError
from genopact_shared.keys import SigningKey
from genopact_shared.plan import MODEL_SCALE, Plan, plan_of
from genopact_shared.privacy import accounting
from genopact_shared.privacy.mechanisms import NoisedSum, SampledSgd, Unprotected
from genopact_shared.recipes import NETWORKS, RECIPES, check_choice
from genopact_shared.recipes.network import NetPlan, NetSums, load, shapes
from genopact_shared.recipes.protocol import Model
from genopact_shared.study import Study, parse_study

PLANNED = {"site-a": 100, "site-b": 300, "site-c": 50}
NETWORK = {"name": "dose-net", "version": 1, "parameters": {"rounds": 5, "local_steps": 3}}
LOCAL = {"mode": "local", "epsilon_milli": 2000}


Tensors = dict[str, np.ndarray[Any, np.dtype[Any]]]


def key() -> str:
    return SigningKey.generate().public.hex


def study(**changes: Any) -> Study:
    parties = [{"name": name, "identity": key(), "log": key(), "approver": key()} for name in PLANNED]
    body = {
        "schema": "genopact.study/1", "name": "warfarin", "title": "Weekly dose", "contact": "study office",
        "purpose": {
            "permission": "HMB", "uses": ["train"], "organisations": ["public"], "commercial": False,
            "regions": ["DE"], "data": ["drug"],
        },
        "outcome": "weekly_dose_mg", "recipe": {"name": "dose", "version": 1},
        "metrics": () if "recipe" in changes else RECIPES["dose"].measures,
        "privacy": {"mode": "distributed", "epsilon_milli": 1000, "honest_minimum": 2},
        "schedule": {"quorum": 3}, "expires": "2049-12-31", "parties": parties,
        "coordinator": {"name": "coordinator", "identity": key(), "log": key(), "address": "127.0.0.1:8000"},
        **changes,
    }  # fmt: skip
    return parse_study(json.dumps(body).encode())


def network(**privacy: Any) -> Plan:
    return plan_of(study(recipe=NETWORK, privacy=LOCAL | privacy), PLANNED)


def test_a_plan_of_sums_spends_its_budget_on_noised_sums() -> None:
    plan = plan_of(study(), PLANNED)
    assert 0.98 < plan.epsilon <= 1.0
    assert [step.index for step in plan.steps] == list(range(len(plan.steps)))
    for step in plan.steps:
        assert (step.kind, step.masked) == ("sum", True)
        assert isinstance(step.fact, NoisedSum)
        noise = float(step.fact.noise_multiplier) * float(step.fact.clip) * step.fact.scale
        assert step.share_variance == pytest.approx(noise**2 / 2)


def test_a_plan_of_a_network_spends_its_budget_on_rounds_of_sampled_steps() -> None:
    plan = network()
    assert 0.99 * 2 < plan.epsilon <= 2.0
    assert len(plan.steps) == 5
    fact = plan.steps[0].fact
    assert all(step.fact == fact for step in plan.steps)
    assert isinstance(fact, SampledSgd)
    assert (fact.steps, fact.sampling_rate, fact.clip) == (3, "0.5", "1.0")
    assert all((step.kind, step.masked, step.share_variance) == ("model", False, 0.0) for step in plan.steps)


def test_spare_attempts_are_paid_for_beforehand() -> None:
    for plan in (network(spare_attempts=2), plan_of(study(privacy=LOCAL | {"spare_attempts": 2}), PLANNED)):
        dearest = max((step.fact for step in plan.steps), key=lambda fact: accounting.epsilon([fact], plan.delta))
        whole = accounting.epsilon([*(step.fact for step in plan.steps), dearest, dearest], plan.delta)
        assert plan.epsilon < 0.98 * 2 < whole <= 2.0


def test_without_a_budget_nothing_is_protected_and_the_plan_says_so() -> None:
    plan = plan_of(study(recipe=NETWORK, privacy={"mode": "none"}), PLANNED)
    weights = sum(values.size for values in plan.course.initial().values())
    assert plan.steps[0].fact == Unprotected(dims=weights, scale=MODEL_SCALE)
    assert plan.epsilon == float("inf")


def test_every_party_computes_the_same_plan() -> None:
    first = study(recipe=NETWORK, privacy=LOCAL)
    one = plan_of(first, PLANNED)
    accounting.sgd_noise_multiplier.cache_clear()
    other = plan_of(parse_study(first.canonical), dict(PLANNED))
    assert one.steps == other.steps
    assert wire.pack(one.course.initial()) == wire.pack(other.course.initial())


def test_a_network_under_masks_is_sums_of_gradients_within_the_budget() -> None:
    plan = plan_of(study(recipe=NETWORK), PLANNED)
    assert isinstance(plan.course, NetSums)
    assert plan.recipe is plan.course
    assert all(isinstance(step.fact, NoisedSum) and step.masked and step.kind == "sum" for step in plan.steps)
    assert len(plan.steps) == plan.course.parameters.rounds
    assert 0.9 < plan.epsilon <= 1


# --- what the coordinator makes of updates


def changes(model: Model, *sites: str) -> dict[str, Model]:
    rng = np.random.default_rng(0)
    return {site: {name: rng.normal(size=values.shape) for name, values in model.items()} for site in sites}


def test_changes_are_averaged_by_planned_cohort() -> None:
    plan = network()
    model = plan.course.initial()
    given = changes(model, "site-a", "site-c")
    record, after = combine(plan, 0, model, {site: wire.pack(each) for site, each in given.items()}, None)
    update = wire.unpack(record, np.float64)
    for name, values in model.items():
        mean = (100 * given["site-a"][name] + 50 * given["site-c"][name]) / 150
        assert np.allclose(update[name], mean)
        assert np.allclose(after[name], values + mean)


def test_shares_of_a_step_add_up_and_are_each_site_s_part_along_it() -> None:
    plan = network()
    model = plan.course.initial()
    given = changes(model, "site-a", "site-c")
    bodies = {site: wire.pack(each) for site, each in given.items()}
    record, _ = combine(plan, 0, model, bodies, None)
    found = shares(plan, record, bodies)
    assert sum(found.values()) == pytest.approx(1)
    a, c = (np.concatenate([given[site][name].ravel() for name in model]) for site in ("site-a", "site-c"))
    step = (100 * a + 50 * c) / 150
    assert found["site-a"] == pytest.approx(100 / 150 * (a @ step) / (step @ step))
    assert shares(plan_of(study(recipe=NETWORK), PLANNED), record, bodies) == {}


ROBUST = ("median", "trimmed", "krum")


def robust(rule: str) -> Plan:
    recipe = NETWORK | {"parameters": {"rounds": 5, "local_steps": 3, "combine": rule}}
    return plan_of(study(recipe=recipe, privacy=LOCAL), PLANNED)


@pytest.mark.parametrize("rule", ["mean", *ROBUST])
@pytest.mark.parametrize("sent", [1e9, -1e9])
def test_a_site_that_sends_anything_moves_the_mean_and_no_robust_rule(rule: str, sent: float) -> None:
    plan = robust(rule)
    model = plan.course.initial()
    planned = dict.fromkeys(("site-a", "site-b", "site-c", "site-d", "site-e"), 100)
    plan = replace(plan, planned=planned)
    given = changes(model, *planned)
    given["site-e"] = {name: np.full_like(values, sent) for name, values in model.items()}
    record, _ = combine(plan, 0, model, {site: wire.pack(each) for site, each in given.items()}, None)
    update, honest = wire.unpack(record, np.float64), [given[site] for site in planned if site != "site-e"]
    for name, values in update.items():
        low, high = (function([each[name] for each in honest], axis=0) for function in (np.min, np.max))
        assert bool(((low <= values) & (values <= high)).all()) == (rule != "mean")


def test_robust_rules_are_those_of_their_papers() -> None:
    """Number by number, and pair by pair."""
    planned = {f"site-{at}": 10 * (at + 1) for at in range(8)}
    for rule in ROBUST:
        plan = replace(robust(rule), planned=planned)
        model = plan.course.initial()
        given = changes(model, *planned)
        record, _ = combine(plan, 0, model, {site: wire.pack(each) for site, each in given.items()}, None)
        update = wire.unpack(record, np.float64)
        flat = {site: [*np.concatenate([each[name].ravel() for name in sorted(each)])] for site, each in given.items()}
        found = [*np.concatenate([update[name].ravel() for name in sorted(update)])]
        if rule == "krum":  # 8 sites, of which 2 may lie: nearest to 8 - 2 - 2 others
            far = {
                a: sum(
                    sorted(
                        sum((x - y) ** 2 for x, y in zip(one, two, strict=True)) for b, two in flat.items() if b != a
                    )[:4]
                )
                for a, one in flat.items()
            }
            assert found == flat[min(far, key=far.__getitem__)]
            continue
        for place, value in enumerate(found):
            ranked = sorted(one[place] for one in flat.values())
            middle = ranked[3:5] if rule == "median" else ranked[2:6]
            assert value == pytest.approx(sum(middle) / len(middle))


def test_under_masks_there_is_a_mean_only() -> None:
    with pytest.raises(GenopactError, match="STUDY_INVALID"):
        check_choice(study(recipe=NETWORK | {"parameters": {"combine": "median"}}))


def test_sums_are_scaled_up_to_everybody_who_was_planned() -> None:
    plan = plan_of(study(privacy=LOCAL), PLANNED)
    fact = plan.steps[0].fact
    assert isinstance(fact, NoisedSum)
    threes = {site: wire.pack({"sum": np.full(fact.dims, -3 * fact.scale)}) for site in ("site-a", "site-c")}
    record, after = combine(plan, 0, plan.course.initial(), threes, None)
    integers = wire.unpack(record, np.int64)["sum"]
    assert (integers == -6 * fact.scale).all()
    estimate, again = plan.advance(0, plan.course.initial(), integers, threes)
    assert np.allclose(estimate, -6.0 * 450 / 150)
    assert wire.pack(again) == wire.pack(after)
    assert shapes(after) == shapes(plan.course.initial())


def test_an_opened_total_goes_the_way_of_a_plain_one() -> None:
    plan = plan_of(study(), PLANNED)
    fact = plan.steps[0].fact
    assert isinstance(fact, NoisedSum)
    total = wire.pack({"sum": np.arange(fact.dims), "tag": np.ones(1, dtype=np.uint64)})
    record, after = combine(plan, 0, plan.course.initial(), dict.fromkeys(PLANNED, b""), total)
    assert record == total
    assert wire.pack(after) == wire.pack(plan.advance(0, plan.course.initial(), np.arange(fact.dims), PLANNED)[1])


def test_the_modulus_holds_every_total_of_twice_the_planned_patients() -> None:
    for patients, bits in ((300, 32), (30_000_000, 64)):
        planned = dict.fromkeys(PLANNED, patients)
        for step in plan_of(study(), planned).steps:
            fact = step.fact
            assert isinstance(fact, NoisedSum)
            most = 2 * 3 * patients * float(fact.clip) * fact.scale
            assert (step.bits, most < 2.0**31) == (bits, bits == 32)


def test_quorum_and_honest_minimum_keep_masks_closed() -> None:
    """Four parties: three and two open for nobody, three and one would."""
    for honest, parties, fits in ((2, 4, True), (2, 5, False), (3, 5, True)):
        names = [f"site-{letter}" for letter in "abcde"[:parties]]
        changes = {"parties": [{"name": n, "identity": key(), "log": key(), "approver": key()} for n in names],
                   "privacy": {"mode": "distributed", "epsilon_milli": 1000, "honest_minimum": honest}}  # fmt: skip
        if fits:
            study(**changes)
        else:
            with pytest.raises(GenopactError, match="masks rest on it"):
                study(**changes)


def test_only_what_was_planned_is_combined() -> None:
    sums, net = plan_of(study(privacy=LOCAL), PLANNED), network()
    zeros = net.course.initial()
    fact = sums.steps[0].fact
    assert isinstance(fact, NoisedSum)
    check_update(net.steps[0], zeros, wire.pack(zeros))
    check_update(sums.steps[0], {}, wire.pack({"sum": np.zeros(fact.dims, dtype=np.int64)}))
    hidden = plan_of(study(), PLANNED).steps[0]
    masked: Tensors = {"sum": np.zeros(fact.dims, dtype=np.uint32), "tag": np.zeros(1, dtype=np.uint64)}
    others: list[Tensors] = [
        {"tag": np.zeros(2, dtype=np.uint64)},
        {"sum": np.zeros(fact.dims, dtype=np.uint64)},
        {"more": masked["tag"]},
    ]
    check_update(hidden, {}, wire.pack(masked))
    for change in others:
        with pytest.raises(GenopactError, match="FRAME_INVALID"):
            check_update(hidden, {}, wire.pack(masked | change))
    first = next(iter(zeros))
    wrong = [
        {**zeros, "more": np.zeros(1)},
        {name: values for name, values in zeros.items() if name != first},
        {**zeros, first: zeros[first].T},
        {**zeros, first: zeros[first] * np.inf},
        {**zeros, first: zeros[first] + np.nan},
    ]
    for model in wrong:
        with pytest.raises(GenopactError, match="FRAME_INVALID"):
            check_update(net.steps[0], zeros, wire.pack(model))
    words: list[dict[str, np.ndarray[Any, np.dtype[Any]]]] = [
        {"sum": np.zeros(fact.dims + 1, dtype=np.int64)},
        {"total": np.zeros(fact.dims, dtype=np.int64)},
        {"sum": np.zeros(fact.dims, dtype=np.uint64)},
    ]
    for tensors in words:
        for step in (sums.steps[0], net.steps[0]):
            with pytest.raises(GenopactError, match="FRAME_INVALID"):
                check_update(step, zeros, wire.pack(tensors))


def test_a_network_takes_its_own_models_only() -> None:
    course = network().course
    assert isinstance(course, NetPlan)
    model = {name: values + 0.25 for name, values in course.initial().items()}
    held = {name: weights.detach().numpy() for name, weights in course.module(model).named_parameters()}
    assert all(np.allclose(held[name], values) for name, values in model.items())
    module = NETWORKS["dose-net"].module(course.parameters)
    for wrong in ({}, {name: values.ravel() for name, values in model.items()}):
        with pytest.raises(GenopactError, match="FRAME_INVALID"):
            load(module, wrong)


def test_an_exact_total_is_of_those_who_answered_and_is_not_scaled_up() -> None:
    """Counts of two sites of three stay counts; a noised total stands for all planned patients."""
    about = {"recipe": {"name": "cohort-summary", "version": 1}, "outcome": "call_rate", "metrics": ["patients"]}
    some, total = ("site-a", "site-c"), np.full(29, 150 << 10, np.int64)
    exact = plan_of(study(**about, privacy={"mode": "none"}), PLANNED)
    assert set(exact.advance(0, exact.course.initial(), total, some)[0]) == {150.0}
    noised = plan_of(study(**about), PLANNED)
    assert set(noised.advance(0, noised.course.initial(), total, some)[0]) == {450.0}
