"""What parties put on record: in-toto Statements v1 in DSSE envelopes, the entries of the logs.

Times are integer Unix seconds by the writer's clock: a claim. Order in a log is the evidence.
"""

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, StringConstraints, ValidationError, model_validator

from genopact_shared import canonical, dsse
from genopact_shared.errors import GenopactError, replacing, require
from genopact_shared.keys import SigningKey, VerifyKey
from genopact_shared.privacy.mechanisms import Mechanism
from genopact_shared.study import Frozen, Name

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE = "https://genopact.org/attestation/{}/v1"
FIRST = "0" * 64
"""`prev` of a site's first receipt."""

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
RunId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
Step = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]
Reason = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]{1,64}$")]
Delta = Annotated[str, StringConstraints(pattern=r"^0\.[0-9]{1,30}$")]
Second = Annotated[int, Field(ge=0)]

KINDS: dict[str, type["Statement"]] = {}
"""By predicate type."""


class Statement(Frozen):
    """One event. `kind` names its predicate type, `about` the subject and the field with the subject's SHA-256."""

    kind: ClassVar[str]
    about: ClassVar[tuple[str, str]]
    at: Second

    def __init_subclass__(cls, *, kind: str = "", about: tuple[str, str] = ("", "")) -> None:
        cls.kind, cls.about = kind, about
        if kind:
            KINDS[PREDICATE.format(kind)] = cls

    def subject(self) -> tuple[str, str]:
        """What the statement is about: a name and a SHA-256."""
        name, field = self.about
        return name, getattr(self, field)

    def payload(self) -> bytes:
        """The canonical bytes that are signed."""
        name, digest = self.subject()
        subject = [{"name": name, "digest": {"sha256": digest}}]
        predicate = {"predicateType": PREDICATE.format(self.kind), "predicate": self.model_dump(mode="json")}
        return canonical.encode({"_type": STATEMENT_TYPE, "subject": subject, **predicate})


class Approval(Statement, kind="approval", about=("study", "study")):
    """A site's approver agrees to a study, under a site policy.

    `planned_cohort` is rounded by the site and is never an exact count of patients.
    """

    study: Digest
    site: Name
    planned_cohort: int = Field(ge=1)
    policy: Digest


class Work(Statement):
    """One step of one round of a run; computing again is a new attempt."""

    study: Digest
    run: RunId
    round: int = Field(ge=0)
    attempt: int = Field(ge=0)
    step: Step

    @property
    def position(self) -> tuple[str, int, int, str]:
        """(run, round, attempt, step)."""
        return self.run, self.round, self.attempt, self.step


class Intent(Work, kind="intent", about=("request", "request")):
    """A site is about to compute: logged after reserving the budget (`ledger_root` includes it), before the draw."""

    request: Digest
    site: Name
    decision_root: Digest
    ledger_root: Digest
    model_in: Digest
    mechanism: Mechanism
    nonce: RunId


class Receipt(Work, kind="receipt"):
    """What became of an intent. `update`: digest of the reply's body; `prev`: digest of the site's previous receipt."""

    request: Digest
    site: Name
    intent: Digest
    update: Digest | None
    outcome: Literal["released", "unavailable"]
    prev: Digest

    @model_validator(mode="after")
    def _released_has_update(self) -> Self:
        if (self.outcome == "released") != (self.update is not None):
            raise ValueError("an update is released, and only then has a digest")
        return self

    def subject(self) -> tuple[str, str]:
        """The update, or the intent if there was none."""
        return ("update", self.update) if self.update else ("intent", self.intent)


class Aggregate(Work, kind="aggregate", about=("model", "model_out")):
    """The coordinator combined updates. `receipts`: digests of the reply bodies of `sites`, in the same order."""

    model_in: Digest
    sites: tuple[Name, ...] = Field(min_length=1)
    receipts: tuple[Digest, ...] = Field(min_length=1)
    total: Digest
    model_out: Digest


class RegistryRoot(Statement, kind="registry-root", about=("registry", "root")):
    """The daily root of a site's consent registry; its size is not published."""

    site: Name
    root: Digest


class Refusal(Statement, kind="refusal", about=("request", "request")):
    """Private log: why a request was refused. On the wire it was SITE_UNAVAILABLE."""

    request: Digest
    reasons: tuple[Reason, ...] = Field(min_length=1)


class Incident(Statement, kind="incident", about=("evidence", "evidence")):
    """Private log: something that a person must look at; `evidence` is the digest of what was kept."""

    code: Reason
    evidence: Digest


def sign(statement: Statement, *keys: SigningKey) -> bytes:
    """The statement's envelope: a log entry."""
    return dsse.sign(PAYLOAD_TYPE, statement.payload(), *keys)


def parse(envelope: bytes, keys: Iterable[VerifyKey], threshold: int = 1) -> Statement:
    """The statement of an envelope that `threshold` of `keys` signed.

    Raises:
        GenopactError: CANONICAL_INVALID, ENVELOPE_INVALID, SIGNATURE_INVALID, STATEMENT_INVALID.
    """
    payload = dsse.verify(envelope, PAYLOAD_TYPE, keys, threshold)
    document: Any = canonical.decode(payload)
    unfit = GenopactError("STATEMENT_INVALID", "an unknown kind, or fields that do not fit it")
    with replacing((ValidationError, KeyError, TypeError), unfit):
        statement = KINDS[document["predicateType"]].model_validate_json(canonical.encode(document["predicate"]))
    # One statement has one spelling: the type, the subject and every default follow from the predicate.
    require(statement.payload() == payload, "STATEMENT_INVALID", statement.kind)
    return statement
