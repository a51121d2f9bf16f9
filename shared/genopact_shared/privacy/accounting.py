"""Epsilon from facts, and noise from a budget.

Reported is what a plan costs that was fixed beforehand: the exact curve of Gaussian sums, privacy loss distributions
(dp-accounting) where steps are sampled. What may still be charged to somebody whose studies are chosen one after the
other is decided by a Renyi filter. The audit recomputes epsilon with another accountant.

Skellam sums (proof: docs/decisions/0009). A Gaussian rounded to integers is post-processing of the Gaussian mechanism
and has its curve, in any composition. log(Skellam / rounded Gaussian) of one coordinate has both second moments below
MOMENT / v^2, lies below WORST / v within ten standard deviations, outside of which TAIL of the mass is, and above
-LEAST / v everywhere. Bernstein's inequality bounds its sum over all coordinates of all sums. So a composition of
Skellam sums costs what Gaussian ones do at a delta reduced by the chances of failure, and two bounds on top. Noise
beyond the declared only helps: it is added to what is private already.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import ROUND_UP, Decimal
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from genopact_shared.errors import require
from genopact_shared.privacy.mechanisms import NoisedSum, SampledSgd, Unprotected

if TYPE_CHECKING:
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution

Fact = NoisedSum | SampledSgd | Unprotected

CALIBRATION_MARGIN = 1.002
"""Extra noise that covers what Skellam sums cost above Gaussian ones."""
MIN_SGD_MULTIPLIER_MILLI = 200
"""Less noise than this no plan of sampled steps gets, whatever its budget."""
GRID = 2e-4
"""Of privacy losses, for up to 400 sampled steps; finer for more: rounding, which is upwards, adds below 1e-4."""
LEAST_VARIANCE = 1000.0
"""Squared integer units, below which a Skellam sum is not accounted: a recipe's scale is far above it."""
WORST, LEAST, MOMENT, TAIL = 400.0, 0.5, 0.06, 1e-21
MAX_ORDER = 4096


def gaussian_delta(epsilon: float, mu: float) -> float:
    """delta(epsilon) of mu-GDP, the exact curve of composed Gaussian sums (Balle and Wang, 2018, theorem 8)."""
    from scipy.special import log_ndtr

    first = log_ndtr(mu / 2 - epsilon / mu)
    return float(math.exp(first) - math.exp(min(700.0, epsilon + float(log_ndtr(-mu / 2 - epsilon / mu)))))


def gaussian_mu(epsilon: float, delta: float) -> float:
    """The largest mu whose delta(epsilon) is at most `delta`, by bisection."""
    return halved(0.0, 100.0, 200, lambda mu: gaussian_delta(epsilon, mu) > delta)[0]


def noise_multipliers(epsilon_milli: int, delta: str, weights: Sequence[float]) -> tuple[str, ...]:
    """Noise multipliers of full-batch sums that together cost at most epsilon.

    Args:
        epsilon_milli: budget of the whole plan, in thousandths.
        delta: decimal string.
        weights: share of the budget (of mu^2) of each sum; positive, adding up to 1.

    Returns:
        Decimal strings, one per weight, rounded up to six places.
    """
    if min(weights) <= 0 or not math.isclose(sum(weights), 1.0, rel_tol=1e-9):
        raise ValueError("Expected positive weights that add up to 1")
    mu = gaussian_mu(epsilon_milli / 1000, float(delta)) / CALIBRATION_MARGIN
    multipliers = (Decimal(1.0 / (mu * math.sqrt(weight))) for weight in weights)
    return tuple(str(each.quantize(Decimal("0.000001"), rounding=ROUND_UP)) for each in multipliers)


def epsilon(facts: Iterable[Fact] | Mapping[Fact, int], delta: str) -> float:
    """Composed epsilon of a multiset of facts, remembered; infinite if anything was unprotected or without noise.

    Full-batch Gaussian sums compose to one of mu = sqrt(sum of 1/z^2), whose curve is known in closed form (Dong,
    Roth and Su, 2022, corollary 3.3); with sampled steps, privacy loss distributions.

    Assumptions: the plan was fixed beforehand; each fact's patient took part in it at most once; noise is drawn
    exactly from its distribution.
    """
    counted = Counter(facts)
    noiseless = any(isinstance(fact, Unprotected) or not float(fact.noise_multiplier) for fact in counted)
    return math.inf if noiseless else _epsilon_of(frozenset(counted.items()), delta)


