"""The closed-form examples of Q-CNN: a dense layer and a convolution."""

from __future__ import annotations

import numpy as np

from kerasq.codebooks import ErrorCorrection, KernelLayout, Moments, kmeans


class Example:
    """A layer with its inputs as rows, targets, and the k-means solution to start from."""

    def __init__(self, kernel, rows, subvector, initial):
        self.kernel, self.rows = kernel, rows
        self.layout = KernelLayout(kernel.shape, subvector)
        self.targets = rows @ kernel.reshape(-1, kernel.shape[-1])
        self.moments = Moments(rows.shape[1], kernel.shape[-1])
        self.moments.update(rows, self.targets)
        clusters = []
        for m in range(self.layout.subspaces):
            points = self.layout.vectors(kernel, m)
            clusters.append(kmeans(points, points[initial(len(points))]))
        self.codewords = np.stack([c.centroids for c in clusters])
        shape = (self.layout.positions, self.layout.outputs)
        self.assignments = np.stack([c.assignments.reshape(shape) for c in clusters], 1)

    def decoded(self, codewords=None, assignments=None):
        codewords = self.codewords if codewords is None else codewords
        assignments = self.assignments if assignments is None else assignments
        return self.layout.decode(codewords, assignments)

    def error(self, kernel):
        """The squared error of the responses, from the data."""
        return ((self.targets - self.rows @ kernel.reshape(-1, kernel.shape[-1])) ** 2).sum()

    def correction(self, **kwargs):
        kwargs = {"prior": 0.0, "proximal": 0.0, "dtype": np.float64, **kwargs}
        return ErrorCorrection(
            self.layout, self.kernel, [self.moments], self.codewords, self.assignments, **kwargs
        )


def dense() -> Example:
    i, c = np.ogrid[:8, :16]
    kernel = np.sin(0.7 * i + 1.3 * c + 0.11 * i * c)
    i, n = np.ogrid[:8, :40]
    inputs = np.maximum(0, np.cos(0.3 * i + 0.9 * n + 0.05 * i * n))
    return Example(kernel, inputs.T, 4, lambda count: np.arange(4))


def convolution() -> Example:
    o, a, b, c = np.ogrid[:16, :3, :3, :4]
    kernel = np.sin(0.9 * o + 1.1 * a + 0.7 * b + 1.7 * c + 0.13 * o * c + 0.05 * a * b * o)
    kernel = kernel.transpose(1, 2, 3, 0)
    n, c, y, x = np.ogrid[:4, :4, :8, :8]
    maps = np.cos(0.8 * y + 0.5 * x + 1.3 * c + 0.9 * n + 0.07 * y * x + 0.2 * c * x)
    maps = np.maximum(0, maps).transpose(0, 2, 3, 1)
    patches = [maps[:, i : i + 6, j : j + 6] for i in range(3) for j in range(3)]
    rows = np.stack(patches, 3).reshape(144, 36)
    return Example(kernel, rows, 2, lambda count: np.linspace(0, count - 1, 4).astype(int))
