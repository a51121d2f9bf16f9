"""Row recipes.evaluation: what an evaluation says of real patients by race, beside what is true of them.

    python -m tests.benchmarks.recipes.fairness

Two networks of the warfarin patients of the IWPC's institutions are put to the test at epsilon 2, with a fifth of the
patients held out, and those who trained beside them. The value is 1 when every measure that a report would show lies
within four of its stated errors of the true one, and when the race with most patients is shown for both networks.
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
from genopact_shared.published import Published
from genopact_shared.recipes.adverse_reaction import LOW_DOSE_MG
from genopact_shared.recipes.dose_features import OUTCOME, RACES
from genopact_shared.recipes.evaluation import Evaluation
from genopact_shared.recipes.network import weights_of
from genopact_shared.recipes.table import Table
from tests.benchmarks.federation import Mode, planned, trained
from tests.benchmarks.recipes.adverse import FOLDER, by_site
from tests.benchmarks.record import markdown

EPSILON, FAR = 2.0, 4.0
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


def evaluated(network: str, sites: dict[str, Table], file: Files, parameters: dict[str, Any]) -> list[dict[str, str]]:
    """A line a group that a report would show: each measure released, its error of noise, and the true one."""
    given = parameters | {"model": file.digest, "by": "race", "evaluated": "both"}
    plan = planned(f"{network}-evaluation", given, sites, "distributed", EPSILON, cast("Published", file))
    course, step = cast("Evaluation", plan.course), plan.steps[0]
    rows = [course.contribution(0, course.initial(), table).sum(axis=0) for table in sites.values()]
    true, released = course.metrics(course.advance(0, {}, np.sum(rows, axis=0))), trained(plan, sites)
    spread = math.sqrt(step.share_variance * len(sites)) / cast("NoisedSum", step.fact).scale
    error = errors(course.measured, released["cells"], spread, sampled=False)
    lines = []
    for group, row in left(course.metrics(released), error).items():
        for measure in course.measures if row else ():
            if measure in row and measure in true[group] and measure in error[group]:
                found, by, exact = row[measure], error[group][measure], true[group][measure]
                lines.append({
                    "network": network, "race": group, "measure": measure, "released": f"{found:.3f}",
                    "its error": f"{by:.3f}", "true": f"{exact:.3f}", "errors off": f"{abs(found - exact) / by:.1f}",
                })  # fmt: skip
    return lines


def main() -> dict[str, Any]:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    cohort, note = iwpc.load(FOLDER), dict[str, Any]()
    held_out = np.isin(cohort.fold10, np.unique(cohort.fold10)[:2])
    cast("dict[str, Any]", cohort.table.columns)["held_out"] = held_out.astype(np.int8)
    sites, lines = by_site(cohort, np.ones(cohort.table.n, dtype=np.bool_)), list[dict[str, str]]()
    for network, mode, epsilon, settings in ARMS:
        plan = planned(network, settings, sites, mode, epsilon)
        model = weights_of(trained(plan, sites))
        lines += evaluated(network, sites, Files(wire.pack(model)), {})
        if network == "adverse-reaction":
            held = cohort.table.take(cohort.table.codes("held_out") == 1)
            risk = plan.recipe.predict(model, None, held).value
            exact = float(roc_auc_score(held.number(OUTCOME) <= LOW_DOSE_MG, risk))
            note["AUC of patients held out, not binned"] = f"{exact:.3f}"
    off = [float(line["errors off"]) for line in lines]
    shown = {(line["network"], line["race"]) for line in lines}
    race = cohort.table.codes("race")
    most = RACES[int(np.bincount(race[race >= 0]).argmax())]
    parts = {
        f"every measure within {FAR:g} errors": max(off) <= FAR,
        "the largest race is shown": all((network, most) in shown for network, *_ in ARMS),
    }
    note |= {"measures": len(lines), "farthest": f"{max(off):.1f} errors", "median": f"{np.median(off):.1f} errors"}
    note["parts"] = {name: str(holds) for name, holds in parts.items()}
    return {
        "row": "recipes.evaluation",
        "value": int(all(parts.values())),
        "note": note | {"table": "\n\n" + markdown(lines)},
    }


if __name__ == "__main__":
    print(json.dumps(main()))
