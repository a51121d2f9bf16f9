"""Small dense linear algebra with the same bits on every machine.

BLAS orders its additions by processor; sites must recompute a shared model exactly. Products here are plain IEEE
multiplications and every sum is `math.fsum`, which rounds once whatever the order, for a few dozen dimensions;
`positive_solution` adds term by term, elementwise, for hundreds.
`rowwise` serves another end: a patient's row must not change in the last bit when another patient leaves.
`over_copies` needs no order: weights on a grid add up exactly.
"""

import math
from collections.abc import Sequence

import numpy as np

from genopact_shared.recipes.table import Codes, Floats

Matrix = list[list[float]]


def cholesky(matrix: Sequence[Sequence[float]]) -> Matrix:
    """Lower L with L L' = matrix.

    Raises:
        ValueError: the matrix is not positive definite.
    """
    lower: Matrix = []
    for i, row in enumerate(matrix):
        lower.append([])
        for j in range(i + 1):
            rest = math.fsum([row[j], *(-a * b for a, b in zip(lower[i][:j], lower[j][:j], strict=True))])
            if j < i:
                lower[i].append(rest / lower[j][j])
            elif rest > 0:
                lower[i].append(math.sqrt(rest))
            else:
                raise ValueError("Expected a positive definite matrix")
    return lower


def solve_lower(lower: Matrix, right: Sequence[float]) -> list[float]:
    """x with L x = right."""
    x: list[float] = []
    for row, value in zip(lower, right, strict=True):
        x.append(math.fsum([value, *(-a * b for a, b in zip(row[:-1], x, strict=True))]) / row[-1])
    return x


def solve_upper(lower: Matrix, right: Sequence[float]) -> list[float]:
    """x with L' x = right."""
    size = len(lower)
    x = [0.0] * size
    for i in reversed(range(size)):
        rest = math.fsum([right[i], *(-lower[j][i] * x[j] for j in range(i + 1, size))])
        x[i] = rest / lower[i][i]
    return x


def solve(matrix: Sequence[Sequence[float]], right: Sequence[float]) -> list[float]:
    """x with matrix x = right, for a positive definite matrix; ValueError otherwise."""
    lower = cholesky(matrix)
    return solve_upper(lower, solve_lower(lower, right))


def positive_solution(matrix: Floats, right: Floats) -> Floats:
    """x with matrix x = right, for a positive definite matrix (d, d) and right (d,); ValueError otherwise.

    Cholesky's factor column by column: each number is changed by one product at a time, in the same order everywhere.
    """
    rest, lower, x = np.array(matrix), np.zeros_like(matrix), np.array(right)
    for j in range(len(rest)):
        if not rest[j, j] > 0:
            raise ValueError("Expected a positive definite matrix")
        lower[j:, j] = rest[j:, j] / np.sqrt(rest[j, j])
        rest[j + 1 :, j + 1 :] -= lower[j + 1 :, j, None] * lower[j + 1 :, j]
        x[j] /= lower[j, j]
        x[j + 1 :] -= lower[j + 1 :, j] * x[j]
    for j in reversed(range(len(rest))):
        x[j] /= lower[j, j]
        x[:j] -= lower[j, :j] * x[j]
    return x


def rowwise(rows: Floats, matrix: Floats) -> Floats:
    """(n, k) rows @ matrix.T, where matrix is (k, d).

    Guarantees: each row has the same bits whatever the other rows are and however many; a BLAS product does not.
    """
    product = np.zeros((len(rows), len(matrix)))
    for j in range(rows.shape[1]):
        product += rows[:, j, None] * matrix[:, j]
    return product


def over_copies(copies: Codes, weights: Floats, unknown: Floats) -> Floats:
    """(b, ...) sums over (b, v) copies of weights (v, ...), and of `unknown` (v, ...) where a genotype is missing."""
    known = np.maximum(copies, 0).astype(np.float64) @ weights
    return np.asarray(known + (copies < 0).astype(np.float64) @ unknown)
