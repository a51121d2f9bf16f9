"""The audit: an honest bundle passes, missing parts cannot be told."""

import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from genopact_server.audit.bundle import Bundle, export, load
from genopact_server.audit.findings import Report
from genopact_server.audit.verify import verify, verify_path
from genopact_server.statements import Release, RunOpened
from genopact_shared import canonical
from genopact_shared.errors import GenopactError
from genopact_shared.privacy.mechanisms import Unprotected
from genopact_shared.statements import Aggregate, Approval, Intent, Receipt, Statement
from tests.unit.audit_world import (
    FACT,
    FLOOR,
    HUB,
    RUN,
    SGD,
    SITES,
    UNAVAILABLE,
    World,
    digest,
    editing,
    key,
    statements,
    study,
    violated,
)


def without(bundle: Bundle, party: str) -> Bundle:
    return replace(bundle, logs={name: log for name, log in bundle.logs.items() if name != party})


def test_an_honest_bundle_passes_every_check() -> None:
    report = verify(World().play().bundle(), study_hash=study().hash)
    assert (report.exit_code, report.verdict) == (0, "ok"), report.text()
    assert {finding.check for finding in report.findings} == {
        "study", "log", "history", "statement", "approval", "receipt", "aggregate", "rounds", "release", "mechanism",
        "epsilon", "claim",
    }  # fmt: skip


def test_another_study_than_the_auditor_knows_is_a_violation() -> None:
    assert violated(verify(World().play().bundle(), study_hash=digest("x"))) == {"study"}


def unfinished(statement: Statement) -> Statement | None:
    """A run that stopped after its sites had released their third updates."""
    last = isinstance(statement, Release) or (isinstance(statement, Aggregate) and statement.round == 3)
    return None if last else statement


MISSING: dict[str, Callable[[], Bundle]] = {
    "a site's log": lambda: without(World().play().bundle(), "site-b"),
    "the coordinator's log": lambda: without(World().play().bundle(), HUB),
    "every log": lambda: World().play().bundle(logs={}),
    "the release": lambda: World(editing(Release)).play().bundle(saved=()),
    "the last aggregate": lambda: World(unfinished).play().bundle(saved=(), released=None),
    "a saved checkpoint that is readable": lambda: World().play().bundle(saved=(("site-a", b"scrap"),)),
}


@pytest.mark.parametrize("name", MISSING)
def test_what_is_missing_cannot_be_told(name: str) -> None:
    report = verify(MISSING[name]())
    assert violated(report) == set(), report.text()
    assert report.exit_code == 2


def test_an_unknown_statement_cannot_be_told() -> None:
    from genopact_shared import dsse
    from genopact_shared.statements import PAYLOAD_TYPE

    world = World().play()
    payload = canonical.encode(
        {"_type": "https://in-toto.io/Statement/v1", "predicateType": "later/v2", "predicate": {}}
    )
    world.logs["site-a"].append(dsse.sign(PAYLOAD_TYPE, payload, key("site-a/identity")))
    assert verify(world.bundle()).exit_code == 2


def second_attempt(statement: Statement) -> Statement:
    """Round 2 succeeds only at its second attempt."""
    if isinstance(statement, Intent | Receipt | Aggregate) and statement.round == 2:
        return statement.model_copy(update={"attempt": 1})
    return statement


def test_a_round_may_be_aggregated_at_a_later_attempt() -> None:
    assert verify(World(second_attempt).play().bundle(saved=())).exit_code == 0


@pytest.mark.parametrize(("mode", "exit_code"), [("distributed", 2), ("local", 1)])
def test_what_left_for_an_attempt_that_was_given_up_counts(mode: str, exit_code: int) -> None:
    """A masked sum counts as possibly seen; a sum in the clear was seen."""
    fact = FACT if mode == "distributed" else FLOOR

    def edit(statement: Statement) -> Statement:
        update = {"mechanism": fact} if isinstance(statement, Intent) else {}
        return second_attempt(statement.model_copy(update=update))

    least = 3 if mode == "distributed" else 1
    privacy = {"mode": mode, "epsilon_milli": 1000, "honest_minimum": least}
    world = World(edit, study(privacy=privacy)).play()
    world.edit = lambda s: s.model_copy(update={"nonce": "56" * 16, "mechanism": fact}) if isinstance(s, Intent) else s
    world.step("site-a", 2, 0, canonical.digest(world.logs["site-a"][-1]))
    report = verify(world.bundle(saved=()))
    assert report.exit_code == exit_code, report.text()
    assert {f.check for f in report.findings if f.verdict != "ok"} == {"claim"}


def test_an_intent_without_a_receipt_is_a_reservation_and_no_release() -> None:
    world = World().play()
    intent = statements(world, "site-a", Intent)[-1]
    world.put("site-a", intent.model_copy(update={"attempt": 1, "nonce": "12" * 16, "mechanism": FACT}))
    report = verify(world.bundle())
    assert report.exit_code == 0, report.text()
    assert "for 3 releases (4 intents)" in report.text()


def test_an_unavailable_receipt_is_a_reservation_and_no_release() -> None:
    world = World().play()
    previous = canonical.digest(world.logs["site-a"][-1])
    world.edit = lambda s: s.model_copy(update=UNAVAILABLE) if isinstance(s, Receipt) else s
    world.step("site-a", 3, 1, previous)
    report = verify(world.bundle())
    assert report.exit_code == 0, report.text()
    assert "for 3 releases (4 intents)" in report.text()


