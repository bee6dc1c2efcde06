"""Magnitude pruning on a schedule."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf


def cubic_sparsity(initial: float, final: float, share: float) -> float:
    """Return the sparsity when a share of the pruning is done, ``s_f + (s_i − s_f)(1 − share)³``.

    Paper: M. Zhu, S. Gupta, "To prune, or not to prune", arXiv 1710.01878.
    """
    return final + (initial - final) * (1 - share) ** 3


def quality_sparsity(kernel: np.ndarray, quality: float) -> float:
    """Return the share of weights below the threshold ``quality · std(kernel)`` in magnitude.

    Paper: S. Han et al., "Learning both Weights and Connections for Efficient Neural Networks",
    arXiv 1506.02626.
    """
    kernel = np.asarray(kernel, np.float64)
    return float((np.abs(kernel) < quality * kernel.std()).mean())


def magnitude_mask(
    kernel: np.ndarray, sparsity: float, mask: np.ndarray | None = None
) -> np.ndarray:
    """Return which weights stay: the largest in magnitude.

    Args:
        kernel: of any shape.
        sparsity: share to prune; ``round(sparsity · size)`` weights. Among equals, those that come
            first are pruned.
        mask: which weights still stand; the others never come back. All where not given.

    Returns:
        Booleans of the kernel's shape.
    """
    magnitude = np.abs(np.asarray(kernel, np.float64)).ravel()
    if mask is not None:
        magnitude[~mask.ravel()] = -1.0
    keep = magnitude >= 0
    keep[np.argsort(magnitude, kind="stable")[: round(sparsity * magnitude.size)]] = False
    return keep.reshape(np.shape(kernel))


class Pruner:
    """Prunes the kernels of a network while it is trained.

    The sparsity rises from that at the start by `cubic_sparsity`, in steps. Between them, weights
    that were pruned are set back to zero after every update. A kernel's zeros count as pruned, so
    that the masks are known from the weights when training is taken up again.

    Args:
        layers: with a ``kernel``, and their final sparsities.
        steps: of training until the final sparsity; 0 prunes at once.
        updates: how often the masks are found anew in these steps.
    """

    def __init__(self, layers: list[tuple[Any, float]], steps: int, updates: int):
        self._layers, self._steps, self._updates = layers, steps, updates
        self._masks: list[tf.Tensor] = []

    def start(self) -> None:
        """Read the masks from the kernels; prune where there is no schedule."""
        self._masks = [tf.cast(_values(layer) != 0, tf.float32) for layer, _ in self._layers]
        if self._steps == 0:
            self._prune(1.0)

    def after_step(self, step: int) -> None:
        """Prune further where it is time, and set pruned weights back to zero.

        Args:
            step: of training, from 0, that was just taken.
        """
        if step < self._steps:
            done, before = ((step + i) * self._updates // self._steps for i in (1, 0))
            if done > before:
                self._prune(done / self._updates)
        for (layer, _), mask in zip(self._layers, self._masks, strict=True):
            layer.kernel.assign(tf.convert_to_tensor(layer.kernel) * mask)

    def _prune(self, share: float) -> None:
        for index, (layer, final) in enumerate(self._layers):
            kernel, mask = _values(layer), self._masks[index].numpy() > 0
            mask = magnitude_mask(kernel, cubic_sparsity(0.0, final, share), mask)
            self._masks[index] = tf.cast(mask, tf.float32)
            layer.kernel.assign(kernel * mask)


def _values(layer: Any) -> np.ndarray:
    return np.asarray(tf.convert_to_tensor(layer.kernel), np.float32)
