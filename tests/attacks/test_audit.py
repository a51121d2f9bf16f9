"""Tamperings with what an audit reads, by outsiders, sites, the coordinator: each is found, and by its own check."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from genopact_server.audit.bundle import Bundle, ExportedLog, export
from genopact_server.audit.verify import verify, verify_path
from genopact_server.statements import Release, RunOpened, StudyRegistered
from genopact_shared import canonical, dsse
from genopact_shared.privacy.mechanisms import Unprotected
from genopact_shared.statements import (
    FIRST,
    PAYLOAD_TYPE,
    Aggregate,
    Approval,
    Intent,
    Receipt,
    Refusal,
    Statement,
    sign,
)
from genopact_shared.tlog.log import pack
from tests.unit.audit_world import FAINT, FLOOR, HONEST_LOGS, HUB, SGD, SITES, World, digest, editing, key, statements


def edited(
    kind: type[Statement], site: str | None = None, number: int | None = None, /, **update: Any
) -> Callable[[], Bundle]:
    return lambda: World(editing(kind, site, number, **update)).play().bundle(saved=())


NESTED = b"[" * 960 + b"]" * 960


def on_log(party: str, change: Callable[[list[bytes]], list[bytes]]) -> Callable[[], Bundle]:
    """The party itself rewrites its log and signs it again."""

    def tampered() -> Bundle:
        world = World().play()
        world.logs[party] = change(world.logs[party])
        return world.bundle(saved=())

    return tampered


def with_log(change: Callable[[ExportedLog], ExportedLog]) -> Callable[[], Bundle]:
    """Somebody without keys edits the export of site-b."""

    def tampered() -> Bundle:
        bundle = World().play().bundle()
        return replace(bundle, logs={**bundle.logs, "site-b": change(bundle.logs["site-b"])})

    return tampered


def repacked(change: Callable[[list[bytes]], list[bytes]]) -> Callable[[], Bundle]:
    return with_log(lambda log: replace(log, entries=pack(change(list(HONEST_LOGS["site-b"])))))


def truncated_below_saved() -> Bundle:
    world = World().play()
    world.logs["site-a"] = world.logs["site-a"][:-4]
    return world.bundle()


def forked() -> Bundle:
    return World(editing(Intent, "site-a", 1, ledger_root=digest("cheaper"))).play().bundle()


def signed_by_another_key() -> Bundle:
    world = World().play()
    return world.bundle(logs={**world.bundle().logs, "site-a": world.exported("site-a", "identity")})


def receipt_before_intent(log: list[bytes]) -> list[bytes]:
    return [*log[:2], log[3], log[2], *log[4:]]


def foreign_entry(log: list[bytes]) -> list[bytes]:
    return [*log, HONEST_LOGS["site-c"][-1]]


def extra(party: str, statement: Callable[[World], Statement], use: str = "identity") -> Callable[[], Bundle]:
    def tampered() -> Bundle:
        world = World().play()
        world.put(party, statement(world), use)
        return world.bundle()

    return tampered


def second_request(world: World) -> Statement:
    other = digest("another request")
    intent: Intent = next(s for s in statements(world, "site-a", Intent) if s.round == 3)
    return intent.model_copy(update={"request": other, "nonce": other[:32]})


def asked_again_after_aggregate() -> Bundle:
    world = World().play()
    world.step("site-a", 3, 1, canonical.digest(world.logs["site-a"][-1]))
    return world.bundle()


def approval_by(signer: str, **update: Any) -> Callable[[], Bundle]:
    """site-b's approval replaced by one that `signer` signed, and the run opened on it."""

    def tampered() -> Bundle:
        world = World()
        approval = Approval(
            at=world.clock, study=world.study.hash, site="site-b", planned_cohort=500, policy=digest("policy")
        ).model_copy(update=update)
        envelope = sign(approval, key(signer))

        def edit(statement: Statement) -> Statement:
            if isinstance(statement, RunOpened):
                first, _, third = statement.approvals
                return statement.model_copy(update={"approvals": (first, canonical.digest(envelope), third)})
            return statement

        world.edit = edit
        world.play()
        world.approvals[1] = envelope
        return world.bundle(saved=())

    return tampered


def private_event(world: World) -> Statement:
    return Refusal(at=world.clock, request=digest("request"), reasons=("withdrawn",))


def own_approval(world: World) -> Statement:
    return Approval(at=1, study=world.study.hash, site="site-a", planned_cohort=500, policy=digest("policy"))


def two_updates_of_one_site() -> Bundle:
    def edit(statement: Statement) -> Statement:
        if isinstance(statement, Aggregate) and statement.round == 2:
            return statement.model_copy(update={"receipts": (*UPDATES, digest("again"))})
        return statement

    world = World(edit).play()
    intent, receipt = (statements(world, "site-c", kind)[1] for kind in (Intent, Receipt))
    previous = canonical.digest(world.logs["site-c"][-1])
    intended = canonical.digest(world.put("site-c", intent.model_copy(update={"nonce": "78" * 16})))
    again = {"intent": intended, "update": digest("again"), "prev": previous}
    world.put("site-c", receipt.model_copy(update=again))
    return world.bundle(saved=())


