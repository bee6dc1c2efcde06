"""Quantizers whose levels are zero and powers of two: products become shifts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf

from kerasq.keras import keras
from kerasq.quantizers.base import Quantizer, check_bits, check_range, scalar_codebook
from kerasq.quantizers.constraints import LatentClip
from kerasq.quantizers.registry import register_quantizer
from kerasq.quantizers.uniform import clipped_ste
from kerasq.representations import Codebook

_MANTISSA_BITS = 23
_BIAS = 127
# The least float32 mantissa, as an integer, that rounds up to the next power of two: sqrt(2) is
# irrational, and the float32 numbers on its two sides have the mantissas 0x3504F3 and 0x3504F4.
_GEOMETRIC = 0x3504F4
_ARITHMETIC = 0x400000  # that of 1.5: the middle of two powers
_NEVER = 1 << _MANTISSA_BITS  # rounds down


def _exponent(x: tf.Tensor, rounds_up: int) -> tf.Tensor:
    """Return the exponent of ``|x|`` rounded to a power of two, int32; below -126 where x is 0.

    It is read off the bits, so that no logarithm rounds at a threshold.
    """
    magnitude = tf.bitcast(tf.abs(x), tf.int32)
    carried = magnitude + ((1 << _MANTISSA_BITS) - rounds_up)
    exponent = tf.bitwise.right_shift(carried, _MANTISSA_BITS) - _BIAS
    # Subnormal numbers count as 0, which is what many processors make of them.
    return tf.where(magnitude < 1 << _MANTISSA_BITS, -_BIAS * tf.ones_like(exponent), exponent)


def _power(exponent: tf.Tensor) -> tf.Tensor:
    """Return ``2^exponent`` for int32 up to 127, exactly (``tf.pow`` need not be); 0 below -126."""
    biased = tf.clip_by_value(exponent + _BIAS, 0, 2 * _BIAS)
    return tf.bitcast(tf.bitwise.left_shift(biased, _MANTISSA_BITS), tf.float32)


def ap2(x: tf.Tensor) -> tf.Tensor:
    """Return the approximate power of two, ``sign(x) * 2^round(log2|x|)``; no gradient.

    ``AP2(0) = 0``; NaN stays NaN. Float32, exact: the thresholds are ``sqrt(2) * 2^n``.

    Paper: I. Hubara et al., "Binarized Neural Networks", arXiv 1602.02830.
    """
    magnitude = _power(_exponent(x, _GEOMETRIC))
    signed = tf.where(x < 0.0, -magnitude, magnitude)
    return tf.stop_gradient(tf.where(tf.math.is_nan(x), x, signed))


def _codes(x: tf.Tensor, exponent: tf.Tensor, largest: Any, count: int) -> tf.Tensor:
    """Return the positions of signed powers in the sorted levels, int32; zero is at ``count``."""
    index = tf.clip_by_value(exponent - largest + count, 0, count)
    return count + tf.where(x < 0.0, -index, index)


def _log_count(bits: int) -> int:
    """Return how many exponents b bits hold: one is the sign's, and one code is the value 0."""
    return 2 ** (bits - 1) - 1


def _log_levels(bits: int, limit: float) -> np.ndarray:
    """Return ``-2^largest .. 0 .. 2^largest`` with ``2^largest = AP2(limit)``."""
    largest = round(math.log2(limit))
    exponents = np.arange(largest - _log_count(bits) + 1, largest + 1)
    positive = np.ldexp(np.float32(1), exponents)
    return np.concatenate([-positive[::-1], [0.0], positive]).astype(np.float32)


def qnn_log_codes(x: tf.Tensor, bits: int, limit: float = 1.0) -> tf.Tensor:
    """Return the positions of ``AP2(x)`` in the levels of LogQuant, int32; NaN has that of 0."""
    return _codes(x, _exponent(x, _GEOMETRIC), round(math.log2(limit)), _log_count(bits))


def qnn_log(x: tf.Tensor, bits: int = 4, limit: float = 1.0) -> tf.Tensor:
    """Signed powers of two with the clipped straight-through estimator; see :class:`QNNLog`."""
    values = tf.gather(_log_levels(bits, limit), qnn_log_codes(x, bits, limit))
    return clipped_ste(x, values, -limit, limit)


