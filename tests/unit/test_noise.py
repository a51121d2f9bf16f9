"""The noise: its distributions against exact references; copies of it with one fault, which the same tests catch."""

import math
import os
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from genopact_shared.privacy import noise
from tests.unit.faulty import faulty

N = 8 * 2 * noise.PAIRS
CHANCE = 1e-9  # of a false alarm, for each of the fewer than 100 comparisons of a test
SIX = stats.norm.isf(CHANCE / 2)
Check = Callable[[Any], None]


def refused(check: Check, module: Any) -> bool:
    try:
        check(module)
    except AssertionError:
        return True
    return False


# --- Gaussian


def check_gaussian(module: Any, sd: float = 1.0) -> None:
    """Moments, the curve, both tails to 4.5 sd, and what the halves of a pair, pieces and calls have in common."""
    first, second = (module.gaussian(sd, N) / sd for _ in range(2))
    for values in (first, second):
        assert abs(values.mean()) < SIX / math.sqrt(N)
        assert abs(values.var() - 1) < SIX * math.sqrt(2 / N)
        assert abs((values**4).mean() - 3) < SIX * math.sqrt(96 / N)
        assert stats.kstest(values, "norm").pvalue > CHANCE
        for bound in (2.0, 3.0, 3.5, 4.0, 4.5):
            for count in ((values > bound).sum(), (values < -bound).sum()):
                assert stats.binomtest(int(count), N, float(stats.norm.sf(bound))).pvalue > CHANCE, bound
    pairs = first.reshape(-1, 2, module.PAIRS)
    half = N // 2
    for a, b in (
        (pairs[:, 0].ravel(), pairs[:, 1].ravel()),
        (first[0::2], first[1::2]),
        (first[:half], first[half:]),
        (first, second),
    ):
        for power in (1, 2):
            assert abs(np.corrcoef(a**power, b**power)[0, 1]) < SIX / math.sqrt(len(a))


class Words:
    """A stream that gives words that a test has chosen: of the radius, of the angle, and then what follows."""

    def __init__(self, radius: list[int], angle: list[int], rest: int = 0) -> None:
        self.words = np.array(radius, "<u8").tobytes() + np.array(angle, "<u4").tobytes()
        self.rest = rest

    def update_into(self, zeros: memoryview, out: bytearray) -> int:
        assert len(zeros) == len(self.words)
        out[: len(self.words)] = self.words
        return len(self.words)

    def update(self, zeros: bytes) -> bytes:
        return self.rest.to_bytes(len(zeros), "little")


def naive_pair(u: Fraction, angle: int) -> tuple[float, float]:
    """Box and Muller as in the book: an angle in the first quadrant, and two bits for the signs."""
    log = math.log1p(-float(1 - u)) if 2 * u > 1 else math.log(u)
    radius, theta = math.sqrt(-2 * log), math.pi * ((angle & (2**30 - 1)) + 0.5) / 2**31
    x, y = radius * math.cos(theta), radius * math.sin(theta)
    return (x if angle >> 31 else -x), (y if angle >> 30 & 1 else -y)


def check_series(module: Any) -> None:
    """The extremes and random words, against scipy's or the library's functions: within 2e-10 of the radius."""
    rng = np.random.default_rng(7)
    radius = [2**64 - 1, 2**63, 2**62 + 1, 2**40, 2**41 + 5, *map(int, rng.integers(2**40, 2**64, 3000, np.uint64))]
    radius += [int(x) >> int(s) for x, s in zip(radius[5:2000], rng.integers(0, 23, 1995), strict=True)]
    radius = [max(x, 2**40) for x in radius]
    angle = [0, 2**32 - 1, 2**31, 2**30, *map(int, rng.integers(0, 2**32, len(radius) - 4, np.uint32))]
    values = np.empty(2 * len(radius))
    module._stream = lambda: Words(radius, angle)
    module.gaussian_into(values, 3.0)
    for x, y, word, turn in zip(values[: len(radius)], values[len(radius) :], radius, angle, strict=True):
        u = (Fraction(float(word)) + Fraction(1, 2)) / 2**64
        expected = naive_pair(min(u, Fraction(1)), turn)
        assert math.hypot(x / 3 - expected[0], y / 3 - expected[1]) <= 2e-10 * math.hypot(*expected) + 1e-15