def mode_none_fact_in_private_study() -> Bundle:
    return World(editing(Intent, "site-c", 2, mechanism=Unprotected(dims=10, scale=65536))).play().bundle(saved=())


EARLIER = digest("update site-a 1")
UPDATES = [digest(f"update {site} 2") for site in SITES]

TAMPERINGS: dict[str, tuple[str, Callable[[], Bundle]]] = {
    "an entry edited": (
        "log: its entries do not reproduce",
        repacked(lambda log: [*log[:3], log[3].replace(b"A", b"B", 1), *log[4:]]),
    ),
    "two entries swapped": ("log: its entries do not reproduce", repacked(lambda log: [log[1], log[0], *log[2:]])),
    "the export cut short": ("log: its entries do not reproduce", repacked(lambda log: log[:-1])),
    "entries added to the export": ("log: its entries do not reproduce", repacked(lambda log: [*log, log[-1]])),
    "the entries file damaged": (
        "log: its checkpoint or entries do not hold",
        with_log(lambda log: replace(log, entries=log.entries[:-1])),
    ),
    "the checkpoint's size edited": (
        "log: its checkpoint or entries do not hold",
        with_log(lambda log: replace(log, checkpoint=log.checkpoint.replace(b"\n8\n", b"\n9\n"))),
    ),
    "the checkpoint signed by another key": ("log: its checkpoint or entries do not hold", signed_by_another_key),
    "truncated below the saved checkpoint": ("history: the log does not extend", truncated_below_saved),
    "forked before the saved checkpoint": ("history: the log does not extend", forked),
    "another site's entry in the log": ("does not hold: SIGNATURE_INVALID", on_log("site-a", foreign_entry)),
    "a statement for another site": ("is not its to make", edited(Intent, "site-a", 2, site="site-b")),
    "a coordinator's statement in a site's log": (
        "is not its to make",
        extra("site-a", lambda w: StudyRegistered(at=w.clock, study=w.study.hash, text=digest("yaml"))),
    ),
    "a private event in an exchanged log": ("is not its to make", extra("site-a", private_event)),
    "an approval in the log that the agent signed": (
        "statement: entry 8 does not hold: SIGNATURE_INVALID",
        extra("site-a", own_approval),
    ),
    "an approval that the agent signed itself": ("approval: an approval does not hold", approval_by("site-b/identity")),
    "an approval that another site's approver signed": (
        "approval: an approval does not hold",
        approval_by("site-a/approver"),
    ),
    "an approval of another study": (
        "without a valid approval",
        approval_by("site-b/approver", study=digest("another study")),
    ),
    "an approval after the work": ("only after its first intent", approval_by("site-b/approver", at=1_800_000_000)),
    "the approval missing": (
        "without a valid approval",
        lambda: World().play().bundle(approvals=tuple(World().play().approvals[:2])),
    ),
    "a run that was opened without a site": ("was not opened with it", edited(RunOpened, sites=SITES[:2])),
    "a run that names no approvals": ("without a valid approval", edited(RunOpened, approvals=())),
    "the approval logged after the intents": (
        "only after its first intent",
        on_log("site-a", lambda log: [*log[1:], log[0]]),
    ),
    "work after the study expired": ("after the study expired", edited(Intent, "site-a", 3, at=2_000_000_000)),
    "an intent missing": ("has no earlier intent", edited(Intent, "site-b", 2)),
    "a receipt before its intent": ("has no earlier intent", on_log("site-a", receipt_before_intent)),
    "a receipt removed": ("does not follow the previous", on_log("site-a", lambda log: [*log[:5], *log[6:]])),
    "a receipt for another attempt": ("for another attempt than its intent", edited(Receipt, "site-b", 2, attempt=1)),
    "a receipt for another request": (
        "for another attempt than its intent",
        edited(Receipt, "site-b", 2, request=digest("x")),
    ),
    "a broken chain of receipts": ("does not follow the previous", edited(Receipt, "site-b", 2, prev=FIRST)),
    "two receipts for one intent": ("the second for one intent", on_log("site-a", lambda log: [*log, log[-1]])),
    "a replayed nonce": ("a replayed nonce", edited(Intent, "site-c", None, nonce="ef" * 16)),
    "two requests for one attempt": ("a second request", extra("site-a", second_request)),
    "an update that nobody released": (
        "1 updates without intent and receipt",
        edited(Aggregate, None, 2, receipts=(*UPDATES[:2], digest("x"))),
    ),
    "an update of another round": (
        "1 updates without intent and receipt",
        edited(Aggregate, None, 2, receipts=(EARLIER, *UPDATES[1:])),
    ),
    "an update counted twice": (
        "counts an update or a site twice",
        edited(Aggregate, None, 2, receipts=(*UPDATES, UPDATES[0])),
    ),
    "an update under another site's name": (
        "names other sites than its updates are of",
        edited(Aggregate, None, 2, sites=(*SITES[1:], SITES[0])),
    ),
    "updates out of order": (
        "outside the run or out of its order",
        edited(Aggregate, None, 2, receipts=tuple(UPDATES[::-1])),
    ),
    "two updates of one site": ("counts an update or a site twice", two_updates_of_one_site),
    "a run opened after its aggregates": (
        "belongs to no run opened before it",
        on_log(HUB, lambda log: [log[0], *log[2:], log[1]]),
    ),
    "an aggregate with a site outside its run": (
        "outside the run or out of its order",
        edited(RunOpened, sites=SITES[:2]),
    ),
    "an aggregate below the quorum": ("below the quorum", edited(Aggregate, None, 2, receipts=tuple(UPDATES[:2]))),
    "an aggregate of a run that was never opened": (
        "belongs to no run opened before it",
        edited(Aggregate, None, 2, run="cd" * 16),
    ),
    "a model of its own for one site": (
        "mixes updates of different models",
        edited(Intent, "site-b", 2, model_in=digest("planted")),
    ),
    "an aggregate's model_out replaced": (
        "does not start from the model",
        edited(Aggregate, None, 2, model_out=digest("planted")),
    ),
    "a round left out": ("round 3 follows round 1", edited(Aggregate, None, 2)),
    "a round aggregated twice": ("is aggregated twice", on_log(HUB, lambda log: [*log[:3], log[2], *log[3:]])),
    "a run that starts late": ("the run starts at round 2", edited(Aggregate, None, 1)),
    "aggregates out of order": (
        "round 1 follows round 2",
        on_log(HUB, lambda log: [*log[:2], log[3], log[2], *log[4:]]),
    ),
    "a round asked again after its aggregate": ("asked again", asked_again_after_aggregate),
    "another model released": ("is not the last aggregate", edited(Release, model=digest("planted"))),
    "released before the last aggregate": (
        "is not the last aggregate",
        on_log(HUB, lambda log: [*log[:4], log[5], log[4]]),
    ),
    "another model in use": ("no release statement names", lambda: World().play().bundle(released=digest("planted"))),
    "no noise in a private study": ("not in this privacy mode", mode_none_fact_in_private_study),
    "another mechanism than the mode's": ("not in this privacy mode", edited(Intent, "site-c", 2, mechanism=SGD)),
    "noise shares for fewer honest sites": ("not in this privacy mode", edited(Intent, "site-c", 2, mechanism=FLOOR)),
    "too little noise for the study": ("the study allows 1", edited(Intent, "site-c", None, mechanism=FAINT)),
    "epsilon under-claimed": ("in this run; the release claims 0.7", edited(Release, epsilon_milli=700)),
    "epsilon not claimed": ("claims no epsilon", edited(Release, epsilon_milli=None)),
    "epsilon claimed at another delta": ("claims no epsilon, or one at another delta", edited(Release, delta="0.0001")),
    "a claim that leaves out a mechanism": (
        "in this run; the release claims 0.8",
        edited(Intent, "site-c", 2, mechanism=FAINT),
    ),
}


