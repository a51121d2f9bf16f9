"""Recipes `NETWORK-evaluation`: whom a finished network fails, by group, in one noised sum over patients.

The network is a published file, so anybody's: of a study in any mode, or trained elsewhere. A patient adds one row (see
`judges`) to their group; whoever has no known group is in a last one. Patients are those that sites held out, or all,
or both apart: then the sum also says in which groups the network's mistakes tell who trained it. Source: Yeom et al.,
"Privacy Risk in Machine Learning", 2018, whose simplest attack takes for a member whom the network is right about.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, cast

import numpy as np
from pydantic import Field

from genopact_shared.errors import require
from genopact_shared.published import NOTHING, Published
from genopact_shared.recipes.facts import Facts, planned
from genopact_shared.recipes.network import NetParameters, Network, known
from genopact_shared.recipes.protocol import Judge, Metrics, Model, NetRecipe, Prediction, SumStep, finest_scale
from genopact_shared.recipes.table import Choice, Floats, Table
from genopact_shared.study import Frozen

ALL, UNKNOWN = "all", "unknown"
GAP, TRAINED = "gap", "trained"
"""By how much the judge's first measure is better for patients who are not held out, and how many these are."""


class EvaluationParameters(NetParameters):
    """The network's own parameters (those of its training are idle), and what is asked.

    `model`: digest of the published file. `by`: the column whose levels are the groups, `groups` of them from the first
    on. `evaluated`: whom; of `both`, measures are of those held out, with their `GAP`. `floor_milli`: what the first
    measure has to reach in every group.
    """

    network: ClassVar[NetRecipe]
    levels: ClassVar[dict[str, tuple[str, ...]]] = {}

    model: str = Field(pattern=r"^[0-9a-f]{64}$")
    by: str
    groups: int = Field(default=32, ge=1, le=32)
    evaluated: Literal["held-out", "all", "both"] = "held-out"
    floor_milli: int = Field(default=0, ge=0, le=1000)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the groups."""
        return (*self.levels[self.by][: self.groups], UNKNOWN)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The plan: one sum. See `protocol.SumPlan` and `protocol.Predictor`."""

    network: Network
    judge: Judge
    parameters: EvaluationParameters
    epsilon_milli: int | None

    @property
    def name(self) -> str:
        """The recipe's name."""
        return f"{self.network.name}-evaluation"

    @cached_property
    def finished(self) -> Model:
        """The network's weights. Raises PUBLISHED_MISSING; PUBLISHED_INVALID, FRAME_INVALID for another's."""
        found = {name: np.array(each) for name, each in self.network.published.read(self.parameters.model).items()}
        require(all(np.isfinite(each).all() for each in found.values()), "PUBLISHED_INVALID", self.parameters.model)
        self.network.module(found)
        return found

    @property
    def shape(self) -> tuple[int, int]:
        """Groups, of `both` those of patients who trained after the others', and the size of a row."""
        parts = 2 if self.parameters.evaluated == "both" else 1
        return parts * len(self.parameters.names), self.judge.size(self.parameters)

    @property
    def measures(self) -> tuple[str, ...]:
        """Of each group."""
        return self.judge.measures + (TRAINED, GAP) * (self.parameters.evaluated == "both")

    @property
    def steps(self) -> tuple[SumStep, ...]:
        """One; the clip is above the norm of every row, so that it moves none by more than a unit."""
        clip, dims = math.ceil(self.judge.norm * 1e4 + 1) / 1e4, self.shape[0] * self.shape[1]
        scale = 1 << 12 if self.epsilon_milli is None else finest_scale(clip, 1.0, self.epsilon_milli)
        return (SumStep("metrics", dims, clip, 1.0, scale),)

    def initial(self) -> Model:
        """Nothing counted. Raises as `finished`, before anybody is charged."""
        require(bool(self.finished), "PUBLISHED_INVALID", self.parameters.model)
        return {"cells": np.zeros(self.shape)}

    def contribution(self, index: int, model: Model, table: Table) -> Floats:  # noqa: ARG002 - there is one step
        """(n, dims): a patient's row in the place of their group; zeros without an outcome.

        Guarantees: row i has the same bits in any table, because the network sees patients one by one.
        """
        of, rows, held_out = self.parameters, np.zeros((table.n, *self.shape)), table.codes("held_out") == 1
        free = replace(table, columns={name: each for name, each in table.columns.items() if name != "held_out"})
        inputs, targets = self.network.recipe.tensors(free, of, self.network.published)
        some = np.flatnonzero(known(targets) & (held_out | (of.evaluated != "held-out")))
        if not len(some):  # which nobody must be able to tell
            return rows.reshape(table.n, math.prod(self.shape))
        outputs = self.network.forward(self.finished, inputs[some], 1)
        code, last = table.codes(of.by)[some].astype(np.intp), len(of.names) - 1
        group = np.where((code >= 0) & (code < last), code, last)
        group += (last + 1) * (~held_out[some] & (of.evaluated == "both"))
        rows[some, group] = self.judge.rows(outputs, targets.numpy()[some].astype(np.float64), of)
        return rows.reshape(table.n, math.prod(self.shape))

    def advance(self, index: int, model: Model, total: Floats) -> Model:  # noqa: ARG002
        """The sums as released."""
        return {"cells": np.array(total, dtype=np.float64).reshape(self.shape)}

    def metrics(self, model: Model) -> Metrics:
        """Group and "all" -> the judge's measures, with the release's noise."""
        return self.measured(model["cells"]) if model["cells"].any() else {}

    def measured(self, total: Floats) -> Metrics:
        """As `metrics`, of any sum."""
        of, main = self.parameters, self.judge.measures[1]
        cells = total.reshape(-1, len(of.names), self.shape[1])
        parts = [[self.judge.measured(row, of) for row in (*part, part.sum(axis=0))] for part in cells]
        found = dict(zip((*of.names, ALL), parts[0], strict=True))
        for others in parts[1:]:
            for row, trained in zip(found.values(), others, strict=True):
                row[TRAINED] = trained["patients"]
                row.update({GAP: trained[main] - row[main]} if main in row and main in trained else {})
        return found

    def fit_personal(self, model: Model, table: Table) -> Model:  # noqa: ARG002
        """Nothing: that would be training."""
        return {}

    def predict(self, model: Model, personal: Model | None, table: Table) -> Prediction:  # noqa: ARG002
        """The network's, without a site's term."""
        return self.network.predict(self.finished, None, table)


