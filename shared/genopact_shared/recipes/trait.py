"""Recipe `trait`: a quantitative trait by a polygenic score, in standard deviations from a public mean. See `score`."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from pydantic import Field

from genopact_shared.published import NOTHING, Published
from genopact_shared.recipes.facts import Facts, planned
from genopact_shared.recipes.protocol import Metrics, Model
from genopact_shared.recipes.risk_design import Indices
from genopact_shared.recipes.score import COVARIATES, ScoreParameters, ScorePlan
from genopact_shared.recipes.table import Column, Floats, Number
from genopact_shared.study import Frozen

OUTCOME, BOUND = "trait", 4.0
"""The outcome; metrics count values and predictions up to BOUND."""
SCHEMA: tuple[Column, ...] = (*COVARIATES, Number(OUTCOME, "standard deviations", -10, 10, "outcome"))
MEASURES = ("patients", "correlation", "mean_squared_error")


class TraitParameters(ScoreParameters):
    """Those of every score; the clip of a residual is in standard deviations."""

    clip_milli: int = Field(default=1500, ge=10, le=10_000)


@dataclass(frozen=True, eq=False)
class TraitPlan(ScorePlan):
    """The plan of `trait`: a linear head, residuals of the trait, second moments of prediction and outcome."""

    parameters: TraitParameters
    name: ClassVar[str] = "trait"
    outcome: ClassVar[str] = OUTCOME
    cells: ClassVar[int] = 6
    metrics_clip: ClassVar[float] = 1.5
    moment_unit: ClassVar[float] = 2.0

    @property
    def prevalence(self) -> None:
        """A trait has none."""

    def _answers(self, p: Floats, y: Floats) -> list[Floats]:
        clip = np.inf if self.exact else self.clip
        residual = np.clip(np.nan_to_num(y - p), -clip, clip)
        return [(np.abs(residual) < clip).astype(np.float64), residual**2, residual]

    def _judged(self, odds: Floats, y: Floats, group: Indices, groups: int) -> Floats:
        a, b = (np.clip(np.nan_to_num(each), -BOUND, BOUND) / BOUND for each in (odds, y))
        values = np.column_stack([np.ones(len(a)), a, b, a * a, b * b, a * b])
        own = group[:, None] == np.arange(groups)
        rows: Floats = own[:, :, None] * values[:, None, :]
        return rows.reshape(len(a), -1)

    def metrics(self, model: Model) -> Metrics:
        """By ancestry and for all: patients, correlation of prediction and outcome, mean squared error; all noised."""
        table = model["metrics"].reshape(len(self.judged), -1)
        groups = dict(zip(self.judged, table, strict=True)) | {"all": table[: self.parameters.ancestries].sum(axis=0)}
        return {name: _measures(*sums.tolist()) for name, sums in groups.items()}


def _measures(*sums: float) -> dict[str, float]:
    n, a, b, aa, bb, ab = sums
    found = {"patients": n}
    if n >= 2:
        one, two, both = aa - a * a / n, bb - b * b / n, ab - a * b / n
        found["mean_squared_error"] = max(0.0, BOUND**2 * (aa + bb - 2 * ab) / n)
        if min(one, two) > 0:
            found["correlation"] = min(1.0, max(-1.0, both / (one * two) ** 0.5))
    return found


class TraitRecipe(Facts):
    """See `protocol.SumRecipe`."""

    def plan(
        self, parameters: Frozen, planned_total: int, epsilon_milli: int | None, published: Published = NOTHING
    ) -> TraitPlan:
        """The plan; raises ValueError for parameters of another recipe or an empty cohort."""
        of = planned(parameters, TraitParameters, planned_total)
        return TraitPlan(of, planned_total, epsilon_milli is None, published)


TRAIT = TraitRecipe("trait", OUTCOME, SCHEMA, TraitParameters, MEASURES)
