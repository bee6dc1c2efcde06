"""A learned interval of magnitudes: pruned below it, clipped above it."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from kerasq.quantizers.base import UniformQuantizer, check_bits, check_range, grid_values
from kerasq.quantizers.binary import BWN, bwn
from kerasq.quantizers.lsq import rounded
from kerasq.quantizers.registry import register_quantizer
from kerasq.quantizers.uniform import Grid
from kerasq.representations import Affine, BitPlanes

MIN_GAMMA = 1e-3
# The resolution of float32 in [0, 1]: a power below 1 of less has no finite slope.
_LEAST = np.finfo(np.float32).eps


def qil_steps(bits: int, signed: bool) -> float:
    """Return the number of levels above 0."""
    return 2.0 ** (bits - 1) - 1 if signed else 2.0**bits - 1


def qil_position(
    x: tf.Tensor, center: tf.Tensor, distance: tf.Tensor, signed: bool
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return ``alpha |x| + beta``: 0 and 1 at the ends of the interval; and the signs of ``x``."""
    # sign(0) = 0: where the interval reaches below 0, zero is still zero.
    magnitude, signs = (tf.abs(x), tf.sign(x)) if signed else (x, tf.ones([]))
    return 0.5 * (magnitude - center) / distance + 0.5, signs


def _power(position: tf.Tensor, gamma: tf.Tensor) -> tf.Tensor:
    unit = tf.clip_by_value(position, 0.0, 1.0)
    # Not every pow(u, 1) is exactly u.
    return tf.where(tf.equal(gamma, 1.0), unit, tf.pow(unit, tf.maximum(gamma, MIN_GAMMA)))


def qil_transform(
    x: tf.Tensor, center: tf.Tensor, distance: tf.Tensor, gamma: Any = 1.0, signed: bool = True
) -> tf.Tensor:
    """Map weights to [-1, 1], or activations (without a sign) to [0, 1]; see :class:`QIL`."""
    gamma = tf.convert_to_tensor(gamma, tf.float32)

    @tf.custom_gradient
    def transform(x: Any, center: Any, distance: Any, gamma: Any) -> tf.Tensor:
        position, signs = qil_position(x, center, distance, signed)
        power = _power(position, gamma)

        def grad(dq: tf.Tensor) -> tuple[tf.Tensor, ...]:
            inside = tf.cast((position >= 0.0) & (position <= 1.0), tf.float32)
            exponent = tf.maximum(gamma, MIN_GAMMA)
            base = tf.clip_by_value(position, _LEAST, 1.0)
            slope = inside * exponent * tf.pow(base, exponent - 1.0) * 0.5 / distance
            pull = dq * slope * signs
            return (
                dq * slope,
                -tf.reduce_sum(pull),
                -tf.reduce_sum(pull * (2.0 * position - 1.0)),
                tf.reduce_sum(dq * inside * signs * power * tf.math.log(base)),
            )

        return power * signs, grad

    return transform(x, center, distance, gamma)


def qil_grid(transformed: tf.Tensor, bits: int, signed: bool) -> Grid:
    """Return codes, scale and zero point of transformed values."""
    steps = qil_steps(bits, signed)
    half = 2.0 ** (bits - 1) if signed else 0.0
    codes = rounded(transformed * steps, -steps if signed else 0.0, steps)
    return codes + half, np.float32(1 / steps), np.float32(half)


def qil(
    x: tf.Tensor,
    center: tf.Tensor,
    distance: tf.Tensor,
    gamma: Any = 1.0,
    bits: int = 4,
    signed: bool = True,
) -> tf.Tensor:
    """Weights of at least 2 bits, or activations, on a learned interval; see :class:`QIL`."""

    @tf.custom_gradient
    def discretize(transformed: tf.Tensor) -> tf.Tensor:
        return grid_values(*qil_grid(transformed, bits, signed)), lambda dq: dq

    return discretize(qil_transform(x, center, distance, gamma, signed))


