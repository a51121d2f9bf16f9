"""The audit: an honest bundle passes, every named tampering is found by its own check, missing parts cannot be told."""

import hashlib
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from genopact_server.audit.bundle import Bundle, ExportedLog, export, load
from genopact_server.audit.findings import Report
from genopact_server.audit.verify import verify, verify_path
from genopact_shared import canonical
from genopact_shared.errors import GenopactError
from genopact_shared.keys import SigningKey
from genopact_shared.privacy.mechanisms import NoisedSum, SampledSgd, Unprotected
from genopact_shared.statements import (
    FIRST,
    Aggregate,
    Approval,
    Charge,
    ConsentChanged,
    Intent,
    Receipt,
    RegistryRoot,
    Release,
    RunOpened,
    Statement,
    StudyRegistered,
    sign,
)
from genopact_shared.study import Study
from genopact_shared.tlog.entries import pack
from genopact_shared.tlog.note import sign_checkpoint
from genopact_shared.tlog.tree import Tree

SITES = ("site-a", "site-b", "site-c")
HUB = "hub"
RUN, ROUNDS = "ab" * 16, (1, 2, 3)
FACT = NoisedSum(noise_multiplier="9.3", clip="1", scale=65536, dims=10, honest_minimum=3)
CLAIM = 800
Edit = Callable[[Statement], Statement | None]


def key(name: str) -> SigningKey:
    return SigningKey.from_seed(hashlib.sha256(name.encode()).digest())


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def study(**changes: Any) -> Study:
    def keys(party: str, *uses: str) -> dict[str, str]:
        return {use: key(f"{party}/{use}").public.hex for use in uses}

    body: dict[str, Any] = {
        "schema": "genopact.study/1",
        "name": "example",
        "title": "An example",
        "contact": "office@example.org",
        "purpose": {
            "permission": "HMB", "uses": ["train"], "organisations": ["public"],
            "commercial": False, "regions": ["*"], "data": ["genotype"],
        },
        "outcome": "outcome",
        "recipe": {"name": "linear", "version": 1},
        "privacy": {"mode": "distributed", "epsilon_milli": 1000, "honest_minimum": 3},
        "schedule": {"quorum": 3},
        "expires": "2030-12-31",
        "coordinator": {"name": HUB, "address": "hub.example.org:443", **keys(HUB, "identity", "log")},
        "parties": [{"name": site, **keys(site, "identity", "log", "approver")} for site in SITES],
    }  # fmt: skip
    return Study.model_validate_json(json.dumps(body | changes))


