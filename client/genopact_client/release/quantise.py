"""Clip each patient's vector, then round it towards zero onto the integer grid."""

import numpy as np
from numpy.typing import NDArray

from genopact_shared.errors import GenopactError

HEADROOM = 2.0**62


def clipped_integers(values: NDArray[np.float64], clip: float | None, scale: int) -> NDArray[np.int64]:
    """Integer contributions whose L2 norm is at most `clip * scale`.

    Args:
        values: (n patients, d) float64. A row with a non-finite entry becomes zeros.
        clip: L2 bound of a row, in units of `values`; None for data that need no protection.
        scale: integer units per 1.0.

    Returns:
        (n, d) int64.

    Guarantees:
        Rows are computed independently; rounding towards zero never lengthens a row.

    Raises:
        GenopactError: RANGE_EXCEEDED if the sum of the rows could leave 62 bits.
    """
    rows = np.where(np.isfinite(values).all(axis=1, keepdims=True), values, 0.0)
    if clip is not None:
        # The largest entry goes first, so that squaring cannot overflow.
        largest = np.abs(rows).max(axis=1, keepdims=True, initial=0.0)
        unit = np.divide(rows, largest, out=np.zeros_like(rows), where=largest > 0)
        norms = np.linalg.norm(unit, axis=1, keepdims=True)
        bound = np.divide(clip * (1 - 1e-12), norms, out=np.zeros_like(norms), where=norms > 0)
        rows = unit * np.minimum(largest, bound)
    scaled = rows * float(scale)
    if np.abs(scaled).sum(axis=0).max(initial=0.0) >= HEADROOM:
        raise GenopactError("RANGE_EXCEEDED")
    return np.trunc(scaled).astype(np.int64)
