"""Canaries against recipe `risk`: what the audit's attack shows of its epsilon, on a small made-up panel."""

from pathlib import Path
from typing import Any

import numpy as np

from genopact_server.audit.rehearsal import rehearse
from genopact_server.design.directions import Budget
from genopact_server.design.measure import Known, design
from genopact_server.design.panel import Panel, blocks_of
from genopact_server.design.posterior import Posterior
from genopact_shared import wire
from genopact_shared.published import Published
from genopact_shared.recipes.risk import RISK
from tests.unit.policy_fixtures import study as study_with

VARIANTS, CANARIES, RUNS = 60, 12, 60


def small_panel(seed: int = 5, variants: int = VARIANTS, people: int = 240) -> Panel:
    """Two ancestries, blocks of twenty variants whose neighbours go together."""
    rng = np.random.default_rng(seed)
    ancestry = np.repeat(np.arange(2), people // 2)
    f = rng.uniform(0.15, 0.85, variants) + np.where(ancestry == 0, 0.1, -0.1)[:, None]
    field = rng.normal(size=(2, people, variants))
    for j in range(1, variants):
        field[:, :, j] = 0.7 * field[:, :, j - 1] + np.sqrt(1 - 0.49) * field[:, :, j] if j % 20 else field[:, :, j]
    from scipy.special import ndtri

    copies = (field < ndtri(np.clip(f, 0.02, 0.98))).sum(axis=0).astype(np.int8)
    return Panel(copies, ancestry.astype(np.intp), ("eur", "sas"), blocks_of([str(j // 20) for j in range(variants)]))


def small_design(folder: Path, patients: int, mu: float, noise: float, seed: int = 5) -> dict[str, Any]:
    """A design of the small panel, published in a folder; the recipe's parameters."""
    panel, rng = small_panel(seed), np.random.default_rng(seed)
    effects = np.tile(rng.normal(0, 0.1, VARIANTS), (2, 1))
    found = Posterior(effects, rng.normal(0, 0.05, (30, 2, VARIANTS)).astype(np.float32), np.full(VARIANTS, 0.01))
    arrays = design(Known.of(panel, found, [0.5, 0.5]), Budget.of(patients, mu, 0.45, 0.2), noise)
    digest = Published(folder).add(wire.pack(arrays))
    return {
        "variants": "0" * 64, "design": digest, "directions": int(arrays["block_directions"][-1]),
        "groups": ["eur", "sas"], "features": len(arrays["second_moments"]), "prevalence_milli": 200,
    }  # fmt: skip


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