@dataclass
class World:
    """The logs of three sites and a coordinator after one run; `edit` changes statements before they are signed."""

    edit: Edit = lambda statement: statement
    study: Study = field(default_factory=study)
    approvals: list[bytes] = field(default_factory=list)
    logs: dict[str, list[bytes]] = field(default_factory=lambda: {name: [] for name in (*SITES, HUB)})
    clock: int = 1_700_000_000

    def put(self, party: str, statement: Statement, use: str = "identity") -> bytes:
        """Sign a statement, log it unless `edit` drops it; the envelope of what was meant if it was dropped."""
        self.clock += 1
        edited = self.edit(statement)
        envelope = sign(edited or statement, key(f"{party}/{use}"))
        if edited is not None:
            self.logs[party].append(envelope)
        return envelope

    def play(self) -> "World":
        """Approve, open, three rounds, release."""
        self.put(HUB, StudyRegistered(at=self.clock, study=self.study.hash, text=digest("yaml")))
        for site in SITES:
            approval = Approval(
                at=self.clock, study=self.study.hash, site=site, planned_cohort=500, policy=digest("policy")
            )
            self.approvals.append(self.put(site, approval, "approver"))
            self.put(site, RegistryRoot(at=self.clock, site=site, root=digest("registry")))
        approved = tuple(map(canonical.digest, self.approvals))
        self.put(HUB, RunOpened(at=self.clock, study=self.study.hash, run=RUN, sites=SITES, approvals=approved))
        previous = dict.fromkeys(SITES, FIRST)
        for number in ROUNDS:
            updates = []
            for site in SITES:
                updates.append(digest(f"update {site} {number}"))
                previous[site] = self.step(site, number, 0, previous[site])
            models: dict[str, Any] = {"model_in": digest(f"model {number - 1}"), "model_out": digest(f"model {number}")}
            total = digest(f"total {number}")
            self.put(HUB, Aggregate(**self.work(number, 0), **models, receipts=tuple(updates), total=total))
        self.put(
            HUB,
            Release(
                at=self.clock,
                study=self.study.hash,
                run=RUN,
                model=digest("model 3"),
                epsilon_milli=None if self.study.privacy.mode == "none" else CLAIM,
                delta="0.000001",
                mechanisms=(Charge(mechanism=FACT, times=len(ROUNDS)),),
            ),
        )
        return self

    def work(self, number: int, attempt: int) -> dict[str, Any]:
        at, study = self.clock, self.study.hash
        return {"at": at, "study": study, "run": RUN, "round": number, "attempt": attempt, "step": "gradient"}

    def step(self, site: str, number: int, attempt: int, previous: str) -> str:
        """Intent and receipt of one site; the digest of the receipt."""
        request = digest(f"request {site} {number} {attempt}")
        intent = Intent(
            **self.work(number, attempt),
            request=request,
            site=site,
            decision_root=digest("decision"),
            ledger_root=digest("ledger"),
            model_in=digest(f"model {number - 1}"),
            mechanism=FACT,
            nonce=request[:32],
        )
        intended = canonical.digest(self.put(site, intent))
        update = digest(f"update {site} {number}" + (f" {attempt}" if attempt else ""))
        outcome: dict[str, Any] = {"outcome": "released", "update": update, "prev": previous, "intent": intended}
        return canonical.digest(
            self.put(site, Receipt(**self.work(number, attempt), request=request, site=site, **outcome))
        )

    def exported(self, party: str, use: str = "log") -> ExportedLog:
        entries = self.logs[party]
        return ExportedLog(
            pack(entries), sign_checkpoint(Tree.of(entries).head(), f"genopact.org/{party}", key(f"{party}/{use}"))
        )

    def bundle(self, **changes: Any) -> Bundle:
        logs = {party: self.exported(party) for party in self.logs}
        bundle = Bundle(self.study, tuple(self.approvals), logs, self.saved(), digest("model 3"))
        return replace(bundle, **changes)

    def saved(self, cut: int = 2) -> tuple[tuple[str, bytes], ...]:
        """A checkpoint of each log from when it was `cut` entries shorter."""
        shorter = {party: World(logs={party: entries[: len(entries) - cut]}) for party, entries in HONEST_LOGS.items()}
        return tuple((party, world.exported(party).checkpoint) for party, world in shorter.items())


HONEST_LOGS: dict[str, list[bytes]] = {}
HONEST_LOGS |= World().play().logs


def violated(report: Report) -> set[str]:
    return {finding.check for finding in report.findings if finding.verdict == "violated"}


def without(bundle: Bundle, party: str) -> Bundle:
    return replace(bundle, logs={name: log for name, log in bundle.logs.items() if name != party})


def test_an_honest_bundle_passes_every_check() -> None:
    report = verify(World().play().bundle(), study_hash=study().hash)
    assert (report.exit_code, report.verdict) == (0, "ok"), report.text()
    assert {finding.check for finding in report.findings} == {
        "study", "log", "history", "statement", "approval", "receipt", "aggregate", "rounds", "release", "mechanism",
        "epsilon", "claim",
    }  # fmt: skip


def editing(kind: type[Statement], site: str | None = None, number: int | None = None, /, **update: Any) -> Edit:
    """Change the fields of one statement; without fields, drop it."""

    def edit(statement: Statement) -> Statement | None:
        named = site in {None, getattr(statement, "site", None)} and number in {None, getattr(statement, "round", None)}
        if not isinstance(statement, kind) or not named:
            return statement
        return statement.model_copy(update=update) if update else None

    return edit


def edited(
    kind: type[Statement], site: str | None = None, number: int | None = None, /, **update: Any
) -> Callable[[], Bundle]:
    return lambda: World(editing(kind, site, number, **update)).play().bundle(saved=())


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


