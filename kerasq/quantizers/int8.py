"""The 8-bit quantizer between a minimum and a maximum, for training in 8 bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from kerasq.quantizers.base import UniformQuantizer, grid_values
from kerasq.quantizers.registry import register_quantizer

STEPS = 255.0  # of 8 bits
CHUNKS = 8


def gemmlowp_grid(
    x: tf.Tensor, low: tf.Tensor, high: tf.Tensor, true_zero: bool = False, noise: Any = 0.0
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Return the codes (float 0..255) of ``x`` between ``low`` and ``high``, scale and zero point.

    A range of one number has the scale 1 and that number as its first level.

    Args:
        x: float32 tensor.
        low: the minimum.
        high: the maximum.
        true_zero: the zero point is a whole number, and the range is widened to contain 0.
        noise: added before rounding, in steps; for stochastic rounding uniform in [-1/2, 1/2].
    """
    if true_zero:
        low, high = tf.minimum(low, 0.0), tf.maximum(high, 0.0)
    # A product, not a quotient: graphs turn divisions by constants into products.
    scale = (high - low) * np.float32(1 / STEPS)
    scale = tf.where(scale > 0, scale, tf.ones_like(scale))
    zero_point = -low / scale
    if true_zero:
        zero_point = tf.round(zero_point)
        codes = tf.round(x / scale + noise) + zero_point
    else:
        codes = tf.round((x - low) / scale + noise)
    return tf.clip_by_value(codes, 0.0, STEPS), scale, zero_point


def gemmlowp(
    x: tf.Tensor, low: tf.Tensor, high: tf.Tensor, true_zero: bool = False, noise: Any = 0.0
) -> tf.Tensor:
    """256 levels between ``low`` and ``high``, the gradient passed; see :class:`Int8Gemmlowp`."""

    @tf.custom_gradient
    def quantize(x: tf.Tensor) -> tf.Tensor:
        return grid_values(*gemmlowp_grid(x, low, high, true_zero, noise)), lambda dq: dq

    return quantize(x)


def chunked_range(x: tf.Tensor, chunks: int = CHUNKS) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the means of the minima and of the maxima of equal chunks of the batch.

    Args:
        x: the first axis is the batch; its size may be unknown.
        chunks: how many; a smaller batch has a chunk for each sample. Where they do not divide the
            batch, some chunks have a sample more.
    """
    samples = tf.shape(x)[0]
    rows = tf.reshape(x, [samples, -1])
    used = tf.maximum(tf.minimum(samples, chunks), 1)
    chunk = tf.range(samples) * used // tf.maximum(samples, 1)
    lows = tf.math.unsorted_segment_min(tf.reduce_min(rows, axis=1), chunk, chunks)
    highs = tf.math.unsorted_segment_max(tf.reduce_max(rows, axis=1), chunk, chunks)
    full = tf.range(chunks) < used
    zero, count = tf.zeros([], tf.float32), tf.cast(used, tf.float32)
    low = tf.reduce_sum(tf.where(full, lows, zero)) / count
    return low, tf.reduce_sum(tf.where(full, highs, zero)) / count


@register_quantizer(
    name="int8_gemmlowp",
    paper="Scalable Methods for 8-bit Training of Neural Networks",
    arxiv="1805.11046",
    bits=8,
    target="both",
    representation="Affine",
)
class Int8Gemmlowp(UniformQuantizer):
    r"""256 levels between the minimum and the maximum (GEMMLOWP), one scale per layer.

    Forward: ``q = s * (c - z)``, ``c = clip(round((x - min) / s), 0, 255)``, ``s = (max - min) /
    255``, ``z = -min / s``.

    Gradient: ``dL/dx = dL/dq``.

    Weights have their own minimum and maximum. The minimum and maximum of activations are the means
    of those of 8 equal chunks of the batch; training uses the batch's and averages them (``.9 * old
    + .1 * batch``, the first batch's at first), inference uses the averages, or the tensor at
    hand's where there are none yet.

    Args:
        true_zero: z is a whole number, ``c = clip(round(x / s) + z, 0, 255)``, and the range is
            widened to contain 0, so that 0 is a level.
        stochastic: in training, add noise uniform in [-1/2, 1/2] before rounding.

    Paper: R. Banner, I. Hubara, E. Hoffer, D. Soudry, "Scalable Methods for 8-bit Training of
    Neural Networks", NeurIPS 2018, arXiv 1805.11046.

    Deviations: the release has as many chunks as samples. Without ``true_zero`` z is no whole
    number, as in the paper. A tensor of one number keeps that number.
    """

    bits = 8
    precision = 8
    per_channel = False

    def __init__(self, true_zero: bool = False, stochastic: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.true_zero = bool(true_zero)
        self.stochastic = bool(stochastic)

    def build(self, shape: Any) -> None:
        """Add the averages of activations."""
        if self.for_activations:
            self.minimum = self.add_state("minimum")
            self.maximum = self.add_state("maximum")
            self.seen = self.add_state("seen")  # 1 from the first batch on
        super().build(shape)

    def _range(self, x: tf.Tensor, training: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
        if not self.for_activations:
            return tf.reduce_min(x), tf.reduce_max(x)
        averages = (self.minimum, self.maximum)
        return self.averaged(averages, self.seen, lambda: chunked_range(x), training)

    def forward(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return ``x`` on the grid; in training, update the averages of activations."""
        low, high = (tf.stop_gradient(end) for end in self._range(x, training))
        noise = 0.0
        if training and self.stochastic:
            noise = tf.random.uniform(tf.shape(x), -0.5, 0.5)
        return gemmlowp(x, low, high, self.true_zero, noise)

    def grid(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Return codes, scale and zero point."""
        return gemmlowp_grid(x, *self._range(x), self.true_zero)

    def fixed_grid(self) -> tuple[float, float] | None:
        """Return scale and zero point of activations after the first batch."""
        if not (self.for_activations and self.built) or not float(self.seen) > 0:
            return None
        low, high = tf.convert_to_tensor(self.minimum), tf.convert_to_tensor(self.maximum)
        _, scale, zero_point = gemmlowp_grid(low, low, high, self.true_zero)
        return float(scale), float(zero_point)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        config = {"true_zero": self.true_zero, "stochastic": self.stochastic}
        return {**super().get_config(), **config}
