"""Recipe `dose`: ridge regression of the root of the weekly warfarin dose, by four noised sums or one exact sum.

With a budget: full-batch gradients of the residuals, whitened by public second moments (`dose_public`), so that a step
is nearly a Newton step and its noise is the same in each direction of the population. Later steps get more of the
budget, because each wipes out most of the noise before it. Clipping a whitened row acts like Huber's loss. Without a
budget: the sufficient statistics, once.
Clip, rate and shares were chosen on generated cohorts alone (tests/benchmarks/dose_tuning.py).
"""

import math
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple, Self

import numpy as np
from pydantic import Field, model_validator

from genopact_shared.published import NOTHING, Published
from genopact_shared.recipes.dose_features import FEATURES, OUTCOME, RACES, SCHEMA, dose_mg, features, outcome
from genopact_shared.recipes.dose_public import second_moments
from genopact_shared.recipes.facts import Facts, planned
from genopact_shared.recipes.linear import Matrix, cholesky, rowwise, solve, solve_lower, solve_upper
from genopact_shared.recipes.protocol import Metrics, Model, Prediction, SumStep
from genopact_shared.recipes.table import Floats, Table
from genopact_shared.study import Frozen

SIZE = len(FEATURES)
SCALE = 1 << 10
MOMENTS_CLIP = 128.0
"""Above the norm of any row of moments within the schema: |x|^2 <= 42 and |residual| <= 14.1."""
MEASURES = ("patients", "error", "over", "under")
METRICS_DIMS = len(RACES) * len(MEASURES) + 1
METRICS_CLIP = 2.0
"""The norm of a row of metrics at most: count, error and squared residual up to 1, over or under."""
ERROR_BOUND_MG = 50.0
SQUARE_BOUND = 9.0
PUBLIC_VARIANCE = 1.3
"""Residual variance on the root scale in the published cohorts; it weighs as much as PRIOR_PATIENTS."""
PRIOR_PATIENTS = 100.0
OFF_BY = 0.2
Z80 = 1.2815515655446004
SITE_PRIOR = (10.0, 100.0)
"""How many patients the shared intercept and the other shared coefficients weigh against a site's own."""


class DoseParameters(Frozen):
    """Hyper-parameters of `dose`, all in thousandths.

    Clip and rate of a step, budget shares of the steps and of the metrics, ridge penalty in patients (used without a
    budget), and the study's planned mix of White, Asian, Black and other patients.
    """

    clip_milli: int = Field(default=3000, ge=100, le=100_000)
    rate_milli: int = Field(default=1300, ge=1, le=2000)
    step_shares_milli: tuple[int, ...] = Field(default=(70, 130, 250, 550), min_length=1, max_length=32)
    metrics_share_milli: int = Field(default=100, ge=1, le=500)
    ridge_milli: int = Field(default=10_000, ge=1, le=1_000_000)
    mix_milli: tuple[int, int, int, int] = (500, 300, 100, 100)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        for name, shares in (("step_shares_milli", self.step_shares_milli), ("mix_milli", self.mix_milli)):
            if min(shares) <= 0 or sum(shares) != 1000:
                raise ValueError(f"{name} are positive and add up to 1000")
        return self


@lru_cache(maxsize=8)
def _factor(mix_milli: tuple[int, ...]) -> Matrix:
    return cholesky(second_moments(tuple(share / 1000 for share in mix_milli)))


@lru_cache(maxsize=8)
def whitening(mix_milli: tuple[int, ...]) -> Floats:
    """(13, 13) W with W E[x x'] W' = 1 in the public population of that mix."""
    return np.array([solve_lower(_factor(mix_milli), row) for row in np.eye(SIZE).tolist()]).T


