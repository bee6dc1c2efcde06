"""Weights on a grid whose range follows from two moments of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from kerasq.quantizers.base import UniformQuantizer, check_choice, grid_values, reduced_axes
from kerasq.quantizers.registry import register_quantizer
from kerasq.quantizers.uniform import Grid, clipped_ste, mid_rise_grid

SAWB_GRADIENTS = ("clip", "identity")
# (bits, with a zero): c1, c2; from the authors' release (fms-model-optimizer), where the codes of
# the grids with a zero are 103, 403, 703 and 803.
SAWB_COEFFICIENTS = {
    (2, False): (3.12, -2.064),
    (3, False): (7.509, -6.892),
    (4, False): (12.68, -12.80),
    (5, False): (17.74, -18.64),
    (8, False): (31.76, -35.04),
    (2, True): (2.6, -1.71),
    (4, True): (12.035, -12.03),
    (7, True): (28.24, -30.81),
    (8, True): (31.76, -35.04),
}


def sawb_scale(
    w: tf.Tensor,
    bits: int = 2,
    zero: bool = False,
    cap: bool = True,
    channel_axes: Sequence[int] = (),
) -> tf.Tensor:
    """Return alpha of SAWB, with kept dimensions; see :class:`SAWB`."""
    c1, c2 = SAWB_COEFFICIENTS[bits, zero]
    axes = reduced_axes(w.shape.rank, channel_axes)
    # The two terms nearly cancel at 8 bits: in float32 the rest would be a rounding off.
    magnitude = tf.cast(tf.abs(w), tf.float64)
    rms = tf.sqrt(tf.reduce_mean(magnitude**2, axis=axes, keepdims=True))
    alpha = c1 * rms + c2 * tf.reduce_mean(magnitude, axis=axes, keepdims=True)
    largest = tf.reduce_max(magnitude, axis=axes, keepdims=True)
    fits = (alpha > 0.0) & ((alpha <= largest) | (not cap))
    return tf.cast(tf.where(fits, alpha, largest), tf.float32)


def sawb_grid(w: tf.Tensor, alpha: tf.Tensor, bits: int = 2, zero: bool = False) -> Grid:
    """Return codes, scale and zero point of weights in [-alpha, alpha]."""
    unit = tf.clip_by_value(tf.math.divide_no_nan(w, alpha), -1.0, 1.0)
    if not zero:
        steps = 2**bits - 1
        return mid_rise_grid(tf.round(steps * (0.5 * unit + 0.5)), alpha, steps)
    half = 2 ** (bits - 1)
    scale = tf.where(alpha > 0.0, alpha * np.float32(1 / (half - 1)), tf.ones_like(alpha))
    return tf.round((half - 1.0) * unit) + half, scale, np.float32(half)


def sawb(
    w: tf.Tensor,
    bits: int = 2,
    zero: bool = False,
    gradient: str = "clip",
    cap: bool = True,
    channel_axes: Sequence[int] = (),
) -> tf.Tensor:
    """Weights in [-alpha, alpha], alpha from their moments; see :class:`SAWB`."""
    alpha = tf.stop_gradient(sawb_scale(w, bits, zero, cap, channel_axes))
    values = grid_values(*sawb_grid(w, alpha, bits, zero))
    limit = alpha if gradient == "clip" else np.inf
    return clipped_ste(w, values, -limit, limit)


@register_quantizer(
    name="sawb",
    paper="Bridging the Accuracy Gap for 2-bit Quantized Neural Networks (QNN)",
    arxiv="1807.06964",
    bits=(2, 8),
    target="weights",
    representation="Affine",
)
class SAWB(UniformQuantizer):
    r"""Statistics-aware weight binning: the range that least squares would choose, from moments.

    Forward: ``q = alpha * (2 * Q_k(u) - 1)``, ``u = clip(w / alpha, -1, 1) / 2 + 1/2``, ``Q_k(u) =
    round((2^k - 1) u) / (2^k - 1)``, ``alpha = c1 * sqrt(mean(w^2)) + c2 * mean|w|``. With ``zero``
    there are ``2^k - 2`` intervals, so that zero is a level. Where the formula gives ``alpha <= 0``
    or (with ``cap``) ``alpha > max|w|``, ``alpha = max|w|``.

    Gradient: ``"clip"``, ``dL/dw = dL/dq * 1{|w| <= alpha}``; ``"identity"`` (SAWB+), ``dL/dw =
    dL/dq``. Alpha is held constant.

    Args:
        bits: k: 2, 3, 4, 5 or 8; with ``zero`` 2, 4, 7 or 8 (codes 103, 403, 703, 803 of the
            release).
        zero: make zero a level.
        gradient: "clip" or "identity".
        cap: keep alpha at most ``max|w|``, which few weights, or evenly spread ones, can exceed.
        channel_axes: (), one scale per layer, as the paper; (-1,) for a scale per filter.

    Raises:
        ValueError: bits without coefficients, an unknown gradient, or an axis outside the kernel.

    Paper: J. Choi, P. Chuang, Z. Wang, S. Venkataramani, V. Srinivasan, K. Gopalakrishnan, arXiv
    1807.06964; "Accurate and Efficient 2-bit Quantized Neural Networks", MLSys 2019.

    Deviations: coefficients as in the authors' release; the paper prints them rounded. It has no
    ``cap``. An all-zero tensor gives zeros. Scales per filter are an extension.
    """

    def __init__(
        self,
        bits: int = 2,
        zero: bool = False,
        gradient: str = "clip",
        cap: bool = True,
        *,
        channel_axes: Sequence[int] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(channel_axes=channel_axes, **kwargs)
        self.zero = bool(zero)
        possible = [k for k, with_zero in SAWB_COEFFICIENTS if with_zero == self.zero]
        self.bits = int(check_choice(bits, possible, f"sawb: bits (zero={self.zero})"))
        self.gradient = check_choice(gradient, SAWB_GRADIENTS, "sawb: gradient")
        self.cap = bool(cap)
        self.precision = self.bits

    def forward(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return ``x`` on the grid."""
        return sawb(x, self.bits, self.zero, self.gradient, self.cap, self.channel_axes)

    def grid(self, x: tf.Tensor) -> Grid:
        """Return codes, scale and zero point."""
        alpha = sawb_scale(x, self.bits, self.zero, self.cap, self.channel_axes)
        return sawb_grid(x, alpha, self.bits, self.zero)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "bits": self.bits,
            "zero": self.zero,
            "gradient": self.gradient,
            "cap": self.cap,
        }
