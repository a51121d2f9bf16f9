"""The whole chain without a network: approvals, rounds, charges, logs, withdrawal, resume."""

import base64
import datetime as dt
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from genopact_client.agent.exchange import Exchange
from genopact_server.rounds import Run
from genopact_shared import statements, wire
from genopact_shared.decision import Opening, verify_opening
from genopact_shared.errors import GenopactError
from genopact_shared.keys import SigningKey
from genopact_shared.privacy.accounting import epsilon
from genopact_shared.privacy.mechanisms import NoisedSum
from genopact_shared.recipes import RECIPES
from genopact_shared.recipes.protocol import SumPlan
from tests.integration.hospital import BEFORE_THIRD_STEP, Consortium, DirectCourier, outcomes

Make = Callable[..., Consortium]


def canonical_payload(frame: bytes) -> bytes:
    return base64.b64decode(json.loads(wire.split(frame)[0])["payload"])


def start(one: Consortium, courier: DirectCourier | None = None) -> Run:
    return Run.start(one.folder, one.study, courier or one.courier, one.events.append)


def naive(one: Consortium) -> dict[str, np.ndarray[Any, Any]]:
    """The reference: the plan's sums over everybody's rows, added as floats."""
    recipe = RECIPES["dose"]
    plan: SumPlan = recipe.plan(recipe.parameters(), sum(start.planned_cohort for start in approvals(one)), None)
    model = plan.initial()
    for index in range(len(plan.steps)):
        rows = [plan.contribution(index, model, each.truth) for each in one.hospitals.values()]
        model = plan.advance(index, model, np.concatenate(rows).sum(axis=0))
    return model


def approvals(one: Consortium) -> list[statements.Approval]:
    from genopact_shared.approval import check_approval

    return [check_approval(envelope, one.study) for envelope in one.folder.approvals(one.study).values()]


def test_without_noise_the_federation_is_the_pooled_sum(consortium: Make) -> None:
    one = consortium(privacy={"mode": "none", "honest_minimum": 1})
    model, reference = start(one).go(), naive(one)
    assert set(model) == set(reference)
    for name, tensor in reference.items():
        assert np.allclose(model[name], tensor, rtol=1e-2, atol=5e-3), name
    assert one.events[-1]["event"] == "done"


def test_a_private_run_learns_and_pays(consortium: Make) -> None:
    one = consortium(
        sites=4, privacy={"mode": "distributed", "epsilon_milli": 3000, "delta": "0.000001", "honest_minimum": 2}
    )
    run = start(one)
    run.go()
    assert 0.98 * 3 < run.plan.epsilon <= 3.0
    doses = outcomes(one.hospitals)
    metrics = one.events[-2]["metrics"]["all"]
    assert metrics["mae_mg"] < 1.5 * np.abs(doses - 35).mean()  # a released number: its own noise is about 1 mg
    for each in one.hospitals.values():
        assert [fact.kind for fact in each.site.ledger.spent(0)] == ["noised-sum"] * len(run.plan.steps)
        assert each.site.ledger.spent(0) == tuple(step.fact for step in run.plan.steps)
        assert not list(each.site.ledger.open_reservations())
        assert (each.site.home / "runs" / run.state.run / "personal.safetensors").stat().st_mode & 0o077 == 0


def test_in_local_mode_each_site_adds_its_whole_noise(consortium: Make) -> None:
    one = consortium(privacy={"mode": "local", "epsilon_milli": 3000, "delta": "0.000001", "honest_minimum": 1})
    run = start(one)
    run.go()
    first = run.plan.steps[0]
    assert isinstance(first.fact, NoisedSum)
    expected = (float(first.fact.noise_multiplier) * float(first.fact.clip) * first.fact.scale) ** 2
    assert first.share_variance == pytest.approx(expected)
    assert not first.masked


