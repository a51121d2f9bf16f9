"""From a bundle to evidence: which logs hold, what they say, and which approvals count."""

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from genopact_server.audit.bundle import Bundle, ExportedLog
from genopact_server.audit.findings import Finding, Verdict
from genopact_server.sitelogs import log_origin, unpack
from genopact_server.statements import Release, RunOpened, StudyRegistered
from genopact_shared import canonical
from genopact_shared.errors import GenopactError, require
from genopact_shared.keys import VerifyKey
from genopact_shared.statements import PREDICATE, Aggregate, Approval, Intent, Receipt, RegistryRoot, Statement, parse
from genopact_shared.study import Signer, Study
from genopact_shared.tlog.note import open_checkpoint
from genopact_shared.tlog.tree import Tree

S_co = TypeVar("S_co", bound=Statement, covariant=True)
AT_SITE = (Approval, RegistryRoot, Intent, Receipt)
AT_COORDINATOR = (StudyRegistered, Approval, RunOpened, Aggregate, Release)


@dataclass(frozen=True)
class Record(Generic[S_co]):
    """A statement in a log: its number there, and the digest of its envelope."""

    index: int
    digest: str
    statement: S_co


class Evidence(NamedTuple):
    """What holds. `records`: by party, only logs whose signature and root hold; `approvals`: those validly signed."""

    study: Study
    records: Mapping[str, tuple[Record[Statement], ...]]
    approvals: Mapping[str, Approval]
    released: str | None
    run: str | None

    @property
    def needed(self) -> set[str]:
        """The parties whose logs the verdict depends on: the coordinator, and the sites of the runs it opened."""
        named = {site for record in self.coordinator(RunOpened) for site in record.statement.sites}
        return {self.study.coordinator.name, *(named if self.coordinated else roster(self.study))}

    @property
    def sites(self) -> list[str]:
        """Parties of the study whose logs could be read, without the coordinator."""
        return [party.name for party in self.study.parties if party.name in self.records]

    @property
    def coordinated(self) -> bool:
        """Whether the coordinator's log could be read."""
        return self.study.coordinator.name in self.records

    def at(self, party: str, kind: type[S_co]) -> list[Record[S_co]]:
        """A party's statements of one kind about the run in question, or about every run if none is."""
        return [r for r in self.in_study(party, kind) if self.run in {None, getattr(r.statement, "run", self.run)}]

    def in_study(self, party: str, kind: type[S_co]) -> list[Record[S_co]]:
        """A party's statements of one kind about this study, in log order."""
        records = by_kind(self.records.get(party, ()), kind)
        return [record for record in records if getattr(record.statement, "study", None) == self.study.hash]

    def coordinator(self, kind: type[S_co]) -> list[Record[S_co]]:
        """The coordinator's statements of one kind, as `at`."""
        return self.at(self.study.coordinator.name, kind)


def roster(study: Study) -> dict[str, tuple[VerifyKey, VerifyKey]]:
    """Identity and log key of every party, the coordinator last."""
    parties: list[Signer] = [*study.parties, study.coordinator]
    return {p.name: (VerifyKey.from_hex(p.identity), VerifyKey.from_hex(p.log)) for p in parties}


def gather(bundle: Bundle, saved: tuple[tuple[str, bytes], ...]) -> tuple[Evidence, list[Finding]]:
    """Check every signature, root and saved checkpoint of a bundle; what fails is left out of the evidence."""
    findings: list[Finding] = []
    records: dict[str, tuple[Record[Statement], ...]] = {}
    for party, (identity, log_key) in roster(bundle.study).items():
        log = bundle.logs.get(party)
        if log is None:
            continue
        tree, found = _check_log(party, log, log_key, [note for name, note in saved if name == party])
        findings += found
        if tree is not None:
            records[party], found = _read_entries(bundle.study, party, identity, unpack(log.entries))
            findings += found
    for party in sorted({name for name, _ in saved} - records.keys()):
        findings.append(Finding("history", "unknown", party, "a kept checkpoint of a log that is not in the bundle"))
    approvals = {}
    for envelope in bundle.approvals:
        try:
            approval = read_approval(bundle.study, envelope)
        except GenopactError as error:
            findings.append(Finding("approval", "violated", "bundle", f"an approval does not hold: {error.code}"))
            continue
        if approval.study == bundle.study.hash:
            approvals[canonical.digest(envelope)] = approval
    evidence = Evidence(bundle.study, records, approvals, bundle.released, bundle.run)
    absent = sorted(evidence.needed - bundle.logs.keys())
    return evidence, findings + [Finding("log", "unknown", party, "its log is not in the bundle") for party in absent]


