"""The recipe `dose-net` through the whole chain without a network: private steps, charges, averages, the audit."""

import datetime as dt
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genopact_client.release import kernel
from genopact_client.release.private import Private, Released
from genopact_server.audit.bundle import export
from genopact_server.audit.verify import verify, verify_path
from genopact_server.demo import cohort
from genopact_server.evidence import bundle_of
from genopact_server.rounds import Run
from genopact_shared import wire
from genopact_shared.privacy.accounting import Fact
from genopact_shared.privacy.mechanisms import NoisedSum, SampledSgd, Unprotected
from genopact_shared.recipes.dose_features import OUTCOME
from tests.integration.hospital import MIXES, Consortium, DirectCourier

Make = Callable[..., Consortium]
ROUNDS = 6
RECIPE = {"name": "dose-net", "version": 1, "parameters": {"rounds": ROUNDS, "local_steps": 6}}
LOCAL = {"mode": "local", "epsilon_milli": 4900, "delta": "0.000001", "honest_minimum": 1}
OPEN = {"mode": "none", "honest_minimum": 1}


def start(one: Consortium) -> Run:
    return Run.start(one.folder, one.study, one.courier, one.events.append)


def error(run: Run, model: Any) -> float:
    """Mean absolute error in mg/week for people of the same hospitals who did not train."""
    tables = [cohort.generate(400, 1000 + index, mix) for index, mix in enumerate(MIXES)]
    errors = [np.abs(run.plan.recipe.predict(model, None, table).value - table.number(OUTCOME)) for table in tables]
    return float(np.concatenate(errors).mean())


def test_a_network_learns_with_privacy_pays_for_it_and_passes_the_audit(consortium: Make, tmp_path: Path) -> None:
    one = consortium(sites=4, recipe=RECIPE, privacy=LOCAL)
    run = start(one)
    constant = error(run, run.model())
    assert error(run, run.go()) < constant - 1.0
    assert 0.99 * 4.9 < run.plan.epsilon <= 4.9
    for each in one.hospitals.values():
        spent = each.site.ledger.spent(0)
        assert spent == tuple(step.fact for step in run.plan.steps)
        assert all(isinstance(fact, SampledSgd) and fact.steps == 6 for fact in spent)
        assert not each.site.ledger.open_reservations()
        folder = each.site.home / "runs" / run.state.run
        personal = wire.unpack((folder / "personal.safetensors").read_bytes(), np.float64)
        assert set(personal) == {"intercept", "variance"}
    export(bundle_of(one.folder, run.state.run), tmp_path / "audit.zip")
    report = verify_path(tmp_path / "audit.zip", study_hash=one.study.hash)
    assert report.exit_code == 0, report.text()


def test_under_masks_it_learns_from_totals_alone(consortium: Make, tmp_path: Path) -> None:
    masked = {"mode": "distributed", "epsilon_milli": 4900, "delta": "0.000001", "honest_minimum": 3}
    recipe = RECIPE | {"parameters": {"rounds": 8, "learning_rate_milli": 1500}}
    one = consortium(sites=4, recipe=recipe, privacy=masked)
    run = start(one)
    constant = error(run, run.model())
    assert error(run, run.go()) < constant - 1.0
    assert all(isinstance(step.fact, NoisedSum) and step.masked for step in run.plan.steps)
    export(bundle_of(one.folder, run.state.run), tmp_path / "audit.zip")
    assert verify_path(tmp_path / "audit.zip", study_hash=one.study.hash).exit_code == 0


def test_without_noise_it_learns_more(consortium: Make, tmp_path: Path) -> None:
    private, public = (
        consortium(sites=4, recipe=RECIPE, privacy=LOCAL | {"epsilon_milli": 300}),
        consortium(sites=4, recipe=RECIPE, privacy=OPEN),
    )
    noisy, exact = start(private), start(public)
    assert error(exact, exact.go()) < error(noisy, noisy.go())
    assert all(isinstance(step.fact, Unprotected) for step in exact.plan.steps)
    export(bundle_of(public.folder, exact.state.run), tmp_path / "audit.zip")
    assert verify_path(tmp_path / "audit.zip", study_hash=public.study.hash).exit_code == 0


def test_a_site_that_misses_a_round_is_left_out_of_its_mean(consortium: Make) -> None:
    recipe = RECIPE | {"parameters": {"rounds": 2, "local_steps": 1}}
    one = consortium(recipe=recipe, privacy=LOCAL)
    run = start(one)
    run.go(until=1)
    away = one.courier.sites.pop("site-b")
    run.go(until=2)
    one.courier.sites["site-b"] = away
    run.go()
    assert [event["sites"] for event in one.events if event["event"] == "round"] == [
        ["site-a", "site-b", "site-c"],
        ["site-a", "site-c"],
    ]
    assert len(one.hospitals["site-b"].site.ledger.spent(0)) == 1


def test_a_site_whose_answer_came_too_late_takes_part_in_the_next_round(consortium: Make) -> None:
    """Nothing hides under masks here: the mean is that of the others, and the site has paid."""

    class Late(DirectCourier):
        def exchange(self, requests: Mapping[str, bytes], deadline: float) -> dict[str, bytes]:
            replies = super().exchange(requests, deadline)
            if len(self.carried) == 6:
                del replies["site-b"]
            return replies

    one = consortium(recipe=RECIPE | {"parameters": {"rounds": 2, "local_steps": 1}}, privacy=LOCAL)
    run = Run.start(one.folder, one.study, Late(one.courier.sites), one.events.append)
    run.go()
    sites = [event["sites"] for event in one.events if event["event"] == "round"]
    assert sites == [["site-a", "site-c"], ["site-a", "site-b", "site-c"]]
    assert [len(each.site.ledger.spent(0)) for each in one.hospitals.values()] == [2, 2, 2]
    assert verify(bundle_of(one.folder, run.state.run)).exit_code == 0


@pytest.mark.parametrize("change", [np.ravel, lambda values: values * np.nan, lambda values: values[:1]])
def test_what_is_no_change_of_the_model_is_refused(
    consortium: Make, monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], Any]
) -> None:
    """Signed and logged as it should be, but not what was planned."""
    one = consortium(recipe=RECIPE | {"parameters": {"rounds": 1, "local_steps": 1}}, privacy=LOCAL)
    real, hostile = kernel.release_model, one.hospitals["site-b"].site

    def release(delta: Private[Any], reserved: Fact, done: Fact) -> Released:
        good = real(delta, reserved, done)
        if not hostile.ledger.open_reservations():
            return good
        tensors = wire.unpack(good.body, np.float64)
        return Released(wire.pack({name: change(values) for name, values in tensors.items()}), done)

    monkeypatch.setattr(kernel, "release_model", release)
    start(one).go()
    refused = [(event["site"], event["code"]) for event in one.events if event["event"] == "reply-refused"]
    assert refused == [("site-b", "FRAME_INVALID")]
    assert [event["sites"] for event in one.events if event["event"] == "round"] == [["site-a", "site-c"]]


def test_the_bytes_of_a_reply_do_not_tell_how_many_took_part(consortium: Make) -> None:
    one = consortium(recipe=RECIPE | {"parameters": {"rounds": 1, "local_steps": 2}}, privacy=LOCAL)
    one.hospitals["site-b"].site.registry.withdraw(3, "no_new_use", dt.datetime.now(dt.UTC).date())
    start(one).go()
    sizes = {len(reply) for _, _, reply in one.courier.carried[3:6]}
    assert len(sizes) == 1