def test_every_answer_has_an_intent_and_a_receipt_in_the_sites_log(consortium: Make) -> None:
    one = consortium()
    run = start(one)
    run.go()
    for each in one.hospitals.values():
        entries = list(each.site.log.entries())
        kinds = [type(statements.parse(entry, [each.site.identity.public, each.approver.public])) for entry in entries]
        assert kinds == [statements.Approval, *[statements.Intent, statements.Receipt] * len(run.plan.steps)]


class Dying(DirectCourier):
    """At the `fatal`-th exchange the process dies, after `delivered` sites have answered."""

    def __init__(self, sites: Mapping[str, Callable[[bytes], bytes]], fatal: int, delivered: int) -> None:
        super().__init__(sites)
        self.fatal, self.delivered = fatal, delivered

    def exchange(self, requests: Mapping[str, bytes], deadline: float) -> dict[str, bytes]:
        self.fatal -= 1
        if self.fatal >= 0:
            return super().exchange(requests, deadline)
        some = dict(list(requests.items())[: self.delivered])
        super().exchange(some, deadline)
        raise KeyboardInterrupt


@pytest.mark.parametrize("fatal", [0, 1, 2, 3, 4, 6, 7, 12])
@pytest.mark.parametrize("delivered", [0, 2, 3])
def test_a_killed_loop_resumes_without_charging_twice(consortium: Make, fatal: int, delivered: int) -> None:
    one = consortium()
    dying = Dying(one.courier.sites, fatal, delivered)
    run = start(one, dying)
    with pytest.raises(KeyboardInterrupt):
        run.go()
    resumed = Run.resume(one.folder, run.state.run, one.courier, one.events.append)
    resumed.go()
    assert resumed.state.stage == "done"
    for each in one.hospitals.values():
        assert each.site.ledger.spent(0) == tuple(step.fact for step in run.plan.steps)


def test_an_agent_that_lost_its_mask_key_costs_one_attempt(consortium: Make) -> None:
    one = consortium()
    restarted: list[str] = []

    class Restarting(DirectCourier):
        def exchange(self, requests: Mapping[str, bytes], deadline: float) -> dict[str, bytes]:
            if len(self.carried) == BEFORE_THIRD_STEP and not restarted:
                restarted.append("site-b")
                self.sites["site-b"] = Exchange(one.hospitals["site-b"].site)
            return super().exchange(requests, deadline)

    run = start(one, Restarting(one.courier.sites))
    run.go()
    charged = {name: len(each.site.ledger.spent(0)) - len(run.plan.steps) for name, each in one.hospitals.items()}
    assert restarted
    assert charged == {"site-a": 1, "site-b": 0, "site-c": 1}


def test_a_site_that_stays_away_is_left_out_while_the_quorum_holds(consortium: Make) -> None:
    one = consortium(sites=4)
    del one.courier.sites["site-d"]
    run = start(one)
    run.go()
    assert one.events[0]["sites"] == ["site-a", "site-b", "site-c"]
    assert run.state.stage == "done"


def test_below_the_quorum_nothing_is_computed_and_the_run_can_go_on_later(consortium: Make) -> None:
    one = consortium()
    missing = one.courier.sites.pop("site-c")
    run = start(one)
    with pytest.raises(GenopactError, match="QUORUM_LOST"):
        run.go()
    assert all(not each.site.ledger.spent(0) for each in one.hospitals.values())
    one.courier.sites["site-c"] = missing
    Run.resume(one.folder, run.state.run, one.courier, one.events.append).go()


def test_a_patient_who_withdraws_is_outside_the_next_round_and_the_opening_proves_it(consortium: Make) -> None:
    one = consortium()
    leaver, site = 7, one.hospitals["site-a"].site

    class Withdrawing(DirectCourier):
        def exchange(self, requests: Mapping[str, bytes], deadline: float) -> dict[str, bytes]:
            if len(self.carried) == BEFORE_THIRD_STEP:
                site.registry.withdraw(leaver, "no_new_use", dt.datetime.now(dt.UTC).date())
            return super().exchange(requests, deadline)

    run = start(one, Withdrawing(one.courier.sites))
    run.go()
    intents = [statements.parse(entry, [site.identity.public]) for entry in list(site.log.entries())[1:]]
    admitted = []
    for intent in intents:
        if isinstance(intent, statements.Intent):
            path = site.home / "openings" / f"{intent.run}-{intent.round:04d}-{intent.attempt:02d}.json"
            opening = Opening.model_validate_json(path.read_bytes())
            assert verify_opening(opening, intent)
            assert opening.permits(8)
            admitted.append(opening.permits(leaver))
    assert admitted == [True, True] + [False] * (len(run.plan.steps) - 2)
    assert len(site.ledger.spent(leaver)) == 2


