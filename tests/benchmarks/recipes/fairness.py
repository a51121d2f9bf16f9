"""Row recipes.evaluation: what an evaluation says of real patients by race, beside what is true of them.

    python -m tests.benchmarks.recipes.fairness

Two networks of the warfarin patients of the IWPC's institutions are put to the test at epsilon 2, with a fifth of the
patients held out, and those who trained beside them, twenty times. The value is 1 when 97 % of all measures that a
report would show lie within three of their stated errors of the true ones, gaps lie half an error off at most on
average, and the race with most patients is shown for both networks every time.
"""

import hashlib
import json
import math
import warnings
from typing import Any, cast

import numpy as np
import torch
from safetensors.numpy import load
from sklearn.metrics import roc_auc_score

from genopact_server.report.risk import errors, left
from genopact_server.validation import iwpc
from genopact_shared import wire
from genopact_shared.privacy.mechanisms import NoisedSum
from genopact_shared.privacy.noise import skellam
from genopact_shared.published import Published
from genopact_shared.recipes.adverse_reaction import LOW_DOSE_MG
from genopact_shared.recipes.dose_features import OUTCOME, RACES
from genopact_shared.recipes.evaluation import Evaluation
from genopact_shared.recipes.network import weights_of
from genopact_shared.recipes.table import Table
from tests.benchmarks.federation import Mode, planned, trained
from tests.benchmarks.recipes.adverse import FOLDER, by_site
from tests.benchmarks.record import markdown

EPSILON, RELEASES, CLOSE = 2.0, 20, 0.97
ARMS: tuple[tuple[str, Mode, float, dict[str, Any]], ...] = (
    ("adverse-reaction", "distributed", 3, {"rounds": 15, "learning_rate_milli": 3000}),
    ("dose-net", "none", 0, {"rounds": 12, "local_steps": 8}),
)
"""Network, mode and epsilon of its training, settings."""


class Files:
    """One published file."""

    def __init__(self, data: bytes) -> None:
        self.digest, self._data = hashlib.sha256(data).hexdigest(), data

    def read(self, digest: str) -> Any:
        assert digest == self.digest
        return load(self._data)


def evaluated(network: str, sites: dict[str, Table], file: Files, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    """What reports of RELEASES such evaluations would show: each measure, its error of noise, and the true one."""
    given = parameters | {"model": file.digest, "by": "race", "evaluated": "both"}
    plan = planned(f"{network}-evaluation", given, sites, "distributed", EPSILON, cast("Published", file))
    course, step, fact = cast("Evaluation", plan.course), plan.steps[0], cast("NoisedSum", plan.steps[0].fact)
    rows = [course.contribution(0, course.initial(), table).sum(axis=0) for table in sites.values()]
    total = np.sum(rows, axis=0)
    true, spread = (
        course.metrics(course.advance(0, {}, total)),
        math.sqrt(step.share_variance * len(sites)) / fact.scale,
    )
    lines = []
    for release in range(RELEASES):
        noise = sum(skellam(step.share_variance, fact.dims) for _ in sites) / fact.scale
        released = (total + noise).reshape(course.shape)
        error = errors(course.measured, released, spread, sampled=False)
        for group, row in left(course.measured(released), error).items():
            for measure in course.measures:
                if measure in row and measure in true[group]:
                    found, by, exact = row[measure], error[group][measure], true[group][measure]
                    lines.append({
                        "release": release, "network": network, "race": group, "measure": measure, "released": found,
                        "its error": by, "true": exact, "off": (found - exact) / by,
                    })  # fmt: skip
    return lines


def main() -> dict[str, Any]:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    cohort, note = iwpc.load(FOLDER), dict[str, Any]()
    held_out = np.isin(cohort.fold10, np.unique(cohort.fold10)[:2])
    cast("dict[str, Any]", cohort.table.columns)["held_out"] = held_out.astype(np.int8)
    sites, lines = by_site(cohort, np.ones(cohort.table.n, dtype=np.bool_)), list[dict[str, Any]]()
    for network, mode, epsilon, settings in ARMS:
        plan = planned(network, settings, sites, mode, epsilon)
        model = weights_of(trained(plan, sites))
        lines += evaluated(network, sites, Files(wire.pack(model)), {})
        if network == "adverse-reaction":
            held = cohort.table.take(held_out)
            risk = plan.recipe.predict(model, None, held).value
            exact = float(roc_auc_score(held.number(OUTCOME) <= LOW_DOSE_MG, risk))
            note["AUC of patients held out, not binned"] = f"{exact:.3f}"
    off, gaps = (
        np.array([each["off"] for each in some]) for some in (lines, [r for r in lines if r["measure"] == "gap"])
    )
    race = cohort.table.codes("race")
    most = RACES[int(np.bincount(race[race >= 0]).argmax())]
    shown = {(each["network"], each["release"]) for each in lines if each["race"] == most}
    parts = {
        f"{CLOSE:.0%} of measures within three errors": float((np.abs(off) <= 3).mean()) >= CLOSE,
        "gaps are half an error off at most, on average": abs(float(gaps.mean())) <= 0.5,
        "the largest race is shown every time": len(shown) == RELEASES * len(ARMS),
    }
    note |= {
        "measures": f"{len(lines)} in {RELEASES} releases", "within three errors": f"{(np.abs(off) <= 3).mean():.1%}",
        "gaps": f"{gaps.mean():.2f} errors off on average",
        "parts": {name: str(holds) for name, holds in parts.items()},
    }  # fmt: skip
    first = [
        {kind: _plain(value) for kind, value in each.items() if kind != "release"}
        for each in lines
        if not each["release"]
    ]
    note["one release"] = "\n\n" + markdown(first)
    return {"row": "recipes.evaluation", "value": int(all(parts.values())), "note": note}


def _plain(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    print(json.dumps(main()))
