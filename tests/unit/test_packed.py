"""The packed logistic sum against plain float64 arithmetic, what one patient can move, and copies with one fault."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from genopact_shared.recipes.table import Floats
from tests.benchmarks import packed
from tests.unit.faulty import faulty

HOM_EFFECT, MISSING, HET, HOM_OTHER = range(4)


@dataclass
class Data:
    """Codes (n, m) of patients, and the numbers beside them."""

    codes: NDArray[np.uint8]
    frequencies: Floats
    weights: Floats
    intercept: float
    outcomes: Floats

    @property
    def rows(self) -> NDArray[np.uint8]:
        """One variant after another, each into its two bits."""
        n, m = self.codes.shape
        rows = np.zeros((n, -(-m // 4)), np.uint8)
        for j in range(m):
            rows[:, j // 4] |= self.codes[:, j] << (2 * (j % 4))
        return rows

    @property
    def standardised(self) -> Floats:
        sd = np.sqrt(2 * self.frequencies * (1 - self.frequencies))
        dosages = np.choose(self.codes, [2.0, math.nan, 1.0, 0.0])
        x: Floats = np.nan_to_num((dosages - 2 * self.frequencies) / sd, nan=0.0)
        return x

    def packed(self, module: Any = packed) -> Any:
        return module.PackedGenotypes(self.rows, self.frequencies)

    def sum(self, patients: NDArray[np.intp], clip: float, genotypes: Any) -> tuple[Floats, int]:
        """(m + 1,) with the intercept last, and how many were dropped."""
        found = genotypes.clipped_sum(self.weights, self.intercept, self.outcomes, patients, clip)
        return np.append(found.weights, found.intercept), found.dropped

    def naive(self, patients: NDArray[np.intp], clip: float) -> Floats:
        """Every patient's gradient, clipped by its norm, which counts as at least sqrt(m + 1) / 2 of its length."""
        x = np.column_stack([self.standardised, np.ones(len(self.codes))])[patients]
        residuals = 1 / (1 + np.exp(-(x[:, :-1] @ self.weights + self.intercept))) - self.outcomes[patients]
        norms = np.maximum(np.linalg.norm(x, axis=1), math.sqrt(x.shape[1]) / 2)
        gradients = residuals[:, None] * x
        total: Floats = (gradients * np.minimum(1, clip / (np.abs(residuals) * norms + 1e-300))[:, None]).sum(axis=0)
        return total

    def rounding(self, patients: NDArray[np.intp], clip: float) -> float:
        """What the steps and the float32 of the margins may cost."""
        x = np.column_stack([self.standardised, np.ones(len(self.codes))])[patients]
        step = min(1.0, clip / (math.sqrt(x.shape[1]) / 2)) / packed.STEPS
        slopes = np.abs(self.weights / np.sqrt(2 * self.frequencies * (1 - self.frequencies)))
        return float((np.linalg.norm(x, axis=1) * (step + 5e-7 * slopes.sum())).sum()) + 1e-12


def data(n: int, m: int, seed: int, missing: float = 0.1, size: float = 0.3) -> Data:
    rng = np.random.default_rng(seed)
    frequencies = rng.uniform(0.02, 0.98, m)
    effect = (rng.random((n, m)) < frequencies).astype(int) + (rng.random((n, m)) < frequencies)
    codes = np.array([HOM_OTHER, HET, HOM_EFFECT], np.uint8)[effect]
    codes[rng.random((n, m)) < missing] = MISSING
    outcomes = rng.integers(0, 2, n).astype(float)
    return Data(codes, frequencies, rng.normal(size=m) * size, rng.normal(), outcomes)


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 41), st.integers(0, 10**6),
    st.sampled_from([0.0, 0.1, 1.0]), st.sampled_from([0.01, 0.5, 3.0, 1e6, math.inf]),
    st.sampled_from([0.0, 0.3, 30.0]),
)  # fmt: skip
def test_the_sum_is_that_of_plain_arithmetic(
    n: int, m: int, seed: int, missing: float, clip: float, size: float
) -> None:
    world = data(n, m, seed, missing, size)
    patients = np.flatnonzero(np.random.default_rng(seed).random(n) < 0.7)
    genotypes = world.packed()
    found, dropped = world.sum(patients, clip, genotypes)
    assert np.linalg.norm(found - world.naive(patients, clip)) <= world.rounding(patients, clip)
    assert dropped == 0
    assert genotypes.norms == pytest.approx(np.sqrt((world.standardised**2).sum(axis=1) + 1), rel=1e-12)


@cache
def large(n: int) -> Data:
    """More patients than a group, if n says so, and more variants than a chunk."""
    world, rng = data(1, 4 * packed.CHUNK + 14, 5), np.random.default_rng(6)
    frequencies = rng.uniform(0.3, 0.6, size=(world.codes.shape[1],))
    codes = rng.choice(4, (n, len(frequencies)), p=[0.2, 0.05, 0.4, 0.35]).astype(np.uint8)
    return Data(codes, frequencies, world.weights / 30, 0.2, np.arange(n, dtype=np.float64) % 2)


@cache
def expected_of(n: int, clip: float) -> Floats:
    return large(n).naive(np.arange(n), clip)


def check_accuracy(module: Any) -> None:
    """A study's shape: within 1e-5 of float64, whether the clip binds or not."""
    n = packed.GROUP + 76
    genotypes = large(n).packed(module)
    for clip in (1.0, 40.0, math.inf):
        found, _ = large(n).sum(np.arange(n), clip, genotypes)
        assert np.linalg.norm(found - expected_of(n, clip)) < 1e-5 * np.linalg.norm(expected_of(n, clip))