def test_an_exhausted_patient_is_left_out_and_the_wire_does_not_show_it(consortium: Make) -> None:
    one = consortium()
    site = one.hospitals["site-b"].site
    big = NoisedSum(noise_multiplier="0.5", clip="1", scale=1024, dims=1, honest_minimum=2)
    sequence = site.ledger.reserve("0" * 64, "1" * 32, 0, 0, big, np.array([3], dtype=np.int64), 20_000)
    site.ledger.settle(sequence)
    run = start(one)
    run.go()
    assert site.ledger.spent(3) == (big,)
    assert len(site.ledger.spent(4)) == len(run.plan.steps)
    sizes = {n: [len(reply) for name, _, reply in one.courier.carried if name == n] for n in ("site-a", "site-b")}
    assert sizes["site-a"] == sizes["site-b"]


def test_a_study_nobody_approved_does_not_start(consortium: Make) -> None:
    one = consortium()
    stranger = SigningKey.generate()
    envelope = statements.sign(
        statements.Approval(at=1, study=one.study.hash, site="site-a", planned_cohort=10, policy="0" * 64), stranger
    )
    with pytest.raises(GenopactError, match="SIGNATURE_INVALID"):
        one.folder.accept(one.study, envelope)


def test_a_study_never_costs_more_than_its_epsilon_however_often_it_is_tried(consortium: Make) -> None:
    """Void attempts use up the spares; then sites refuse, and the patients have paid no more than was signed."""
    one = consortium(schedule={"quorum": 3, "deadline_s": 20, "attempts": 4})

    class Deaf(DirectCourier):
        def exchange(self, requests: Mapping[str, bytes], deadline: float) -> dict[str, bytes]:
            replies = super().exchange(requests, deadline)
            if any(b'"step"' in canonical_payload(frame) for frame in requests.values()):
                replies.pop("site-c", None)
            return replies

    run = start(one, Deaf(one.courier.sites))
    with pytest.raises(GenopactError, match="QUORUM_LOST"):
        run.go()
    for each in one.hospitals.values():
        spent = each.site.ledger.spent(0)
        assert epsilon(spent, "0.000001") <= 1.0


def test_a_second_run_of_a_spent_study_is_refused(consortium: Make) -> None:
    one = consortium()
    start(one).go()
    with pytest.raises(GenopactError, match="QUORUM_LOST"):
        start(one).go()
    for each in one.hospitals.values():
        assert epsilon(each.site.ledger.spent(0), "0.000001") <= 1.0


def test_a_policy_that_is_narrowed_in_mid_run_stops_the_next_release(consortium: Make) -> None:
    one = consortium(schedule={"quorum": 3, "deadline_s": 20, "attempts": 1})
    site = one.hospitals["site-b"].site

    class Narrowing(DirectCourier):
        def exchange(self, requests: Mapping[str, bytes], deadline: float) -> dict[str, bytes]:
            if len(self.carried) == BEFORE_THIRD_STEP:
                path = site.home / "policy.yaml"
                path.write_text(path.read_text().replace("max_epsilon_milli: 5000", "max_epsilon_milli: 500"))
            return super().exchange(requests, deadline)

    with pytest.raises(GenopactError, match="QUORUM_LOST"):
        start(one, Narrowing(one.courier.sites)).go()
    assert len(site.ledger.spent(0)) == 2
    last = statements.parse(list(site.private_log.entries())[-1], [site.identity.public])
    assert isinstance(last, statements.Refusal)
    assert last.reasons == ("POLICY_REFUSED",)
