"""`audit verify`: every check over one bundle, offline."""

from collections.abc import Sequence
from pathlib import Path

from genopact_server.audit.bundle import Bundle, load
from genopact_server.audit.checks import COORDINATED, SITES
from genopact_server.audit.evidence import gather
from genopact_server.audit.findings import LIMITS, NO_HISTORY, Finding, Report
from genopact_server.audit.spending import check_mechanisms, check_spending
from genopact_shared.errors import GenopactError


def verify(bundle: Bundle, saved: Sequence[tuple[str, bytes]] = (), study_hash: str | None = None) -> Report:
    """All findings about a bundle.

    Args:
        bundle: what the coordinator and the sites exported.
        saved: (party, checkpoint) pairs that the auditor kept from earlier, besides those in the bundle.
        study_hash: the study's hash as the auditor knows it from elsewhere.

    Guarantees:
        Nothing is fetched, and nothing in the bundle is believed but what a key of its study file signed.
    """
    history = (*bundle.saved, *saved)
    evidence, findings = gather(bundle, history)
    if study_hash is not None:
        same = study_hash == bundle.study.hash
        what = f"the bundle's study {'is' if same else 'is not'} the expected one"
        findings.insert(0, Finding("study", "ok" if same else "violated", bundle.study.name, what))
    linked = COORDINATED if evidence.coordinated else ()
    for check in (*SITES, *linked, check_mechanisms, check_spending):
        findings.extend(check(evidence))
    return Report(bundle.study.hash, tuple(findings), LIMITS if history else (NO_HISTORY, *LIMITS))


def verify_path(path: Path, saved: Sequence[tuple[str, bytes]] = (), study_hash: str | None = None) -> Report:
    """`verify` of a bundle on disk; one that cannot be read gives a report that cannot tell."""
    try:
        bundle = load(path)
    except GenopactError as error:
        return Report("unknown", (Finding("bundle", "unknown", "bundle", f"it cannot be read: {error.code}"),))
    return verify(bundle, saved, study_hash)