def check_tail(module: Any) -> None:
    """A rare radius takes 64 bits more, each of which counts, up to 13.3 sd; the values beside it do not move."""
    for word in (0, 1, noise.RARE - 1):
        for rest in (0, 1 << 20, 1 << 63):
            values = np.empty(4)
            module._stream = lambda word=word, rest=rest: Words([word, 2**63], [2**31, 0], rest)
            module.gaussian_into(values, 1.0)
            rare = naive_pair((Fraction((word << 64) + rest) + Fraction(1, 2)) / 2**128, 2**31)
            assert values[::2] == pytest.approx(rare, rel=1e-9, abs=2e-9)
            assert values[1::2] == pytest.approx(naive_pair(Fraction(2**64 + 1, 2**65), 0), rel=1e-9, abs=2e-9)


@pytest.mark.parametrize("sd", [1e-3, 1.0, 3e7])
def test_gaussian_values_are_normal_and_independent(sd: float) -> None:
    check_gaussian(noise, sd)


@pytest.mark.parametrize("check", [check_series, check_tail])
def test_the_transform_is_exact_to_its_bits(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "_stream", noise._stream)
    check(noise)


GAUSSIAN_FAULTS: dict[str, tuple[Check, str, str]] = {
    "half the noise": (check_gaussian, "r = sd *", "r = 0.5 * sd *"),
    "noise 2 % short": (check_gaussian, "r = sd *", "r = 0.98 * sd *"),
    "a bias of 5 %": (check_gaussian, "x[i] = (cos - sin)", "x[i] = sd * 0.05 + (cos - sin)"),
    "the same key twice": (check_gaussian, "os.urandom(32)", "bytes(32)"),
    "a key for each piece, the same": (check_gaussian, "stream.update_into(", "Cipher(algorithms.AES(bytes(32)), "
                                       "modes.CTR(bytes(16))).encryptor().update_into("),
    "uniform": (check_gaussian, "x[i] = (cos - sin)", "x[i] = sd * f * 2.2053 + 0.0 * (cos - sin)"),
    "one sign": (check_gaussian, "(r if angle[i] & 0x40000000 else -r)", "r"),
    "one bit for both signs": (check_gaussian, "0x40000000", "0x80000000"),
    "the sine twice": (check_gaussian, "(cos - sin)", "(cos + sin)"),
    "half of the values without noise": (check_gaussian, "y[i] = (cos + sin)", "y[i] = 0.0 * (cos + sin)"),
    "the tail cut at 3.3 sd": (check_gaussian, "bits = np.float64((np.float64(radius[i])",
                               "bits = np.float64((max(np.float64(radius[i]), 2.0**56)"),
    "the tail cut at 5.8 sd": (check_series, "bits = np.float64((np.float64(radius[i])",
                               "bits = np.float64((max(np.float64(radius[i]), 2.0**41)"),
    "32 bits of radius": (check_series, "bits = np.float64((np.float64(radius[i])",
                          "bits = np.float64((np.float64((radius[i] >> np.uint64(32)) << np.uint64(32))"),
    "a shorter series": (check_series, "q * (-1 / 3628800)", "q * 0.0"),
    "a coarse angle": (check_series, "0x3FFFFFFF", "0x3FFFF000"),
    "no bits more": (check_tail, "stream.update(bytes(8))", "bytes(8)"),
    "the tail cut at 9.4 sd": (check_tail, "np.flatnonzero(radius < RARE)", "np.flatnonzero(radius < 0)"),
    "the wrong value stretched": (check_tail, "y[i] *= stretch", "y[i - 1] *= stretch"),
}  # fmt: skip


