"""Kernels and inputs quantized by larq's own quantizers, read from the values they produce."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from kerasq.representations import BitPlanes


def represent_with(layer: Any, quantizer: Any, kernel: np.ndarray) -> BitPlanes:
    """Return the bit planes of a kernel that another library's quantizer makes binary or ternary.

    A channel that holds ±s is one plane of scale s; one that holds −s, 0 and s two planes of s / 2.

    Raises:
        ValueError: a channel holds other values.
    """
    values = np.asarray(quantizer(tf.constant(kernel)), np.float32)
    axes = (-2, -1) if kernel.ndim == 4 and hasattr(layer, "depthwise_kernel") else (-1,)
    channels = int(np.prod([kernel.shape[axis] for axis in axes]))
    columns = values.reshape(-1, channels)
    scales = np.abs(columns).max(axis=0)
    if not np.all((np.abs(columns) == scales) | (columns == 0)):
        raise ValueError(
            f"layer {layer.name!r}: its kernel quantizer {quantizer!r} makes neither binary nor "
            "ternary weights, and kerasq does not know how to store others of another library. "
            "Take the method from kerasq.quantizers.catalogue()"
        )
    if np.all(columns != 0):
        signs = np.sign(values)[None]
        return BitPlanes.from_signs(signs, scales[None], None, axes)
    # +s = +s/2 +s/2, 0 = +s/2 -s/2, -s = -s/2 -s/2
    signs = np.stack([np.where(values >= 0, 1, -1), np.where(values > 0, 1, -1)])
    return BitPlanes.from_signs(signs, np.stack([scales / 2, scales / 2]), None, axes)


def binary_levels(quantizer: Any) -> np.ndarray | None:
    """Return [−1, 1] for another library's binary input quantizer, else None."""
    if getattr(quantizer, "precision", None) != 1:
        return None
    probe = np.asarray(quantizer(tf.constant([[-1e3, -0.1, 0.0, 0.1, 1e3]])), np.float32)
    return np.array([-1.0, 1.0], np.float32) if set(np.unique(probe)) == {-1.0, 1.0} else None
