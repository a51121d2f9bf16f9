"""A risk study on sealed genotypes, without a network: its sums, people who leave, sites that lack files."""

import base64
import datetime as dt
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from genopact_client.genotypes.opened import Opened
from genopact_client.release.quantise import clipped_integers
from genopact_client.site import Site
from genopact_server.audit.bundle import export
from genopact_server.audit.verify import verify_path
from genopact_server.evidence import bundle_of
from genopact_server.report import write_report
from genopact_server.report.facts import read
from genopact_server.report.risk import quality
from genopact_server.rounds import Run
from genopact_shared import canonical, statements, wire
from genopact_shared.decision import Opening, verify_opening
from genopact_shared.errors import GenopactError
from genopact_shared.recipes import table as tables
from genopact_shared.recipes.protocol import Model
from genopact_shared.recipes.risk import RiskPlan
from genopact_shared.wire import Request
from tests.integration.hospital import Consortium, DirectCourier
from tests.integration.risk_hospital import LOCAL, NONE, consortium, reasons
from tests.mutations.world import Stopped, forged
from tests.unit.test_report import page

Make = Callable[..., Consortium]
STEPS, EFFECTS, METRICS = 11, 9, 10


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Make]:
    all_: list[Consortium] = []

    def make(*arguments: Any, **changes: Any) -> Consortium:
        all_.append(consortium(tmp_path / str(len(all_)), *arguments, **changes))
        return all_[-1]

    yield make
    for each in all_:
        each.close()


def start(one: Consortium) -> Run:
    return Run.start(one.folder, one.study, one.courier, one.events.append)


def openings(site: Site) -> list[tuple[statements.Intent, Opening]]:
    """Every intent of a site with the opening that proves who took part, in order."""
    found = []
    for entry in list(site.log.entries())[1:]:
        intent = statements.parse(entry, [site.identity.public])
        if isinstance(intent, statements.Intent):
            path = site.home / "openings" / f"{intent.run}-{intent.round:04d}-{intent.attempt:02d}.json"
            found.append((intent, Opening.model_validate_json(path.read_bytes())))
            assert verify_opening(found[-1][1], intent)
    return found


def asked(frame: bytes) -> Request:
    """What a frame asks for, whoever signed it."""
    payload = json.loads(wire.split(frame)[0])["payload"]
    return Request.model_validate_json(base64.b64decode(payload))


# --- whole runs


def direct(one: Consortium, run: Run) -> Model:
    """The sums of everybody's rows side by side, rounded as each row is."""
    course = run.plan.course
    assert isinstance(course, RiskPlan)
    model = course.initial()
    for index, step in enumerate(course.steps):
        rows = [course.contribution(index, model, each.truth) for each in one.hospitals.values()]
        integers = clipped_integers(np.concatenate(rows), None, step.scale).sum(axis=0)
        model = course.advance(index, model, integers / step.scale)
    return model


def test_without_noise_a_federation_is_the_direct_sum_to_the_bit(made: Make) -> None:
    one = made((60, 80, 300), privacy=NONE)
    run = start(one)
    model, reference = run.go(), direct(one, run)
    assert set(model) == set(reference)
    assert all(model[name].tobytes() == reference[name].tobytes() for name in reference)
    held_out = sum((each.truth.codes("held_out") == 1).sum() for each in one.hospitals.values())
    assert run.plan.course.metrics(model)["all"]["patients"] == held_out
    personal = one.hospitals["site-2"].site.home / "runs" / run.state.run / "personal.safetensors"
    calibration = wire.unpack(personal.read_bytes(), np.float64)["calibration"]
    course = run.plan.course
    assert isinstance(course, RiskPlan)
    assert np.allclose(calibration, course.fit_personal(model, one.hospitals["site-2"].truth)["calibration"])


