"""The doctor: can this site take part? Each check says ok, problem or unknown, and what to do."""

from collections.abc import Callable, Iterator

from genopact_client.doctor import folder, reach, records
from genopact_client.doctor.subject import Check, Subject, Unsound
from genopact_shared.errors import GenopactError

__all__ = ["CHECKS", "Check", "Subject", "examine"]

CHECKS: dict[str, Callable[[Subject], str]] = {
    "installation": folder.installation, "folder": folder.folder, "approver-key": folder.approver, "keys": folder.keys,
    "node-key": folder.node_key, "policy": folder.policy, "disk": folder.disk, "store": records.store,
    "consent": records.consent, "ledger": records.ledger, "logs": records.logs, "ledger-roots": records.roots,
    "clock": records.clock, "studies": records.studies, "budget": records.budget, "coordinator": reach.coordinator,
    "agent": reach.agent,
}  # fmt: skip
"""Name -> a function that returns what is well, or raises Unsound or GenopactError."""


def examine(subject: Subject) -> Iterator[Check]:
    """All checks in order; one that fails does not keep the others from running."""
    for name, check in CHECKS.items():
        try:
            yield Check(name, "ok", check(subject))
        except Unsound as found:
            yield Check(name, found.state, found.detail, found.remedy)
        except Exception as error:  # noqa: BLE001 - a damaged database, for example
            known = error if isinstance(error, GenopactError) else GenopactError("INTERNAL", type(error).__name__)
            detail = known.fault.cause + (f" ({known.detail})" if known.detail else "")
            yield Check(name, "problem", detail, known.fault.remedy, known.code)
