"""Epsilon from facts, and noise from a budget.

The reporting accountant is the privacy loss distribution (dp-accounting); the audit recomputes with another one.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_UP, Decimal
from functools import lru_cache

from genopact_shared.errors import GenopactError
from genopact_shared.privacy.mechanisms import NoisedSum, SampledSgd, Unprotected

Fact = NoisedSum | SampledSgd | Unprotected

CALIBRATION_MARGIN = 1.002
"""Extra noise that covers the discretisation of the reporting accountant."""
MIN_SGD_MULTIPLIER_MILLI = 200
"""Less noise than this no plan of sampled steps gets, whatever its budget."""


def gaussian_delta(epsilon: float, mu: float) -> float:
    """delta(epsilon) of mu-GDP, the exact curve of composed Gaussian sums (Balle and Wang, 2018, theorem 8)."""
    from scipy.special import log_ndtr

    first = log_ndtr(mu / 2 - epsilon / mu)
    return float(math.exp(first) - math.exp(min(700.0, epsilon + float(log_ndtr(-mu / 2 - epsilon / mu)))))


def gaussian_mu(epsilon: float, delta: float) -> float:
    """The largest mu whose delta(epsilon) is at most `delta`, by bisection."""
    low, high = 0.0, 100.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if gaussian_delta(epsilon, middle) <= delta else (low, middle)
    return low


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
    return tuple(_round_up(1.0 / (mu * math.sqrt(weight))) for weight in weights)


def epsilon(facts: Iterable[Fact], delta: str) -> float:
    """Composed epsilon of a fixed plan, by privacy loss distributions; infinite if anything was unprotected.

    Assumptions: the plan was fixed beforehand; each fact's patient took part in it at most once.
    """
    counted = Counter(facts)
    protected = {fact: times for fact, times in counted.items() if not isinstance(fact, Unprotected)}
    if len(protected) < len(counted):
        return math.inf
    if not protected:
        return 0.0
    from dp_accounting.pld import privacy_loss_distribution as pld

    # Sampled steps take ten times as long; the coarser grid adds about 1e-4 to epsilon and never takes anything away.
    grid = 1e-3 if any(isinstance(fact, SampledSgd) for fact in protected) else 1e-4
    total, penalty = None, 0.0
    for fact, times in protected.items():
        rate, steps = (1.0, 1) if isinstance(fact, NoisedSum) else (float(fact.sampling_rate), fact.steps)
        one = pld.from_gaussian_mechanism(
            float(fact.noise_multiplier), sampling_prob=rate, value_discretization_interval=grid
        ).self_compose(steps * times)
        total = one if total is None else total.compose(one)
        penalty += times * skellam_penalty(fact)
    assert total is not None  # noqa: S101 - there is a fact
    return float(total.get_epsilon_for_delta(float(delta))) + penalty


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
        if high > 1_000_000:
            raise GenopactError("PLAN_IMPOSSIBLE", "so many steps do not fit the budget")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return str(Decimal(high) / 1000)


def skellam_penalty(fact: Fact) -> float:
    """What a Skellam sum costs above a Gaussian one, at any Renyi order (Agarwal et al. 2021, theorem 3.5)."""
    if not isinstance(fact, NoisedSum):
        return 0.0
    l2 = float(fact.clip) * fact.scale
    l1 = min(math.sqrt(fact.dims) * l2, l2 * l2)
    variance = (float(fact.noise_multiplier) * l2) ** 2
    return 1.5 * l1 / variance


def _round_up(value: float) -> str:
    return str(Decimal(value).quantize(Decimal("0.000001"), rounding=ROUND_UP))


def epsilon_fast(facts: Iterable[Fact] | Mapping[Fact, int], delta: str) -> float:
    """Composed epsilon of a multiset of facts, remembered: exact for noised sums alone, else `epsilon`.

    Full-batch Gaussian sums compose to one of mu = sqrt(sum of 1/z^2), whose curve is known in closed form (Dong,
    Roth and Su, 2022, corollary 3.3). Each sum's Skellam penalty, a bound at every Renyi order, is added:
    customary, not proven for this curve. Infinite if anything was unprotected or without noise.

    Assumptions: those of `epsilon`.
    """
    counted = Counter(facts)
    noiseless = any(isinstance(fact, Unprotected) or not float(fact.noise_multiplier) for fact in counted)
    return math.inf if noiseless else _epsilon_of(frozenset(counted.items()), delta)


@lru_cache(maxsize=1 << 14)
def _epsilon_of(counted: frozenset[tuple[Fact, int]], delta: str) -> float:
    sums = [(fact, times) for fact, times in counted if isinstance(fact, NoisedSum)]
    if len(sums) < len(counted):
        ordered = sorted(counted, key=lambda item: item[0].model_dump_json())  # sums of floats depend on the order
        return epsilon(Counter(dict(ordered)), delta)
    mu = math.sqrt(math.fsum(times / float(fact.noise_multiplier) ** 2 for fact, times in sums))
    return _gaussian_epsilon(mu, float(delta)) + math.fsum(times * skellam_penalty(fact) for fact, times in sums)


def _gaussian_epsilon(mu: float, delta: float) -> float:
    """The least epsilon whose delta is at most `delta`, from above, by bisection; infinite for hopeless mu."""
    if mu == 0:
        return 0.0
    low, high = 0.0, 1.0
    while gaussian_delta(high, mu) > delta:
        low, high = high, 2 * high
        if high > 1e6:
            return math.inf
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if gaussian_delta(middle, mu) <= delta else (middle, high)
    return high
