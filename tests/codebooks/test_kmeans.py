"""k-means."""

from __future__ import annotations

import numpy as np
import pytest

from kerasq.codebooks import kmeans
from kerasq.codebooks.kmeans import assign, seed_centroids


@pytest.mark.parametrize("count", [1, 4, 30])
def test_error_never_rises_and_is_that_of_the_result(count, rng):
    points = rng.normal(size=(200, 3))
    found = kmeans(points, count, rng=rng)
    history = np.array(found.history)
    assert (np.diff(history) <= 1e-9 * history[:-1]).all()
    error = ((points - found.centroids[found.assignments]) ** 2).sum()
    assert history[-1] == pytest.approx(error, rel=1e-12)
    assert len(np.unique(found.assignments)) == count


def test_as_many_clusters_as_points_is_a_fixed_point(rng):
    points = rng.normal(size=(12, 2))
    found = kmeans(points, points)
    np.testing.assert_array_equal(found.assignments, np.arange(12))
    np.testing.assert_array_equal(found.centroids, points)


def test_matches_the_formula_by_hand():
    points = np.array([[0.0], [1.0], [4.0], [5.0]])
    found = kmeans(points, np.array([[0.0], [1.0]]))
    np.testing.assert_array_equal(found.assignments, [0, 0, 1, 1])
    np.testing.assert_array_equal(found.centroids, [[0.5], [4.5]])


def test_ties_go_to_the_lowest():
    nearest, errors = assign(np.array([[0.0], [2.0]]), np.array([[-1.0], [1.0], [3.0]]))
    np.testing.assert_array_equal(nearest, [0, 1])
    np.testing.assert_array_equal(errors, [1, 1])


def test_an_empty_cluster_takes_the_worst_point():
    points = np.array([[0.0], [0.1], [0.2], [9.0]])
    found = kmeans(points, np.array([[0.1], [100.0]]), iterations=1)
    np.testing.assert_array_equal(found.assignments, [0, 0, 0, 1])


def test_equal_points_leave_clusters_empty():
    found = kmeans(np.ones((6, 2)), 3)
    assert found.history[-1] == 0


def test_seeding_prefers_far_points(rng):
    points = np.concatenate([np.zeros((100, 1)), np.full((1, 1), 1e3)])
    chosen = seed_centroids(points, 2, rng)
    assert set(chosen.ravel()) == {0.0, 1e3}


def test_fewer_points_than_clusters():
    with pytest.raises(ValueError, match="3 points cannot have 4"):
        kmeans(np.ones((3, 2)), np.ones((4, 2)))