class EvaluationRecipe(Facts):
    """See `protocol.SumRecipe`."""

    def plan(
        self, parameters: Frozen, planned_total: int, epsilon_milli: int | None, published: Published = NOTHING
    ) -> Evaluation:
        """The plan; raises ValueError for parameters of another recipe or an empty cohort."""
        of = planned(parameters, EvaluationParameters, planned_total)
        return Evaluation(Network(of.network, of, {}, published), cast("Judge", self.judge), of, epsilon_milli)


def evaluations(networks: tuple[NetRecipe, ...]) -> list[EvaluationRecipe]:
    """The evaluation of each network that says how it is judged; its version is one ahead of the network's."""
    found: list[EvaluationRecipe] = []
    for of in networks:
        if (judge := of.judge) is None:
            continue
        name, choices = f"{of.name}-evaluation", [each for each in of.schema if isinstance(each, Choice)]
        columns = {each.name: each.levels for each in choices if each.role != "outcome"}
        space: dict[str, Any] = {"network": of, "levels": columns, "__module__": __name__}
        space |= {"__doc__": EvaluationParameters.__doc__, "__annotations__": {"by": Literal[tuple(columns)]}}
        parameters = type(name, cast("tuple[type[Frozen], ...]", (of.parameters, EvaluationParameters)), space)
        found.append(EvaluationRecipe(name, of.outcome, of.schema, parameters, judge.measures, of.version + 1, judge))
    return found