@pytest.mark.parametrize("name", TAMPERINGS)
def test_every_tampering_is_found_by_its_check(name: str) -> None:
    expected, tampered = TAMPERINGS[name]
    report = verify(tampered())
    assert report.exit_code == 1, report.text()
    found = [f"{finding.check}: {finding.what}" for finding in report.findings if finding.verdict == "violated"]
    assert any(expected in text for text in found), report.text()
    assert "VIOLATED" in report.text()


@pytest.mark.parametrize("seed", range(60))
def test_no_damage_to_a_bundle_breaks_the_verifier_or_passes(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    export(World().play().bundle(), tmp_path)
    victim = rng.choice(sorted(path for path in tmp_path.rglob("*") if path.is_file() and path.name != "bundle.json"))
    data = bytearray(victim.read_bytes())
    for _ in range(rng.choice([1, 1, 8])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    victim.write_bytes(data[: rng.choice([len(data), rng.randrange(len(data))])])
    assert verify_path(tmp_path).exit_code in {1, 2}


WRONG_TYPES = [b"", b"[]", b"7", b"null", b"{}", b'{"predicate":[],"predicateType":"x"}']
HOSTILE_PAYLOADS = [*WRONG_TYPES, b"\xff", b"[" * 5000, NESTED]


@pytest.mark.parametrize("payload", HOSTILE_PAYLOADS, ids=range(len(HOSTILE_PAYLOADS)))
@pytest.mark.parametrize("use", ["identity", "stranger"])
def test_no_entry_breaks_the_verifier(payload: bytes, use: str) -> None:
    world = World().play()
    world.logs["site-a"].append(dsse.sign(PAYLOAD_TYPE, payload, key(f"site-a/{use}")))
    assert verify(world.bundle()).exit_code in {1, 2}
