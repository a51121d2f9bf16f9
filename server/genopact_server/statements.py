"""What the coordinator alone puts on record."""

from pydantic import Field

from genopact_shared.privacy.mechanisms import Mechanism
from genopact_shared.statements import Delta, Digest, RunId, Statement
from genopact_shared.study import Frozen, Name


class StudyRegistered(Statement, kind="study-registered", about=("study", "study")):
    """The coordinator opens a study. `text`: digest of the study file as it was written."""

    study: Digest
    text: Digest


class RunOpened(Statement, kind="run-opened", about=("study", "study")):
    """The coordinator starts a run with these sites, in this order, on these approvals (digests of their envelopes)."""

    study: Digest
    run: RunId
    sites: tuple[Name, ...]
    approvals: tuple[Digest, ...]


class Charge(Frozen):
    """A mechanism, and how often it ran."""

    mechanism: Mechanism
    times: int = Field(ge=1)


class Release(Statement, kind="release", about=("model", "model")):
    """The coordinator publishes a model, with the privacy it claims; `epsilon_milli` is None in mode none only."""

    study: Digest
    run: RunId
    model: Digest
    epsilon_milli: int | None = Field(ge=0)
    delta: Delta
    mechanisms: tuple[Charge, ...]
