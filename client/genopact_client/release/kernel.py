"""The release kernel and its two doors.

`release_sum`: per-patient vectors are clipped, quantised towards zero, summed as integers, noised and masked.
`release_model`: the change of a model after several private steps (see `private_sgd`).
Each takes the reservation that the ledger made durable before the draw.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import structlog
from numpy.typing import NDArray

from genopact_client.release.private import Private, Released
from genopact_client.release.quantise import HEADROOM, clipped_integers
from genopact_shared import durable, wire
from genopact_shared.errors import GenopactError, require
from genopact_shared.plan import PlannedStep
from genopact_shared.privacy.accounting import Fact
from genopact_shared.privacy.mechanisms import NoisedSum, SampledSgd, Unprotected
from genopact_shared.privacy.noise import skellam
from genopact_shared.secagg.masking import Masked

_log = structlog.get_logger()
Floats = NDArray[np.float64]
Mask = Callable[[NDArray[np.int64], int], Masked]


def release_sum(
    contributions: Private[Floats] | Private[Iterator[Floats]], planned: PlannedStep, reserved: Fact, mask: Mask | None
) -> Released:
    """The first door: one integer sum over patients.

    Args:
        contributions: (n, d) float64, one row a patient, before clipping; or such arrays, a patient in one of them.
        planned: the step of the approved plan: clip, scale, this site's share of the noise.
        reserved: the fact that the ledger has charged.
        mask: hides (d,) integers modulo 2^bits; None where the plan asks for none.

    Returns:
        safetensors: `sum`, (d,) uint32 or uint64 and `tag`, (1,) uint64, under a mask; else `sum`, (d,) int64.

    Guarantees:
        Adding or removing one patient changes the unmasked integers before noise by at most clip * scale in L2 norm.
        Together with the shares of honest_minimum sites the noise has the standard deviation that `reserved` states.
    Assumptions:
        Row i depends on patient i alone and on public or released values: the recipe's contract, tested so.

    Raises:
        GenopactError: KERNEL_REFUSED when reservation, plan and data disagree; RANGE_EXCEEDED.
    """
    fact, values = planned.fact, contributions._value
    if reserved != fact or isinstance(fact, SampledSgd) or (mask is None) != (not planned.masked):
        raise GenopactError("KERNEL_REFUSED")
    clip = float(fact.clip) if isinstance(fact, NoisedSum) else None
    total, reach, unfit = np.zeros(fact.dims, np.int64), np.zeros(fact.dims), 0
    for rows in [values] if isinstance(values, np.ndarray) else values:
        require(rows.ndim == 2 and rows.shape[1] == fact.dims, "KERNEL_REFUSED")
        unfit += int((~np.isfinite(rows).all(axis=1)).sum())
        integers = clipped_integers(rows, clip, fact.scale)
        reach += np.abs(integers).sum(axis=0, dtype=np.float64)
        require(reach.max(initial=0.0) < HEADROOM, "RANGE_EXCEEDED")
        total += integers.sum(axis=0, dtype=np.int64)
    if unfit:
        _log.warning("rows_not_finite", times=unfit)
    if not isinstance(fact, Unprotected):
        total = total + skellam(planned.share_variance, fact.dims)
    hidden = {"sum": total} if mask is None else mask(total, planned.bits)
    return Released(wire.pack(hidden), fact)


def release_model(delta: Private[dict[str, Floats]], reserved: Fact, done: Fact) -> Released:
    """The second door: what several private steps changed in a model.

    Args:
        delta: name -> change, float64, computed by steps that were clipped and noised per patient.
        reserved: the fact that the ledger has charged.
        done: the fact that the steps report; it has to be the same.

    Raises:
        GenopactError: KERNEL_REFUSED.
    """
    finite = all(np.isfinite(value).all() for value in delta._value.values())
    if reserved != done or not isinstance(done, SampledSgd | Unprotected) or not finite:
        raise GenopactError("KERNEL_REFUSED")
    return Released(wire.pack(delta._value), done)


def keep(value: Private[bytes], path: Path) -> None:
    """Write a private value to a file of this site that only the agent's account reads. It never leaves."""
    durable.replace(path, value._value)