@lru_cache(maxsize=1 << 14)
def _epsilon_of(counted: frozenset[tuple[Fact, int]], delta: str) -> float:
    sums = [(fact, times) for fact, times in counted if isinstance(fact, NoisedSum)]
    steps, squares = Counter[tuple[float, float]](), list[float]()
    for fact, times in counted:
        if isinstance(fact, SampledSgd) and float(fact.sampling_rate) < 1:
            steps[float(fact.noise_multiplier), float(fact.sampling_rate)] += times * fact.steps
        elif not isinstance(fact, Unprotected):
            full = times if isinstance(fact, NoisedSum) else times * fact.steps
            squares.append(full / float(fact.noise_multiplier) ** 2)
    mu = math.sqrt(math.fsum(squares))
    if not steps:
        return _above_gaussian(sums, float(delta), lambda left: _gaussian_epsilon(mu, left))
    if mu:
        steps[1 / mu, 1.0] += 1
    # Sums of floats depend on the order.
    losses = _losses(tuple(sorted((*step, times) for step, times in steps.items())), _grid(steps))
    return _above_gaussian(sums, float(delta), lambda left: float(losses.get_epsilon_for_delta(left)))


def _grid(steps: Mapping[tuple[float, float], int]) -> float:
    """Fine enough for the number of steps, and coarse enough for what they may cost, in powers of two."""
    squared = math.fsum(n * min(q * q * math.expm1(min(50, z**-2)), q * z**-2) for (z, q), n in steps.items())
    together, one = squared / 2 + 12 * math.sqrt(squared), max(10 / z + z**-2 / 2 for z, _ in steps)
    aim = max(GRID * min(1.0, 20 / math.sqrt(sum(steps.values()))), together / (1 << 19), one / (1 << 16))
    return float(GRID * 2.0 ** math.floor(math.log2(aim / GRID)))


@lru_cache(maxsize=64)
def _losses(steps: tuple[tuple[float, float, int], ...], grid: float) -> "PrivacyLossDistribution":
    """Of (noise multiplier, sampling rate, times) composed; a history that grows at its end is not built again."""
    from dp_accounting.pld import privacy_loss_distribution as pld

    *before, (multiplier, rate, times) = steps
    last = pld.from_gaussian_mechanism(multiplier, sampling_prob=rate, value_discretization_interval=grid)
    last = last.self_compose(times)
    return _losses(tuple(before), grid).compose(last) if before else last


def _above_gaussian(sums: Sequence[tuple[NoisedSum, int]], delta: float, gaussian: Callable[[float], float]) -> float:
    """Epsilon of a composition with Skellam sums, from that with Gaussian sums at a slightly smaller delta."""
    if not sums:
        return gaussian(delta)
    inverse = [(fact.dims * times, 1 / integer_variance(fact)) for fact, times in sums]
    failure = delta / 4000  # of each of the two bounds
    odds = -math.log(failure)
    above = _drift(inverse, WORST, odds)
    left = (delta - 2 * failure - TAIL * sum(count for count, _ in inverse)) * math.exp(-above)
    if left <= 0 or max(inverse, key=lambda each: each[1])[1] > 1 / LEAST_VARIANCE:
        return math.inf
    cost = gaussian(left) + above
    return cost + _drift(inverse, LEAST, odds + cost)


def _drift(inverse: Sequence[tuple[int, float]], worst: float, odds: float) -> float:
    """What the sum of log ratios over (count, 1/v) coordinates exceeds with chance exp(-odds) at most."""
    moment = MOMENT * math.fsum(count * each**2 for count, each in inverse)
    mean = 0.75 * moment + TAIL * sum(count for count, _ in inverse)
    bernstein = mean + odds / 3 * worst * max(each for _, each in inverse) + math.sqrt(2 * odds * moment)
    return min(bernstein, worst * math.fsum(count * each for count, each in inverse))


def integer_variance(fact: NoisedSum) -> float:
    """Of the guaranteed noise in each coordinate of the total, in squared integer units."""
    return (float(fact.noise_multiplier) * float(fact.clip) * fact.scale) ** 2


