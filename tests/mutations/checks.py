"""Statistical tests that kill mutants. Each fails by chance less than once in a million: six standard deviations, or
a p-value of 1e-7. `tests.benchmarks.mutations` repeats each a thousand times on the product as it is.
"""

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
from scipy import stats

from genopact_client.release.kernel import release_sum
from genopact_client.release.private import Private
from genopact_client.train.private_sgd import poisson
from genopact_shared import wire
from genopact_shared.plan import PlannedStep
from genopact_shared.privacy import noise
from genopact_shared.privacy.mechanisms import NoisedSum
from genopact_shared.recipes.table import Floats
from tests.mutations.world import CLIP, MULTIPLIER, PLANNED, Slopes, sgd

VARIANCE = 9000.0
LEAST = 1e-7


def released(size: int) -> Floats:
    """What leaves for a patient of zeros: noise alone."""
    fact = NoisedSum(noise_multiplier="4", clip="2.5", scale=1024, dims=size, honest_minimum=2)
    step = PlannedStep(0, "sum", fact, VARIANCE)
    body = release_sum(Private(np.zeros((1, size))), step, fact, None).body
    return wire.unpack(body, np.int64)["sum"].astype(np.float64)


def of_steps(steps: int) -> Floats:
    """What a site without a patient releases after some steps, in standard deviations of the planned noise."""
    one = sgd(Slopes(3000), steps=steps)
    change = one(one.plan.initial(), Slopes.table(0))
    return np.asarray(change["slopes"].ravel() * PLANNED / (MULTIPLIER * CLIP) / math.sqrt(steps), np.float64)


def normal(values: Floats) -> None:
    """Independent standard normal values: moments of all and of each half, distribution, neighbours."""
    half = len(values) // 2
    for part in (values, values[:half], values[half:], values[::2], values[1::2]):
        assert abs(part.mean()) < 6 / math.sqrt(len(part))
        assert abs(part.var() - 1) < 6 * math.sqrt(2 / len(part))
    assert stats.kstest(values, "norm").pvalue > LEAST
    assert abs(np.corrcoef(values[1:], values[:-1])[0, 1]) < 6 / math.sqrt(len(values))


def the_noise_of_a_sum() -> None:
    normal(released(20_000) / math.sqrt(VARIANCE))


def the_noise_of_two_sums() -> None:
    first, second = released(5000), released(5000)
    assert abs(np.corrcoef(first, second)[0, 1]) < 6 / math.sqrt(5000)


def skellam_integers() -> None:
    """A small variance, where most values are close to zero."""
    n, variance = 30_000, 1.5
    values = noise.skellam(variance, n)
    k = np.arange(-4, 5)  # beyond them together, so that every cell expects enough for the statistic to be chi-squared
    expected = n * np.append(stats.skellam.pmf(k, variance / 2, variance / 2), stats.skellam.cdf(-5, 0.75, 0.75) * 2)
    found = np.append([(values == each).sum() for each in k], (abs(values) > 4).sum())
    assert stats.chisquare(found, expected * (found.sum() / expected.sum())).pvalue > LEAST


def gaussian_values() -> None:
    """Two pieces of the keystream and a value more; no value twice, and other ones in another call."""
    values = noise.gaussian(3.0, 4 * noise.PAIRS + 1) / 3.0
    normal(values)
    assert len(np.unique(values)) == len(values)
    assert abs(np.corrcoef(values, noise.gaussian(3.0, len(values)))[0, 1]) < 6 / math.sqrt(len(values))


def the_noise_of_a_step() -> None:
    normal(of_steps(1))


def the_noise_of_four_steps() -> None:
    normal(of_steps(4))


def the_noise_of_two_rounds() -> None:
    first, second = of_steps(1), of_steps(1)
    assert abs(np.corrcoef(first, second)[0, 1]) < 6 / math.sqrt(len(first))


def poisson_samples() -> None:
    """Sizes vary as those of independent draws do, and so do the draws of one patient."""
    n, draws, rate = 400, 300, Fraction(3, 8)
    spread = float(rate * (1 - rate))
    drawn = [poisson(n, rate) for _ in range(draws)]
    sizes = np.array([len(each) for each in drawn], dtype=np.float64)
    assert abs(sizes.mean() - float(n * rate)) < 6 * math.sqrt(n * spread / draws)
    each = np.bincount(np.concatenate(drawn), minlength=n)
    for counts, size in ((sizes, n), (each, draws)):
        chi = ((counts - float(size * rate)) ** 2).sum() / (size * spread)
        assert LEAST < stats.chi2.cdf(chi, len(counts)) < 1 - LEAST
    assert all(len(np.unique(each)) == len(each) for each in drawn)


CHECKS: tuple[Callable[[], None], ...] = (
    the_noise_of_a_sum, the_noise_of_two_sums, skellam_integers, gaussian_values, the_noise_of_a_step,
    the_noise_of_four_steps, the_noise_of_two_rounds, poisson_samples,
)  # fmt: skip
