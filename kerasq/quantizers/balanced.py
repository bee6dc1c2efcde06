"""Weights whose levels are used equally often."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from kerasq.quantizers.base import (
    UniformQuantizer,
    check_bits,
    check_choice,
    check_range,
    grid_values,
)
from kerasq.quantizers.registry import register_quantizer
from kerasq.quantizers.uniform import Grid, mid_rise_grid

BALANCED_METHODS = ("median", "mean")
BALANCED_SCALES = ("max", "mean")


def _median_bins(w: tf.Tensor, bits: int) -> tf.Tensor:
    """Return the bin of each weight of a vector: each half is split at its own median.

    A part is a range low..high of the sorted weights, so that one sort serves all splits. What
    equals a median is on its left, also where this leaves nothing for the right: the median of an
    empty part is the weight before it, which changes no bin.
    """
    ordered = tf.sort(w)
    low, high = tf.zeros([1], tf.int32), tf.size(w)[None]
    medians = []
    for _ in range(bits):
        median = tf.gather(ordered, low + (high - low + 1) // 2 - 1)
        middle = tf.searchsorted(ordered, median, side="right")
        low = tf.reshape(tf.stack([low, middle], axis=1), [-1])
        high = tf.reshape(tf.stack([middle, high], axis=1), [-1])
        medians.append(median)
    return tf.searchsorted(tf.sort(tf.concat(medians, axis=0)), w, side="left")


def _mean_bins(w: tf.Tensor, bits: int) -> tf.Tensor:
    """Return the bin of each weight of a vector: each part is split at its own mean."""
    # Sums of equal weights are exact in float64: their mean is that weight, and they stay together.
    wide, bins = tf.cast(w, tf.float64), tf.zeros_like(w, tf.int32)
    for level in range(bits):
        parts = 2**level
        # The raw operator takes a constant size, which XLA needs; `tf.math.bincount` computes it.
        sums = tf.raw_ops.DenseBincount(input=bins, size=parts, weights=wide)
        counts = tf.raw_ops.DenseBincount(input=bins, size=parts, weights=tf.ones_like(wide))
        means = tf.math.divide_no_nan(sums, counts)
        above = w > tf.gather(tf.cast(means, tf.float32), bins)
        bins = 2 * bins + tf.cast(above, tf.int32)
    return bins


def balanced_grid(
    w: tf.Tensor, bits: int = 2, method: str = "median", scale: str = "max", factor: float = 2.0
) -> Grid:
    """Return codes, scale and zero point; see :class:`Balanced`."""
    flat, steps = tf.reshape(w, [-1]), 2**bits - 1
    bins = (_median_bins if method == "median" else _mean_bins)(flat, bits)
    # Equal weights all lie left of their median, but a positive one is the highest level.
    constant = tf.reduce_all(tf.equal(flat, flat[0]))
    bins = tf.where(constant & (flat > 0.0), steps, bins)
    codes = tf.reshape(tf.cast(bins, tf.float32), tf.shape(w))
    magnitude = tf.abs(w)
    limit = tf.reduce_max(magnitude) if scale == "max" else factor * tf.reduce_mean(magnitude)
    return mid_rise_grid(codes, limit, steps)


def balanced(
    w: tf.Tensor, bits: int = 2, method: str = "median", scale: str = "max", factor: float = 2.0
) -> tf.Tensor:
    """Weights on equally filled levels, with the identity gradient; see :class:`Balanced`."""

    @tf.custom_gradient
    def quantize(w: tf.Tensor) -> tf.Tensor:
        return grid_values(*balanced_grid(w, bits, method, scale, factor)), lambda dq: dq

    return quantize(w)


@register_quantizer(
    name="balanced",
    paper="Balanced Quantization: An Effective and Efficient Approach to Quantized Neural Networks",
    arxiv="1706.07145",
    bits=(1, 8),
    target="weights",
    representation="Affine",
)
class Balanced(UniformQuantizer):
    r"""Uniform levels that are used equally often: histogram equalization, then quantization.

    Forward: the weights are split at their median, each half at its own, k times; the i-th of the
    ``2^k`` bins has ``q = s * (2 i / (2^k - 1) - 1)``. What equals a median goes left. Distinct
    weights fill bins whose counts differ by 1 at most.

    Gradient: ``dL/dw = dL/dq``, partition and scale held constant.

    Args:
        bits: k in 1..8.
        method: "median"; "mean" splits at means instead, the paper's approximation without
            sorting.
        scale: "max", ``s = max|w|``; "mean", ``s = factor * mean|w|``, for networks without batch
            normalization.
        factor: of the scale "mean"; at 2, evenly distributed weights keep their range.

    Raises:
        ValueError: bits outside 1..8, an unknown method or scale, or a factor that is not positive.

    Paper: S. Zhou, Y. Wang, H. Wen, Q. He, Y. Zou, J. Comput. Sci. Technol. 32(4), 2017, arXiv
    1706.07145.

    Deviations: the scale is a reading, and so is its factor. An all-zero tensor gives zeros; where
    all weights equal one positive number, they take the highest level.
    """

    per_channel = False

    def __init__(
        self,
        bits: int = 2,
        method: str = "median",
        scale: str = "max",
        factor: float = 2.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.bits = check_bits(bits, 1, 8, "balanced")
        self.method_of_split = check_choice(method, BALANCED_METHODS, "balanced: method")
        self.scale = check_choice(scale, BALANCED_SCALES, "balanced: scale")
        self.factor = check_range(factor, 0.0, float("inf"), "balanced: factor")
        self.precision = self.bits

    def forward(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return ``x`` on the levels."""
        return balanced(x, self.bits, self.method_of_split, self.scale, self.factor)

    def grid(self, x: tf.Tensor) -> Grid:
        """Return codes, scale and zero point."""
        return balanced_grid(x, self.bits, self.method_of_split, self.scale, self.factor)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "bits": self.bits,
            "method": self.method_of_split,
            "scale": self.scale,
            "factor": self.factor,
        }
