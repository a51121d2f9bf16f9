"""What an audit says: findings, the exit code that follows from them, and the report for people and programs."""

import json
from collections.abc import Iterable
from typing import Literal, NamedTuple

from genopact_shared.errors import beside

Verdict = Literal["ok", "violated", "unknown"]

_TEXTS = beside(__file__)
LIMITS: tuple[str, ...] = tuple(_TEXTS["limits"])
NO_HISTORY: str = _TEXTS["no_history"]
ANSWERS: dict[Verdict, tuple[int, str]] = {
    "ok": (0, "OK: nothing in this bundle contradicts the study."),
    "violated": (1, "VIOLATED: the bundle breaks the study or its own signatures."),
    "unknown": (2, "CANNOT TELL: something needed is missing."),
}


class Finding(NamedTuple):
    """One check's answer about one party."""

    check: str
    verdict: Verdict
    party: str
    what: str


def judged(check: str, party: str, faults: Iterable[str], fine: str) -> list[Finding]:
    """A violation for each fault; `fine` without any."""
    return [Finding(check, "violated", party, fault) for fault in faults] or [Finding(check, "ok", party, fine)]


class Report(NamedTuple):
    """All findings about one study, and what they do not cover."""

    study: str
    findings: tuple[Finding, ...]
    limits: tuple[str, ...] = LIMITS

    @property
    def verdict(self) -> Verdict:
        """The worst verdict; an audit without findings cannot tell."""
        found = {finding.verdict for finding in self.findings}
        return "violated" if "violated" in found else "ok" if found == {"ok"} else "unknown"

    @property
    def exit_code(self) -> int:
        """0 ok, 1 violated, 2 cannot tell."""
        return ANSWERS[self.verdict][0]

    def text(self) -> str:
        """The report in plain language, worst findings first."""
        rank = {"violated": 0, "unknown": 1, "ok": 2}
        ordered = sorted(self.findings, key=lambda finding: rank[finding.verdict])
        found = [f"  {finding.verdict:<8} {finding.check:<10} {finding.party}: {finding.what}" for finding in ordered]
        unproven = [f"  - {limit}" for limit in self.limits]
        head = [f"Audit of study {self.study}", ANSWERS[self.verdict][1], ""]
        return "\n".join([*head, *found, "", "What this audit cannot prove:", *unproven, ""])

    def json(self) -> str:
        """The same as one JSON object."""
        findings = [finding._asdict() for finding in self.findings]
        body = {"format": "genopact.audit/1", "study": self.study, "verdict": self.verdict, "exit_code": self.exit_code}
        return json.dumps(body | {"findings": findings, "limits": self.limits}, indent=1)
