"""A logistic head on at most a hundred features: full-batch steps by noised sums, whitened by public second moments.

A patient's row is the gradient of their own log-likelihood in coordinates in which a public population has unit second
moments, so that a step is nearly a Newton step and its noise is the same in every direction of that population.
Nothing but the gradients is taken from patients: start, curvature, clip and shares are public, the divisor is the
planned cohort. The recipe standardises the features by public numbers; the first of them is the constant 1.
Shares, clip and rate were chosen on the tuning seeds of a simulated cohort; the mean of the last of equal steps was
worse by 0.001 of AUC at d = 87 and epsilon 1. Source of second-order steps: Ganesh et al., "Faster Differentially
Private Convex Optimization via Second-Order Methods", 2023; here the matrix is public and costs nothing.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from genopact_shared.recipes.linear import Matrix, cholesky, rowwise, solve_lower, solve_upper
from genopact_shared.recipes.protocol import Model, SumStep
from genopact_shared.recipes.table import Floats

SHARES_MILLI = (20, 30, 46, 69, 103, 155, 231, 346)
"""Of the head's budget, a step each: half as much again every time, because a step wipes out most earlier noise."""
CLIP = 0.6
"""Times sqrt(d), the norm of a typical whitened patient: the residual that is still let through."""
RATE = 0.8
"""Of a Newton step of the public population. At 1 unclipped steps oscillate where a cohort differs from it."""
RIDGE = 0.01
SCALE = 1 << 9
STEPS = 500
"""Of a site's term."""


@dataclass(frozen=True, eq=False)
class Head:
    """A head with its public numbers fixed.

    `moments`: (d, d) float64 E[x x'] in a public population. `prevalence`: nominal, between 0 and 1; None for a linear
    head, of an outcome with unit residual variance. `planned_total`: patients, by the approvals.

    Assumptions: everybody has the same bits of `moments`; they are published as numbers, never recomputed.

    Raises:
        ValueError: when used, if `moments` is not positive semidefinite.
    """

    moments: Floats
    prevalence: float | None
    planned_total: int

    @cached_property
    def _factor(self) -> Matrix:
        return cholesky((self.moments + RIDGE * np.eye(len(self.moments))).tolist())

    @cached_property
    def _whitening(self) -> Floats:
        return np.array([solve_lower(self._factor, row) for row in np.eye(len(self._factor)).tolist()]).T

    def steps(self, weight: float) -> tuple[SumStep, ...]:
        """The sums, which share out `weight` of the plan's budget."""
        size, shares = len(self.moments), enumerate(SHARES_MILLI, start=1)
        clip = CLIP * math.sqrt(size)
        return tuple(SumStep(f"head-{at}", size, clip, weight * share / 1000, SCALE) for at, share in shares)

    def initial(self) -> Model:
        """The nominal prevalence for everybody; 0 of a linear head."""
        intercept = log_odds(0.5 if self.prevalence is None else self.prevalence)
        return {"coefficients": np.array([intercept] + [0.0] * (len(self.moments) - 1))}

    def whitened(self, rows: Floats) -> Floats:
        """(n, d) features -> (n, d), the same in every step. Row i has the same bits in any table."""
        return rowwise(rows, self._whitening)

    def contribution(self, model: Model, whitened: Floats, outcome: Floats) -> Floats:
        """(n, d) float64 gradients of the log-likelihood, before clipping.

        Args:
            model: of `initial` or `advance`.
            whitened: (n, d).
            outcome: (n,) 0 or 1; a patient without one (NaN) contributes zeros.

        Guarantees: row i depends on patient i and the model alone, to the last bit.
        """
        lower = np.array([row + [0.0] * (len(self._factor) - len(row)) for row in self._factor])
        coordinates = model["coefficients"] @ lower
        residual = outcome - self.expected(rowwise(whitened, coordinates[None, :])[:, 0])
        return np.where(np.isfinite(residual)[:, None], whitened * residual[:, None], 0.0)

    def expected(self, predicted: Floats) -> Floats:
        """(n,) expected outcomes of linear predictors."""
        return predicted if self.prevalence is None else probability(predicted)

    def advance(self, model: Model, total: Floats) -> Model:
        """The next model from the released (d,) total; the same bits on every machine."""
        curvature = 1.0 if self.prevalence is None else self.prevalence * (1 - self.prevalence)
        rate = RATE / (self.planned_total * curvature)
        return {"coefficients": model["coefficients"] + rate * np.array(solve_upper(self._factor, total.tolist()))}


def site_term(offset: Floats, rows: Floats, y: Floats, precision: Floats, *, linear: bool) -> tuple[Floats, Floats]:
    """A site's own coefficients (k,) of `rows` (n, k) beside what is predicted, and their covariance (k, k).

    The mode of the posterior under a Gaussian prior about 0 and its curvature, by steps that cannot overshoot: the
    largest curvature of a logistic loss is a quarter. Source: Boehning and Lindsay, 1988.

    Args:
        offset: (n,) predicted log odds, or values if `linear`.
        y: (n,) outcomes. precision: (k,) of the prior.
    """
    own, prior = np.zeros(rows.shape[1]), np.diag(precision)
    step = np.linalg.inv(prior + rows.T @ rows * (1.0 if linear else 0.25))
    for _ in range(1 if linear else STEPS):
        p = offset + rows @ own
        own = own + step @ (rows.T @ (y - (p if linear else probability(p))) - prior @ own)
    p = probability(offset + rows @ own)
    steepness = np.ones(len(y)) if linear else p * (1 - p)
    return own, np.asarray(np.linalg.inv(prior + (rows * steepness[:, None]).T @ rows), dtype=np.float64)


def log_odds(p: float) -> float:
    """Rounded: the logarithms of two C libraries may differ in the last bit."""
    return round(math.log(p / (1 - p)), 6)


def probability(odds: Floats) -> Floats:
    """The logistic function, without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * odds))
