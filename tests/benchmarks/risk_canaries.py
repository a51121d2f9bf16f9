"""Canaries against recipe `risk`: what the audit's attack shows of its epsilon, on a small made-up panel."""

from pathlib import Path
from typing import Any

from genopact_server.audit.rehearsal import rehearse
from genopact_shared.published import Published
from genopact_shared.recipes.risk import RISK
from tests.unit.policy_fixtures import study as study_with
from tests.unit.risk_panel import small_design

CANARIES, RUNS = 12, 60


def measured(folder: Path, epsilon_milli: int = 3000) -> dict[str, Any]:
    """The audit's lower bound on epsilon beside the certificate."""
    parameters = small_design(folder, 600, 1.0, 0.6)
    study = study_with(
        outcome="disease", metrics=RISK.measures, recipe={"name": "risk", "version": 1, "parameters": parameters},
        privacy={"mode": "distributed", "epsilon_milli": epsilon_milli, "honest_minimum": 2},
    )  # fmt: skip
    shown = rehearse(study, {party.name: 200 for party in study.parties}, CANARIES, RUNS, published=Published(folder))
    return {
        "bound": round(shown.bound, 3),
        "certified": round(shown.certified, 3),
        "AUC of guesses": round(shown.auc, 3),
    }