def statements(world: World, party: str, kind: type[Any]) -> list[Any]:
    from genopact_shared.statements import parse

    keys = [key(f"{party}/identity").public, key(f"{party}/approver").public]
    return [s for s in (parse(entry, keys) for entry in world.logs[party]) if isinstance(s, kind)]


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
                return statement.model_copy(
                    update={"approvals": (*statement.approvals[:1], canonical.digest(envelope))}
                )
            return statement

        world.edit = edit
        world.play()
        world.approvals[1] = envelope
        return world.bundle(saved=())

    return tampered


def mode_none_fact_in_private_study() -> Bundle:
    return World(editing(Intent, "site-c", 2, mechanism=Unprotected(dims=10, scale=65536))).play().bundle(saved=())


FAINT = FACT.model_copy(update={"noise_multiplier": "2.0"})
FLOOR = FACT.model_copy(update={"honest_minimum": 1})
SGD = SampledSgd(noise_multiplier="9.3", clip="1", sampling_rate="0.1", steps=1)
EARLIER = digest("update site-a 1")
UPDATES = [digest(f"update {site} 2") for site in SITES]

TAMPERINGS: dict[str, tuple[str, Callable[[], Bundle]]] = {
    "an entry edited": ("log", repacked(lambda log: [*log[:3], log[3].replace(b"A", b"B", 1), *log[4:]])),
    "two entries swapped": ("log", repacked(lambda log: [log[1], log[0], *log[2:]])),
    "the export cut short": ("log", repacked(lambda log: log[:-1])),
    "entries added to the export": ("log", repacked(lambda log: [*log, log[-1]])),
    "the entries file damaged": ("log", with_log(lambda log: replace(log, entries=log.entries[:-1]))),
    "the checkpoint's size edited": (
        "log",
        with_log(lambda log: replace(log, checkpoint=log.checkpoint.replace(b"\n8\n", b"\n9\n"))),
    ),
    "the checkpoint signed by another key": ("log", signed_by_another_key),
    "truncated below the saved checkpoint": ("history", truncated_below_saved),
    "forked before the saved checkpoint": ("history", forked),
    "another site's entry in the log": ("statement", on_log("site-a", foreign_entry)),
    "a statement for another site": ("statement", edited(Intent, "site-a", 2, site="site-b")),
    "a coordinator's statement in a site's log": (
        "statement",
        extra("site-a", lambda w: StudyRegistered(at=w.clock, study=w.study.hash, text=digest("yaml"))),
    ),
    "a private event in an exchanged log": ("statement", extra("site-a", lambda _: ConsentChanged(at=1, leaf="0" * 64))),
    "an approval that the agent signed itself": ("approval", approval_by("site-b/identity")),
    "an approval that another site's approver signed": ("approval", approval_by("site-a/approver")),
    "an approval of another study": ("approval", approval_by("site-b/approver", study=digest("another study"))),
    "an approval after the work": ("approval", approval_by("site-b/approver", at=1_800_000_000)),
    "the approval missing": ("approval", lambda: World().play().bundle(approvals=tuple(World().play().approvals[:2]))),
    "a run that was opened without a site": ("approval", edited(RunOpened, sites=SITES[:2])),
    "a run that names no approvals": ("approval", edited(RunOpened, approvals=())),
    "the approval logged after the intents": ("approval", on_log("site-a", lambda log: [*log[1:], log[0]])),
    "work after the study expired": ("approval", edited(Intent, "site-a", 3, at=2_000_000_000)),
    "an intent missing": ("receipt", edited(Intent, "site-b", 2)),
    "a receipt before its intent": ("receipt", on_log("site-a", receipt_before_intent)),
    "a receipt removed": ("receipt", on_log("site-a", lambda log: [*log[:5], *log[6:]])),
    "a receipt for another attempt": ("receipt", edited(Receipt, "site-b", 2, attempt=1)),
    "a receipt for another request": ("receipt", edited(Receipt, "site-b", 2, request=digest("x"))),
    "a broken chain of receipts": ("receipt", edited(Receipt, "site-b", 2, prev=FIRST)),
    "two receipts for one intent": ("receipt", on_log("site-a", lambda log: [*log, log[-1]])),
    "a replayed nonce": ("receipt", edited(Intent, "site-c", None, nonce="ef" * 16)),
    "two requests for one attempt": ("receipt", extra("site-a", second_request)),
    "an update that nobody released": ("aggregate", edited(Aggregate, None, 2, receipts=(*UPDATES[:2], digest("x")))),
    "an update of another round": ("aggregate", edited(Aggregate, None, 2, receipts=(EARLIER, *UPDATES[1:]))),
    "an update counted twice": ("aggregate", edited(Aggregate, None, 2, receipts=(*UPDATES, UPDATES[0]))),
    "updates out of order": ("aggregate", edited(Aggregate, None, 2, receipts=tuple(UPDATES[::-1]))),
    "an aggregate below the quorum": ("aggregate", edited(Aggregate, None, 2, receipts=tuple(UPDATES[:2]))),
    "an aggregate of a run that was never opened": ("aggregate", edited(Aggregate, None, 2, run="cd" * 16)),
    "a model of its own for one site": ("aggregate", edited(Intent, "site-b", 2, model_in=digest("planted"))),
    "an aggregate's model_out replaced": ("rounds", edited(Aggregate, None, 2, model_out=digest("planted"))),
    "a round left out": ("rounds", edited(Aggregate, None, 2)),
    "a round aggregated twice": ("rounds", on_log(HUB, lambda log: [*log[:3], log[2], *log[3:]])),
    "a run that starts late": ("rounds", edited(Aggregate, None, 1)),
    "aggregates out of order": ("rounds", on_log(HUB, lambda log: [*log[:2], log[3], log[2], *log[4:]])),
    "a round asked again after its aggregate": ("rounds", asked_again_after_aggregate),
    "another model released": ("release", edited(Release, model=digest("planted"))),
    "released before the last aggregate": ("release", on_log(HUB, lambda log: [*log[:4], log[5], log[4]])),
    "another model in use": ("release", lambda: World().play().bundle(released=digest("planted"))),
    "no noise in a private study": ("mechanism", mode_none_fact_in_private_study),
    "another mechanism than the mode's": ("mechanism", edited(Intent, "site-c", 2, mechanism=SGD)),
    "noise shares for fewer honest sites": ("mechanism", edited(Intent, "site-c", 2, mechanism=FLOOR)),
    "too little noise for the study": ("epsilon", edited(Intent, "site-c", None, mechanism=FAINT)),
    "epsilon under-claimed": ("claim", edited(Release, epsilon_milli=700)),
    "epsilon not claimed": ("claim", edited(Release, epsilon_milli=None)),
    "epsilon claimed at another delta": ("claim", edited(Release, delta="0.0001")),
    "a claim that leaves out a mechanism": ("claim", edited(Intent, "site-c", 2, mechanism=FAINT)),
}  # fmt: skip


@pytest.mark.parametrize("name", TAMPERINGS)
def test_every_tampering_is_found_by_its_check(name: str) -> None:
    check, tampered = TAMPERINGS[name]
    report = verify(tampered())
    assert report.exit_code == 1, report.text()
    assert check in violated(report), report.text()
    assert "VIOLATED" in report.text()


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
    "the release": edited(Release),
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


def test_what_a_site_released_for_a_failed_attempt_is_charged_to_the_claim() -> None:
    world = World(second_attempt).play()
    world.edit = lambda s: s.model_copy(update={"nonce": "56" * 16}) if isinstance(s, Intent) else s
    world.step("site-a", 2, 0, canonical.digest(world.logs["site-a"][-1]))
    report = verify(world.bundle(saved=()))
    assert violated(report) == {"claim"}, report.text()


def test_an_intent_without_a_receipt_is_a_reservation_and_no_release() -> None:
    world = World().play()
    intent = statements(world, "site-a", Intent)[-1]
    world.put("site-a", intent.model_copy(update={"attempt": 1, "nonce": "12" * 16, "mechanism": FACT}))
    report = verify(world.bundle())
    assert report.exit_code == 0, report.text()
    assert "for 3 releases (4 intents)" in report.text()


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
