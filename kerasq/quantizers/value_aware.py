"""Low-bit values beside a few that are kept as they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from kerasq.quantizers.base import Quantizer, check_bits, check_range, grid_values
from kerasq.quantizers.calibration import saturated_grid
from kerasq.quantizers.histograms import quantile
from kerasq.quantizers.registry import register_quantizer
from kerasq.representations import Affine

Limits = tuple[tf.Tensor, tf.Tensor]


def value_aware_limits(x: tf.Tensor, ratio: float, signed: bool = True) -> Limits:
    """Return T, from which on values are large, and the largest magnitude of the others."""
    magnitude = tf.abs(x)
    threshold = quantile(magnitude, 1.0 - ratio) if ratio > 0 else tf.constant(x.dtype.max)
    small = tf.where(_large(magnitude, threshold), tf.zeros_like(x), magnitude if signed else x)
    return threshold, tf.maximum(tf.reduce_max(small), 0.0)


def _large(magnitude: tf.Tensor, threshold: tf.Tensor) -> tf.Tensor:
    # Zeros are no large values, where most of a tensor is zero.
    return magnitude >= tf.maximum(threshold, np.finfo(np.float32).tiny)


def value_aware_parts(
    x: tf.Tensor, bits: int, limits: Limits, signed: bool = True
) -> tuple[tf.Tensor, tuple[tf.Tensor, tf.Tensor, float]]:
    """Return where values are large, and codes, scale and zero point of the grid of the others."""
    return _large(tf.abs(x), limits[0]), saturated_grid(x, limits[1], bits, signed)


def value_aware(
    x: tf.Tensor, bits: int, ratio: float, signed: bool = True, limits: Limits | None = None
) -> tf.Tensor:
    """Large values as they are, the others on a grid; see :class:`ValueAware`."""
    given = value_aware_limits(x, ratio, signed) if limits is None else limits

    @tf.custom_gradient
    def quantize(x: tf.Tensor) -> tf.Tensor:
        large, grid = value_aware_parts(x, bits, given, signed)
        return tf.where(large, x, grid_values(*grid)), lambda dq: dq

    return quantize(x)


@register_quantizer(
    name="value_aware",
    paper="Value-aware Quantization for Training and Inference of Neural Networks",
    arxiv="1804.07802",
    bits=(2, 8),
    target="both",
    representation="Affine with outliers",
)
class ValueAware(Quantizer):
    r"""V-Quant: the largest values are kept exactly, the others have k bits, one scale per layer.

    Forward: ``q = x`` where ``|x| >= T``, T the (1 - r)-quantile of |x|; elsewhere ``q = s *
    round(x / s)``, ``s = max|x| / (2^(k-1) - 1)`` over these, or ``max x / (2^k - 1)`` for
    activations without a sign.

    Gradient: ``dL/dx = dL/dq``.

    Weights give T and s themselves. Activations do so in training, which averages them (``.9 * old
    + .1 * batch``) for inference, where larger small values than the average saturate.

    Args:
        bits: k in 2..8.
        ratio: r in 0..1, how many values are kept: 0 keeps none, 1 all.
        signed: activations have negative values too; weights always have. Without a sign the
            negative values that are not large become 0.

    Raises:
        ValueError: bits outside 2..8, or a ratio outside 0..1.

    Paper: E. Park, S. Yoo, P. Vajda, "Value-aware Quantization for Training and Inference of
    Neural Networks", ECCV 2018, arXiv 1804.07802.

    Deviations: kept values have 32 bits and a position of 32 bits (the paper: 16). The quantile is
    linearly interpolated. Zeros and denormal numbers are never kept.
    """

    per_channel = False

    def __init__(
        self, bits: int = 4, ratio: float = 0.01, signed: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.bits = check_bits(bits, 2, 8, "value_aware")
        self.ratio = check_range(ratio, 0, 1, "value_aware: ratio")
        self.signed = bool(signed)
        self.precision = self.bits

    @property
    def has_sign(self) -> bool:
        """Tell whether the grid has negative values: that of weights always has."""
        return self.signed or not self.for_activations

    def build(self, shape: Any) -> None:
        """Add the averages of activations."""
        if self.for_activations:
            self.threshold = self.add_state("threshold")
            self.largest = self.add_state("largest")
            self.seen = self.add_state("seen")  # 1 from the first batch on
        super().build(shape)

    def _limits(self, x: tf.Tensor, training: bool = False) -> Limits:
        if not self.for_activations:
            return value_aware_limits(x, self.ratio)
        return self.averaged(
            (self.threshold, self.largest),
            self.seen,
            lambda: value_aware_limits(x, self.ratio, self.has_sign),
            training,
        )

    def forward(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return the large values and the grid's; in training, update activations' averages."""
        limits = self._limits(tf.stop_gradient(x), training)
        return value_aware(x, self.bits, self.ratio, self.has_sign, limits)

    def pack(self, w: tf.Tensor) -> Affine:
        """Return the codes of all values, and the large values as outliers."""
        limits = self._limits(w)
        large, (codes, scale, zero_point) = value_aware_parts(w, self.bits, limits, self.has_sign)
        index = np.flatnonzero(large.numpy())
        return Affine.from_codes(
            codes.numpy().astype(np.uint8),
            self.bits,
            scale.numpy(),
            zero_point,
            outliers=(index, w.numpy().reshape(-1)[index]),
        )

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        config = {"bits": self.bits, "ratio": self.ratio, "signed": self.signed}
        return {**super().get_config(), **config}