@register_quantizer(
    name="qil",
    paper="Learning to Quantize Deep Networks by Optimizing Quantization Intervals with Task Loss",
    arxiv="1808.05779",
    bits=(1, 8),
    target="both",
    representation="Affine (1-bit weights: BitPlanes)",
    learnable=True,
)
class QIL(UniformQuantizer):
    r"""Quantization interval learning: weights in [-1, 1], activations in [0, 1].

    Forward: ``q = round(n v) / n``, ``n = 2^(k-1) - 1`` for weights and ``2^k - 1`` for
    activations. The transformer maps the interval from ``c - d`` to ``c + d`` to 0..1: of weights
    ``v = sign(w) * u^gamma``, ``u = clip(0.5 (|w| - c) / d + 0.5, 0, 1)``, ``sign(0) = 0``; of
    activations ``v = clip(0.5 (x - c) / d + 0.5, 0, 1)``. 1-bit weights: ``q = mean|w| * sgn(w)``.

    Gradient: the transformer's derivatives, the rounding's being 1. In the interval ``dv/dw = h /
    d``, ``dv/dc = -sign(w) h / d``, ``dv/dd = -sign(w) h (|w| - c) / d^2``, ``dv/dgamma = sign(w)
    u^gamma ln(u)``, with ``h = 0.5 gamma u^(gamma - 1)``; 0 outside. 1-bit weights: ``dL/dw =
    dL/dq``.

    The values are not mapped back to the range of ``w``: batch normalization takes care of it. The
    trained variables are ``center``, ``distance`` and, of weights, ``gamma``. Center and distance
    are unset at 0: the first training step sets each to half of ``max|w|``, so that nothing is
    pruned or clipped; at inference that value serves the one call.

    Args:
        bits: k in 1..8.
        gamma: the initial exponent of weights; activations have none.
        trainable_gamma: whether it is trained; None: of 2-bit weights only.

    Raises:
        ValueError: bits outside 1..8, or a gamma below 0.001.

    Paper: S. Jung, C. Son, S. Lee, J. Son, J.-J. Han, Y. Kwak, S. J. Hwang, C. Choi, CVPR 2019,
    arXiv 1808.05779. It starts from a trained network, and quantizes it progressively from 5 bits
    down to 2.

    Deviations: the paper leaves open the initial interval, the sign of 0 and 1-bit weights:
    readings. A distance that training drove to 0 or below is estimated anew; gamma counts as 0.001
    at least. NaN gives the lowest level.
    """

    per_channel = False

    def __init__(
        self,
        bits: int = 4,
        gamma: float = 1.0,
        trainable_gamma: bool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.bits = check_bits(bits, 1, 8, "qil")
        self.first_gamma = check_range(gamma, MIN_GAMMA, np.inf, "qil: gamma")
        self.trainable_gamma = None if trainable_gamma is None else bool(trainable_gamma)
        self.precision = self.bits

    @property
    def _binary(self) -> bool:
        return self.bits == 1 and not self.for_activations

    def build(self, shape: Any) -> None:
        """Add center, distance and gamma; 1-bit weights have none."""
        if not self._binary:
            self.center = self.add_state("center", trainable=True)
            self.distance = self.add_state("distance", trainable=True)
        if not (self._binary or self.for_activations):
            trained = self.bits == 2 if self.trainable_gamma is None else self.trainable_gamma
            self.gamma = self.add_state("gamma", initial=self.first_gamma, trainable=trained)
        super().build(shape)

    def _interval(self, x: tf.Tensor, training: bool = False) -> tuple[tf.Tensor, ...]:
        """Return center, distance and gamma."""

        def half() -> tf.Tensor:
            return 0.5 * tf.reduce_max(tf.abs(x))

        no_distance = tf.convert_to_tensor(self.distance) <= 0.0
        no_center = no_distance & tf.equal(tf.convert_to_tensor(self.center), 0.0)
        center = self.first_value(self.center, no_center, half, training)
        distance = self.first_value(self.distance, no_distance, half, training)
        # Nothing but zeros so far: an interval from 0, so that they stay zeros.
        empty = distance <= 0.0
        center = tf.where(empty, tf.ones_like(center), center)
        distance = tf.where(empty, tf.ones_like(distance), distance)
        gamma = tf.ones([]) if self.for_activations else tf.convert_to_tensor(self.gamma)
        return center, distance, gamma

    def forward(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return transformed ``x`` on the grid."""
        if self._binary:
            return bwn(x, (), "identity")
        return qil(x, *self._interval(x, training), self.bits, not self.for_activations)

    def grid(self, x: tf.Tensor) -> Grid:
        """Return codes, scale and zero point."""
        signed = not self.for_activations
        return qil_grid(qil_transform(x, *self._interval(x), signed), self.bits, signed)

    def pack(self, w: tf.Tensor) -> BitPlanes | Affine:
        """Return the signs and their scale (1-bit weights), or the codes."""
        return BWN(channel_axes=()).pack(w) if self._binary else super().pack(w)

    def fixed_grid(self) -> tuple[float, float] | None:
        """Return scale and zero point of activations whose interval is set."""
        if not (self.for_activations and self.built):
            return None
        is_set = float(tf.convert_to_tensor(self.distance)) > 0
        return (1 / qil_steps(self.bits, signed=False), 0.0) if is_set else None

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        config = {"gamma": self.first_gamma, "trainable_gamma": self.trainable_gamma}
        return {**super().get_config(), "bits": self.bits, **config}
