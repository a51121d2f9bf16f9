"""What published effects say of the effects by ancestry: a posterior, by Gibbs sampling, block by block.

Evidence of ancestry k about its effects b of x, on log odds: exp(h'b - b'Jb / 2), J = information x linkage. A variant
has no effect, or one of SLABS; over the ancestries effects are correlated, and as large in each. Source of the model:
Lloyd-Jones et al., "Improved polygenic prediction by Bayesian multiple regression on summary statistics", 2019, with
several ancestries.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from genopact_server.design.panel import Panel
from genopact_shared.compiled import compiled
from genopact_shared.recipes.table import Floats

SWEEPS, BURN_IN, THIN = 700, 100, 2
SLABS = (15.0, 75.0, 375.0)
"""Variances of an effect, over the number of variants."""
PRIOR = 0.5
"""Of a Dirichlet distribution over spike and slabs."""
SEED = 20_261


Loop = Callable[..., Any]


class Evidence(NamedTuple):
    """Published association of each variant alone, for effects of x on log odds.

    `information`: (K,) that a variant of unit variance would have, n p (1 - p) of a case-control study. `gradient`: (K,
    V) at no effect. Zeros for an ancestry that nobody published on.
    """

    information: Floats
    gradient: Floats


class Posterior(NamedTuple):
    """Of effects of x: `mean` (K, V); `samples` (draws, K, V) float32; `slab` (V,) expected variance of an effect."""

    mean: Floats
    samples: NDArray[np.float32]
    slab: Floats


def relation(panel: Panel, correlation: float) -> tuple[Floats, Floats]:
    """(K, K) covariance of a variant's effects between ancestries, of equal heritability; (V,) relative variances."""
    size, f, v = len(panel.names), panel.frequency, panel.sd / 0.5
    carried = (v * 2 * f * (1 - f) / panel.sd**2).sum(axis=1)
    scale = np.sqrt(carried.max() / carried)
    between = np.full((size, size), correlation) + (1 - correlation) * np.eye(size)
    return between * scale[:, None] * scale, v


