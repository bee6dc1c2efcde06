"""Positive definite systems."""

from __future__ import annotations

import numpy as np
import pytest

from kerasq.codebooks.cholesky import solve_positive


@pytest.mark.parametrize("count", [1, 5, 128, 129, 400])
def test_solution_is_that_of_a_general_solver(count, rng):
    half = rng.normal(size=(count, count + 20))
    matrix, right = half @ half.T, rng.normal(size=count)
    kept = matrix.copy()
    np.testing.assert_allclose(
        solve_positive(matrix, right), np.linalg.solve(matrix, right), rtol=1e-7, atol=1e-10
    )
    np.testing.assert_array_equal(matrix, kept)


def test_indefinite_matrix():
    with pytest.raises(np.linalg.LinAlgError):
        solve_positive(np.diag([1.0, -1.0]), np.ones(2))
