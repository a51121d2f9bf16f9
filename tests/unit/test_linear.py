"""Small exact linear algebra against LAPACK, and rows that do not know their neighbours."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from genopact_shared.recipes.linear import cholesky, rowwise, solve, solve_lower, solve_upper


def positive_definite(seed: int, size: int) -> NDArray[np.float64]:
    root = np.random.default_rng(seed).normal(size=(size, size + 2))
    return root @ root.T + 0.1 * np.eye(size)


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(1, 12))
def test_agrees_with_lapack(seed: int, size: int) -> None:
    matrix = positive_definite(seed, size)
    right = np.random.default_rng(seed + 1).normal(size=size)
    lower = cholesky(matrix.tolist())
    dense = np.linalg.cholesky(matrix)
    assert all(np.allclose(row, dense[i, : i + 1]) for i, row in enumerate(lower))
    assert np.allclose(solve_lower(lower, right.tolist()), np.linalg.solve(dense, right))
    assert np.allclose(solve_upper(lower, right.tolist()), np.linalg.solve(dense.T, right))
    assert np.allclose(solve(matrix.tolist(), right.tolist()), np.linalg.solve(matrix, right))


@pytest.mark.parametrize("matrix", [[[0.0]], [[1.0, 2.0], [2.0, 1.0]], [[float("nan")]]])
def test_refuses_what_is_not_positive_definite(matrix: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="positive definite"):
        cholesky(matrix)


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(1, 40))
def test_a_row_has_the_same_bits_alone_and_in_company(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    rows, matrix = rng.normal(size=(n, 13)), rng.normal(size=(5, 13))
    together = rowwise(rows, matrix)
    assert np.allclose(together, rows @ matrix.T)
    for i in range(n):
        assert (rowwise(rows[i : i + 1], matrix)[0] == together[i]).all()
