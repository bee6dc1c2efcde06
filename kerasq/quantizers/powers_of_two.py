"""Quantizers whose levels are zero and powers of two: products become shifts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf

from kerasq.keras import keras
from kerasq.quantizers.base import Quantizer, check_bits, check_range, scalar_codebook
from kerasq.quantizers.constraints import LatentClip
from kerasq.quantizers.exponents import (
    ARITHMETIC,
    BIAS,
    GEOMETRIC,
    NEVER,
    exponent_of,
    log_count,
    power_of,
)
from kerasq.quantizers.gradients import check_gradient_bits, with_log_gradient
from kerasq.quantizers.registry import register_quantizer
from kerasq.quantizers.uniform import clipped_ste
from kerasq.representations import Codebook


def _codes(x: tf.Tensor, exponent: tf.Tensor, largest: Any, count: int) -> tf.Tensor:
    """Return the positions of signed powers in the sorted levels, int32; zero is at ``count``."""
    index = tf.clip_by_value(exponent - largest + count, 0, count)
    return count + tf.where(x < 0.0, -index, index)


def _log_levels(bits: int, limit: float) -> np.ndarray:
    """Return ``-2^largest .. 0 .. 2^largest`` with ``2^largest = AP2(limit)``."""
    largest = round(math.log2(limit))
    exponents = np.arange(largest - log_count(bits) + 1, largest + 1)
    positive = np.ldexp(np.float32(1), exponents)
    return np.concatenate([-positive[::-1], [0.0], positive]).astype(np.float32)


def qnn_log_codes(x: tf.Tensor, bits: int, limit: float = 1.0) -> tf.Tensor:
    """Return the positions of ``AP2(x)`` in the levels of LogQuant, int32; NaN has that of 0."""
    return _codes(x, exponent_of(x, GEOMETRIC), round(math.log2(limit)), log_count(bits))


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

    With ``gradient_bits`` dL/dq first becomes ``LogQuant(dL/dq)``: zero and ``2^(bits-1) - 1``
    signed powers of two, the largest ``AP2(max|dL/dq|)`` of the tensor. In training it is rounded
    stochastically, without bias up to that power; elsewhere to the nearest exponent.

    Our layers keep latent weights in [-limit, limit] by a constraint (unless they are given
    another one).

    Args:
        bits: b in 2..8.
        limit: maxV of the paper, positive.
        gradient_bits: 2..8, of the gradients (6 in the paper); None leaves them in float.

    Raises:
        ValueError: bits outside 2..8, or a limit whose powers float32 does not hold.

    Paper: I. Hubara, M. Courbariaux, D. Soudry, R. El-Yaniv, Y. Bengio, JMLR 18(187), 2018, arXiv
    1609.07061.

    Deviations: the paper does not say how the bits are spent, nor between which values gradients
    are rounded stochastically: readings. NaN gives 0; a gradient that is not finite stays.
    """

    per_channel = False

    def __init__(
        self,
        bits: int = 4,
        limit: float = 1.0,
        gradient_bits: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.bits = check_bits(bits, 2, 8, "qnn_log")
        least = 2.0 ** (log_count(self.bits) - BIAS)  # then the least power is a normal number
        self.limit = check_range(limit, least, 2.0**BIAS, "qnn_log: limit")
        self.gradient_bits = check_gradient_bits(gradient_bits, "qnn_log")
        self.precision = self.bits

    def forward(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return ``x`` as powers of two."""
        values = qnn_log(x, self.bits, self.limit)
        return with_log_gradient(values, self.gradient_bits, training)

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
        config = {"bits": self.bits, "limit": self.limit, "gradient_bits": self.gradient_bits}
        return {**super().get_config(), **config}


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
    n1 = exponent_of(tf.convert_to_tensor(largest, tf.float32), ARITHMETIC)
    positive = power_of(n1 - count + 1 + tf.range(count))
    levels = tf.concat([0.0 - positive[::-1], tf.zeros([1]), positive], axis=0)
    exponent = exponent_of(w, ARITHMETIC)
    # Between 0 and 2^n2 the threshold is the middle, not 3/4 of the upper one as elsewhere.
    below_least = exponent_of(w, NEVER) == n1 - count
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
