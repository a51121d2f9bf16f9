"""What recipes `risk` and `trait` share: a polygenic score by a private head and one private sum over genotypes.

A published design (`risk_design`) fixes beforehand what is measured: a score of published effects, and the directions
of the genotype in which these effects are most uncertain. Sums: `head-1` to `head-8`, a head on covariates, ancestry
and score; `moments`, how strongly clipped residuals answer in each ancestry; `effects`, each patient's numbers in the
directions times the residual; `metrics`. The model is the head, and a plain table of weights for a copy of each effect
allele, by ancestry. Reasons, and what was tried: decision 0011.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from genopact_shared.errors import GenopactError
from genopact_shared.published import Published
from genopact_shared.recipes.head import Head, site_term
from genopact_shared.recipes.linear import rowwise
from genopact_shared.recipes.protocol import Metrics, Model, Prediction, SumStep
from genopact_shared.recipes.risk_design import Answer, Indices, RiskDesign
from genopact_shared.recipes.risk_metrics import ALL
from genopact_shared.recipes.table import Choice, Column, Flag, Floats, GenotypeParameters, Number, Table
from genopact_shared.study import Name

COVARIATES: tuple[Column, ...] = (Number("age", "years", 0, 120), Choice("sex", ("female", "male")), Flag("held_out"))
EFFECTS_SCALE, COUNT_SCALE = 1 << 14, 1 << 10
Z80 = 1.2815515655446004
SITE_PRIOR = (10.0, 50.0)
"""What the shared model's intercept and slope weigh against a site's own, in patients' information."""


class ScoreParameters(GenotypeParameters):
    """Hyper-parameters of `risk` and `trait`; `genopact design build` fills in those without a default.

    `design`: digest of the published design, made for `directions` directions, the ancestry groups and `features`.
    `clip_milli`: of a patient's row of `effects`. `shares_milli`: of the budget, for head, moments, effects; the rest
    is for metrics, on the patients that sites hold out, or on everybody. `held_out_milli`: planned share of these.
    `left_out`: a site all of whose patients are held out. `by_site`: sites that metrics are told of, beside ancestries.
    `passes`: sums for effects, of damped steps; where people are related across the genome (families, breeds), less
    damping would count what they share once for each block.
    """

    design: str = Field(pattern=r"^[0-9a-f]{64}$")
    directions: int = Field(ge=1, le=1_000_000)
    groups: tuple[Name, ...] = Field(min_length=1, max_length=8)
    features: int = Field(ge=4, le=64)
    clip_milli: int = Field(default=450, ge=10, le=10_000)
    shares_milli: tuple[int, int, int] = (80, 10, 860)
    held_out_milli: int = Field(default=200, ge=0, le=900)
    left_out: Name | None = None
    by_site: tuple[Name, ...] = Field(default=(), max_length=200)
    passes: int = Field(default=1, ge=1, le=64)
    damping_milli: int = Field(default=1000, ge=1, le=1000)
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
    def metrics_share(self) -> float:
        """Of the budget."""
        return 1 - sum(self.shares_milli) / 1000