class DosePlan(NamedTuple):
    """The plan of `dose`; `exact` when there is no budget. See `protocol.SumPlan`."""

    parameters: DoseParameters
    planned_total: int
    exact: bool

    @property
    def steps(self) -> tuple[SumStep, ...]:
        """The gradients (or the moments), then the metrics."""
        p = self.parameters
        metrics = SumStep("metrics", METRICS_DIMS, METRICS_CLIP, p.metrics_share_milli / 1000, SCALE)
        training = 1 - metrics.weight
        if self.exact:
            return SumStep("moments", SIZE * (SIZE + 3) // 2, MOMENTS_CLIP, training, SCALE), metrics
        clip, shares = p.clip_milli / 1000, enumerate(p.step_shares_milli, start=1)
        steps = (SumStep(f"gradient-{at}", SIZE, clip, training * share / 1000, SCALE) for at, share in shares)
        return *steps, metrics

    def initial(self) -> Model:
        """Zeros: everybody gets the fixed dose."""
        return {"coefficients": np.zeros(SIZE), "metrics": np.zeros(METRICS_DIMS)}

    def contribution(self, index: int, model: Model, table: Table) -> Floats:
        """(n, dims) float64; a patient without an outcome contributes zeros. Row i has the same bits in any table."""
        rows, step = features(table), self.steps[index].name
        predicted = rowwise(rows, model["coefficients"][None, :])[:, 0]
        residual = outcome(table) - predicted
        if step == "metrics":
            values = _metrics_rows(table, dose_mg(predicted), residual)
        elif step == "moments":
            upper = np.triu_indices(SIZE)
            values = np.column_stack([rows[:, upper[0]] * rows[:, upper[1]], rows * residual[:, None]])
        else:
            values = rowwise(rows, whitening(self.parameters.mix_milli)) * residual[:, None]
        return np.where(np.isfinite(residual)[:, None], values, 0.0)

    def advance(self, index: int, model: Model, total: Floats) -> Model:
        """One preconditioned step, or the ridge solution, or the metrics as released."""
        step = self.steps[index].name
        if step == "metrics":
            return model | {"metrics": np.array(total, dtype=np.float64)}
        if step == "moments":
            return model | {"coefficients": np.array(_ridge(total.tolist(), self.parameters.ridge_milli / 1000))}
        rate = self.parameters.rate_milli / 1000 / self.planned_total
        direction = np.array(solve_upper(_factor(self.parameters.mix_milli), total.tolist()))
        return model | {"coefficients": model["coefficients"] + rate * direction}

    def metrics(self, model: Model) -> Metrics:
        """By reported race and for all: patients, mean absolute error (at most 50 mg each), shares off by over 20 %.

        Of the patients who trained. All carry the release's noise; a group whose count falls below 1 has no measures.
        """
        table = model["metrics"][:-1].reshape(len(RACES), len(MEASURES)).tolist()
        groups = dict(zip((*RACES, "all"), [*table, list(map(math.fsum, zip(*table, strict=True)))], strict=True))
        released: Metrics = {}
        for name, (patients, error, over, under) in groups.items():
            released[name] = {"patients": patients}
            if patients >= 1:
                released[name]["mae_mg"] = ERROR_BOUND_MG * error / patients
                released[name] |= {"over_20_percent": over / patients, "under_20_percent": under / patients}
        return released


class DoseRecipe(Facts):
    """See `protocol.SumRecipe`."""

    def plan(
        self, parameters: Frozen, planned_total: int, epsilon_milli: int | None, published: Published = NOTHING
    ) -> DosePlan:
        """The plan; raises ValueError for parameters of another recipe or an empty cohort."""
        return DosePlan(planned(parameters, DoseParameters, planned_total), planned_total, exact=epsilon_milli is None)

    def fit_personal(self, model: Model, table: Table) -> Model:
        """The site's ridge regression of the shared model's residuals, and its own residual variance."""
        rows = features(table)
        residual = outcome(table) - rows @ model["coefficients"]
        known = np.isfinite(residual)
        rows, residual = rows[known], residual[known]
        prior = np.diag([SITE_PRIOR[0]] + [SITE_PRIOR[1]] * (SIZE - 1))
        own: Floats = np.linalg.solve(rows.T @ rows + prior, rows.T @ residual).astype(np.float64)
        rest = float(((residual - rows @ own) ** 2).sum())
        return {"coefficients": own, "variance": np.array([_shrunk(rest, len(rows), _variance(model))])}

    def predict(self, model: Model, personal: Model | None, table: Table) -> Prediction:
        """mg/week."""
        coefficients, variance = model["coefficients"], _variance(model)
        if personal is not None:
            coefficients, variance = coefficients + personal["coefficients"], float(personal["variance"][0])
        centre, half = features(table) @ coefficients, Z80 * math.sqrt(variance)
        return Prediction(dose_mg(centre), dose_mg(centre - half), dose_mg(centre + half))


def _metrics_rows(table: Table, predicted: Floats, residual: Floats) -> Floats:
    """(n, 17): per race count, error, over, under; then the squared residual. All in [0, 1]."""
    dose = table.number(OUTCOME)
    error = np.minimum(np.abs(predicted - dose) / ERROR_BOUND_MG, 1.0)
    over, under = predicted > (1 + OFF_BY) * dose, predicted < (1 - OFF_BY) * dose
    measures = np.column_stack([np.ones(table.n), error, over, under])
    race = table.codes("race")
    group = np.where(race < 0, len(RACES) - 1, race)[:, None] == np.arange(len(RACES))
    square = np.minimum(residual**2 / SQUARE_BOUND, 1.0)
    return np.column_stack([(group[:, :, None] * measures[:, None, :]).reshape(table.n, METRICS_DIMS - 1), square])


def _ridge(total: list[float], penalty: float) -> list[float]:
    """Coefficients from the upper triangle of X'X, row by row, and X'r; the intercept is not penalised."""
    starts = [i * SIZE - i * (i - 1) // 2 for i in range(SIZE + 1)]
    upper = [total[start:end] for start, end in pairwise(starts)]
    gram = [[upper[min(i, j)][abs(i - j)] for j in range(SIZE)] for i in range(SIZE)]
    for i in range(1, SIZE):
        gram[i][i] += penalty
    return solve(gram, total[starts[-1] :])


def _variance(model: Model) -> float:
    """Residual variance on the root scale: the released one, shrunk to the public one."""
    counts = model["metrics"][:-1].reshape(len(RACES), len(MEASURES))[:, 0]
    return _shrunk(SQUARE_BOUND * float(model["metrics"][-1]), max(0.0, math.fsum(counts.tolist())), PUBLIC_VARIANCE)


def _shrunk(squares: float, patients: float, towards: float) -> float:
    return min(max((squares + PRIOR_PATIENTS * towards) / (patients + PRIOR_PATIENTS), 0.25), SQUARE_BOUND)


DOSE = DoseRecipe(
    "dose", OUTCOME, SCHEMA, DoseParameters, ("patients", "mae_mg", "over_20_percent", "under_20_percent")
)
