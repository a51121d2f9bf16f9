"""Recipe `risk`: a polygenic score for a disease, by a private head and one private sum over genotypes.

A published design (`risk_design`) fixes beforehand what is measured: a score of published effects, and the directions
of the genotype in which these effects are most uncertain. Sums: `head-1` to `head-8`, a logistic head on covariates,
ancestry and score; `moments`, how strongly clipped residuals answer in each ancestry; `effects`, each patient's numbers
in the directions times the residual; `metrics`, a table of predicted risk by outcome and ancestry. The model is the
head, and a plain table of weights for a copy of each effect allele, by ancestry. Reasons, and what was tried: decision
0011.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from genopact_shared.errors import GenopactError
from genopact_shared.published import NOTHING, Published
from genopact_shared.recipes.head import Head, probability
from genopact_shared.recipes.linear import rowwise
from genopact_shared.recipes.protocol import (
    Choice,
    Column,
    Flag,
    Floats,
    GenotypeParameters,
    Metrics,
    Model,
    Number,
    Prediction,
    SumStep,
    Table,
)
from genopact_shared.recipes.risk_design import Answer, Indices, RiskDesign
from genopact_shared.recipes.risk_metrics import ALL, CELLS, MEASURES, cells, released
from genopact_shared.study import Frozen, Name

OUTCOME = "disease"
SCHEMA: tuple[Column, ...] = (
    Number("age", "years", 0, 120),
    Choice("sex", ("female", "male")),
    Flag("held_out"),
    Number(OUTCOME, "0 without, 1 with the disease", 0, 1, "outcome"),
)
EFFECTS_SCALE, COUNT_SCALE = 1 << 14, 1 << 10
MOMENT_UNIT = 0.25
"""Of the numbers of `moments`, so that their norm comes near the clip of 1."""
Z80 = 1.2815515655446004
SITE_PRIOR = (10.0, 50.0)
"""What the shared model's intercept and slope weigh against a site's own, in patients' information."""


class RiskParameters(GenotypeParameters):
    """Hyper-parameters of `risk`; all but the last four as `genopact design build` prints them.

    `design`: digest of the published design, made for `directions` directions, the ancestry groups and `features`.
    `prevalence_milli`: nominal, of the disease. `shares_milli`: of the budget, for head, moments and effects; the rest
    is for metrics, on the patients that sites hold out, or on everybody. `held_out_milli`: planned share of these.
    """

    design: str = Field(pattern=r"^[0-9a-f]{64}$")
    directions: int = Field(ge=1, le=1_000_000)
    groups: tuple[Name, ...] = Field(min_length=1, max_length=8)
    features: int = Field(ge=4, le=64)
    prevalence_milli: int = Field(ge=1, le=500)
    clip_milli: int = Field(default=450, ge=10, le=1000)
    shares_milli: tuple[int, int, int] = (80, 10, 860)
    held_out_milli: int = Field(default=200, ge=0, le=900)
    evaluated: Literal["held-out", "everybody"] = "held-out"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if min(self.shares_milli) <= 0 or sum(self.shares_milli) >= 1000:
            raise ValueError("shares_milli are positive and leave something of 1000 for the metrics")
        if len({*self.groups, ALL}) <= len(self.groups):
            raise ValueError(f"groups have names of their own, none of them {ALL}")
        return self

    @property
    def ancestries(self) -> int:
        """K."""
        return len(self.groups)

    @property
    def nominal(self) -> float:
        """Log odds of the nominal prevalence, rounded: the logarithms of two C libraries may differ in the last bit."""
        return round(math.log(self.prevalence_milli / (1000 - self.prevalence_milli)), 6)

    @property
    def metrics_share(self) -> float:
        """Of the budget."""
        return 1 - sum(self.shares_milli) / 1000