@dataclass(frozen=True, eq=False)
class ScorePlan(ABC):
    """The plan of a score; `exact` when there is no budget: nothing is clipped then. See `protocol.SumPlan`."""

    parameters: ScoreParameters
    planned_total: int
    exact: bool
    published: Published
    name: ClassVar[str]
    outcome: ClassVar[str]
    cells: ClassVar[int]
    """Numbers of `metrics` for an ancestry; `metrics_clip`: of a patient's row of them."""
    metrics_clip: ClassVar[float]
    moment_unit: ClassVar[float]
    """Of the numbers of `moments`, so that their norm comes near the clip of 1."""

    @property
    @abstractmethod
    def prevalence(self) -> float | None:
        """Of the disease, nominal; None for a trait."""

    @abstractmethod
    def metrics(self, model: Model) -> Metrics:
        """By ancestry and for all."""

    @abstractmethod
    def _answers(self, p: Floats, y: Floats) -> list[Floats]:
        """What a patient's clipped residual answers to a change of the predictor; its square; itself."""

    @abstractmethod
    def _judged(self, odds: Floats, y: Floats, group: Indices, groups: int) -> Floats:
        """(n, groups x cells) rows of `metrics`; zeros for another group."""

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
        return Head(moments, self.prevalence, training)

    @property
    def clip(self) -> float:
        """Of a patient's row of `effects`."""
        return 1.0 if self.exact else self.parameters.clip_milli / 1000

    @property
    def steps(self) -> tuple[SumStep, ...]:
        """The head's sums, moments, effects, metrics."""
        p, (first, second, third) = self.parameters, (share / 1000 for share in self.parameters.shares_milli)
        clip = self.metrics_clip * (1.4143 if p.by_site else 1.0)
        passes = ["effects"] if p.passes == 1 else [f"effects-{at + 1}" for at in range(p.passes)]
        return (
            *self._head(np.eye(p.features)).steps(first),
            SumStep("moments", 3 * p.ancestries, 1.0, second, COUNT_SCALE),
            *(SumStep(name, p.directions, p.clip_milli / 1000, third / p.passes, EFFECTS_SCALE) for name in passes),
            SumStep("metrics", self.cells * len(self.judged), clip, p.metrics_share, COUNT_SCALE),
        )

    def initial(self) -> Model:
        """The nominal prevalence for everybody."""
        k = self.parameters.ancestries
        sizes = {"moments": 3 * k, "dual": self.parameters.directions, "metrics": self.cells * len(self.judged)}
        blank = {name: np.zeros(size) for name, size in sizes.items()}
        return self.head.initial() | blank | {"weights": np.zeros((k, self.design.variants))}

    def contribution(self, index: int, model: Model, table: Table) -> Floats:
        """(n, dims) float64; zeros for whoever is held out, but in `metrics`. Row i has the same bits in any table."""
        name, y = self.steps[index].name, table.number(self.outcome)
        held_out = (table.codes("held_out") == 1) | (table.site == self.parameters.left_out)
        features, ancestry = self.design.features(table)
        if name == "metrics":
            odds = self._odds(model, features, self.design.scores(table, ancestry, model["weights"]))
            values = self._judged(odds, y, ancestry, len(self.parameters.groups))
            if sites := self.parameters.by_site:
                own = np.full(table.n, sites.index(table.site) if table.site in sites else len(sites))
                values = np.concatenate([values, self._judged(odds, y, own, len(sites))], axis=1)
            counted = held_out if self.parameters.evaluated == "held-out" else np.ones(table.n, np.bool_)
        else:
            values, counted = self._training(name, model, table, features, ancestry), ~held_out
        return np.where((counted & np.isfinite(y))[:, None], values, 0.0)

    def _training(self, name: str, model: Model, table: Table, features: Floats, ancestry: Indices) -> Floats:
        y = table.number(self.outcome)
        if name.startswith("head"):
            return self.head.contribution(model, self.head.whitened(features), y)
        if model["dual"].any():
            odds = self._odds(model, features, self.design.scores(table, ancestry, model["weights"]))
        else:
            odds = rowwise(features, model["coefficients"][None, :])[:, 0]
        p = self.head.expected(odds)
        if name.startswith("effects"):
            return self.design.measured(table, ancestry) * (y - p)[:, None]
        own = ancestry[:, None] == np.arange(self.parameters.ancestries)
        three = np.column_stack(self._answers(p, y)) / self.moment_unit
        moments: Floats = own[:, :, None] * three[:, None, :]
        return moments.reshape(table.n, -1)

    def advance(self, index: int, model: Model, total: Floats) -> Model:
        """A step of the head, the moments, the weights, or the metrics as released."""
        name = self.steps[index].name
        if name.startswith("head"):
            return model | self.head.advance(model, total)
        if name.startswith("effects"):
            return model | self._updated(model, total)
        return model | {name: np.array(total, dtype=np.float64)}

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Of the head's features."""
        components = self.parameters.features - 2 * self.parameters.ancestries - 2
        further = self.parameters.groups[1:]
        names = ("intercept", "age", "sex", *(f"component {at}" for at in range(1, components + 1)), "published score")
        return (*names, *(f"published score, {group}" for group in further), *further)

    @property
    def judged(self) -> tuple[str, ...]:
        """The groups that metrics are told of; all together are the sum of the first, the ancestries."""
        return (*self.parameters.groups, *(f"site {name}" for name in self.parameters.by_site))

    def start(self, model: Model) -> Floats:
        """(K, V) weights for a copy by the published score alone, as the head weighs it."""
        return self._score(model)[:, None] * self.design.published

    def _score(self, model: Model) -> Floats:
        """(K,) weight of the published score in each ancestry."""
        k, coefficients = self.parameters.ancestries, model["coefficients"]
        at = len(coefficients) - 2 * k + 1  # of P
        score = np.full(k, coefficients[at])
        score[1:] += coefficients[at + 1 : at + k]
        return np.asarray(score / self.design.arrays["score_sd"])

    def _updated(self, model: Model, total: Floats) -> Model:
        k, score = self.parameters.ancestries, self._score(model)
        gain, variance, bias = (model["moments"].reshape(k, 3) * self.moment_unit).T
        answer = Answer(np.maximum(gain, 0.0), variance, bias)
        scale = max(math.fsum(score) / k, float(self.design.arrays["least_scale"][0]))
        step = self.design.solved(answer, total, scale, model["dual"]) - model["dual"]
        dual = model["dual"] + self.parameters.damping_milli / 1000 * step
        return {"dual": dual, "weights": self.design.weights(score, answer, scale, dual)}

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

    def fit_personal(self, model: Model, table: Table) -> Model:
        """The site's intercept and slope of the shared log odds, shrunk to 0 and 1; it never leaves."""
        odds, y = self.log_odds(model, table), table.number(self.outcome)
        known = np.isfinite(y) & (table.codes("held_out") != 1)
        rows, prior = np.column_stack([np.ones(known.sum()), odds[known]]), np.array(SITE_PRIOR)
        own, _ = site_term(odds[known], rows, y[known], prior, linear=self.prevalence is None)
        return {"calibration": np.array([0.0, 1.0]) + own}

    def predict(self, model: Model, personal: Model | None, table: Table) -> Prediction:
        """Probability of the disease, or the trait; the interval is that of the effects that remain unknown."""
        odds = self.log_odds(model, table)
        if personal is not None:
            odds = personal["calibration"][0] + personal["calibration"][1] * odds
        half = Z80 * math.sqrt(float(self.design.arrays["unexplained"][0]))
        return Prediction(*map(self.head.expected, (odds, odds - half, odds + half)))
