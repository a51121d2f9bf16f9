"""Recipe `risk`: the risk of a disease by a polygenic score. See `score`."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from pydantic import Field

from genopact_shared.published import NOTHING, Published
from genopact_shared.recipes.facts import Facts, planned
from genopact_shared.recipes.head import log_odds
from genopact_shared.recipes.protocol import Metrics, Model
from genopact_shared.recipes.risk_design import Indices
from genopact_shared.recipes.risk_metrics import CELLS, MEASURES, cells, released
from genopact_shared.recipes.score import COVARIATES, ScoreParameters, ScorePlan
from genopact_shared.recipes.table import Column, Floats, Number
from genopact_shared.study import Frozen

OUTCOME = "disease"
SCHEMA: tuple[Column, ...] = (*COVARIATES, Number(OUTCOME, "0 without, 1 with the disease", 0, 1, "outcome"))


class RiskParameters(ScoreParameters):
    """And `prevalence_milli`: nominal, of the disease."""

    prevalence_milli: int = Field(ge=1, le=500)
    clip_milli: int = Field(default=450, ge=10, le=1000)

    @property
    def nominal(self) -> float:
        """Log odds of the nominal prevalence."""
        return log_odds(self.prevalence_milli / 1000)


@dataclass(frozen=True, eq=False)
class RiskPlan(ScorePlan):
    """The plan of `risk`: a logistic head, residuals of probabilities, a table of predicted odds by outcome."""

    parameters: RiskParameters
    name: ClassVar[str] = "risk"
    outcome: ClassVar[str] = OUTCOME
    cells: ClassVar[int] = CELLS
    metrics_clip: ClassVar[float] = 1.0
    moment_unit: ClassVar[float] = 0.25

    @property
    def prevalence(self) -> float:
        """Of the disease, nominal."""
        return self.parameters.prevalence_milli / 1000

    def _answers(self, p: Floats, y: Floats) -> list[Floats]:  # noqa: ARG002 - known from p
        high, low = np.minimum(1 - p, self.clip), np.minimum(p, self.clip)
        return [p * (1 - p) * (high + low), p * high**2 + (1 - p) * low**2, p * high - (1 - p) * low]

    def _judged(self, odds: Floats, y: Floats, group: Indices, groups: int) -> Floats:
        return cells(odds, y, group, groups, self.parameters.nominal)

    def metrics(self, model: Model) -> Metrics:
        """By ancestry and for all: see `risk_metrics.released`."""
        return released(model["metrics"], self.judged, self.parameters.nominal, self.parameters.ancestries)


class RiskRecipe(Facts):
    """See `protocol.SumRecipe`."""

    def plan(
        self, parameters: Frozen, planned_total: int, epsilon_milli: int | None, published: Published = NOTHING
    ) -> RiskPlan:
        """The plan; raises ValueError for parameters of another recipe or an empty cohort."""
        of = planned(parameters, RiskParameters, planned_total)
        return RiskPlan(of, planned_total, epsilon_milli is None, published)


RISK = RiskRecipe("risk", OUTCOME, SCHEMA, RiskParameters, MEASURES)