@pytest.mark.parametrize("fault", GAUSSIAN_FAULTS)
def test_a_faulty_gaussian_is_caught(fault: str) -> None:
    check, old, new = GAUSSIAN_FAULTS[fault]
    assert refused(check, faulty(noise, old, new))


@pytest.mark.parametrize("size", [0, 1, 2, 3, 2 * noise.PAIRS - 1, 2 * noise.PAIRS + 1, 4 * noise.PAIRS + 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_value_of_any_size_is_drawn(size: int, dtype: type[np.floating[Any]]) -> None:
    values = np.full(size, np.nan, dtype)
    noise.gaussian_into(values, 5.0)
    assert np.isfinite(values).all()
    assert len(np.unique(values)) > 0.99 * size - 1
    assert noise.gaussian(5.0, size).shape == (size,)


@pytest.mark.parametrize("sd", [0.0, -1.0, float("nan"), float("inf")])
def test_a_deviation_that_is_none_is_refused(sd: float) -> None:
    with pytest.raises(ValueError, match="deviation"):
        noise.gaussian(sd, 1)


# --- Skellam


def exact_chances(variance: float) -> list[int]:
    """P(|X| = k) * 2^200, by Miller's backward recurrence of the Bessel functions in integers."""
    numerator, denominator = Fraction(variance).as_integer_ratio()
    values = [1 << 64]
    above = 0
    for k in range(int(16 * math.sqrt(variance)) + 80, 0, -1):
        above, here = values[-1], above + 2 * k * values[-1] * denominator // numerator
        values.append(here)
    values.reverse()
    total = values[0] + 2 * sum(values[1:])
    return [(each * (2 if k else 1) << 200) // total for k, each in enumerate(values)]


def check_table(module: Any, variances: tuple[float, ...] = (0.8, 50.0, 9_999.0, 10_001.0, 2.0**20)) -> None:
    """The total variation distance of the chances that the table gives, exactly."""
    for variance in variances:
        ascending = [0, *module._thresholds(variance)[0].tolist(), 1 << 64]
        chances = [(b - a) << 136 for a, b in pairwise(ascending)][::-1]
        exact = exact_chances(variance)
        exact[len(chances) - 1] += sum(exact[len(chances) :])
        assert sum(abs(a - b) for a, b in zip(chances, exact, strict=False)) < 2 ** (201 - 48), variance


def check_skellam(module: Any) -> None:
    """Chi-square against the exact chances, signs, and two calls, at a small and a large variance."""
    for variance in (3.0, 1e6):
        first, second = module.skellam(variance, N), module.skellam(variance, N)
        half = np.array([float(Fraction(p, 2**200)) / 2 for p in exact_chances(variance)])
        chances = np.concatenate([half[:0:-1], [2 * half[0]], half[1:]])
        middle, edges = len(half) - 1, np.unique(np.searchsorted(np.cumsum(chances), np.linspace(0.002, 0.998, 200)))
        expected = np.diff(np.concatenate([[0.0], np.cumsum(chances)[edges], [chances.sum()]])) * N
        for values in (first, second):
            observed = np.bincount(np.searchsorted(edges, values + middle, side="left"), minlength=len(expected))
            assert stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > CHANCE
            assert abs(values.var() / variance - 1) < SIX * math.sqrt((2 + 1 / variance) / N)
            assert abs(values.mean()) < SIX * math.sqrt(variance / N)
        assert abs(np.corrcoef(first, second)[0, 1]) < SIX / math.sqrt(N)
        assert abs(np.corrcoef(first[0::2], first[1::2])[0, 1]) < SIX / math.sqrt(N / 2)


def check_inversion(module: Any) -> None:
    """The guided search against a plain one, at thresholds too."""
    for variance in (0.5, 700.0, 2.0**26):
        thresholds, guide = module._thresholds(variance)
        words = np.frombuffer(os.urandom(8 * 50_000), np.uint64)
        words = np.concatenate([words, thresholds[:: len(thresholds) // 50], np.array([0, 2**64 - 1], np.uint64)])
        out = np.empty(len(words), np.int64)
        module.compiled(module._invert)(words, np.ones(len(words), np.uint8), thresholds, guide, out)
        assert (out == len(thresholds) - np.searchsorted(thresholds, words, side="right")).all()


def test_the_table_is_that_of_the_skellam_distribution() -> None:
    check_table(noise)
    check_table(noise, (2.0**26,))


@pytest.mark.parametrize("check", [check_skellam, check_inversion])
def test_skellam_values_follow_their_distribution(check: Check) -> None:
    check(noise)


def test_the_largest_variance_is_drawn_too() -> None:
    values = noise.skellam(2.0**36, N) / 2.0**18
    assert stats.kstest(values, "norm").pvalue > CHANCE  # a Skellam variable of this variance is normal to 1e-6
    assert abs(values.var() - 1) < SIX * math.sqrt(2 / N)


SKELLAM_FAULTS: dict[str, tuple[Check, str, str]] = {
    "half the noise": (check_skellam, "*_thresholds(variance)", "*_thresholds(variance / 4)"),
    "2 % less": (check_skellam, "*_thresholds(variance)", "*_thresholds(variance * 0.96)"),
    "the same key twice": (check_skellam, "os.urandom(32)", "bytes(32)"),
    "uniform": (check_skellam, "magnitude = len(thresholds) - low", "magnitude = words[i] % np.uint64(2 * low + 1)"),
    "one sign": (check_skellam, "signs[i] & 1", "signs[i] | 1"),
    "signs from the magnitude": (check_skellam, "signs[i] & 1", "words[i] >> np.uint64(63)"),
    "no zero": (check_skellam, "magnitude = len(thresholds) - low", "magnitude = len(thresholds) - low + 1"),
    "normal chances": (check_table, "mass = np.exp(_log_pmf(orders, variance))",
                       "mass = np.exp(-orders**2 / (2 * variance))"),
    "double precision": (check_table, "np.cumsum(np.rint(mass[:0:-1] * 2.0**64).astype(np.uint64))",
                         "(np.cumsum(mass[:0:-1]) * 2.0**64).astype(np.uint64)"),
    "zero counted twice": (check_table, "mass[1:] *= 2.0", "mass *= 2.0"),
    "the guide one off": (check_inversion, "starts, side=\"right\")", "starts, side=\"right\") + 1"),
    "thresholds on the other side": (check_inversion, "thresholds[middle] <=", "thresholds[middle] <"),
}  # fmt: skip


@pytest.mark.parametrize("fault", SKELLAM_FAULTS)
def test_a_faulty_skellam_is_caught(fault: str) -> None:
    check, old, new = SKELLAM_FAULTS[fault]
    assert refused(check, faulty(noise, old, new))


@pytest.mark.parametrize("variance", [0.0, -1.0, float("nan"), 2.0**37])
def test_a_variance_outside_the_sampler_is_refused(variance: float) -> None:
    with pytest.raises(ValueError, match="variance"):
        noise.skellam(variance, 1)


# --- keys and compilation


def test_noise_is_never_repeated() -> None:
    assert len({noise.keystream(32) for _ in range(50)}) == 50
    assert (noise.skellam(1e6, 64) != noise.skellam(1e6, 64)).any()
    assert not np.intersect1d(noise.gaussian(1.0, 64), noise.gaussian(1.0, 64)).size


def test_nothing_is_compiled_on_import_or_kept_on_disk(tmp_path: Path) -> None:
    code = """if True:
        import sys
        import genopact_client.cli
        from genopact_shared.privacy import noise
        assert "numba" not in sys.modules
        assert noise.gaussian(1.0, 3).std() > 0 and len(noise.skellam(9.0, 4)) == 4
        assert "numba" in sys.modules
    """
    folders = {"HOME": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | folders, cwd=tmp_path)
    assert not list(tmp_path.rglob("*.nb*"))
