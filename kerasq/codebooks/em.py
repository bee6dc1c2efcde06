"""k-means in the metric of a layer's inputs: the solver of "And the bit goes down"."""

from __future__ import annotations

import numpy as np

from kerasq.codebooks.kmeans import Clusters, assign, kmeans

POLICIES = ("reference", "paper")
# Directions in which inputs hardly ever point: relative to the mean eigenvalue of their Gram.
_FLOOR = 1e-6
_NOISE = 1e-3


def pooled_gram(gram: np.ndarray, positions: int, subvector: int) -> np.ndarray:
    """Return ``Γ = Σ_j X_jᵀ X_j`` (d, d) over the blocks j of a layer's inputs.

    Args:
        gram: Xᵀ X of the inputs in the order (position, channel), (Q, Q).
        positions: of the kernel; blocks are cut in the order (channel, position).
        subvector: d.
    """
    rows = np.arange(len(gram)).reshape(positions, -1).T.reshape(-1, subvector)
    return gram[rows[:, :, None], rows[:, None, :]].sum(0)


def whitening(metric: np.ndarray) -> np.ndarray:
    """Return L with ``L Lᵀ = Γ``: distances of ``v L`` are those of v in the metric Γ.

    Eigenvalues below 1e-6 of their mean are raised to it, so that weights which the inputs do not
    see are still told apart; a Γ of zeros gives the identity.
    """
    values, vectors = np.linalg.eigh(metric)
    mean = values.mean()
    if mean <= 0:
        return np.eye(len(metric))
    return vectors * np.sqrt(np.maximum(values, _FLOOR * mean))


def weighted_kmeans(
    vectors: np.ndarray,
    metric: np.ndarray,
    codewords: np.ndarray | int,
    iterations: int = 100,
    policy: str = "reference",
    rng: np.random.Generator | None = None,
) -> Clusters:
    """Cluster vectors in a metric Γ by expectation and maximisation.

    E: ``b_i = argmin_k (v_i − D_k)ᵀ Γ (v_i − D_k)``; M: ``D_k = mean{v_i : b_i = k}``, the minimum
    for any Γ. ``Φ = Σ_i (v_i − D_{b_i})ᵀ Γ (v_i − D_{b_i})`` never rises with policy "reference".

    Args:
        vectors: v, (n, d).
        metric: Γ, symmetric positive semi-definite (d, d).
        codewords: initial codewords (K, d), or K, which are then drawn from v with replacement.
        iterations: most iterations.
        policy: what an empty cluster takes: "reference" the worst vector; "paper" half of the
            largest cluster, by noise of 1e-3 standard deviations of v, K times a round at most.
        rng: generator of the drawing and of the noise; seed 0 where it is not given.
    """
    rng = rng or np.random.default_rng(0)
    vectors = np.asarray(vectors, np.float64)
    if isinstance(codewords, int | np.integer):
        codewords = vectors[rng.integers(len(vectors), size=int(codewords))]
    factor = whitening(metric)
    if policy == "reference":
        found = kmeans(vectors @ factor, codewords @ factor, iterations)
        decoded = np.linalg.solve(factor.T, found.centroids.T).T
        return Clusters(decoded, found.assignments, found.history)
    return _splitting(vectors, factor, np.array(codewords, np.float64), iterations, rng)


def _splitting(
    vectors: np.ndarray,
    factor: np.ndarray,
    codewords: np.ndarray,
    iterations: int,
    rng: np.random.Generator,
) -> Clusters:
    points = vectors @ factor
    history: list[float] = []
    previous = None
    for _ in range(iterations):
        nearest, errors = _assign_all(points, factor, codewords, _NOISE * vectors.std(), rng)
        history.append(float(errors.sum()))
        if previous is not None and np.array_equal(nearest, previous):
            break
        previous = nearest
        for k in np.flatnonzero(np.bincount(nearest, minlength=len(codewords))):
            codewords[k] = vectors[nearest == k].mean(0)
        history.append(float(((points - codewords[nearest] @ factor) ** 2).sum()))
    return Clusters(codewords, nearest, history)


def _assign_all(
    points: np.ndarray,
    factor: np.ndarray,
    codewords: np.ndarray,
    noise: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Assign; while a cluster is empty, split the largest one, changing codewords in place."""
    nearest, errors = assign(points, codewords @ factor)
    for _ in range(len(codewords)):
        counts = np.bincount(nearest, minlength=len(codewords))
        empty = np.flatnonzero(counts == 0)
        if not len(empty):
            break
        k, largest = rng.choice(empty), counts.argmax()
        step = rng.normal(0.0, noise, codewords.shape[1])
        codewords[k] = codewords[largest] + step
        codewords[largest] -= step
        nearest, errors = assign(points, codewords @ factor)
    return nearest, errors
