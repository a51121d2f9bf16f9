"""Checks of privacy: what the sites' intents cost by the audit's own accountant, against the claim and the study."""

import math
from collections.abc import Iterator
from decimal import Decimal

from genopact_server.audit.accountant import Bounds, Fact, epsilon_bounds
from genopact_server.audit.evidence import Evidence
from genopact_server.audit.findings import Finding, Verdict, judged
from genopact_server.statements import Release
from genopact_shared.privacy.mechanisms import NoisedSum, Unprotected
from genopact_shared.statements import Aggregate, Intent, Receipt
from genopact_shared.study import Study

ROUNDING_MILLI = 1
"""A claim may be rounded to the nearest thousandth."""
WIDTH = 1.01
"""The bounds answer a question when they lie within one per cent of each other."""


def check_mechanisms(evidence: Evidence) -> Iterator[Finding]:
    """Every intent's mechanism is one that the study's privacy mode allows."""
    for site in evidence.sites:
        intents = evidence.at(site, Intent)
        wrong = (record.index for record in intents if not _allowed(evidence.study, record.statement.mechanism))
        faults = [f"intent {index}: not in this privacy mode" for index in wrong]
        if intents:
            fine = f"{len(intents)} intents, all of mode {evidence.study.privacy.mode}"
            yield from judged("mechanism", site, faults, fine)


def check_spending(evidence: Evidence) -> Iterator[Finding]:
    """What each site released fits the study's epsilon, and each release's claim covers what its run cost anywhere."""
    study = evidence.study
    if study.privacy.epsilon_milli is None:
        yield Finding("epsilon", "ok", study.name, f"the study promises no privacy: mode {study.privacy.mode}")
        return
    for site in evidence.sites:
        bounds, releases = _spent(evidence, site, None), len(_left(evidence, site, None))
        intents = len(evidence.in_study(site, Intent))
        what = f"{_text(bounds)} for {releases} releases ({intents} intents); the study allows"
        yield _compare("epsilon", site, bounds, study.privacy.epsilon_milli, what)
    for record in evidence.coordinator(Release):
        yield from _check_claim(evidence, record.statement)


def _check_claim(evidence: Evidence, release: Release) -> Iterator[Finding]:
    name, delta = evidence.study.coordinator.name, evidence.study.privacy.delta
    if release.epsilon_milli is None or Decimal(release.delta) != Decimal(delta):
        yield Finding("claim", "violated", name, "a release claims no epsilon, or one at another delta")
        return
    own = epsilon_bounds((c.mechanism for c in release.mechanisms for _ in range(c.times)), delta)
    yield _compare("claim", name, own, release.epsilon_milli, f"{_text(own)} by the release's own facts; it claims")
    for site in evidence.sites:
        bounds = _spent(evidence, site, release.run)
        yield _compare("claim", site, bounds, release.epsilon_milli, f"{_text(bounds)} in this run; the release claims")


def _spent(evidence: Evidence, site: str, run: str | None) -> Bounds:
    """What the patients of a site spent, in one run or in the study.

    A masked sum of an attempt that was given up shows nothing, unless a site that "failed" helps the coordinator to
    unmask the rest: such sums count in `high` only.
    """
    study, left = evidence.study, _left(evidence, site, run)
    combined = {record.statement.position for record in evidence.in_study(study.coordinator.name, Aggregate)}
    certain = [intent for intent in left if not study.privacy.masked or intent.position in combined]
    most = epsilon_bounds([intent.mechanism for intent in left], study.privacy.delta)
    least = epsilon_bounds([intent.mechanism for intent in certain], study.privacy.delta)
    return Bounds(least.low, most.high)


def _left(evidence: Evidence, site: str, run: str | None) -> list[Intent]:
    """The intents behind everything that left the site, in one run or in the study."""
    receipts = (record.statement for record in evidence.in_study(site, Receipt))
    released = {receipt.intent for receipt in receipts if receipt.outcome == "released"}
    intents = (record for record in evidence.in_study(site, Intent) if record.digest in released)
    return [record.statement for record in intents if run in {None, record.statement.run}]


def _compare(check: str, party: str, bounds: Bounds, limit_milli: int, what: str) -> Finding:
    verdict: Verdict = "unknown"
    if bounds.low * 1000 > limit_milli + ROUNDING_MILLI:
        verdict = "violated"
    elif bounds.high * 1000 <= limit_milli * WIDTH + ROUNDING_MILLI:
        verdict = "ok"
    return Finding(check, verdict, party, f"{what} {Decimal(limit_milli) / 1000}")


def _allowed(study: Study, mechanism: Fact) -> bool:
    if study.privacy.epsilon_milli is None:
        return True
    if isinstance(mechanism, Unprotected):
        return False
    if isinstance(mechanism, NoisedSum):
        return mechanism.honest_minimum == (study.privacy.honest_minimum if study.privacy.mode == "distributed" else 1)
    return study.privacy.mode == "local"


def _text(bounds: Bounds) -> str:
    return "unbounded epsilon" if math.isinf(bounds.low) else f"epsilon {bounds.low:.3f} to {bounds.high:.3f}"
