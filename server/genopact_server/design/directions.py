"""Which directions of the genotype one noised sum should measure: those that the public posterior knows least.

Bayesian experimental design under the clip: in each block the directions of greatest posterior uncertainty, and of all
blocks as much of each as the budget makes worth while (water-filling).
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.linalg import eigh

from genopact_server.design.panel import Panel
from genopact_server.design.posterior import Posterior
from genopact_shared.recipes.table import Floats

TRANSFER = 0.85
"""Correlation of an effect here with the published one."""
OWN = 0.3
"""Variance of effects that no publication found, over the number of variants."""
MOST = 80
"""Directions of a block at most."""


class Budget(NamedTuple):
    """Public numbers of the sum: patients, mu of its Gaussian mechanism, clip.

    `signal`: what a unit of the predictor moves a patient's clipped residual by; `variance`: of that residual.
    """

    patients: int
    mu: float
    clip: float
    signal: float
    variance: float

    @classmethod
    def of(cls, patients: int, mu: float, clip: float, prevalence: float | None) -> "Budget":
        """Of a disease of that prevalence, or of a trait whose residual is standard normal."""
        if prevalence is None:
            inside = math.erf(clip / math.sqrt(2))
            density = math.sqrt(2 / math.pi) * math.exp(-(clip**2) / 2)
            return cls(patients, mu, clip, inside, inside - clip * density + (1 - inside) * clip**2)
        high, low = min(1 - prevalence, clip), min(prevalence, clip)
        signal = prevalence * (1 - prevalence) * (high + low)
        return cls(patients, mu, clip, signal, prevalence * high**2 + (1 - prevalence) * low**2)


class Block(NamedTuple):
    """d directions of a block of v variants.

    Attributes:
        variances: (d,) posterior variances, the greatest first.
        axes: (d, K, v) orthonormal, in coordinates in which each ancestry's genotypes have unit second moments.
        factors: (K, v, v) lower; linkage = factor factor'.
        covariance: (K, v, K, v) of the effects.
    """

    variances: Floats
    axes: Floats
    factors: Floats
    covariance: Floats


def uncertain(panel: Panel, found: Posterior, prior: tuple[Floats, Floats], mix: Floats, block: int) -> Block:
    """The directions of one block; `prior`: of `relation`; `mix`: planned shares of the ancestries (K,)."""
    (between, relative), own, size = prior, panel.blocks[block], len(panel.names)
    draws = found.samples[:, :, own].astype(np.float64).reshape(len(found.samples), -1)
    draws = draws - draws.mean(axis=0)
    covariance = (TRANSFER**2 / max(1, len(draws) - 1) * (draws.T @ draws)).reshape(size, len(own), size, len(own))
    unknown = (1 - TRANSFER**2) * found.slab[own] + OWN * relative[own] / len(panel.sd)
    at = np.arange(len(own))
    covariance[:, at, :, at] += unknown[:, None, None] * between
    factors = np.array([np.linalg.cholesky(panel.linkage(k, block)) for k in range(size)], dtype=np.float64)
    seen = np.sqrt(mix)[:, None, None] * factors  # the effects as a sum over patients of all ancestries shows them
    shown = np.einsum("kji,kjlm,lmn->kiln", seen, covariance, seen, optimize=True)
    flat = shown.reshape(size * len(own), -1)
    last = len(flat) - 1
    variances, axes = eigh(flat, subset_by_index=(max(0, last - MOST + 1), last))
    axes = axes.T[::-1].reshape(-1, size, len(own))
    return Block(np.maximum(variances[::-1], 0.0), axes, factors, covariance)


def water_filled(variances: Floats, budget: Budget) -> Floats:
    """Weight of each direction, adding up to 1; zero for those that are not worth their part of the clip.

    A direction of variance s and weight w, the variance of a patient's number in it, is known to s t w / ((1 + t) w +
    kappa) afterwards: what is maximised in sum.
    """
    known = budget.patients * budget.signal**2 / budget.variance * variances
    kappa = (budget.clip / budget.mu) ** 2 / budget.patients / budget.variance
    gain, low, high, weights = variances * known * kappa, 1e-30, 1e30, np.zeros_like(variances)
    for _ in range(300):
        level = np.sqrt(low * high)
        weights = np.maximum(0.0, (np.sqrt(gain / level) - kappa) / (1 + known))
        low, high = (level, high) if weights.sum() > 1 else (low, level)
    return np.asarray(weights / weights.sum())