@dataclass(frozen=True, eq=False)
class RiskPlan:
    """The plan of `risk`; `exact` when there is no budget: nothing is clipped then. See `protocol.SumPlan`."""

    parameters: RiskParameters
    planned_total: int
    exact: bool
    published: Published

    @property
    def name(self) -> str:
        """The recipe's name."""
        return "risk"

    @cached_property
    def design(self) -> RiskDesign:
        """Raises PUBLISHED_MISSING, PUBLISHED_INVALID."""
        p, found = self.parameters, RiskDesign(self.published.read(self.parameters.design))
        made_for = found.directions, found.ancestries, len(found.arrays["second_moments"])
        if (p.directions, p.ancestries, p.features) != made_for:
            raise GenopactError("PUBLISHED_INVALID", "a design for other directions, groups or features")
        return found

    @cached_property
    def head(self) -> Head:
        """The head, whitened by public second moments."""
        return self._head(self.design.arrays["second_moments"])

    def _head(self, moments: Floats) -> Head:
        p = self.parameters
        training = max(1, round(self.planned_total * (1000 - p.held_out_milli) / 1000))
        return Head(moments, p.prevalence_milli / 1000, training)

    @property
    def clip(self) -> float:
        """Of a patient's row of `effects`."""
        return 1.0 if self.exact else self.parameters.clip_milli / 1000

    @property
    def steps(self) -> tuple[SumStep, ...]:
        """The head's sums, moments, effects, metrics."""
        p, (first, second, third) = self.parameters, (share / 1000 for share in self.parameters.shares_milli)
        return (
            *self._head(np.eye(p.features)).steps(first),
            SumStep("moments", 3 * p.ancestries, 1.0, second, COUNT_SCALE),
            SumStep("effects", p.directions, p.clip_milli / 1000, third, EFFECTS_SCALE),
            SumStep("metrics", CELLS * p.ancestries, 1.0, p.metrics_share, COUNT_SCALE),
        )

    def initial(self) -> Model:
        """The nominal prevalence for everybody."""
        k = self.parameters.ancestries
        blank = {"moments": np.zeros(3 * k), "metrics": np.zeros(CELLS * k)}
        return self.head.initial() | blank | {"weights": np.zeros((k, self.design.variants))}

    def contribution(self, index: int, model: Model, table: Table) -> Floats:
        """(n, dims) float64; zeros for whoever is held out, but in `metrics`. Row i has the same bits in any table."""
        name, y = self.steps[index].name, table.number(OUTCOME)
        held_out = table.codes("held_out") == 1
        features, ancestry = self.design.features(table)
        if name == "metrics":
            odds = self._odds(model, features, self.design.scores(table, ancestry, model["weights"]))
            values = cells(odds, y, ancestry, self.parameters.ancestries, self.parameters.nominal)
            counted = held_out if self.parameters.evaluated == "held-out" else np.ones(table.n, np.bool_)
        else:
            values, counted = self._training(name, model, table, features, ancestry), ~held_out
        return np.where((counted & np.isfinite(y))[:, None], values, 0.0)

    def _training(self, name: str, model: Model, table: Table, features: Floats, ancestry: Indices) -> Floats:
        y = table.number(OUTCOME)
        if name.startswith("head"):
            return self.head.contribution(model, self.head.whitened(features), y)
        p = probability(rowwise(features, model["coefficients"][None, :])[:, 0])
        if name == "effects":
            values: Floats = self.design.measured(table, ancestry) * (y - p)[:, None]
            return values
        high, low = np.minimum(1 - p, self.clip), np.minimum(p, self.clip)
        three = [p * (1 - p) * (high + low), p * high**2 + (1 - p) * low**2, p * high - (1 - p) * low]
        own = ancestry[:, None] == np.arange(self.parameters.ancestries)
        moments: Floats = own[:, :, None] * (np.column_stack(three) / MOMENT_UNIT)[:, None, :]
        return moments.reshape(table.n, -1)

    def advance(self, index: int, model: Model, total: Floats) -> Model:
        """A step of the head, the moments, the weights, or the metrics as released."""
        name = self.steps[index].name
        if name.startswith("head"):
            return model | self.head.advance(model, total)
        if name == "effects":
            return model | {"weights": self._updated(model, total)}
        return model | {name: np.array(total, dtype=np.float64)}

    def _updated(self, model: Model, total: Floats) -> Floats:
        k, coefficients = self.parameters.ancestries, model["coefficients"]
        gain, variance, bias = (model["moments"].reshape(k, 3) * MOMENT_UNIT).T
        at = len(coefficients) - 2 * k + 1  # of P
        score = np.full(k, coefficients[at])
        score[1:] += coefficients[at + 1 : at + k]
        score /= self.design.arrays["score_sd"]
        answer = Answer(np.maximum(gain, 0.0), variance, bias)
        scale = max(math.fsum(score) / k, float(self.design.arrays["least_scale"][0]))
        return self.design.updated(score, answer, total, scale)

    def _odds(self, model: Model, features: Floats, scores: Floats) -> Floats:
        """(n,) log odds: the head without the published score, and the score that was found."""
        k, rest = self.parameters.ancestries, model["coefficients"].copy()
        at = len(rest) - 2 * k + 1
        rest[at : at + k] = 0.0
        return np.asarray(rowwise(features, rest[None, :])[:, 0] + scores)

    def log_odds(self, model: Model, table: Table) -> Floats:
        """(n,) of the disease, by a model after `effects`."""
        features, ancestry = self.design.features(table)
        return self._odds(model, features, self.design.scores(table, ancestry, model["weights"]))

    def metrics(self, model: Model) -> Metrics:
        """By ancestry and for all: see `risk_metrics.released`."""
        return released(model["metrics"], self.parameters.groups, self.parameters.nominal)

    def fit_personal(self, model: Model, table: Table) -> Model:
        """The site's intercept and slope of the shared log odds, by Newton steps towards 0 and 1; it never leaves."""
        odds, y = self.log_odds(model, table), table.number(OUTCOME)
        known = np.isfinite(y) & (table.codes("held_out") != 1)
        rows, y = np.column_stack([np.ones(known.sum()), odds[known]]), y[known]
        centre, own = np.array([0.0, 1.0]), np.array([0.0, 1.0])
        for _ in range(20):
            p = probability(rows @ own)
            matrix = rows.T @ (rows * (p * (1 - p))[:, None]) + np.diag(SITE_PRIOR)
            own = own + np.linalg.solve(matrix, rows.T @ (y - p) - np.array(SITE_PRIOR) * (own - centre))
        return {"calibration": np.asarray(own, dtype=np.float64)}

    def predict(self, model: Model, personal: Model | None, table: Table) -> Prediction:
        """Probability of the disease; the interval is that of the effects that remain unknown."""
        odds = self.log_odds(model, table)
        if personal is not None:
            odds = personal["calibration"][0] + personal["calibration"][1] * odds
        half = Z80 * math.sqrt(float(self.design.arrays["unexplained"][0]))
        return Prediction(probability(odds), probability(odds - half), probability(odds + half))


@dataclass(frozen=True)
class RiskRecipe:
    """See `protocol.SumRecipe`."""

    name: str = "risk"
    version: int = 1
    outcome: str = OUTCOME
    measures: tuple[str, ...] = MEASURES
    schema: tuple[Column, ...] = SCHEMA
    parameters: type[Frozen] = RiskParameters

    def plan(
        self, parameters: Frozen, planned_total: int, epsilon_milli: int | None, published: Published = NOTHING
    ) -> RiskPlan:
        """The plan; raises ValueError for parameters of another recipe or an empty cohort."""
        if not isinstance(parameters, RiskParameters) or planned_total < 1:
            raise ValueError("Expected RiskParameters and a planned cohort of at least 1")
        return RiskPlan(parameters, planned_total, epsilon_milli is None, published)


RISK = RiskRecipe()
