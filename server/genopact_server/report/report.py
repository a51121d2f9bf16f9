"""One self-contained HTML file about a run: model card, privacy statement, plots, provenance, limits."""

import math
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from genopact_server.audit.findings import LIMITS
from genopact_server.report.facts import RunFacts, read
from genopact_server.report.plots import PLOTS, draw
from genopact_server.report.risk import Quality, quality
from genopact_shared import __version__, durable
from genopact_shared.page import template
from genopact_shared.recipes.dose import ERROR_BOUND_MG
from genopact_shared.recipes.network import Network
from genopact_shared.recipes.table import Table
from genopact_shared.study import Study

UNIT = {"dose": "mg/week", "dose-net": "mg/week"}


def write_report(run_folder: Path, study: Study, out: Path, extra: Mapping[str, Any] | None = None) -> None:
    """Write the report of `runs/RUN` of a coordinator's folder to the file `out`.

    Args:
        run_folder: holds state.json, events.jsonl, the models and the sites' exported logs.
        study: the study of the run.
        out: the HTML file.
        extra: what the coordinator's folder does not hold, each key optional:
            `comparison`: list of {hospital, patients, fixed, alone, federated, pooled}, an error each (or None);
            `comparison_unit`: of these errors;
            `calibration`: list of {predicted, observed, error}; `calibration_unit`;
            `findings`: list of {check, verdict, party, what}, as an audit gives them; `verdict`;
            `checkpoints`: party -> checkpoint text; `attacks`: list of {name, result, guessing};
            `notes`: list of sentences.

    Guarantees:
        The page loads nothing and runs no script, whatever its input says.

    Raises:
        GenopactError: RUN_UNKNOWN, RUN_STATE_BROKEN.
    """
    durable.replace(out, render(read(run_folder, study), extra or {}).encode())


def render(facts: RunFacts, extra: Mapping[str, Any]) -> str:
    """The page."""
    risk = quality(facts)
    return template(Path(__file__).with_name("template.html.j2"), number=number, plain=plain).render(
        facts=facts, extra=extra, risk=risk, steps=_steps(facts), plots=_plots(facts, extra, risk),
        judged=isinstance(facts.plan.course, Network) and facts.plan.course.recipe.judge,
        unit=UNIT.get(facts.plan.recipe.name, ""), unknown=_unknown_patient(facts), epsilon=_epsilon(facts),
        comparison=_comparison(extra), limits=LIMITS,
        versions={"genopact": __version__, "Python": platform.python_version(), "NumPy": np.__version__},
    )  # fmt: skip


def plain(measure: str) -> str:
    """A measure for people."""
    return {"auc": "AUC", "c_index": "C-index"}.get(measure, measure.replace("_", " "))


def number(value: object, digits: int = 3) -> str:
    """A number for people: `digits` significant ones, no exponent for everyday sizes."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return str(value)
    if not math.isfinite(value):
        return "unbounded" if value > 0 else "unknown"
    if isinstance(value, int) or (value == int(value) and abs(value) < 1e9):
        return f"{int(value):,}".replace(",", "\u202f")
    return f"{value:.{digits}g}" if abs(value) < 1000 else f"{value:,.0f}".replace(",", "\u202f")


def _epsilon(facts: RunFacts) -> dict[str, float | None]:
    """What was spent (rounded up, in thousandths), what the plan costs, and the study's budget."""
    budget = facts.study.privacy.epsilon_milli
    if budget is None:
        return {"spent": math.inf, "plan": math.inf, "budget": None}
    spent, plan = (math.ceil(1000 * each) / 1000 for each in (facts.spent_now, facts.plan.epsilon))
    return {"spent": spent, "plan": plan, "budget": budget / 1000}


def _steps(facts: RunFacts) -> list[dict[str, Any]]:
    """One row a release of the plan."""
    rows = []
    for step, attempts, spent in zip(facts.plan.steps, facts.attempts, facts.spent, strict=True):
        told: dict[str, Any] = next((each for each in facts.rounds if each["round"] == step.index + 1), {})
        about = step.fact.model_dump()
        row = {"round": step.index + 1, "name": step.name, "noise": facts.noise(step), "masked": step.masked}
        row |= {key: about.get(key) for key in ("dims", "clip", "noise_multiplier", "sampling_rate", "steps")}
        row |= {"spent": spent, "attempts": attempts, "sites": told.get("sites", []), "seconds": told.get("seconds")}
        rows.append(row)
    return rows


