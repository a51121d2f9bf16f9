"""What a report is made of: the facts of one run, read from the coordinator's folder."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from genopact_server.audit.canaries import Showing
from genopact_server.rounds import RunState, read_state
from genopact_server.sitelogs import unpack
from genopact_shared import wire
from genopact_shared.approval import check_approval
from genopact_shared.errors import GenopactError, replacing, require
from genopact_shared.plan import Plan, PlannedStep, plan_of
from genopact_shared.privacy.accounting import Fact, epsilon
from genopact_shared.privacy.mechanisms import NoisedSum
from genopact_shared.published import Published
from genopact_shared.recipes.dose_features import FEATURES
from genopact_shared.recipes.protocol import Metrics, Model
from genopact_shared.recipes.risk import RiskPlan
from genopact_shared.statements import Approval
from genopact_shared.study import Study

EXPLAINED, LEARNED = "explained.json", "learned.json"
"""Of a run's folder; written by `genopact model explain` and `genopact model curve`."""


@dataclass(frozen=True, eq=False)
class RunFacts:
    """One run. `models`: the shared model before the first round and after each, as far as they are kept.

    `rehearsal`: what the newest rehearsal of the study showed; None without one. `explained`: by the newest
    explanation, `most`, feature -> how much it moves the network, and of sequences `letters`, see
    `attribution.mutations`; empty without one. `learned`: how well the model after each round fits
    public people: how many `people`, and `rounds`, measure -> a value a round; empty without that.
    """

    study: Study
    state: RunState
    events: tuple[dict[str, Any], ...]
    approvals: tuple[Approval, ...]
    plan: Plan
    models: tuple[Model, ...]
    site_entries: Mapping[str, int]
    checkpoint: str
    rehearsal: Showing | None
    explained: Mapping[str, Any]
    learned: Mapping[str, Any]

    @property
    def rounds(self) -> list[dict[str, Any]]:
        """The events of finished rounds, in order; of a round told twice, after a restart, the last."""
        told = {event["round"]: event for event in self.events if event.get("event") == "round"}
        return [told[number] for number in sorted(told)]

    @property
    def attempts(self) -> list[int]:
        """How often each step of the plan was asked for; sites that answered a void attempt have charged it."""
        return [self.state.asked.count(step.index) for step in self.plan.steps]

    @cached_property
    def spent(self) -> list[float]:
        """Epsilon after each step for a patient of every attempt; steps to come count once."""
        facts: list[Fact] = []
        spent = []
        for step, attempts in zip(self.plan.steps, self.attempts, strict=True):
            facts += [step.fact] * max(1, attempts)
            spent.append(epsilon(facts, self.study.privacy.delta))
        return spent

    @property
    def spent_now(self) -> float:
        """Epsilon for a patient of every attempt so far."""
        return epsilon([self.plan.steps[index].fact for index in self.state.asked], self.study.privacy.delta)

    @property
    def metrics(self) -> Metrics:
        """The metrics that the current model carries."""
        return self.plan.course.metrics(self.models[-1])

    @property
    def coefficients(self) -> dict[str, list[float]]:
        """Feature -> its coefficient in each of `models`; empty for a recipe without coefficients."""
        if "coefficients" not in self.models[-1]:
            return {}
        table = np.stack([model["coefficients"] for model in self.models])
        course, dose = self.plan.course, self.plan.recipe.name == "dose"
        names = course.feature_names if isinstance(course, RiskPlan) else FEATURES if dose else ()
        if len(names) != table.shape[1]:
            names = tuple(f"x{index}" for index in range(table.shape[1]))
        return {name: table[:, index].tolist() for index, name in enumerate(names)}

    def noise(self, step: PlannedStep) -> float | None:
        """Standard deviation of the noise in a step's total with every planned site in it, in the recipe's units."""
        if not isinstance(step.fact, NoisedSum):
            return None
        return math.sqrt(step.share_variance * len(self.plan.planned)) / step.fact.scale


def read(run_folder: Path, study: Study) -> RunFacts:
    """The facts of `runs/RUN` in a coordinator's folder.

    Raises:
        GenopactError: RUN_UNKNOWN, RUN_STATE_BROKEN; those of the approvals.
    """
    state = read_state(run_folder)
    with replacing(ValueError, GenopactError("RUN_STATE_BROKEN", str(run_folder))):
        # Every line that was finished; a kill may leave half of one at the end.
        explained, learned = (json.loads(_text(run_folder / name) or "{}") for name in (EXPLAINED, LEARNED))
        events = tuple(map(json.loads, _text(run_folder / "events.jsonl").split("\n")[:-1]))
    require(state.study == study.hash, "RUN_STATE_BROKEN", "the run of another study")
    approvals = tuple(check_approval(text.encode(), study) for text in state.approvals.values())
    planned = {each.site: each.planned_cohort for each in approvals}
    plan = plan_of(study, planned, Published(run_folder.parent.parent / "published"))
    models = tuple(read_model(path) for path in sorted(run_folder.glob("model-*.safetensors"))[: state.round + 1])
    # A site's log comes with its checkpoint before the entries.
    logs = {path.stem: len(unpack(path.read_bytes())) - 1 for path in sorted((run_folder / "sites").glob("*.log"))}
    checkpoint = _text(run_folder.parent.parent / "log" / "checkpoint")
    rehearsal = _rehearsal(run_folder.parent.parent / "studies" / study.hash / "rehearsal.json", study)
    models = models or (plan.course.initial(),)
    return RunFacts(study, state, events, approvals, plan, models, logs, checkpoint, rehearsal, explained, learned)


def _rehearsal(path: Path, study: Study) -> Showing | None:
    if not path.exists():
        return None
    with replacing(ValueError, GenopactError("RUN_STATE_BROKEN", str(path))):
        found = Showing.model_validate_json(path.read_bytes())
    require(found.study == study.hash, "RUN_STATE_BROKEN", "the rehearsal of another study")
    return found


def read_model(path: Path) -> Model:
    """A model file."""
    return wire.unpack(path.read_bytes(), np.float64)


def _text(path: Path) -> str:
    return path.read_text("utf-8") if path.exists() else ""
