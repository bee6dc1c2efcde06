"""k-means by Lloyd's iteration."""

from __future__ import annotations

import dataclasses

import numpy as np

# Distances held at a time: few enough for the cache.
_DISTANCES = 1 << 17


@dataclasses.dataclass(frozen=True)
class Clusters:
    """What k-means found.

    Attributes:
        centroids: float64 (K, d).
        assignments: int64 (n,), below K.
        history: the sum of squared errors after each half-step, assignment then update.
    """

    centroids: np.ndarray
    assignments: np.ndarray
    history: list[float]


def kmeans(
    points: np.ndarray,
    centroids: np.ndarray | int,
    iterations: int = 50,
    rng: np.random.Generator | None = None,
) -> Clusters:
    """Cluster points by Lloyd's iteration.

    ``b_i = argmin_k ‖v_i − D_k‖²`` (ties to the lowest k), then ``D_k = mean{v_i : b_i = k}``,
    until no assignment changes, the error falls by less than 1e-6 of itself, or all ``iterations``
    are done.
    An empty cluster takes over the point with the largest error among clusters of two points or
    more. The sum of squared errors never rises.

    Args:
        points: v, (n, d).
        centroids: initial centroids (K, d), or K, which are then chosen by k-means++.
        iterations: most iterations.
        rng: generator of the k-means++ seeding; seed 0 where it is not given.

    Raises:
        ValueError: fewer points than clusters.
    """
    points = np.asarray(points, np.float64)
    if isinstance(centroids, int | np.integer):
        centroids = seed_centroids(points, int(centroids), rng or np.random.default_rng(0))
    centroids = np.array(centroids, np.float64)
    if len(points) < len(centroids):
        raise ValueError(f"k-means of {len(points)} points cannot have {len(centroids)} clusters")
    history: list[float] = []
    assignments = None
    for _ in range(iterations):
        nearest, errors = assign(points, centroids)
        _fill_empty(points, centroids, nearest, errors)
        history.append(float(errors.sum()))
        if assignments is not None and np.array_equal(nearest, assignments):
            break
        assignments = nearest
        centroids = _means(points, assignments, centroids)
        error = float(np.square(points - centroids[assignments]).sum())
        slow = len(history) > 2 and history[-2] - error < 1e-6 * error
        history.append(error)
        if slow:
            break
    return Clusters(centroids, assignments, history)


def seed_centroids(points: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Choose centroids among the points by k-means++: each with probability ~ squared distance."""
    chosen = np.empty((count, points.shape[1]))
    columns = np.ascontiguousarray(points.T)
    chosen[0] = points[rng.integers(len(points))]
    distance = _squared_distance(columns, chosen[0])
    for k in range(1, count):
        cumulative = np.cumsum(distance)
        at = np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right")
        chosen[k] = points[min(at, len(points) - 1)]
        np.minimum(distance, _squared_distance(columns, chosen[k]), out=distance)
    return chosen


def _squared_distance(columns: np.ndarray, point: np.ndarray) -> np.ndarray:
    """Sum over columns in order: faster than over short rows."""
    total = np.square(columns[0] - point[0])
    for column, value in zip(columns[1:], point[1:], strict=True):
        total += np.square(column - value)
    return total


def assign(points: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest centroid of each point, ties to the lowest, and the squared distances."""
    nearest = _nearest_number if points.shape[1] == 1 else _nearest_vector
    found = nearest(points, centroids)
    return found, np.square(points - centroids[found]).sum(1)


def _nearest_vector(points: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    offset, table = (centroids**2).sum(1), 2 * centroids.T
    nearest = np.empty(len(points), np.int64)
    step = max(1, _DISTANCES // len(centroids))
    for start in range(0, len(points), step):
        part = slice(start, start + step)
        nearest[part] = (offset - points[part] @ table).argmin(1)
    return nearest


def _nearest_number(points: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Search the middles between centroids in ascending order."""
    values, lowest = np.unique(centroids[:, 0], return_index=True)
    middles = (values[1:] + values[:-1]) / 2
    place = np.searchsorted(middles, points[:, 0])
    if len(middles):
        # In the middle, the lower value was found: the other may have the lower number.
        at = np.minimum(place, len(middles) - 1)
        place += (points[:, 0] == middles[at]) & (lowest[at + 1] < lowest[at]) & (place == at)
    return lowest[place]


def _means(points: np.ndarray, assignments: np.ndarray, previous: np.ndarray) -> np.ndarray:
    counts = np.bincount(assignments, minlength=len(previous))
    sums = [np.bincount(assignments, column, len(previous)) for column in points.T]
    means = np.stack(sums, 1) / np.maximum(counts, 1)[:, None]
    return np.where(counts[:, None] > 0, means, previous)


def _fill_empty(
    points: np.ndarray, centroids: np.ndarray, nearest: np.ndarray, errors: np.ndarray
) -> None:
    """Move each empty centroid onto the worst point, in place; the error can only fall."""
    counts = np.bincount(nearest, minlength=len(centroids))
    for k in np.flatnonzero(counts == 0):
        worst = np.where(counts[nearest] >= 2, errors, -1.0).argmax()
        if errors[worst] <= 0:
            return
        counts[nearest[worst]] -= 1
        counts[k] = 1
        centroids[k], nearest[worst], errors[worst] = points[worst], k, 0.0