def _plots(facts: RunFacts, extra: Mapping[str, Any], risk: Quality | None) -> dict[str, str]:
    """The plots that there is data for; the others are empty."""
    plots, coefficients, unit = dict.fromkeys(PLOTS, ""), facts.coefficients, UNIT.get(facts.plan.recipe.name, "")

    def show(name: str, label: str, height: float, where: str = "", **data: Any) -> None:
        plots[where or name] = draw(name, label, (6.4, height), **data)

    plots["learned"] = ""

    if coefficients:
        last = {name: values[-1] for name, values in coefficients.items()}
        show("coefficients", "Coefficients", 0.6 + 0.24 * len(last), values=last)
        show("trajectories", "Coefficients by round", 2.9, values=coefficients, unit="coefficient", first=0)
    elif most := facts.explained.get("most", facts.explained):
        show("coefficients", "What moves the network most", 0.6 + 0.24 * len(most), values=most)
        if letters := facts.explained.get("letters"):
            show("letters", "What a changed letter does", 2.9, values=np.array(letters, np.float64))
    parts = [event["shares"] for event in facts.rounds if event.get("shares")]
    if not coefficients and len(parts) > 1:
        sites = {site: [each.get(site, 0.0) for each in parts] for site in facts.plan.planned}
        show("trajectories", "Share of each round's step by hospital", 2.9, values=sites, unit="share", first=1)
    if learned := facts.learned:
        lines = {name: values for name, values in learned["rounds"].items() if all(map(_finite, values))}
        unit_ = f"of {learned['people']} public people"
        show("trajectories", "Fit to public people by round", 2.6, "learned", values=lines, unit=unit_, first=0)
    if (budget := facts.study.privacy.epsilon_milli) is not None:
        known: dict[str, Any] = {"spent": facts.spent, "done": facts.state.round, "budget": budget / 1000}
        show("burn_down", "Epsilon used after each round", 2.5, **known)
    if found := facts.rehearsal:
        bounds = {"whatever the noise": found.one_run}
        bounds |= {} if found.gaussian is None else {"noise of the stated shape": found.gaussian}
        show("shown", "Lower bounds on epsilon", 0.9 + 0.45 * len(bounds), bounds=bounds, certified=found.certified)
    if groups := _groups(facts):
        show("groups", "Error by reported race", 0.7 + 0.42 * len(groups), values=groups, unit=f"error, {unit}")
    if rows := _comparison(extra):
        what = str(extra.get("comparison_unit", f"mean absolute error, {unit}"))
        show("comparison", "Alone, federated, pooled", 0.9 + 0.42 * len(rows), rows=rows, unit=what)
    if risk and risk.shown:
        kind, height = plain(risk.main), 0.7 + 0.42 * len(risk.shown)
        show("groups", f"{kind} by {risk.by}", height, values=risk.shown, unit=kind, digits=2)
    if points := extra.get("calibration") or (risk.points if risk else None):
        what = str(extra.get("calibration_unit", "share of cases" if risk else unit))
        show("calibration", "Predicted and observed", 3.4, points=points, unit=what)
    if risk and risk.counts:
        show("roc", "Cases found against false alarms", 3.6, counts=risk.counts)
        show("precision", "Precision against cases found", 3.2, counts=risk.counts)
    if risk and risk.curves:
        show("survival", "Observed survival by predicted risk", 3.2, curves=risk.curves, days=risk.days)
    return plots


def _groups(facts: RunFacts) -> dict[str, tuple[float, float]]:
    """Group -> mean absolute error and the standard deviation that the noise of its numerator gives it."""
    noise = next((facts.noise(step) for step in facts.plan.steps if step.name == "metrics"), None) or 0.0
    merged, found = {"all": len(facts.metrics) - 1}, dict[str, tuple[float, float]]()
    for name, row in facts.metrics.items():
        if "mae_mg" in row:
            found[name] = row["mae_mg"], ERROR_BOUND_MG * noise * math.sqrt(merged.get(name, 1)) / row["patients"]
    return found


def _comparison(extra: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Hospital -> its finite numbers."""
    rows = extra.get("comparison", ())
    return {str(row["hospital"]): {kind: value for kind, value in row.items() if _finite(value)} for row in rows}


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _unknown_patient(facts: RunFacts) -> dict[str, float]:
    """The prediction and its 80 % interval for a patient about whom nothing is known; none if more is needed."""
    if facts.plan.recipe.name not in UNIT:
        return {}
    found = facts.plan.recipe.predict(facts.models[-1], None, Table({}, 1))
    return {name: float(getattr(found, name)[0]) for name in ("value", "low", "high")}
