"""A person's consent as received. Every field is required: a record that lost one does not load.

Codes are those of the Data Use Ontology (DUO); diseases are MONDO terms. Sets are sorted tuples, so that equal
answers have equal bytes.
"""

import datetime as dt
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, Field, StringConstraints, ValidationError, model_validator

from genopact_shared import canonical
from genopact_shared.errors import GenopactError
from genopact_shared.study import Frozen, Modality, Mondo, Organisation, Region, Use

Regime = Literal["opt_in", "opt_out", "waiver"]
Status = Literal["active", "refused", "withdrawn", "expired", "not_asked", "unknown", "superseded"]
Scope = Literal["no_new_use", "no_access", "erase"]
Modifier = Annotated[str, StringConstraints(pattern=r"^[A-Z]{2,8}$")]

MAX_PROVISIONS = 12

T = TypeVar("T")
Answers = Annotated[tuple[T, ...], AfterValidator(lambda values: tuple(sorted(set(values))))]


class Provision(Frozen):
    """One answer. A permit reaches as far as each of its sets, and an empty set is nothing; a deny always wins.

    `origin` is the code as it was received. `valid_from` and `valid_until` are the first and the last day.
    """

    decision: Literal["permit", "deny"]
    permission: Literal["GRU", "HMB", "DS", "POA", "NRES"]
    diseases: Answers[Mondo]
    uses: Answers[Use]
    organisations: Answers[Organisation]
    commercial_use: Literal["never", "allowed"]
    regions: Answers[Region]
    data: Answers[Modality]
    valid_from: dt.date
    valid_until: dt.date
    origin: str = Field(min_length=1, max_length=200)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.permission == "DS") != bool(self.diseases):
            raise ValueError("diseases belong to DS, and DS names at least one")
        if self.valid_until < self.valid_from:
            raise ValueError("the last day lies before the first")
        return self

    def covers(self, day: dt.date) -> bool:
        """Whether the answer is in force on that day."""
        return self.valid_from <= day <= self.valid_until


class Withdrawal(Frozen):
    """When a person withdrew, and how far."""

    at: dt.date
    scope: Scope


class ConsentRecord(Frozen):
    """What one person decided: one version of it, without any name.

    `form`: template|version. `modifiers`: DUO modifier codes that no other field expresses (IRB, COL, MOR, ...).
    `withdrawal`: the last one; a permit whose first day is not later than its day stays withdrawn.
    `max_epsilon_milli`: the person's own limit of the lifetime privacy budget.
    """

    schema_: Literal["genopact.consent/1"] = Field(alias="schema")
    regime: Regime
    status: Status
    provisions: tuple[Provision, ...] = Field(max_length=MAX_PROVISIONS)
    modifiers: Answers[Modifier]
    form: Annotated[str, StringConstraints(pattern=r"^[^|]+\|[^|]+$", max_length=200)] | None
    withdrawal: Withdrawal | None
    max_epsilon_milli: Annotated[int, Field(ge=0)] | None

    @classmethod
    def silent(cls, status: Status, withdrawal: Withdrawal | None = None) -> Self:
        """A record that permits nothing."""
        nothing: dict[str, Any] = {"provisions": (), "modifiers": (), "form": None, "max_epsilon_milli": None}
        return cls(schema="genopact.consent/1", regime="opt_in", status=status, withdrawal=withdrawal, **nothing)

    def encode(self) -> bytes:
        """Canonical JSON."""
        return canonical.encode(self.model_dump(mode="json", by_alias=True))

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """The record of JSON bytes; CONSENT_INVALID otherwise, without any value in the detail."""
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            fields = sorted({".".join(map(str, e["loc"])) for e in error.errors()})
            raise GenopactError("CONSENT_INVALID", ", ".join(fields)) from None
