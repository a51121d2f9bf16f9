"""Row recipes.adverse: over-anticoagulation at the usual dose of warfarin, and the safety of dose advice, by race.

    python -m tests.benchmarks.recipes.adverse

The sixteen institutions of the IWPC train as in a study, on nine of the frozen ten folds at a time; site terms are
fitted on each site's own training patients. The value is 1 when the risk model is no worse than a pooled logistic
regression on the same features by 0.005 of AUC, every dose advice has an interval, nobody without VKORC1 gets advice,
and every race has its line.
"""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from genopact_server.demo.compare import fit
from genopact_server.validation import iwpc
from genopact_shared.recipes.adverse_reaction import LOW_DOSE_MG
from genopact_shared.recipes.dose import DOSE
from genopact_shared.recipes.dose_features import OUTCOME, RACES, abstains, features, vkorc1
from genopact_shared.recipes.table import Floats, Table
from tests.benchmarks.federation import Mode, planned, trained
from tests.benchmarks.record import markdown

FOLDER = Path(__file__).resolve().parents[4] / "shared" / "data" / "iwpc_warfarin"
MARGIN, FAR = 0.005, 0.2
"""AUC that may be lost against the baseline; the share of the dose beyond which advice counts as far too much."""
ARMS: tuple[tuple[str, Mode, float, int, dict[str, Any]], ...] = (
    ("no noise", "none", 0, 10, {"rounds": 12, "local_steps": 8, "learning_rate_milli": 1000}),
    ("distributed, epsilon 8", "distributed", 8, 1, {"rounds": 15, "learning_rate_milli": 3000}),
    ("distributed, epsilon 3", "distributed", 3, 1, {"rounds": 15, "learning_rate_milli": 3000}),
    ("distributed, epsilon 1", "distributed", 1, 1, {"rounds": 15, "learning_rate_milli": 3000}),
)
"""Name, mode, epsilon, folds, settings."""


def by_site(cohort: iwpc.Cohort, rows: NDArray[np.bool_]) -> dict[str, Table]:
    found = {f"site-{s}": cohort.table.take(rows & (cohort.sites == s)) for s in np.unique(cohort.sites).tolist()}
    return {name: table for name, table in found.items() if table.n}


def risks(cohort: iwpc.Cohort, mode: Mode, epsilon: float, folds: int, settings: dict[str, Any]) -> Floats:
    """(n,) of the patients of the first folds, each by a model that did not see them, with their site's own level."""
    found = np.full(cohort.table.n, np.nan)
    for fold in range(folds):
        own = cohort.fold10 == np.unique(cohort.fold10)[fold]
        sites = by_site(cohort, ~own)
        plan = planned("adverse-reaction", settings, sites, mode, epsilon)
        model = trained(plan, sites)
        for name, table in sites.items():
            here = own & (cohort.sites == int(name[5:]))
            personal = plan.recipe.fit_personal(model, table)
            found[here] = plan.recipe.predict(model, personal, cohort.table.take(here)).value
    return found


def pooled(cohort: iwpc.Cohort, low: NDArray[np.bool_]) -> Floats:
    """The same by logistic regression on everybody's features and an intercept a site."""
    sites = cohort.sites[:, None] == np.unique(cohort.sites)
    rows, found = np.column_stack([features(cohort.table), sites]), np.empty(cohort.table.n)
    for fold in np.unique(cohort.fold10):
        own = cohort.fold10 == fold
        fitted = LogisticRegression(C=1.0, max_iter=2000).fit(rows[~own], low[~own])
        found[own] = fitted.predict_proba(rows[own])[:, 1]
    return found


def advice(cohort: iwpc.Cohort) -> tuple[Floats, Floats, Floats]:
    """(n,) doses and the bounds of their 80 % intervals, by recipe `dose` without noise, with site terms."""
    found = np.full((3, cohort.table.n), np.nan)
    for fold in np.unique(cohort.fold10):
        own = cohort.fold10 == fold
        sites = by_site(cohort, ~own)
        model = fit([*sites.values()])
        for name, table in sites.items():
            here = own & (cohort.sites == int(name[5:]))
            each = DOSE.predict(model, DOSE.fit_personal(model, table), cohort.table.take(here))
            found[:, here] = each.value, each.low, each.high
    return found[0], found[1], found[2]


def main() -> dict[str, Any]:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    cohort = iwpc.load(FOLDER)
    dose, race = cohort.table.number(OUTCOME), cohort.table.codes("race")
    low, note, auc = dose <= LOW_DOSE_MG, dict[str, Any](), dict[str, float]()
    baseline, predicted = pooled(cohort, low), dict[str, Floats]()
    for name, mode, epsilon, folds, settings in ARMS:
        predicted[name] = risks(cohort, mode, epsilon, folds, settings)
        seen = np.isfinite(predicted[name])
        auc[name] = float(roc_auc_score(low[seen], predicted[name][seen]))
        there = float(roc_auc_score(low[seen], baseline[seen]))
        note[name] = f"AUC {auc[name]:.4f} on {folds} folds, pooled regression there {there:.4f}"
    value, least, most = advice(cohort)
    silent, lines = abstains(cohort.table, least, most), []
    for code, group in enumerate(RACES):
        own = race == code
        given, risk = own & ~silent, predicted["no noise"][own]
        lines.append({
            "race": group, "patients": str(own.sum()), "no advice": f"{silent[own].mean():.1%}",
            "MAE, mg/week": f"{np.abs(value - dose)[given].mean():.2f}",
            "20 % too much": f"{(value > (1 + FAR) * dose)[given].mean():.1%}",
            "20 % too little": f"{(value < (1 - FAR) * dose)[given].mean():.1%}",
            "in the interval": f"{((least <= dose) & (dose <= most))[given].mean():.1%}",
            "low dose": f"{low[own].mean():.1%}", "risk told": f"{risk.mean():.1%}",
            "AUC": f"{roc_auc_score(low[own], risk):.3f}",
        })  # fmt: skip
    bounded = np.isfinite(least) & np.isfinite(most) & (least <= value) & (value <= most)
    parts = {
        "no worse than pooled": auc["no noise"] >= float(roc_auc_score(low, baseline)) - MARGIN,
        "an interval with every advice": bool(bounded.all()),
        "no advice without VKORC1": bool(silent[vkorc1(cohort.table) < 0].all()),
        "every race has its line": len(lines) == len(RACES),
    }
    note |= {
        "low dose": f"{low.mean():.1%} of {low.size}",
        "parts": {name: str(holds) for name, holds in parts.items()},
    }
    return {
        "row": "recipes.adverse",
        "value": int(all(parts.values())),
        "note": note | {"table": "\n\n" + markdown(lines)},
    }


if __name__ == "__main__":
    print(json.dumps(main()))
