"""ACIQ: where to clip values of a known distribution, in closed form."""

from __future__ import annotations

import math

import tensorflow as tf

DISTRIBUTIONS = ("gauss", "laplace")
_FARTHEST, _HALVINGS = 40.0, 60  # of the bisection


def aciq_multiple(distribution: str, bits: int) -> float:
    """Return T / sigma of a normal distribution, or T / b of Laplace's, of the least squared error.

    It is where ``k = (1 - 2^(1-M)) / (3 * 4^(M-1))``, the rounding error of M bits over T^2, and
    the clipping error have opposite slopes: ``4 (phi(t) - t Phi(-t)) = 2 k t`` (normal) or ``2
    exp(-t) = 2 k t`` (Laplace).

    Args:
        distribution: "gauss" or "laplace".
        bits: M, at least 2.
    """
    rounding = (1.0 - 2.0 ** (1 - bits)) / (3.0 * 4.0 ** (bits - 1))
    clipping = _gauss_slope if distribution == "gauss" else _laplace_slope
    low, high = 0.0, _FARTHEST
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if clipping(middle) > 2.0 * rounding * middle:
            low = middle
        else:
            high = middle
    return low


def _gauss_slope(t: float) -> float:
    density = math.exp(-(t**2) / 2) / math.sqrt(2 * math.pi)
    return 4.0 * (density - t * math.erfc(t / math.sqrt(2)) / 2)


def _laplace_slope(t: float) -> float:
    return 2.0 * math.exp(-t)


def aciq_threshold(
    magnitude: tf.Tensor, counts: tf.Tensor, distribution: str, bits: int
) -> tf.Tensor:
    """Return T of values with zero mean; those that are 0 have no say.

    Args:
        magnitude: of the values, float.
        counts: how often each occurs, of the same shape and type; nothing for zeros.
        distribution: "gauss", whose sigma is the root of the mean square, or "laplace", whose b is
            the mean magnitude.
        bits: M, sign included.
    """
    total = tf.reduce_sum(counts)
    if distribution == "gauss":
        spread = tf.sqrt(tf.math.divide_no_nan(tf.reduce_sum(counts * magnitude**2), total))
    else:
        spread = tf.math.divide_no_nan(tf.reduce_sum(counts * magnitude), total)
    return aciq_multiple(distribution, bits) * spread