@lru_cache(maxsize=256)
def sgd_noise_multiplier(epsilon_milli: int, delta: str, sampling_rate: str, steps: int) -> str:
    """The least noise multiplier, in thousandths, at which all sampled steps of a plan cost at most epsilon.

    Args:
        epsilon_milli: budget of the whole plan, in thousandths.
        delta: decimal string.
        sampling_rate: decimal string in (0, 1].
        steps: of all rounds together.

    Returns:
        Decimal string, at least 0.2. Thousandths are far coarser than what the accountants of two machines could
        differ by, so that both get the same.

    Raises:
        GenopactError: PLAN_IMPOSSIBLE.
    """

    def fits(milli: int) -> bool:
        multiplier = str(Decimal(milli) / 1000)
        fact = SampledSgd(noise_multiplier=multiplier, clip="1", sampling_rate=sampling_rate, steps=steps)
        return epsilon([fact], delta) * 1000 <= epsilon_milli

    low, high = MIN_SGD_MULTIPLIER_MILLI - 1, 1000
    while not fits(high):
        low, high = high, 2 * high
        require(high <= 1_000_000, "PLAN_IMPOSSIBLE", "so many steps do not fit the budget")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return str(Decimal(high) / 1000)


def _gaussian_epsilon(mu: float, delta: float) -> float:
    """The least epsilon whose delta is at most `delta`, from above, by bisection; infinite for hopeless mu."""
    if mu == 0:
        return 0.0
    low, high = 0.0, 1.0
    while gaussian_delta(high, mu) > delta:
        low, high = high, 2 * high
        if high > 1e6:
            return math.inf
    return halved(low, high, 60, lambda each: gaussian_delta(each, mu) <= delta)[1]


def halved(low: float, high: float, times: int, holds: Callable[[float], bool]) -> tuple[float, float]:
    """The interval, halved so many times, at whose end `holds` begins to be true."""
    for _ in range(times):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return low, high


@lru_cache(maxsize=1 << 12)
def filter_budget(epsilon_milli: int, delta: str) -> tuple[int, float]:
    """The order of the Renyi filter that keeps (epsilon, delta), and how much divergence it admits at that order.

    Whatever is chosen after seeing earlier releases, charges whose costs add up to no more than the budget are
    (epsilon, delta)-private together: Feldman and Zrnic, 2021, with the conversion of Canonne, Kamath
    and Steinke, 2020, proposition 12. The order that admits most Gaussian sums depends on the cap alone.
    """
    orders, log_delta = range(2, MAX_ORDER + 1), math.log(float(delta))
    budget = {a: epsilon_milli / 1000 - math.log1p(-1 / a) + (log_delta + math.log(a)) / (a - 1) for a in orders}
    order = max(orders, key=lambda a: budget[a] / a)
    return order, budget[order]


def renyi_cost(fact: Fact, order: int) -> float:
    """Renyi divergence of integer order that a fact costs; infinite without noise.

    Skellam sums: Agarwal, Kairouz and Liu, 2021, theorem 3.5. Sampled steps: Mironov, Talwar and Zhang, 2019,
    section 3.3, exact; adding a patient costs no more than removing one.
    """
    if isinstance(fact, Unprotected) or not float(fact.noise_multiplier):
        return math.inf
    half = 1 / (2 * float(fact.noise_multiplier) ** 2)
    if isinstance(fact, NoisedSum):
        l2, variance = float(fact.clip) * fact.scale, integer_variance(fact)
        l1 = l2 * min(math.sqrt(fact.dims), l2)
        return order * half + min(((2 * order - 1) * l2**2 + 6 * l1) / (4 * variance**2), 1.5 * l1 / variance)
    rate = float(fact.sampling_rate)
    if not 0 < rate < 1:
        return fact.steps * order * half * rate
    from scipy.special import gammaln

    k = np.arange(order + 1)
    chosen = gammaln(order + 1) - gammaln(k + 1) - gammaln(order - k + 1)
    terms = chosen + k * math.log(rate) + (order - k) * math.log1p(-rate) + k * (k - 1) * half
    return fact.steps * max(0.0, float(np.logaddexp.reduce(terms))) / (order - 1)
