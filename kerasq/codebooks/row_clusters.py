"""Clusters of a kernel's rows, and the regularizers that draw rows towards them."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from kerasq.codebooks.blocks import vectors_of
from kerasq.codebooks.kmeans import kmeans


def cluster_rows(
    rows: np.ndarray,
    clusters: int,
    merged: int,
    iterations: int,
    start: np.ndarray | np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Cluster vectors by k-means, those nearest to the mean of all in a cluster of their own.

    Args:
        rows: (n, s).
        clusters: K.
        merged: vectors in the first cluster, nearest to the mean; the others make K − 1. None where
            it is 0.
        iterations: most iterations of k-means.
        start: initial centroids (K, s), or the generator of the seeding.

    Returns:
        Centroids (K, s) and assignments (n,).
    """
    distances = ((rows - rows.mean(0)) ** 2).sum(1)
    order = np.argsort(distances, kind="stable")
    first, rest = order[:merged], np.sort(order[merged:])
    skipped = min(merged, 1)
    drawn = isinstance(start, np.random.Generator)
    initial = clusters - skipped if drawn else start[skipped:]
    found = kmeans(rows[rest], initial, iterations, start if drawn else None)
    assignments = np.zeros(len(rows), np.int64)
    assignments[rest] = found.assignments + skipped
    mean = rows[first].mean(0, keepdims=True) if merged else rows[:0]
    return np.concatenate([mean, found.centroids]), assignments


def relaxed_scatter(rows: tf.Tensor, basis: tf.Tensor) -> tf.Tensor:
    """Return ``tr(WᵀW) − tr(FᵀWᵀWF)``; of indicators it is the squared error of k-means.

    Args:
        rows: Wᵀ, (n, s).
        basis: F, (n, K), with orthonormal columns.
    """
    return tf.reduce_sum(rows**2) - tf.reduce_sum(tf.matmul(basis, rows, transpose_a=True) ** 2)


def hard_scatter(rows: tf.Tensor, members: tf.Tensor, clusters: int) -> tf.Tensor:
    """Return the squared distances of rows to the means of their clusters, summed.

    Gradient: ``2 (w_i − c_{b_i})``.

    Args:
        rows: (n, s).
        members: b, int32 (n,).
        clusters: K.
    """
    sums = tf.math.unsorted_segment_sum(rows, members, clusters)
    counts = tf.math.unsorted_segment_sum(tf.ones_like(rows[:, :1]), members, clusters)
    means = tf.stop_gradient(sums / tf.maximum(counts, 1))  # the deviations sum to zero
    return tf.reduce_sum((rows - tf.gather(means, members)) ** 2)


def leading_basis(rows: np.ndarray, clusters: int) -> np.ndarray:
    """Return the F, (n, K), of the least `relaxed_scatter`: the top right singular vectors of W."""
    return np.linalg.svd(rows, full_matrices=False)[0][:, :clusters]


class RowClusters:
    """A layer's rows in clusters, drawn towards the means.

    Args:
        layer: whose kernel is trained.
        length: s, of a row.
        clusters: K.
        merged: rows of the first cluster.
        iterations: most iterations of k-means.
        rng: generator of the first seeding.
    """

    def __init__(
        self,
        layer: Any,
        length: int,
        clusters: int,
        merged: int,
        iterations: int,
        rng: np.random.Generator,
    ):
        self._layer, self._length = layer, length
        self._clusters, self._merged, self._iterations = clusters, merged, iterations
        self.state = tf.Variable(self._cluster(rng), trainable=False)

    def _cluster(self, start: np.ndarray | np.random.Generator) -> np.ndarray:
        rows = kernel_rows(self._layer, self._length)
        return cluster_rows(rows, self._clusters, self._merged, self._iterations, start)[1].astype(
            np.int32
        )

    def scatter(self) -> tf.Tensor:
        """Return the squared distances to the means, summed."""
        return hard_scatter(rows_of(self._layer, self._length), self.state, self._clusters)

    def refresh(self) -> None:
        """Cluster anew, from the means of the clusters as they are."""
        rows, members = kernel_rows(self._layer, self._length), self.state.numpy()
        counts = np.bincount(members, minlength=self._clusters)
        sums = [np.bincount(members, column, self._clusters) for column in rows.T]
        self.state.assign(self._cluster(np.stack(sums, 1) / np.maximum(counts, 1)[:, None]))


class RowBasis:
    """A layer's rows, drawn towards a subspace: the relaxation of clusters.

    Args:
        layer: whose kernel is trained.
        length: s, of a row.
        clusters: K, at most s.
        rng: generator of the first basis.
    """

    def __init__(self, layer: Any, length: int, clusters: int, rng: np.random.Generator):
        self._layer, self._length, self._clusters = layer, length, clusters
        count = len(kernel_rows(layer, length))
        first = np.linalg.qr(rng.standard_normal((count, clusters)))[0]
        self.state = tf.Variable(first.astype(np.float32), trainable=False)

    def scatter(self) -> tf.Tensor:
        """Return what of the rows is outside of the subspace, squared."""
        return relaxed_scatter(rows_of(self._layer, self._length), self.state)

    def refresh(self) -> None:
        """Take the best subspace for the rows as they are."""
        basis = leading_basis(kernel_rows(self._layer, self._length), self._clusters)
        self.state.assign(basis.astype(np.float32))


def rows_of(layer: Any, length: int) -> tf.Tensor:
    """Return the rows of a layer's kernel, float32 (n, s), in the order of `kernel_rows`."""
    kernel = tf.convert_to_tensor(layer.kernel)
    outputs = kernel.shape[-1]
    if kernel.shape.rank == 4:
        kernel = tf.transpose(kernel, (2, 0, 1, 3))
    rows = tf.transpose(tf.reshape(kernel, (-1, length, outputs)), (0, 2, 1))
    return tf.cast(tf.reshape(rows, (-1, length)), tf.float32)


def kernel_rows(layer: Any, length: int) -> np.ndarray:
    """Return the rows of a layer's kernel, float64 (n, s)."""
    return vectors_of(np.asarray(tf.convert_to_tensor(layer.kernel)), length)


class RegularizedNetwork:
    """A network in training and its layers' clusters: it saves and loads them with the weights.

    It stands in for the model where `FineTuner` trains one.

    Args:
        model: of Keras.
        parts: `RowClusters` or `RowBasis` of its layers.
    """

    def __init__(self, model: Any, parts: list[RowClusters | RowBasis]):
        self._model, self._parts = model, parts
        self.layers = model.layers

    def __call__(self, inputs: Any, training: bool = False) -> Any:
        """Return the model's outputs."""
        return self._model(inputs, training=training)

    @property
    def trainable_variables(self) -> list[Any]:
        """The model's trainable variables."""
        return self._model.trainable_variables

    def scatter(self) -> tf.Tensor:
        """Return the sum over the layers."""
        return tf.add_n([part.scatter() for part in self._parts])

    def refresh(self) -> None:
        """Cluster all layers anew."""
        for part in self._parts:
            part.refresh()

    def get_weights(self) -> list[np.ndarray]:
        """Return the model's weights and the clusters."""
        return [*self._model.get_weights(), *(part.state.numpy() for part in self._parts)]

    def set_weights(self, weights: list[np.ndarray]) -> None:
        """Assign what `get_weights` returned."""
        count = len(weights) - len(self._parts)
        self._model.set_weights(weights[:count])
        for part, state in zip(self._parts, weights[count:], strict=True):
            part.state.assign(state)
