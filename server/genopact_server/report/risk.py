"""How good a model is in each group, as a report shows it, with the error of noise and sampling."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import numpy as np

from genopact_server.report.facts import RunFacts
from genopact_shared.recipes.evaluation import ALL, GAP, TRAINED, Evaluation
from genopact_shared.recipes.head import probability
from genopact_shared.recipes.judges import ByClass, ByOdds, ByTime, by_risk, nominal, outlived
from genopact_shared.recipes.protocol import Metrics
from genopact_shared.recipes.risk import RiskPlan
from genopact_shared.recipes.risk_metrics import BINS, MEASURES, middles
from genopact_shared.recipes.table import Floats

DRAWS, SURE, VAGUE = 200, 3.0, 0.1
SIGMA = (0.1587, 0.8413)
"""Between these quantiles lie two standard deviations, which a few wild redraws do not move."""
THIRDS = ("lowest third", "middle third", "highest third")
NEEDS = {GAP: TRAINED, "precision": "taken"}
"""Measures that need a count of their own to be clear of the noise."""


class Quality(NamedTuple):
    """Released `metrics`, the `errors` (group, measure: standard deviation), and `points` of calibration.

    `by`: what the groups are. `measures`: in the order of a table. `floor`: what `main` has to reach, or 0. `sampled`:
    whether errors hold those of sampling; else they are of privacy noise alone, because only sums were released.
    `counts`: group -> (bins, 2) others and cases by rising predicted odds. `curves`: third of the patients by predicted
    risk -> share who outlived each interval, which end on `days`. `classes`: class -> recall and precision,
    each with its error.
    """

    metrics: Metrics
    errors: Metrics
    points: list[dict[str, float]]
    by: str = "ancestry"
    measures: tuple[str, ...] = MEASURES
    main: str = "auc"
    floor: float = 0.0
    sampled: bool = True
    counts: Mapping[str, Floats] = MappingProxyType({})
    curves: Mapping[str, list[float]] = MappingProxyType({})
    days: tuple[int, ...] = ()
    classes: Mapping[str, Mapping[str, tuple[float, float]]] = MappingProxyType({})

    @property
    def shown(self) -> dict[str, tuple[float, float]]:
        """Group -> main measure and its standard deviation, where there is one."""
        known = {name: row[self.main] for name, row in self.metrics.items() if self.main in row}
        return {name: (value, self.errors[name].get(self.main, 1.0)) for name, value in known.items()}

    @property
    def below(self) -> list[str]:
        """The groups that do not reach the floor; not those that the noise drowns."""
        return [name for name, row in self.metrics.items() if row.get(self.main, self.floor) < self.floor]


def quality(facts: RunFacts) -> Quality | None:
    """Of a run of recipe `risk`, or of an evaluation, whose metrics have been released; None for another."""
    course = facts.plan.course
    if isinstance(course, Evaluation):
        return _evaluated(course, facts) if facts.models[-1]["cells"].any() else None
    if not isinstance(course, RiskPlan) or not facts.models[-1]["metrics"].any():
        return None
    nominal, table, size = course.parameters.nominal, facts.models[-1]["metrics"], course.parameters.ancestries
    spread = facts.noise(facts.plan.steps[-1]) or 0.0
    error = errors(lambda again: course.metrics({"metrics": again}), table, spread)
    metrics, cells = left(course.metrics(facts.models[-1]), error), table.reshape(-1, BINS, 2)[:size]
    return Quality(metrics, error, calibration(cells, nominal, spread), counts=_ranked(metrics, cells))


def _evaluated(course: Evaluation, facts: RunFacts) -> Quality:
    cells, judge, of = facts.models[-1]["cells"], course.judge, cast("Any", course.parameters)
    spread, sampled = facts.noise(facts.plan.steps[-1]) or 0.0, isinstance(judge, ByOdds | ByTime)
    more: dict[str, Any] = {"main": judge.measures[1], "floor": of.floor_milli / 1000, "sampled": sampled}
    error = errors(course.measured, cells, spread, sampled=sampled)
    metrics = left(course.metrics(facts.models[-1]), error)
    cells, points = cells[: len(of.names)], list[dict[str, float]]()
    if isinstance(judge, ByOdds):
        cells = cells.reshape(-1, BINS, 2)
        points, more["counts"] = calibration(cells, nominal(of), spread), _ranked(metrics, cells)
    elif isinstance(judge, ByTime):
        (more["curves"], points), more["days"] = thirds(cells, spread), of.ends_days
    elif isinstance(judge, ByClass):
        more["classes"] = by_class(cells, of.classes, spread)
    return Quality(metrics, error, points, of.by, course.measures, **more)


def by_class(cells: Floats, classes: int, spread: float) -> dict[str, dict[str, tuple[float, float]]]:
    """Recall and precision of each class that the noise does not drown, of all groups, with the error of noise.

    cells: (groups, n) sums of `ByClass`.
    """

    def measure(total: Floats) -> Metrics:
        table, found = total[:-2].reshape(classes, classes), Metrics()
        for k, (own, taken) in enumerate(zip(table.sum(axis=1), table.sum(axis=0), strict=True)):
            counts, hits = {"patients": float(own), "taken": float(taken)}, float(table[k, k])
            found[str(k)] = counts | {"recall": hits / max(own, 1.0), "precision": hits / max(taken, 1.0)}
        return found

    whole = cells.sum(axis=0)
    error = errors(measure, whole, spread * len(cells) ** 0.5, sampled=False)
    rows = {k: row for k, row in left(measure(whole), error).items() if row}
    return {k: {name: (value, error[k][name]) for name, value in row.items()} for k, row in rows.items()}


def left(metrics: Metrics, error: Metrics) -> Metrics:
    """Without what the noise drowns, and without what has no error."""
    found = {name: row if _shown(row, error[name]) else {} for name, row in metrics.items()}
    for name, row in found.items():
        drowned = {
            of for count, of in (("trained", GAP), ("taken", "precision")) if not _clear(row, error[name], count)
        }
        found[name] = {kind: value for kind, value in row.items() if kind in error[name] and kind not in drowned}
    return found


def _ranked(metrics: Metrics, cells: Floats) -> dict[str, Floats]:
    """Group -> counts of (groups, BINS, 2) `cells`, none negative, of groups that are shown."""
    counts = dict(zip(metrics, cells, strict=False)) | {ALL: cells.sum(axis=0)}
    return {name: np.maximum(table, 0.0) for name, table in counts.items() if "auc" in metrics[name]}


def thirds(cells: Floats, spread: float) -> tuple[dict[str, list[float]], list[dict[str, float]]]:
    """Patients of all groups in thirds by predicted risk: who outlived each interval, and points of calibration.

    cells: (groups, n) sums of `ByTime`. A third that the noise drowns is left out.
    """
    whole = cells.sum(axis=0)
    people = np.maximum(by_risk(whole)[0].sum(axis=(1, 2)), 0.0)
    third = np.floor(3 * (np.cumsum(people) - people / 2) / max(people.sum(), 1.0))

    def curve(total: Floats, at: int) -> Floats:
        return outlived(by_risk(total)[0][third == at].sum(axis=0))

    def measure(total: Floats) -> Metrics:
        (table, risks), found = by_risk(total), Metrics()
        for at, name in enumerate(THIRDS):
            people = float(table[third == at].sum())
            row = {"patients": people, "predicted": float(risks[third == at].sum()) / max(people, 1.0)}
            found[name] = row | {"observed": 1 - float(curve(total, at)[-1])}
        return found

    error = errors(measure, whole, spread * len(cells) ** 0.5)
    rows = {name: row for name, row in left(measure(whole), error).items() if row}
    curves = {name: curve(whole, at).tolist() for at, name in enumerate(THIRDS) if name in rows}
    return curves, [row | {"error": error[name]["observed"]} for name, row in rows.items()]


def _shown(row: dict[str, float], error: dict[str, float]) -> bool:
    """Whether there are clearly more patients, and cases, than the noise could make up."""
    return all(_clear(row, error, name) for name in {"patients", "cases", "events"} & {*row, "patients"})


def _clear(row: dict[str, float], error: dict[str, float], count: str) -> bool:
    return row.get(count, 0.0) > SURE * error.get(count, 0.0)


def errors(measure: Callable[[Floats], Metrics], table: Floats, spread: float, *, sampled: bool = True) -> Metrics:
    """Half the width of the middle 68 % of each released measure, redrawn with noise, and patients if `sampled`.

    table: counts as released, sums otherwise; spread: standard deviation of the noise in a cell.
    """
    rng, counts = np.random.default_rng(0), np.maximum(table, 0.0)
    drawn = ((rng.poisson(counts) if sampled else table) for _ in range(DRAWS))
    redrawn = [measure(each + rng.normal(0.0, spread, table.shape)) for each in drawn]
    found: Metrics = {}
    for group in redrawn[0]:
        measures = set.intersection(*(set(each[group]) for each in redrawn))
        values = {name: [each[group][name] for each in redrawn] for name in sorted(measures)}
        found[group] = {name: float(np.diff(np.quantile(each, SIGMA))[0]) / 2 for name, each in values.items()}
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
