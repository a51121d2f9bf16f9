"""What a report shows of a risk study: how good the model is in each ancestry, with the error of noise and sampling."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from genopact_server.report.facts import RunFacts
from genopact_shared.recipes.head import probability
from genopact_shared.recipes.protocol import Floats, Metrics
from genopact_shared.recipes.risk import RiskPlan
from genopact_shared.recipes.risk_metrics import BINS, middles

DRAWS, SURE, VAGUE = 200, 3.0, 0.1


class RiskQuality(NamedTuple):
    """Released `metrics`, the `errors` (group, measure: standard deviation), and `points` of calibration."""

    metrics: Metrics
    errors: dict[str, dict[str, float]]
    points: list[dict[str, float]]

    @property
    def aucs(self) -> dict[str, tuple[float, float]]:
        """Group -> AUC and its standard deviation, where there is one."""
        known = {name: row["auc"] for name, row in self.metrics.items() if "auc" in row}
        return {name: (value, self.errors[name].get("auc", 1.0)) for name, value in known.items()}


def quality(facts: RunFacts) -> RiskQuality | None:
    """Of a run of recipe `risk` whose metrics have been released; None for another."""
    course = facts.plan.course
    if not isinstance(course, RiskPlan) or not facts.models[-1]["metrics"].any():
        return None
    nominal, table, size = course.parameters.nominal, facts.models[-1]["metrics"], course.parameters.ancestries
    spread = facts.noise(facts.plan.steps[-1]) or 0.0
    error = errors(lambda again: course.metrics({"metrics": again}), table, spread)
    metrics = {name: row if _shown(row, error[name]) else {} for name, row in course.metrics(facts.models[-1]).items()}
    return RiskQuality(metrics, error, calibration(table.reshape(-1, BINS, 2)[:size], nominal, spread))


def _shown(row: dict[str, float], error: dict[str, float]) -> bool:
    """Whether there are clearly more patients, and cases, than the noise could make up."""
    return all(row.get(name, 0.0) > SURE * error.get(name, 0.0) for name in ("patients", "cases"))


def errors(measure: Callable[[Floats], Metrics], table: Floats, spread: float) -> dict[str, dict[str, float]]:
    """Standard deviation of each released measure: tables redrawn with patients and privacy noise.

    table: flat counts as released; spread: standard deviation of the noise in a cell.
    """
    rng, counts = np.random.default_rng(0), np.maximum(table, 0.0)
    redrawn = [measure(rng.poisson(counts) + rng.normal(0.0, spread, table.shape)) for _ in range(DRAWS)]
    found: dict[str, dict[str, float]] = {}
    for group in redrawn[0]:
        measures = set.intersection(*(set(each[group]) for each in redrawn))
        found[group] = {name: float(np.std([each[group][name] for each in redrawn])) for name in sorted(measures)}
    return found


def calibration(table: Floats, nominal: float, spread: float) -> list[dict[str, float]]:
    """Predicted and observed shares of cases, of all together, in bins where the error is below VAGUE."""
    counts, points = table.sum(axis=0), list[dict[str, float]]()
    noise = spread * len(table) ** 0.5
    for p, (others, cases) in zip(probability(middles(nominal)).tolist(), counts.tolist(), strict=True):
        people = others + cases
        error = (max(p * (1 - p) * people, 0.0) + 2 * noise**2) ** 0.5 / max(people, 1.0)
        if people >= 1 and error < VAGUE:
            points.append({"predicted": p, "observed": min(max(cases / people, 0.0), 1.0), "error": error})
    return points