def posterior(panel: Panel, evidence: Evidence, between: Floats, relative: Floats) -> Posterior:
    """Draws and moments of the effects given the evidence.

    Args:
        panel: linkage.
        evidence: of all ancestries of the panel.
        between: (K, K) and relative: (V,), of `relation`.
    """
    size, variants = evidence.gradient.shape
    slabs, rng = np.array(SLABS) / variants, np.random.default_rng(SEED)
    widest = max(map(len, panel.blocks))
    linkage, lengths = np.zeros((len(panel.blocks), size, widest, widest)), np.array(list(map(len, panel.blocks)))
    gradient, spread = np.zeros((len(panel.blocks), widest, size)), np.ones((len(panel.blocks), widest))
    for b, own in enumerate(panel.blocks):
        spread[b, : len(own)], gradient[b, : len(own)] = relative[own], evidence.gradient[:, own].T
        for k in range(size):
            linkage[b, k, : len(own), : len(own)] = evidence.information[k] * panel.linkage(k, b)
    shares = np.full(len(slabs) + 1, 0.1 / len(slabs))
    shares[0] = 0.9
    effects, mean, slab = np.zeros_like(gradient), np.zeros_like(gradient), np.zeros_like(spread)
    samples = np.zeros(((SWEEPS - BURN_IN) // THIN, size, variants), np.float32)
    rest, within = gradient.copy(), np.linalg.inv(between)
    volume = np.append(0.0, np.full(len(slabs), 0.5 * np.linalg.slogdet(between)[1]))
    loops = compiled(_factor), compiled(_back)
    for sweep in range(SWEEPS):
        kept = sweep >= BURN_IN
        counts = compiled(_sweep)(
            linkage, lengths, spread, rest, effects, within, slabs, np.log(shares) - volume, int(rng.integers(1 << 31)),
            mean if kept else np.zeros_like(mean), slab if kept else np.zeros_like(slab), *loops,
        )  # fmt: skip
        shares = rng.dirichlet(counts + PRIOR)
        if kept and (sweep - BURN_IN) % THIN == 0:
            for b, own in enumerate(panel.blocks):
                samples[(sweep - BURN_IN) // THIN, :, own] = effects[b, : len(own)]
    found, expected = np.zeros((size, variants)), np.zeros(variants)
    for b, own in enumerate(panel.blocks):
        found[:, own], expected[own] = mean[b, : len(own)].T, slab[b, : len(own)]
    times = SWEEPS - BURN_IN
    return Posterior(found / times, samples, expected / times)


def _factor(  # noqa: PLR0917 - a compiled loop, of plain loops, which are compiled in a third of the time
    within: Floats, variance: float, own: Floats, rest: Floats, lower: Floats, solved: Floats
) -> float:
    """lower lower' = within / variance + diag(own), and lower solved = rest.

    Returns the sum of solved squared, less the logs of both determinants, of lower lower' and of variance.
    """
    found: float = -len(own) * np.log(variance)
    for p in range(len(own)):
        for q in range(p + 1):
            total = within[p, q] / variance + (own[p] if p == q else 0.0)
            for r in range(q):
                total -= lower[p, r] * lower[q, r]
            lower[p, q] = np.sqrt(total) if p == q else total / lower[q, q]
        total = rest[p]
        for r in range(p):
            total -= lower[p, r] * solved[r]
        solved[p] = total / lower[p, p]
        found += solved[p] * solved[p] - 2 * np.log(lower[p, p])
    return found


def _back(lower: Floats, right: Floats, out: Floats) -> None:
    """lower' out = right."""
    for p in range(len(right) - 1, -1, -1):
        value = right[p]
        for r in range(p + 1, len(right)):
            value -= lower[r, p] * out[r]
        out[p] = value / lower[p, p]


def _sweep(  # noqa: PLR0917 - a compiled loop
    linkage: Floats, lengths: NDArray[np.int64], spread: Floats, rest: Floats, effects: Floats, within: Floats,
    slabs: Floats, log_shares: Floats, seed: int, mean: Floats, slab: Floats, factor: Loop, back: Loop,
) -> Floats:  # fmt: skip
    """Draw every variant's effects once; add expected effects and slab variances. Returns how often each was drawn.

    rest: (blocks, v, K) gradient less what the present effects explain. factor, back: compiled `_factor`, `_back`.
    """
    np.random.seed(seed)
    size, parts = within.shape[0], len(slabs)
    counts, log_odds, odds = np.zeros(parts + 1), np.empty(parts + 1), np.empty(parts + 1)
    lower, solved = np.zeros((parts, size, size)), np.zeros((parts, size))
    own, information, draw, noisy = np.zeros(size), np.zeros(size), np.zeros(size), np.zeros(size)
    for b in range(len(lengths)):
        for j in range(lengths[b]):
            for k in range(size):
                information[k] = linkage[b, k, j, j]
                own[k] = rest[b, j, k] + information[k] * effects[b, j, k]
            log_odds[0] = log_shares[0]
            for c in range(parts):
                evidence = factor(within, slabs[c] * spread[b, j], information, own, lower[c], solved[c])
                log_odds[c + 1] = log_shares[c + 1] + 0.5 * evidence
            highest, total = max(log_odds), 0.0
            for c in range(parts + 1):
                odds[c] = np.exp(log_odds[c] - highest)
                total += odds[c]
            pick, chosen = np.random.random() * total, 0
            while chosen < parts and pick >= odds[chosen]:
                pick -= odds[chosen]
                chosen += 1
            counts[chosen] += 1
            for c in range(parts):
                slab[b, j] += odds[c + 1] / total * slabs[c] * spread[b, j]
                back(lower[c], solved[c], draw)
                for k in range(size):
                    mean[b, j, k] += odds[c + 1] / total * draw[k]
            for k in range(size):
                draw[k] = 0.0
            if chosen > 0:
                for k in range(size):
                    noisy[k] = solved[chosen - 1, k] + np.random.standard_normal()
                back(lower[chosen - 1], noisy, draw)
            for k in range(size):
                change = draw[k] - effects[b, j, k]
                if change != 0.0:
                    effects[b, j, k] = draw[k]
                    for other in range(lengths[b]):
                        rest[b, other, k] -= linkage[b, k, j, other] * change
    return counts
