"""Two-bit quantizers with the values -a, 0, +a."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from kerasq.quantizers.base import Quantizer, group_size, plane_scales, reduced_axes
from kerasq.quantizers.registry import register_quantizer
from kerasq.representations import BitPlanes


def _best_threshold(magnitude: tf.Tensor, channel_axes: Sequence[int]) -> tf.Tensor:
    """Return the k-th largest magnitude where ``(sum of the k largest)^2 / k`` is greatest."""
    rank = magnitude.shape.rank
    axes = reduced_axes(rank, channel_axes)
    kept = [axis for axis in range(rank) if axis not in axes]
    count = group_size(magnitude, axes)
    rows = tf.reshape(tf.transpose(magnitude, [*kept, *axes]), [-1, count])
    ordered = tf.sort(rows, axis=1, direction="DESCENDING")
    score = tf.cumsum(ordered, axis=1) ** 2 * tf.constant(1.0 / np.arange(1, count + 1), tf.float32)
    best = tf.gather(ordered, tf.argmax(score, axis=1), batch_dims=1)
    return tf.reshape(best, [magnitude.shape[a] if a in kept else 1 for a in range(rank)])


def twn_parts(
    w: tf.Tensor, channel_axes: Sequence[int] = (), exact: bool = False
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return alpha (kept dimensions) and t in {-1, 0, +1} of TWN; see :class:`TWN`."""
    magnitude = tf.abs(w)
    axes = reduced_axes(w.shape.rank, channel_axes)
    if exact:
        chosen = (magnitude >= _best_threshold(magnitude, channel_axes)) & (magnitude > 0)
    else:
        chosen = magnitude > 0.7 * tf.reduce_mean(magnitude, axis=axes, keepdims=True)
    mask = tf.cast(chosen, tf.float32)
    alpha = tf.math.divide_no_nan(
        tf.reduce_sum(magnitude * mask, axis=axes, keepdims=True),
        tf.reduce_sum(mask, axis=axes, keepdims=True),
    )
    return alpha, tf.where(w > 0, mask, tf.where(chosen, -mask, tf.zeros_like(mask)))


def twn(w: tf.Tensor, channel_axes: Sequence[int] = (), exact: bool = False) -> tf.Tensor:
    """Scaled ternary values with the identity gradient; see :class:`TWN`."""

    @tf.custom_gradient
    def quantize(w: tf.Tensor) -> tf.Tensor:
        alpha, ternary = twn_parts(w, channel_axes, exact)
        return alpha * ternary, lambda dq: dq

    return quantize(w)


@register_quantizer(
    name="twn",
    paper="Ternary Weight Networks",
    arxiv="1605.04711",
    bits=2,
    target="weights",
    representation="BitPlanes",
)
class TWN(Quantizer):
    r"""Ternary weights with a scale.

    Forward: ``q = alpha * t``, ``t = sign(w) * 1{|w| > delta}``, ``delta = 0.7 * mean|w|``,
    ``alpha`` = the mean of those ``|w|`` that are above delta. With ``exact``, the k largest
    ``|w|`` are kept, k maximizing ``(sum of the k largest |w|)^2 / k``: the minimizer of
    ``||w - alpha t||^2``.

    Gradient: ``dL/dw = dL/dq``, for the zeroed weights as well.

    Args:
        exact: search the optimal threshold.
        channel_axes: (), one scale per layer, as the release; (-1,) for a scale per filter.

    Raises:
        ValueError: an axis outside the kernel.

    Paper: F. Li, B. Zhang, B. Liu, "Ternary Weight Networks", arXiv 1605.04711.

    Deviations: the release adds 1e-6 to the count in alpha's denominator; here an all-zero tensor
    gives zeros instead.
    """

    precision = 2

    def __init__(
        self, exact: bool = False, *, channel_axes: Sequence[int] = (), **kwargs: Any
    ) -> None:
        super().__init__(channel_axes=channel_axes, **kwargs)
        self.exact = bool(exact)

    def forward(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return ``alpha * t``."""
        return twn(x, self.channel_axes, self.exact)

    def pack(self, w: tf.Tensor) -> BitPlanes:
        """Return two planes of scale alpha / 2: (+, +) is 1, (-, -) is -1, (+, -) is 0."""
        alpha, ternary = twn_parts(w, self.channel_axes, self.exact)
        t = ternary.numpy()
        signs = np.stack([np.where(t >= 0, 1, -1), np.where(t > 0, 1, -1)])
        scales = plane_scales(0.5 * alpha, 2, self.channel_axes)
        return BitPlanes.from_signs(signs, scales, channel_axes=self.channel_axes)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "exact": self.exact}
