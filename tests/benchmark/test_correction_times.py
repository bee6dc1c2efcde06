"""The benchmark of error correction, on a small layer."""

from __future__ import annotations

import numpy as np
import pytest

from kerasq.benchmark.correction import problem

pytestmark = pytest.mark.once


def test_a_sweep_of_the_benchmark_lowers_the_objective():
    correction = problem((3, 3, 8, 12), 4, 8, 1024)
    before = correction.objective
    correction.sweep()
    assert correction.objective < 0.9 * before
    again = problem((3, 3, 8, 12), 4, 8, 1024)
    again.sweep()
    np.testing.assert_array_equal(correction.assignments, again.assignments)
