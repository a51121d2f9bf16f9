"""What the agent remembers of each run: its approvals, and the last position it answered. Durable before any draw."""

from pathlib import Path

from pydantic import ValidationError

from genopact_shared import durable
from genopact_shared.approval import check_approval
from genopact_shared.errors import GenopactError, replacing, require
from genopact_shared.plan import Plan, plan_of
from genopact_shared.published import Published
from genopact_shared.statements import Digest, RunId
from genopact_shared.study import Frozen, Study


class RunRecord(Frozen):
    """One run. `round` and `attempt`: the last position taken, -1 before the first.

    `reply`: digest of what was sent there. `taken`: the planned step of each attempt, sent or not, in
    order: what the run has cost at most.
    """

    study: Digest
    run: RunId
    approvals: tuple[str, ...]
    round: int = -1
    attempt: int = -1
    taken: tuple[int, ...] = ()
    model_in: Digest | None = None
    reply: Digest | None = None

    def check_next(self, round_: int, attempt: int) -> None:
        """A position may only move forward: a later round, or a later attempt at the same one.

        Raises:
            GenopactError: REQUEST_REPLAYED.
        """
        if (round_, attempt) <= (self.round, self.attempt):
            raise GenopactError("REQUEST_REPLAYED")


class Runs:
    """A folder with one file a run."""

    def __init__(self, path: Path) -> None:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = path

    def folder(self, run: str) -> Path:
        """Where the private results of a run are kept."""
        folder = self._path / run
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    def get(self, run: str) -> RunRecord | None:
        """The record of a run, if it was opened here. Raises RUN_STATE_BROKEN."""
        path = self._path / f"{run}.json"
        with replacing(ValidationError, GenopactError("RUN_STATE_BROKEN", str(path))):
            return RunRecord.model_validate_json(path.read_bytes()) if path.exists() else None

    def of_study(self, study: str) -> list[RunRecord]:
        """All runs of a study."""
        found = (self.get(path.stem) for path in self._path.glob("*.json"))
        return [record for record in found if record is not None and record.study == study]

    def put(self, record: RunRecord) -> RunRecord:
        """Make a record durable; returns it."""
        durable.replace(self._path / f"{record.run}.json", record.model_dump_json().encode())
        return record


def plan_of_run(study: Study, approvals: tuple[str, ...], published: Published) -> Plan:
    """The plan of a run, from the approvals that it was opened with; each is checked.

    Raises:
        GenopactError: APPROVAL_INVALID, and those of `check_approval` and `plan_of`.
    """
    checked = [check_approval(envelope.encode(), study) for envelope in approvals]
    planned = {approval.site: approval.planned_cohort for approval in checked}
    require(len(planned) == len(checked), "APPROVAL_INVALID", "two approvals of one site")
    return plan_of(study, planned, published)