def test_under_masks_a_study_is_charged_reported_and_audited(made: Make, tmp_path: Path) -> None:
    one = made((100, 100, 100), parameters={"evaluated": "everybody"})
    run = start(one)
    run.go()
    assert 0.97 * 5 < run.plan.epsilon <= 5
    for each in one.hospitals.values():
        assert each.site.ledger.spent(0) == tuple(step.fact for step in run.plan.steps)
    uploads = [wire.split(reply)[1] for _, frame, reply in one.courier.carried if asked(frame).op == "step"]
    assert len(uploads) == 3 * STEPS
    for body in uploads:
        assert set(wire.unpack(body, np.uint32 if b"U32" in body[:200] else np.uint64, tag=np.uint64)) == {"sum", "tag"}
    # Only the total says anything: a single upload fills its modulus evenly.
    sums = wire.unpack(uploads[0], np.uint32, tag=np.uint64)["sum"].astype(np.float64) / 2**32
    assert 0.1 < sums.mean() < 0.9
    facts = read(run.path, one.study)
    shown = quality(facts)
    assert shown is not None
    assert set(shown.metrics) == {"eur", "sas", "all"}  # a few people: what the noise drowns is left out
    for value, error in shown.shown.values():
        assert 0 <= value <= 1
        assert 0 < error < 0.5
    write_report(run.path, one.study, tmp_path / "report.html")
    text = page((run.path, one.study), tmp_path / "report.html")
    assert ("AUC by ancestry" in text) == bool(shown.shown)
    for name in ("eur", "sas"):
        assert name in text
    assert "too few" in text or shown.shown
    export(bundle_of(one.folder, run.state.run), tmp_path / "audit.zip")
    report = verify_path(tmp_path / "audit.zip", study_hash=one.study.hash)
    assert report.exit_code == 0, report.text()


# --- who takes part


class Acting(DirectCourier):
    """Does something before the step of one round is asked for, once."""

    round, act = 0, staticmethod(lambda: None)

    def exchange(self, requests: Mapping[str, bytes], deadline: float) -> dict[str, bytes]:
        first = asked(next(iter(requests.values())))
        if (first.op, first.round, first.attempt) == ("step", self.round, 0):
            self.act()
        return super().exchange(requests, deadline)


def test_who_withdraws_is_out_of_the_next_round_and_the_opening_proves_it(made: Make) -> None:
    one = made(courier=Acting)
    leaver, site = 7, one.hospitals["site-0"].site
    today = dt.datetime.now(dt.UTC).date()
    vars(one.courier).update(round=2, act=lambda: site.registry.withdraw(leaver, "no_new_use", today))
    start(one).go(until=4)
    assert [opening.permits(leaver) for _, opening in openings(site)] == [True] * 2 + [False] * 2
    assert all(opening.permits(leaver + 1) for _, opening in openings(site))
    assert (len(site.ledger.spent(leaver)), len(site.ledger.spent(leaver + 1))) == (2, 4)


def test_who_has_no_genotypes_or_is_erased_neither_counts_nor_pays(made: Make) -> None:
    one = made((60, 30, 30), without_genotypes=[3, 59])
    site = one.hospitals["site-0"].site
    site.registry.erase(11)
    start(one).go(until=2)
    for _, opening in openings(site):
        assert [row for row in range(60) if not opening.permits(row)] == [3, 11, 59]
    charged = [len(site.ledger.spent(row)) for row in range(60)]
    assert charged == [0 if row in {3, 11, 59} else 2 for row in range(60)]