def check_sensitivity(module: Any) -> None:
    """One patient more: for every patient, whoever else is there, with extreme genotypes and outcomes among them."""
    world = data(40, 37, 3)
    world.frequencies[:5] = 0.001
    world.codes[:4, :5] = HOM_EFFECT
    world.codes[4] = MISSING
    world.outcomes[5:8] = [2.0, -50.0, 1e300]
    everyone, genotypes = np.arange(40), world.packed(module)
    for clip in (0.01, 1.0, 7.0):
        whole, _ = world.sum(everyone, clip, genotypes)
        for patient in everyone:
            without, _ = world.sum(np.delete(everyone, patient), clip, genotypes)
            assert np.linalg.norm(whole - without) <= clip * (1 + 1e-9)


def check_not_finite(module: Any) -> None:
    """Each is dropped and counted, and the others' sum keeps its bits."""
    world = data(20, 9, 4)
    genotypes = world.packed(module)
    clean, none = world.sum(np.arange(3, 20), 1.0, genotypes)
    world.outcomes[:3] = [math.nan, math.inf, -math.inf]
    found, dropped = world.sum(np.arange(20), 1.0, genotypes)
    assert (dropped, none) == (3, 0)
    assert np.array_equal(found, clean)
    for value in (math.nan, math.inf):
        world.weights[2] = value
        found, dropped = world.sum(np.arange(20), 1.0, genotypes)
        assert dropped == 20
        assert not found.any()


def check_order(module: Any) -> None:
    """Sums of integers: neither the order of the patients nor how they fall into eights changes a bit."""
    world, order = large(300), np.random.default_rng(0).permutation(300)
    genotypes = world.packed(module)
    assert np.array_equal(world.sum(order, 1.0, genotypes)[0], world.sum(np.arange(300), 1.0, genotypes)[0])


CHECKS: tuple[Callable[[Any], None], ...] = (check_accuracy, check_sensitivity, check_not_finite, check_order)


@pytest.mark.parametrize("check", CHECKS)
def test_the_packed_sum(check: Callable[[Any], None]) -> None:
    check(packed)


FAULTS: dict[str, tuple[Callable[[Any], None], str, str]] = {
    "no clip": (check_sensitivity, "np.minimum(1.0, clip /", "np.maximum(1.0, clip /"),
    "the intercept outside the norm": (check_sensitivity, "self.norms = np.ones(len(rows))",
                                       "self.norms = np.zeros(len(rows))"),
    "rounded up": (check_sensitivity, "np.trunc(", "2 * np.ceil("),
    "missing as no effect allele in the norm": (check_accuracy, "squares[1] = 0.0", "squares[1] = squares[3]"),
    "missing centred in the margin": (check_accuracy, "margins[i] += total", "margins[i] += 0.0 * total"),
    "missing centred in the sum": (check_accuracy, "(every - unseen)", "every"),
    "codes in the order of PLINK 2": (check_accuracy, "bits = ~rows[i, j]", "bits = rows[i, j]"),
    "the last field twice": (check_accuracy, "b3[j] * np.float32(np.int32(y & FOURTH))",
                             "b3[j] * np.float32(np.int32(y & THIRD))"),
    "the first group twice": (check_accuracy, "padded[part], steps[part]", "padded[:GROUP], steps[:GROUP]"),
    "not finite as one": (check_not_finite, "np.where(finite, residuals, 0.0)", "np.where(finite, residuals, 1.0)"),
    "uncounted": (check_not_finite, "int((~finite).sum())", "0"),
    "a padded patient counts": (check_sensitivity, "steps[:n] =", "steps[:] = STEPS; steps[:n] ="),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_copy_is_caught(fault: str) -> None:
    check, old, new = FAULTS[fault]
    copy = faulty(packed, old, new)
    with pytest.raises(AssertionError):
        check(copy)


@pytest.mark.parametrize(
    ("rows", "frequencies"),
    [
        (np.zeros((3, 2), np.uint8), np.full(4, 0.5)),
        (np.zeros((3, 1), np.int64), np.full(4, 0.5)),
        (np.zeros(3, np.uint8), np.full(4, 0.5)),
        (np.zeros((3, 0), np.uint8), np.zeros(0)),
        (np.zeros((3, 1), np.uint8), np.array([0.5, 0.0])),
        (np.zeros((3, 1), np.uint8), np.array([0.5, 1.0])),
        (np.zeros((3, 1), np.uint8), np.array([0.5, math.nan])),
        (np.full((3, 1), 16, np.uint8), np.array([0.5, 0.5])),
    ],
)
def test_rows_that_do_not_fit_are_refused(rows: NDArray[np.uint8], frequencies: Floats) -> None:
    with pytest.raises(ValueError, match="Expected"):
        packed.PackedGenotypes(rows, frequencies)


def test_patients_and_clips_that_are_none_are_refused() -> None:
    world = data(5, 6, 1)
    genotypes = world.packed()
    for clip in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="clip"):
            world.sum(np.arange(5), clip, genotypes)
    with pytest.raises(IndexError):
        world.sum(np.array([5]), 1.0, genotypes)
    found, dropped = world.sum(np.arange(0), 1.0, genotypes)
    assert not found.any()
    assert not dropped