@register_quantizer(
    name="qnn_log",
    paper="Quantized Neural Networks: Training Neural Networks with Low Precision Weights and "
    "Activations",
    arxiv="1609.07061",
    bits=(2, 8),
    target="both",
    representation="Codebook",
)
class QNNLog(Quantizer):
    r"""LogQuant of QNN: zero and signed powers of two (weights and activations).

    Forward: ``q = clip(AP2(x), -AP2(limit), AP2(limit))``, ``AP2(x) = sign(x) *
    2^round(log2|x|)``; of b bits one is the sign and one code is the value 0, so that there are
    ``2^(b-1) - 1`` consecutive exponents, the largest that of ``AP2(limit)``. Magnitudes below
    ``2^(least - 1/2)`` give 0.

    Gradient: ``dL/dx = dL/dq * 1{|x| <= limit}``.

    Our layers keep latent weights in [-limit, limit] by a constraint (unless they are given
    another one).

    Args:
        bits: b in 2..8.
        limit: maxV of the paper, positive.

    Raises:
        ValueError: bits outside 2..8, or a limit whose powers float32 does not hold.

    Paper: I. Hubara, M. Courbariaux, D. Soudry, R. El-Yaniv, Y. Bengio, JMLR 18(187), 2018, arXiv
    1609.07061.

    Deviations: the paper does not say how the bits are spent: a reading. NaN gives 0.
    """

    per_channel = False

    def __init__(self, bits: int = 4, limit: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bits = check_bits(bits, 2, 8, "qnn_log")
        least = 2.0 ** (_log_count(self.bits) - _BIAS)  # then the least power is a normal number
        self.limit = check_range(limit, least, 2.0**_BIAS, "qnn_log: limit")
        self.precision = self.bits

    def forward(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return ``x`` as powers of two."""
        return qnn_log(x, self.bits, self.limit)

    def pack(self, w: tf.Tensor) -> Codebook:
        """Return the codes and the powers."""
        codes = qnn_log_codes(w, self.bits, self.limit)
        return scalar_codebook(codes.numpy(), _log_levels(self.bits, self.limit))

    def levels(self) -> np.ndarray | None:
        """Return the levels of at most 4 bits."""
        return _log_levels(self.bits, self.limit) if self.bits <= 4 else None

    def kernel_constraint(self) -> keras.constraints.Constraint:
        """Return the clip of latent weights to [-limit, limit]."""
        return LatentClip(self.limit)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "bits": self.bits, "limit": self.limit}


def powers_of_two_parts(
    w: tf.Tensor, bits: int, largest: tf.Tensor | None = None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return codes (int32) and sorted float32 levels of INQ.

    Args:
        w: float32 weights of a layer.
        bits: b of the paper.
        largest: ``max|w|`` of the weights that the levels were fixed from; those at hand if None.
    """
    count = 2 ** (bits - 2)
    largest = tf.reduce_max(tf.abs(w)) if largest is None else largest
    n1 = _exponent(tf.convert_to_tensor(largest, tf.float32), _ARITHMETIC)
    positive = _power(n1 - count + 1 + tf.range(count))
    levels = tf.concat([0.0 - positive[::-1], tf.zeros([1]), positive], axis=0)
    exponent = _exponent(w, _ARITHMETIC)
    # Between 0 and 2^n2 the threshold is the middle, not 3/4 of the upper one as elsewhere.
    below_least = _exponent(w, _NEVER) == n1 - count
    exponent = tf.where(below_least, n1 - count + 1, exponent)
    return _codes(w, exponent, n1, count), levels


def powers_of_two(w: tf.Tensor, bits: int = 5, largest: tf.Tensor | None = None) -> tf.Tensor:
    """Weights on zero and signed powers of two, identity gradient; see :class:`PowersOfTwo`."""

    @tf.custom_gradient
    def quantize(w: tf.Tensor) -> tf.Tensor:
        codes, levels = powers_of_two_parts(w, bits, largest)
        return tf.gather(levels, codes), lambda dq: dq

    return quantize(w)


@register_quantizer(
    name="powers_of_two",
    paper="Incremental Network Quantization: Towards Lossless CNNs with Low-Precision Weights",
    arxiv="1702.03044",
    bits=(2, 8),
    target="weights",
    representation="Codebook",
)
class PowersOfTwo(Quantizer):
    r"""INQ's projection of a layer's weights to zero and powers of two.

    Forward: levels ``0, ±2^n2, .., ±2^n1`` with ``n1 = floor(log2(4 max|w| / 3))``, ``n2 = n1 + 1 -
    2^(b-1) / 2``; ``q = sign(w) * beta`` where ``(alpha + beta) / 2 <= |w| < 3 beta / 2`` for
    neighbours ``alpha < beta`` of ``0, 2^n2, .., 2^n1``, and 0 below ``2^n2 / 2``.

    Gradient: ``dL/dw = dL/dq``.

    Args:
        bits: b in 2..8, one of them for the zero: 5 bits are 8 magnitudes.

    Raises:
        ValueError: bits outside 2..8.

    Paper: A. Zhou, A. Yao, Y. Guo, L. Xu, Y. Chen, ICLR 2017, arXiv 1702.03044.

    Deviations: the paper fixes the levels once, from the trained float weights, and quantizes
    growing portions of them that then stay frozen. This is the projection alone, with the levels
    of the weights at hand, and a straight-through gradient that lets all of them train.
    """

    per_channel = False

    def __init__(self, bits: int = 5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bits = check_bits(bits, 2, 8, "powers_of_two")
        self.precision = self.bits

    def forward(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return ``x`` as powers of two."""
        return powers_of_two(x, self.bits)

    def pack(self, w: tf.Tensor) -> Codebook:
        """Return the codes and the powers."""
        codes, levels = powers_of_two_parts(w, self.bits)
        return scalar_codebook(codes.numpy(), levels.numpy())

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "bits": self.bits}
