"""Positive definite systems of a thousand unknowns, with numpy alone."""

from __future__ import annotations

import numpy as np

# Columns eliminated at a time: the rest is matrix products.
_BLOCK = 128


def solve_positive(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solve ``A x = r`` by a blocked Cholesky factorisation ``A = L Lᵀ``.

    Half the work of a general solver: numpy has no triangular one, so that the diagonal blocks of
    L are inverted.

    Args:
        matrix: A, symmetric, float64 (n, n).
        right: r, (n,).

    Raises:
        numpy.linalg.LinAlgError: A is not positive definite.
    """
    factor, solution = matrix.copy(), right.copy()
    count = len(factor)
    blocks = [slice(at, min(at + _BLOCK, count)) for at in range(0, count, _BLOCK)]
    inverses = []
    for i, own in enumerate(blocks):
        below = slice(own.stop, count)
        inverse = np.linalg.inv(np.linalg.cholesky(factor[own, own]))
        inverses.append(inverse)
        factor[below, own] = factor[below, own] @ inverse.T
        solution[own] = inverse @ solution[own]
        solution[below] -= factor[below, own] @ solution[own]
        for later in blocks[i + 1 :]:
            rows = slice(later.start, count)
            factor[rows, later] -= factor[rows, own] @ factor[later, own].T
    for own, inverse in zip(reversed(blocks), reversed(inverses), strict=True):
        below = slice(own.stop, count)
        solution[own] = inverse.T @ (solution[own] - factor[below, own].T @ solution[below])
    return solution
