"""The release kernel: sensitivity, noise, masks, and the two doors."""

import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from structlog.testing import capture_logs

from genopact_client.release.kernel import release_model, release_sum
from genopact_client.release.private import Private
from genopact_client.release.quantise import clipped_integers
from genopact_shared import wire
from genopact_shared.errors import GenopactError
from genopact_shared.plan import PlannedStep
from genopact_shared.privacy.accounting import Fact
from genopact_shared.privacy.mechanisms import NoisedSum, SampledSgd, Unprotected
from genopact_shared.secagg.masking import Masked

Floats = NDArray[np.float64]
rows = hnp.arrays(
    np.float64,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=6),
    elements=st.floats(allow_nan=True, allow_infinity=True),
)


def noised(dims: int = 3, clip: str = "2.5", z: str = "4") -> NoisedSum:
    return NoisedSum(noise_multiplier=z, clip=clip, scale=1024, dims=dims, honest_minimum=2)


def step(fact: Fact, variance: float = 0.0, masked: bool = False) -> PlannedStep:
    return PlannedStep(0, "gradient", fact, variance, 32 * masked)


@given(rows, st.floats(1e-3, 1e3), st.sampled_from([1, 64, 4096]))
def test_every_row_stays_within_the_clip(values: Floats, clip: float, scale: int) -> None:
    integers = clipped_integers(values, clip, scale)
    assert (np.linalg.norm(integers.astype(float), axis=1) <= clip * scale).all()


@given(rows, st.floats(1e-3, 1e3))
def test_removing_a_patient_moves_the_sum_by_at_most_the_clip(values: Floats, clip: float) -> None:
    """The naive reference: sum all rows but one, one at a time."""
    whole = clipped_integers(values, clip, 256).sum(axis=0)
    for patient in range(len(values)):
        rest = clipped_integers(np.delete(values, patient, axis=0), clip, 256).sum(axis=0)
        assert np.linalg.norm((whole - rest).astype(float)) <= clip * 256


@given(rows)
def test_a_row_within_the_clip_is_only_rounded_towards_zero(values: Floats) -> None:
    small = np.where(np.isfinite(values), np.clip(values, -1, 1), 0.5)
    integers = clipped_integers(small, 10.0, 1000)
    assert (np.abs(integers) <= np.abs(small) * 1000).all()
    assert (np.abs(integers - small * 1000) < 1 + 1e-6).all()


def test_a_row_that_is_not_finite_is_nothing() -> None:
    values = np.array([[1.0, np.nan], [np.inf, 0.0], [1.0, 1.0]])
    assert clipped_integers(values, 10.0, 10).tolist() == [[0, 0], [0, 0], [10, 10]]


def test_rows_that_are_not_finite_are_counted_in_the_sites_own_log() -> None:
    fact = noised()
    values = np.array([[1.0, np.nan, 0.0], [1.0, 1.0, 1.0], [np.inf, 0.0, 0.0]])
    with capture_logs() as logs:
        release_sum(Private(values), step(fact, 1e6), fact, None)
    assert logs == [{"event": "rows_not_finite", "times": 2, "log_level": "warning"}]


def test_a_sum_beyond_its_range_is_an_error_and_never_a_clip() -> None:
    with pytest.raises(GenopactError, match="RANGE_EXCEEDED"):
        clipped_integers(np.full((4, 1), 2.0**60), None, 4)


def test_the_noise_of_a_sum_has_the_planned_variance() -> None:
    fact, variance = noised(dims=20_000), 9000.0
    body = release_sum(Private(np.zeros((1, 20_000))), step(fact, variance), fact, None).body
    noise = wire.unpack(body, np.int64)["sum"]
    assert abs(noise.mean()) < 6 * np.sqrt(variance / 20_000)
    assert abs(noise.var() / variance - 1) < 6 * np.sqrt(2 / 20_000)


def test_two_releases_never_share_their_noise() -> None:
    fact = noised(dims=64)
    first, second = (release_sum(Private(np.zeros((1, 64))), step(fact, 1e6), fact, None).body for _ in range(2))
    assert first != second


def test_a_sum_without_protection_is_exact() -> None:
    fact = Unprotected(dims=2, scale=1 << 20)
    body = release_sum(Private(np.array([[1.5, -2.0], [0.25, 7.0]])), step(fact), fact, None).body
    assert (wire.unpack(body, np.int64)["sum"] / (1 << 20)).tolist() == [1.75, 5.0]


@pytest.mark.parametrize("reserved", [noised(z="5"), noised(clip="2.6"), Unprotected(dims=3, scale=1024)])
def test_the_kernel_refuses_another_reservation(reserved: Fact) -> None:
    with pytest.raises(GenopactError, match="KERNEL_REFUSED"):
        release_sum(Private(np.zeros((1, 3))), step(noised(), 1.0), reserved, None)


def test_the_kernel_refuses_a_missing_mask_and_another_shape() -> None:
    with pytest.raises(GenopactError, match="KERNEL_REFUSED"):
        release_sum(Private(np.zeros((1, 3))), step(noised(), 1.0, masked=True), noised(), None)
    with pytest.raises(GenopactError, match="KERNEL_REFUSED"):
        release_sum(Private(np.zeros((1, 4))), step(noised(), 1.0), noised(), None)


def test_the_mask_gets_the_noised_total_and_nothing_else_leaves() -> None:
    fact, seen = noised(), list[NDArray[np.int64]]()

    def mask(total: NDArray[np.int64], bits: int) -> Masked:
        seen.append(total)
        return {"sum": np.full(3, bits, dtype=np.uint32), "tag": np.ones(1, dtype=np.uint64)}

    body = release_sum(Private(np.zeros((2, 3))), step(fact, 1e6, masked=True), fact, mask).body
    assert seen[0].any(), "the noise comes before the mask"
    assert body == wire.pack(mask(seen[0], 32))


def test_a_model_leaves_only_under_the_fact_of_its_own_steps() -> None:
    done = SampledSgd(noise_multiplier="1.1", clip="1", sampling_rate="0.25", steps=4)
    delta = Private({"weight": np.ones((2, 2))})
    assert release_model(delta, done, done).fact == done
    with pytest.raises(GenopactError, match="KERNEL_REFUSED"):
        release_model(delta, done.model_copy(update={"steps": 3}), done)
    with pytest.raises(GenopactError, match="KERNEL_REFUSED"):
        release_model(Private({"weight": np.array([np.nan])}), done, done)


def test_private_values_do_not_serialise_or_show() -> None:
    box = Private("NA12878")
    with pytest.raises(TypeError):
        pickle.dumps(box)
    with pytest.raises(TypeError):
        json.dumps(box)
    assert "NA12878" not in f"{box} {box!r}"
    assert box.derive(len)._value == 7
