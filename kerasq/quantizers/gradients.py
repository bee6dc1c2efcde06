"""Quantization of the gradients that flow back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from kerasq.quantizers.base import Quantizer, check_bits
from kerasq.quantizers.exponents import (
    GEOMETRIC,
    MANTISSA_BITS,
    exponent_of,
    log_count,
    power_of,
)
from kerasq.quantizers.registry import register_quantizer
from kerasq.representations import Affine


def with_gradient(x: tf.Tensor, rule: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
    """Return ``x``, whose gradient is what the rule makes of the one that arrives."""

    @tf.custom_gradient
    def identity(x: tf.Tensor) -> tf.Tensor:
        return tf.identity(x), rule

    return identity(x)


def log_gradients(dq: tf.Tensor, bits: int, stochastic: bool = False) -> tf.Tensor:
    """Put a gradient on zero and ``2^(bits-1) - 1`` signed powers of two below ``AP2(max|dq|)``.

    Rounding is AP2's, to the nearest exponent, with zero below ``2^(least - 1/2)``; stochastic
    rounding goes to one of the two neighbours of ``|dq|``, zero included, so that the mean is
    ``dq``, up to the largest power. What is not finite passes as it is.

    Args:
        dq: gradient of any shape, float32; its maximum is that of the tensor.
        bits: 2..8, one of them the sign's.
        stochastic: draw, instead of rounding to the nearest.
    """
    magnitude = tf.abs(dq)
    largest = exponent_of(tf.reduce_max(magnitude), GEOMETRIC)
    least, top = power_of(largest - log_count(bits) + 1), power_of(largest)
    if stochastic:
        draw = tf.random.uniform(tf.shape(dq), 0, 1 << MANTISSA_BITS, tf.int32)
        rounded = power_of(exponent_of(dq, draw + 1))
        kept = magnitude > least * (tf.cast(draw, tf.float32) / (1 << MANTISSA_BITS))
    else:
        rounded = power_of(exponent_of(dq, GEOMETRIC))
        kept = rounded >= least
    value = tf.where(kept, tf.clip_by_value(rounded, least, top), 0.0)
    return tf.where(tf.math.is_finite(dq), tf.where(dq < 0.0, -value, value), dq)


def with_log_gradient(x: tf.Tensor, bits: int | None, training: bool) -> tf.Tensor:
    """Return ``x``, whose gradient is put on powers of two, stochastically in training.

    Args:
        x: float32.
        bits: of :func:`log_gradients`; None leaves the gradient.
        training: round stochastically.
    """
    if bits is None:
        return x
    return with_gradient(x, lambda dq: log_gradients(dq, bits, training))


def check_gradient_bits(bits: int | None, method: str) -> int | None:
    """Return the bits of :func:`log_gradients`, or None for gradients that stay as they are.

    Raises:
        ValueError: it is neither None nor a whole number in 2..8.
    """
    return None if bits is None else check_bits(bits, 2, 8, f"{method}, gradients")


def dorefa_gradients(dr: tf.Tensor, bits: int, noise: Any = 0.0) -> tf.Tensor:
    """Put a gradient on 2^bits levels of each sample's range; see :class:`DoReFaGradients`.

    Args:
        dr: gradient, float32; the first axis is the batch.
        bits: k.
        noise: sigma, in steps of the grid: uniform in [-1/2, 1/2], of the shape of ``dr``.
    """
    steps = 2.0**bits - 1
    largest = tf.reduce_max(tf.abs(dr), axis=tf.range(1, tf.rank(dr)), keepdims=True)
    unit = tf.math.divide_no_nan(dr, 2.0 * largest) + 0.5 + noise / steps
    rounded = tf.round(steps * tf.clip_by_value(unit, 0.0, 1.0)) / steps
    return 2.0 * largest * (rounded - 0.5)


@register_quantizer(
    name="dorefa_gradients",
    paper="DoReFa-Net: Training Low Bitwidth CNNs with Low Bitwidth Gradients",
    arxiv="1606.06160",
    bits=(2, 8),
    target="gradients",
    representation="training only",
)
class DoReFaGradients(Quantizer):
    r"""DoReFa-Net gradients of k bits: nothing forward, quantization backward.

    Forward: ``q = x``.

    Gradient: ``dL/dx = 2 M * (Q_k(clip(dr / (2 M) + 1/2 + N, 0, 1)) - 1/2)`` with ``dr = dL/dq``,
    ``M = max|dr|`` of each sample, ``N = sigma / (2^k - 1)``, sigma uniform in [-1/2, 1/2], and
    ``Q_k(u) = round((2^k - 1) u) / (2^k - 1)``.

    Its place is after a convolution and before BatchNormalization.

    Args:
        bits: k in 2..8, of the gradient; ``precision`` is 32, since values pass as they are.

    Raises:
        ValueError: bits outside 2..8.

    Paper: S. Zhou et al., arXiv 1606.06160.

    Deviations: outside of training there is no noise.
    """

    per_channel = False

    def __init__(self, bits: int = 6, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bits = check_bits(bits, 2, 8, "dorefa_gradients")

    def forward(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return ``x``."""

        def quantize(dr: tf.Tensor) -> tf.Tensor:
            noise = tf.random.uniform(tf.shape(dr), -0.5, 0.5) if training else 0.0
            return dorefa_gradients(dr, self.bits, noise)

        return with_gradient(x, quantize)

    def pack(self, w: tf.Tensor) -> Affine:
        """Refuse: gradients are not stored."""
        raise ValueError(
            "dorefa_gradients quantizes gradients, in training only: there is nothing to represent"
        )

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "bits": self.bits}
