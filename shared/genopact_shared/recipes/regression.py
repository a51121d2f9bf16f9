"""Many small regressions at once, and sums over long vectors, with the same bits on every machine.

Beside `linear`, which is for a few dozen numbers: here each operation is one IEEE operation on whole arrays, element by
element, in an order that is written down. BLAS and `sum` order their additions by processor.
"""

import numpy as np

from genopact_shared.recipes.table import Floats

TOLERANCE = 1e-9
"""Of its own square, what has to be left of a column; a column with less is a combination of those before it."""


def swept(matrices: Floats, k: int) -> tuple[Floats, Floats, Floats]:
    """Eliminate the first k columns of each matrix (Gauss-Jordan); a combination of earlier columns is left alone.

    Args:
        matrices: (m, m, V), each symmetric and positive semidefinite.
        k: the first columns.

    Returns:
        (m - k, m - k, V): products of what is left of the other columns. (k, m - k, V): the coefficients of their
        regressions on the first k, 0 where there is none. (V,): how many columns were eliminated.
    """
    out, slopes, rank = matrices.copy(), np.zeros_like(matrices[:k, k:]), np.zeros(matrices.shape[2])
    sound = [np.zeros(len(rank), np.bool_)] * k
    for j in range(k):
        sound[j] = out[j, j] > TOLERANCE * matrices[j, j]
        factor = np.divide(out[:, j], out[j, j], out=np.zeros_like(out[:, j]), where=sound[j])
        factor[j] = 0.0
        out -= factor[:, None] * out[j]
        rank += sound[j]
    for j in range(k):
        np.divide(out[j, k:], out[j, j], out=slopes[j], where=sound[j])
    return out[k:, k:], slopes, rank


def folded(values: Floats) -> Floats:
    """Sum over the first axis, (d, ...) to (...), by halves: the order depends on d alone."""
    while len(values) > 1:
        half = (len(values) + 1) // 2
        head = values[:half].copy()
        head[: len(values) - half] += values[half:]
        values = head
    return np.asarray(values[0])


def orthonormal(columns: Floats) -> tuple[Floats, Floats]:
    """Gram-Schmidt, twice over, on (d, k): orthonormal columns, and (k,) what was left of each. A zero stays zero."""
    out, lengths = columns.copy(), np.zeros(columns.shape[1])
    for j in range(columns.shape[1]):
        column = out[:, j].copy()
        for before in [*range(j)] * 2:
            column -= folded(out[:, before] * column) * out[:, before]
        lengths[j] = np.sqrt(folded(column * column))
        out[:, j] = np.divide(column, lengths[j], out=np.zeros_like(column), where=lengths[j] > 0)
    return out, lengths
