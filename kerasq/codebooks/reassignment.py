"""New assignments for trained codewords."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from kerasq.codebooks.finetuning import flat_layers
from kerasq.codebooks.kmeans import assign
from kerasq.layers import CodebookConv2D, CodebookDense


def reassign(model: Any, original: Any) -> dict[str, float]:
    """Assign each sub-vector of the float kernels to its nearest codeword, in place.

    ``B[p, m, c] = argmin_k ‖W[p, m·d : m·d + d, c] − D[m, k]‖²`` with D as shipped. Training moves
    codewords and keeps the assignments: others may be nearer afterwards. Weights that are pruned,
    those of a fixed zero, stay pruned, the others stay others.

    Args:
        model: compressed model; its codebook layers are changed.
        original: the float model, with layers of the same names.

    Returns:
        The share of a layer's assignments that changed, by its name.

    Raises:
        ValueError: no codebook layer, or one whose kernel the original does not have.
    """
    kinds = (CodebookConv2D, CodebookDense)
    found = [layer for layer in flat_layers(model) if type(layer) in kinds]
    if not found:
        raise ValueError(f"model {model.name!r} has no CodebookConv2D or CodebookDense")
    floats = {layer.name: layer for layer in flat_layers(original)}
    changed = {}
    for layer in found:
        kernel = getattr(floats.get(layer.name), "kernel", None)
        if kernel is None or tuple(kernel.shape) != layer.kernel_shape:
            raise ValueError(
                f"the original has no layer {layer.name!r} with a kernel {layer.kernel_shape}: "
                "pass the float model that the compressed one was made from"
            )
        before = np.asarray(tf.convert_to_tensor(layer.assignments))
        after = _nearest(layer, np.asarray(tf.convert_to_tensor(kernel), np.float32), before)
        layer.assignments.assign(after.astype(before.dtype))
        changed[layer.name] = float((before != after).mean())
    return changed


def _nearest(layer: Any, kernel: np.ndarray, before: np.ndarray) -> np.ndarray:
    codewords = layer.codebook().codewords.astype(np.float64)  # (M or 1, K, d)
    vectors, lengths = _subvectors(kernel, layer.subvector, layer.order)
    after = before.astype(np.int64)
    for m, length in enumerate(lengths):
        book = codewords[m if len(codewords) > 1 else 0, :, :length]
        points = vectors[..., m, :, :length].reshape(-1, length)
        first = int(layer.fixed_zero and len(book) > 1)
        nearest = first + assign(points, book[first:])[0]
        old = before[..., m, :]
        kept = (old == 0) & bool(first)
        after[..., m, :] = np.where(kept, old, nearest.reshape(old.shape))
    return after


def _subvectors(kernel: np.ndarray, subvector: int, order: str) -> tuple[np.ndarray, list[int]]:
    """Return sub-vectors (..., M, Ct, d), the last ones filled with zeros, and their lengths."""
    *places, channels, outputs = kernel.shape
    if order == "channel":  # an output's weights in the order (input channel, row, column)
        rows = np.moveaxis(kernel, -2, 0).reshape(-1, outputs)
        places, channels = [], len(rows)
    else:
        rows = kernel
    spaces = -(-channels // subvector)
    filled = np.zeros((*places, spaces * subvector, outputs))
    filled[..., :channels, :] = rows
    vectors = filled.reshape(*places, spaces, subvector, outputs)
    lengths = [min(subvector, channels - m * subvector) for m in range(spaces)]
    return np.moveaxis(vectors, -2, -1), lengths