def test_a_withdrawal_in_mid_step_closes_the_rows_and_nothing_is_released(made: Make) -> None:
    """Between two batches of patients. What was charged stays; the next attempt goes on without the person."""
    one = made(courier=Acting)
    site, leaver, calls, leaving = one.hospitals["site-0"].site, 7, list[int](), list[bool]()
    today, batch = dt.datetime.now(dt.UTC).date(), Opened.dosages

    def dosages(self: Opened, indices: Any, out: Any) -> Any:
        if leaving and self._keyfile is site.keyfile:
            calls.append(len(indices))
            if len(calls) == 2:
                site.registry.withdraw(leaver, "no_new_use", today)
        return batch(self, indices, out)

    vars(one.courier).update(round=1, act=lambda: leaving.append(True))
    with patch.object(tables, "PEOPLE", 16), patch.object(Opened, "dosages", dosages):
        run = start(one)
        run.go(until=2)
    failed = [reply for name, frame, reply in one.courier.carried if name == "site-0" and at(frame) == ("step", 1, 0)]
    assert failed == [b""]
    assert reasons(site) == ["ROWS_CLOSED"]
    released = [
        (each.round, each.attempt)
        for entry in list(site.log.entries())[1:]
        if isinstance(each := statements.parse(entry, [site.identity.public]), statements.Receipt)
    ]
    assert released == [(0, 0), (1, 1)]
    found = openings(site)
    assert [(intent.round, intent.attempt, opening.permits(leaver)) for intent, opening in found] == [
        (0, 0, True), (1, 0, True), (1, 1, False),
    ]  # fmt: skip
    assert (len(site.ledger.spent(leaver)), len(site.ledger.spent(leaver + 1))) == (2, 3)


def at(frame: bytes) -> tuple[str, int, int]:
    request = asked(frame)
    return request.op, request.round, request.attempt


# --- what a site lacks


def test_sites_without_the_design_or_the_genotypes_are_unavailable_and_know_why(made: Make) -> None:
    one = made((40, 40, 40), privacy=LOCAL)
    sites = {name: each.site for name, each in one.hospitals.items()}
    shutil.rmtree(sites["site-1"].home / "published")
    shutil.rmtree(sites["site-2"].home / "genotypes")
    start(one).go(until=2)
    replies: dict[str, list[bytes]] = {name: [] for name in sites}
    for name, frame, reply in one.courier.carried:
        if at(frame)[0] == "step":
            replies[name].append(reply)
    assert len(set(replies["site-0"])) == 2
    assert replies["site-1"] == replies["site-2"] == [wire.UNAVAILABLE] * 2
    assert [set(reasons(each)) for each in sites.values()] == [set(), {"PUBLISHED_MISSING"}, {"GENOTYPES_MISSING"}]
    assert [len(each.ledger.spent(0)) for each in sites.values()] == [2, 0, 0]


def test_a_site_with_another_design_of_that_name_is_unavailable(made: Make) -> None:
    one = made((40,), privacy=LOCAL)
    site = one.hospitals["site-0"].site
    file = next((site.home / "published").iterdir())
    file.write_bytes(wire.pack({"other": np.ones(2)}))
    with pytest.raises(GenopactError, match="QUORUM_LOST"):
        start(one).go(until=1)
    assert set(reasons(site)) == {"PUBLISHED_INVALID"}


# --- a coordinator that plants a model


def test_weights_that_do_not_follow_from_the_total_are_refused(made: Make) -> None:
    """The sites compute the update of all blocks themselves; the coordinator signs another one."""
    one = made((30, 30, 30), courier=type("BeforeMetrics", (Stopped,), {"at": ("step", METRICS)}))
    run = start(one)
    with pytest.raises(KeyboardInterrupt):
        run.go()
    frame = vars(one.courier)["kept"]["site-0"]
    body, total = wire.split(frame)[1], asked(frame).total_size
    model, site = wire.unpack(body[:-total], np.float64), one.hospitals["site-0"].site
    last = statements.parse(str(run.state.aggregate).encode(), [one.folder.identity.public])
    assert isinstance(last, statements.Aggregate)
    assert model["weights"].any()
    model["weights"][1, 17] += 2.0**-24
    planted = wire.pack(model)
    claim = last.model_copy(update={"model_out": canonical.digest(planted)})
    signed = statements.sign(claim, one.folder.identity).decode()
    assert forged(one, frame, planted + body[-total:], aggregate=signed) == b""
    assert reasons(site) == ["MODEL_NOT_LINKED"]
    assert len(site.ledger.spent(0)) == METRICS
    assert one.exchange("site-0")(frame) != b""
