"""Powers of two, read off and written into the bits of float32 numbers."""

from __future__ import annotations

import tensorflow as tf

MANTISSA_BITS = 23
BIAS = 127
# The least float32 mantissa, as an integer, that rounds up to the next power of two: sqrt(2) is
# irrational, and the float32 numbers on its two sides have the mantissas 0x3504F3 and 0x3504F4.
GEOMETRIC = 0x3504F4
ARITHMETIC = 0x400000  # that of 1.5: the middle of two powers
NEVER = 1 << MANTISSA_BITS  # rounds down


def exponent_of(x: tf.Tensor, rounds_up: int | tf.Tensor) -> tf.Tensor:
    """Return the exponent of ``|x|`` rounded to a power of two, int32; below -126 where x is 0.

    It is read off the bits, so that no logarithm rounds at a threshold.

    Args:
        x: float32.
        rounds_up: the least mantissa that rounds up, for all or for each element.
    """
    magnitude = tf.bitcast(tf.abs(x), tf.int32)
    carried = magnitude + ((1 << MANTISSA_BITS) - rounds_up)
    exponent = tf.bitwise.right_shift(carried, MANTISSA_BITS) - BIAS
    # Subnormal numbers count as 0, which is what many processors make of them.
    return tf.where(magnitude < 1 << MANTISSA_BITS, -BIAS * tf.ones_like(exponent), exponent)


def power_of(exponent: tf.Tensor) -> tf.Tensor:
    """Return ``2^exponent`` for int32 up to 127, exactly (``tf.pow`` need not be); 0 below -126."""
    biased = tf.clip_by_value(exponent + BIAS, 0, 2 * BIAS)
    return tf.bitcast(tf.bitwise.left_shift(biased, MANTISSA_BITS), tf.float32)


def ap2(x: tf.Tensor) -> tf.Tensor:
    """Return the approximate power of two, ``sign(x) * 2^round(log2|x|)``; no gradient.

    ``AP2(0) = 0``; NaN stays NaN. Float32, exact: the thresholds are ``sqrt(2) * 2^n``.

    Paper: I. Hubara et al., "Binarized Neural Networks", arXiv 1602.02830.
    """
    magnitude = power_of(exponent_of(x, GEOMETRIC))
    signed = tf.where(x < 0.0, -magnitude, magnitude)
    return tf.stop_gradient(tf.where(tf.math.is_nan(x), x, signed))


def log_count(bits: int) -> int:
    """Return how many exponents b bits hold: one is the sign's, and one code is the value 0."""
    return 2 ** (bits - 1) - 1