@pytest.mark.parametrize(
    ("fact", "exit_code"),
    [(SGD, 0), (FLOOR, 0), (FACT, 1), (Unprotected(dims=10, scale=65536), 1)],
    ids=["sampled", "full noise", "a share of noise", "no noise"],
)
def test_in_mode_local_each_site_adds_all_the_noise_itself(fact: Any, exit_code: int) -> None:
    local = study(privacy={"mode": "local", "epsilon_milli": 1000})
    report = verify(World(editing(Intent, mechanism=fact), study=local).play().bundle(saved=()))
    assert report.exit_code == exit_code, report.text()
    assert ("mechanism" in violated(report)) == bool(exit_code)


def test_a_party_that_took_no_part_need_not_show_its_log() -> None:
    parties = [party.model_dump(mode="json") for party in study().parties]
    extra = {"name": "site-d", **{use: key(f"site-d/{use}").public.hex for use in ("identity", "log", "approver")}}
    world = World(study=study(parties=[*parties, extra])).play()
    assert verify(world.bundle(saved=())).exit_code == 0
    unnamed = World(editing(RunOpened, sites=SITES[:2]), world.study).play()
    report = verify(without(unnamed.bundle(saved=()), "site-c"))
    assert "1 updates without intent and receipt" in report.text()
    assert report.exit_code == 1


def test_a_bundle_of_one_run_does_not_judge_the_next_one_of_the_study() -> None:
    world = World().play()
    later = {"run": "cd" * 16, "receipts": (digest("x"), digest("y"), digest("z"))}
    world.put(HUB, statements(world, HUB, RunOpened)[0].model_copy(update={"run": "cd" * 16}))
    world.put(HUB, statements(world, HUB, Aggregate)[0].model_copy(update=later))
    assert verify(world.bundle(run=RUN)).exit_code == 0
    assert verify(world.bundle()).exit_code == 1


def test_an_approval_of_another_study_by_a_stranger_is_not_judged() -> None:
    world = World().play()
    approval = Approval(at=1, study=digest("another"), site="site-x", planned_cohort=10, policy=digest("policy"))
    world.put(HUB, approval, "stranger")
    assert verify(world.bundle()).exit_code == 0
    world.put(HUB, approval.model_copy(update={"study": world.study.hash}), "stranger")
    assert verify(world.bundle()).exit_code == 1


def test_mode_none_is_accepted_only_where_the_study_says_so() -> None:
    open_study = study(privacy={"mode": "none"}, schedule={"quorum": 3})
    world = World(editing(Intent, mechanism=Unprotected(dims=10, scale=65536)), study=open_study).play()
    report = verify(world.bundle(saved=()))
    assert report.exit_code == 0, report.text()
    assert "promises no privacy" in report.text()


def test_entries_about_other_studies_do_not_disturb_but_keep_the_chain() -> None:
    world = World().play()
    other = {**world.work(1, 0), "study": digest("another study"), "run": "cd" * 16}
    intent = statements(world, "site-a", Intent)[0].model_copy(update={**other, "nonce": "34" * 16})
    intended = canonical.digest(world.put("site-a", intent))
    receipt = statements(world, "site-a", Receipt)[0].model_copy(
        update={**other, "intent": intended, "prev": canonical.digest(world.logs["site-a"][-2])}
    )
    world.put("site-a", receipt)
    assert verify(world.bundle()).exit_code == 0


@pytest.mark.parametrize("name", ["bundle", "bundle.zip"])
def test_a_bundle_survives_its_file_form(tmp_path: Path, name: str) -> None:
    bundle = World().play().bundle()
    export(bundle, tmp_path / name)
    loaded = load(tmp_path / name)
    assert (loaded.study, loaded.logs, loaded.released) == (bundle.study, bundle.logs, bundle.released)
    assert sorted(loaded.approvals) == sorted(bundle.approvals)
    assert sorted(loaded.saved) == sorted(bundle.saved)
    assert verify_path(tmp_path / name).exit_code == 0


def test_the_same_bundle_gives_the_same_zip(tmp_path: Path) -> None:
    for name in ("one.zip", "two.zip"):
        export(World().play().bundle(), tmp_path / name)
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


def damaged(tmp_path: Path, name: str) -> Path:
    path = tmp_path / "bundle"
    export(World().play().bundle(), path)
    if name == "absent":
        return tmp_path / "nothing"
    if name == "no zip":
        (tmp_path / "text.zip").write_text("text")
        return tmp_path / "text.zip"
    if name == "another format":
        (path / "bundle.json").write_text('{"format":"other/1","released":null}')
    else:
        (path / name).unlink()
    return path


@pytest.mark.parametrize(
    "name", ["absent", "no zip", "another format", "bundle.json", "study.json", "logs/hub/checkpoint"]
)
def test_a_bundle_that_cannot_be_read_cannot_be_told(tmp_path: Path, name: str) -> None:
    path = damaged(tmp_path, name)
    with pytest.raises(GenopactError) as error:
        load(path)
    assert error.value.code == "BUNDLE_INVALID"
    assert verify_path(path).exit_code == 2


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_zip_that_names_a_file_twice_is_refused(tmp_path: Path) -> None:
    export(World().play().bundle(), tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive:
        archive.writestr("study.json", "{}")
    assert verify_path(tmp_path / "a.zip").exit_code == 2


def test_the_report_states_what_it_cannot_prove_in_both_forms() -> None:
    bundle = World().play().bundle(saved=())
    report = verify(bundle)
    body = json.loads(report.json())
    assert (body["exit_code"], body["verdict"], body["study"]) == (0, "ok", bundle.study.hash)
    assert len(body["findings"]) == len(report.findings)
    for text in (report.text(), " ".join(body["limits"])):
        assert "drew the noise it stated" in text
        assert "Keep the checkpoints" in text
    assert "Keep the checkpoints" not in verify(World().play().bundle()).text()


def test_a_report_without_findings_cannot_tell() -> None:
    assert Report("x", ()).exit_code == 2
