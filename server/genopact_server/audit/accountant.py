"""The audit's own accountant: epsilon from facts, between two bounds, without dp-accounting.

Gaussian sums compose exactly (Balle and Wang 2018, theorem 8). Poisson-sampled steps are composed as privacy loss
distributions on a grid, once with every loss rounded up and once down (the pessimistic and optimistic estimates of
Koskela et al. 2021), for both directions of add/remove. What the grid cannot hold is bounded by Chernoff. So is what
Skellam sums cost above Gaussian ones: the log ratio of the two distributions is (t^4 - 7 t^2 + 4) / 24 v at t standard
deviations, up to 1 / v^2; its moment generating function is integrated, and the sum over all coordinates bounded.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from genopact_shared.privacy.mechanisms import NoisedSum, SampledSgd, Unprotected

Fact = NoisedSum | SampledSgd | Unprotected
Array = NDArray[np.float64]
Direction = Literal["remove", "add"]
Sampled = frozenset[tuple[tuple[float, float], int]]
"""((noise multiplier, sampling rate), steps) of Poisson-sampled steps."""
MAX_HALF = 1 << 20
GAP = 0.004
"""Aimed-at distance of the bounds, in epsilon."""
SLACK = 1e-3
"""Share of delta set aside for what falls off the grid, for floating point, and for Skellam sums."""
LEAST_VARIANCE = 1000.0
"""Skellam sums of less, in squared integer units, are not bounded."""


class Bounds(NamedTuple):
    """Epsilon is at least `low` and at most `high`; both infinite without protection."""

    low: float
    high: float


class Loss(NamedTuple):
    """The privacy loss of one mechanism in one direction, `times` times: its distribution function."""

    cdf: Callable[[Array], Array]
    times: int


def epsilon_bounds(facts: Iterable[Fact], delta: str) -> Bounds:
    """Bounds on the epsilon at `delta` of everything in `facts` together.

    Assumptions:
        The facts are true; a patient took part in each at most once. Skellam noise is charged as Gaussian noise of
        the same variance in `low`; what it can cost above that is in `high`.
    """
    counted = Counter(facts)
    if any(isinstance(fact, Unprotected) or not float(fact.noise_multiplier) for fact in counted):
        return Bounds(math.inf, math.inf)
    mu_squared, sampled, inverse = 0.0, Counter[tuple[float, float]](), Counter[float]()
    for fact, times in counted.items():
        if isinstance(fact, NoisedSum):
            mu_squared += times / float(fact.noise_multiplier) ** 2
            inverse[(float(fact.noise_multiplier) * float(fact.clip) * fact.scale) ** -2] += times * fact.dims
        elif isinstance(fact, SampledSgd) and float(fact.sampling_rate) >= 1:
            mu_squared += times * fact.steps / float(fact.noise_multiplier) ** 2
        elif isinstance(fact, SampledSgd) and float(fact.sampling_rate) > 0:
            sampled[float(fact.noise_multiplier), float(fact.sampling_rate)] += times * fact.steps

    def gaussian(delta: float) -> Bounds:
        if sampled:
            return _sampled_bounds(mu_squared, frozenset(sampled.items()), delta)
        exact = gaussian_epsilon(math.sqrt(mu_squared), delta)
        return Bounds(exact, exact)

    bounds = gaussian(float(delta))
    return Bounds(bounds.low, _above_gaussian(inverse, float(delta), gaussian)) if inverse else bounds


def gaussian_epsilon(mu: float, delta: float) -> float:
    """The smallest epsilon at which a Gaussian sum with sensitivity / deviation = mu has `delta`."""
    if mu == 0 or _gaussian_delta(0.0, mu) <= delta:
        return 0.0
    low, high = 0.0, 1.0
    while _gaussian_delta(high, mu) > delta:
        low, high = high, 2 * high
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (low, middle) if _gaussian_delta(middle, mu) <= delta else (middle, high)
    return high


def _gaussian_delta(epsilon: float, mu: float) -> float:
    from scipy.special import erfcx

    # Both terms carry the factor exp(-a^2): erfcx keeps their difference accurate where exp(epsilon) overflows.
    a, b = (epsilon / mu - mu / 2) / math.sqrt(2), (epsilon / mu + mu / 2) / math.sqrt(2)
    if a < 0:
        return 0.5 * math.erfc(a) - 0.5 * math.exp(-a * a) * float(erfcx(b))
    return 0.5 * math.exp(-a * a) * (float(erfcx(a)) - float(erfcx(b)))


def _above_gaussian(inverse: Counter[float], delta: float, gaussian: Callable[[float], Bounds]) -> float:
    """The upper bound with Skellam sums: 1 / v -> number of coordinates, delta, and the bounds without them."""
    if max(inverse) > 1 / LEAST_VARIANCE:
        return math.inf
    odds = -math.log(SLACK * delta / 2)
    above = _drift(inverse, odds, 1)
    cost = gaussian(delta * (1 - SLACK) * math.exp(-above)).high + above
    return cost + _drift(inverse, odds + cost, -1)


def _drift(inverse: Counter[float], odds: float, sign: int) -> float:
    """Chernoff: a bound on the sum of log ratios that holds but for a chance of exp(-odds); a tenth for the rest."""
    t = np.linspace(-10, 10, 4001)
    mass, loss = np.exp(-t * t / 2), sign * 1.1 * (t**4 - 7 * t**2 + 4) / 24
    mass /= mass.sum()

    def exponent(rate: float) -> float:
        return math.fsum(n * math.log(mass @ np.exp(rate * each * loss)) for each, n in inverse.items())

    rates = np.geomspace(1e-6, 0.12 if sign > 0 else 100, 80) / max(inverse)
    return min((exponent(rate) + odds) / rate for rate in map(float, rates))


@lru_cache(maxsize=64)
def _sampled_bounds(mu_squared: float, sampled: Sampled, delta: float) -> Bounds:
    remove = _compose(list(_losses(mu_squared, sampled, "remove")), delta)
    add = _compose(list(_losses(mu_squared, sampled, "add")), delta)
    return Bounds(max(remove.low, add.low), max(remove.high, add.high))


def _losses(mu_squared: float, sampled: Sampled, direction: Direction) -> Iterator[Loss]:
    from scipy.special import ndtr

    if mu_squared:
        mu = math.sqrt(mu_squared)
        yield Loss(lambda t: np.asarray(ndtr(t / mu - mu / 2)), 1)
    for (sigma, rate), times in sampled:

        def output(loss: Array, sigma: float = sigma, rate: float = rate) -> Array:
            """The noisy value at which log(1 - q + q exp((2x - 1) / 2 sigma^2)) is `loss`."""
            inner = np.expm1(loss) / rate + 1
            with np.errstate(divide="ignore", invalid="ignore"):
                return np.where(inner > 0, sigma**2 * np.log(inner) + 0.5, -np.inf)

        def removed(t: Array, sigma: float = sigma, rate: float = rate, x: Callable[[Array], Array] = output) -> Array:
            return np.asarray((1 - rate) * ndtr(x(t) / sigma) + rate * ndtr((x(t) - 1) / sigma))

        def added(t: Array, sigma: float = sigma, x: Callable[[Array], Array] = output) -> Array:
            return np.asarray(ndtr(-x(-t) / sigma))

        yield Loss(removed if direction == "remove" else added, times)


def _compose(losses: list[Loss], delta: float) -> Bounds:
    """Bounds for independent losses added up; a grid too coarse or too short gives wide bounds, never wrong ones."""
    steps = sum(loss.times for loss in losses)
    reach = 8.0
    while True:
        half = min(MAX_HALF, 1 << math.ceil(math.log2(reach * steps / GAP)))
        grid: Array = np.arange(-half, half, dtype=np.float64) * (reach / half)
        masses: list[Array] = [np.diff(loss.cdf(grid), prepend=np.zeros(1)) for loss in losses]
        overflow = math.fsum(loss.times * float(1 - loss.cdf(grid[-1:])[0]) for loss in losses)
        shifted = [np.append(mass[1:], 0.0) for mass in masses]  # rounded down; what lies below the grid is dropped
        lost = overflow + _tail(losses, masses, grid) + _tail(losses, shifted, -grid)
        if lost <= SLACK * delta / 2 or reach > 500:
            break
        reach *= 2
    high, low = _curve(losses, masses, grid), _curve(losses, shifted, grid)
    above = np.flatnonzero(high <= delta * (1 - SLACK / 2) - lost)
    below = np.flatnonzero(low > delta * (1 + SLACK / 2) + lost)
    least = float(grid[below[-1]]) if len(below) else 0.0
    return Bounds(max(0.0, least), max(0.0, float(grid[above[0]])) if len(above) else math.inf)


def _tail(losses: list[Loss], masses: list[Array], grid: Array) -> float:
    """Chernoff's bound on the chance that the sum leaves the grid at its upper end (lower, for a negated grid)."""
    end, best = float(np.max(grid)), 0.0
    coarse = max(1, len(grid) >> 14)
    for rate in (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0):
        growth = 0.0
        for loss, mass in zip(losses, masses, strict=True):
            # Runs of cells count as if they lay at the run's upper end, which only raises the bound.
            runs = np.add.reduceat(np.maximum(mass, 0.0), np.arange(0, len(mass), coarse))
            ends = np.maximum.reduceat(grid, np.arange(0, len(grid), coarse))
            exponents = np.log(runs[runs > 0]) + rate * ends[runs > 0]
            peak = float(exponents.max(initial=-np.inf))
            growth += loss.times * (peak + math.log(np.exp(exponents - peak).sum()))
        best = min(best, growth - rate * end)
    return math.exp(best)


def _curve(losses: list[Loss], masses: list[Array], grid: Array) -> Array:
    """delta at every epsilon of the grid, by fast Fourier transform; index half of `grid` is loss 0."""
    size = len(grid)
    spectrum = np.ones(size // 2 + 1, dtype=np.complex128)
    for loss, mass in zip(losses, masses, strict=True):
        spectrum *= np.fft.rfft(np.fft.ifftshift(mass)) ** loss.times
    total = np.maximum(np.fft.fftshift(np.fft.irfft(spectrum, size)), 0.0)
    above = np.cumsum(total[::-1])[::-1]
    with np.errstate(over="ignore", under="ignore"):
        weighted = np.cumsum((total * np.exp(np.clip(-grid, -700, 700)))[::-1])[::-1]
    return np.asarray(above - np.exp(np.clip(grid, -700, 700)) * weighted, dtype=np.float64)
