"""Sums over the calibration data: all that error correction needs to know of it."""

from __future__ import annotations

import numpy as np


class Moments:
    """Streaming second moments of a layer's inputs x and targets t.

    ``G = Σ x xᵀ``, ``H = Σ x tᵀ``, ``τ = Σ ‖t‖²``, with ``Σ x``, ``Σ t`` and the count N. Each
    block is a float32 matrix product, added to float64 sums. With them the squared error of any
    weights W is ``τ − 2⟨W, H⟩ + ⟨W, G W⟩``, whatever the number of samples.

    Args:
        inputs: length Q of x.
        outputs: length Ct of t.

    Attributes:
        gram: G, float64 (Q, Q).
        cross: H, float64 (Q, Ct).
        energy: τ.
        count: N.
        input_sum: Σ x, float64 (Q,).
        target_sum: Σ t, float64 (Ct,).
    """

    def __init__(self, inputs: int, outputs: int):
        self.gram = np.zeros((inputs, inputs))
        self.cross = np.zeros((inputs, outputs))
        self.input_sum = np.zeros(inputs)
        self.target_sum = np.zeros(outputs)
        self.energy = 0.0
        self.count = 0

    def update(self, inputs: np.ndarray, targets: np.ndarray) -> None:
        """Add samples: ``inputs`` (n, Q) and ``targets`` (n, Ct)."""
        self.gram += inputs.T @ inputs
        self.cross += inputs.T @ targets
        self.input_sum += inputs.sum(0, dtype=np.float64)
        self.target_sum += targets.sum(0, dtype=np.float64)
        self.energy += float(np.square(targets, dtype=np.float64).sum())
        self.count += len(inputs)

    def error(self, weights: np.ndarray) -> float:
        """Return ``Σ ‖t − Wᵀx‖²`` of weights W (Q, Ct)."""
        weights = np.asarray(weights, np.float64)
        return self.energy + float((weights * (self.gram @ weights - 2 * self.cross)).sum())