def read_approval(study: Study, envelope: bytes) -> Approval:
    """An approval of any study, signed by the approver of the very site it names.

    Raises:
        GenopactError: the envelope's fault, or STATEMENT_INVALID.
    """
    approvers = {party.name: VerifyKey.from_hex(party.approver) for party in study.parties}
    approval = parse(envelope, approvers.values())
    if not isinstance(approval, Approval) or approval.site not in approvers:
        raise GenopactError("SIGNATURE_INVALID", "not an approval of a party")
    parse(envelope, [approvers[approval.site]])
    return approval


def _check_log(party: str, log: ExportedLog, key: VerifyKey, saved: list[bytes]) -> tuple[Tree | None, list[Finding]]:
    try:
        origin = log_origin(party)
        head, tree = open_checkpoint(log.checkpoint, origin, key), Tree.of(unpack(log.entries))
    except GenopactError as error:
        return None, [Finding("log", "violated", party, f"its checkpoint or entries do not hold: {error.code}")]
    if tree.head() != head:
        return None, [Finding("log", "violated", party, "its entries do not reproduce its signed checkpoint")]
    findings = [Finding("log", "ok", party, f"{head.size} entries reproduce the signed checkpoint")]
    for note in saved:
        try:
            earlier = open_checkpoint(note, origin, key)
        except GenopactError as error:
            findings.append(Finding("history", "unknown", party, f"a saved checkpoint is not this log's: {error.code}"))
            continue
        kept = earlier.size <= head.size and tree.head(earlier.size) == earlier
        verb = "extends" if kept else "does not extend"
        what = f"the log {verb} the checkpoint of {earlier.size} entries seen earlier"
        findings.append(Finding("history", "ok" if kept else "violated", party, what))
    return tree, findings


def _read_entries(
    study: Study, party: str, identity: VerifyKey, entries: tuple[bytes, ...]
) -> tuple[tuple[Record[Statement], ...], list[Finding]]:
    allowed = AT_COORDINATOR if party == study.coordinator.name else AT_SITE
    records: list[Record[Statement]] = []
    findings = []
    for index, entry in enumerate(entries):
        try:
            statement = _statement(study, identity, entry)
        except GenopactError as error:
            if error.code == "SIGNATURE_INVALID" and _approves_another_study(study, entry):
                continue
            verdict: Verdict = "unknown" if error.code == "STATEMENT_INVALID" else "violated"
            findings.append(Finding("statement", verdict, party, f"entry {index} does not hold: {error.code}"))
            continue
        speaks_for = getattr(statement, "site", party)
        if not isinstance(statement, allowed) or (allowed is AT_SITE and speaks_for != party):
            what = f"entry {index} ({statement.kind}) is not its to make"
            findings.append(Finding("statement", "violated", party, what))
            continue
        records.append(Record(index, canonical.digest(entry), statement))
    return tuple(records), findings or [Finding("statement", "ok", party, "every entry is signed by the right key")]


def _statement(study: Study, identity: VerifyKey, entry: bytes) -> Statement:
    try:
        statement = parse(entry, [identity])
    except GenopactError as error:
        if error.code != "SIGNATURE_INVALID":
            raise
        return read_approval(study, entry)
    require(not isinstance(statement, Approval), "SIGNATURE_INVALID", "an approval needs the approver's key")
    return statement


def _approves_another_study(study: Study, entry: bytes) -> bool:
    """Whether an entry calls itself an approval of another study, whose approvers are unknown here; it is not used."""
    try:
        payload: Any = canonical.decode(base64.b64decode(canonical.decode(entry)["payload"]))
        kind, about = payload["predicateType"], payload["predicate"]["study"]
    except (GenopactError, KeyError, TypeError):
        return False
    return bool(kind == PREDICATE.format(Approval.kind) and about != study.hash)


def by_kind(records: tuple[Record[Statement], ...], kind: type[S_co]) -> Iterator[Record[S_co]]:
    """Records of one kind, whichever study they are about."""
    for record in records:
        if isinstance(record.statement, kind):
            yield Record(record.index, record.digest, record.statement)
