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


def test_numbers_are_assigned_as_vectors_are(rng):
    """One column is searched, not compared: the same result, ties and equal centroids too."""
    points = rng.integers(-6, 7, (500, 1)).astype(float)
    centroids = rng.permutation(np.array([-4.0, 2.0, 0.0, 2.0, 6.0, -2.0]))[:, None]
    nearest, errors = assign(points, centroids)
    distances = (points - centroids.T) ** 2
    np.testing.assert_array_equal(nearest, distances.argmin(1))
    np.testing.assert_array_equal(errors, distances.min(1))
    single, _ = assign(points, centroids[:1])
    assert not single.any()


def test_same_seed_same_bits(rng):
    points = rng.normal(size=(3000, 4))
    runs = [kmeans(points, 32, rng=np.random.default_rng(3)) for _ in range(2)]
    assert runs[0].centroids.tobytes() == runs[1].centroids.tobytes()
    np.testing.assert_array_equal(runs[0].assignments, runs[1].assignments)
