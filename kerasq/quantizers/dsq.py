"""Rounding whose gradient is that of a smooth staircase."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from kerasq.quantizers.base import (
    UniformQuantizer,
    check_bits,
    check_range,
    grid_values,
    is_observing,
)
from kerasq.quantizers.registry import register_quantizer
from kerasq.quantizers.uniform import Grid

# The staircase is sharp at alpha = 0 and straight at 1, where its formula divides by zero.
ALPHA_RANGE = (1e-3, 1.0 - 1e-3)


def _position(x: tf.Tensor, lower: tf.Tensor, upper: tf.Tensor, bits: int) -> tuple[Any, Any]:
    """Return ``(clip(x, l, u) - l) / Delta`` and Delta; a range of one value has Delta 1."""
    # A product: graphs would turn a division by a constant into one.
    delta = (upper - lower) * (1 / (2.0**bits - 1))
    delta = tf.where(delta > 0.0, delta, tf.ones_like(delta))
    return (tf.where(x > lower, tf.minimum(x, upper), lower) - lower) / delta, delta


def dsq_grid(x: tf.Tensor, lower: tf.Tensor, upper: tf.Tensor, bits: int) -> Grid:
    """Return codes, scale and zero point of 2^bits levels from l to u."""
    position, delta = _position(x, lower, upper, bits)
    interval = tf.floor(position)
    upper_half = tf.cast(position - interval >= 0.5, tf.float32)  # sgn(0) = +1
    codes = tf.minimum(interval + upper_half, 2.0**bits - 1)
    return codes, delta, -lower / delta


class _Staircase:
    """The soft staircase in units of Delta, ``p(t) = i + 1/2 + s tanh(K r) / 2``, ``r = t-i-1/2``.

    Attributes:
        value: p.
        slope: its derivative at t.
        by_alpha: its derivative at alpha.
    """

    def __init__(self, position: tf.Tensor, alpha: tf.Tensor, steps: float) -> None:
        interval = tf.clip_by_value(tf.floor(position), 0.0, steps - 1.0)
        offset = position - interval - 0.5
        sharpness, stretch = tf.math.log(2.0 / alpha - 1.0), 1.0 / (1.0 - alpha)
        bent = tf.tanh(sharpness * offset)
        falling = 1.0 - bent**2
        self.value = interval + 0.5 + 0.5 * stretch * bent
        self.slope = 0.5 * stretch * sharpness * falling
        by_sharpness = -2.0 / (alpha * (2.0 - alpha))
        self.by_alpha = 0.5 * stretch * (stretch * bent + falling * offset * by_sharpness)


def dsq_soft(
    x: tf.Tensor, lower: tf.Tensor, upper: tf.Tensor, alpha: tf.Tensor, bits: int
) -> tf.Tensor:
    """Return the smooth staircase, whose derivatives are the gradients of :func:`dsq`."""
    position, delta = _position(x, lower, upper, bits)
    return lower + delta * _Staircase(position, alpha, 2.0**bits - 1).value


def dsq(
    x: tf.Tensor, lower: tf.Tensor, upper: tf.Tensor, alpha: tf.Tensor, bits: int = 4
) -> tf.Tensor:
    """Values on 2^bits levels from l to u, with a soft gradient; see :class:`DSQ`."""
    steps = 2.0**bits - 1

    @tf.custom_gradient
    def quantize(x: Any, lower: Any, upper: Any, alpha: Any) -> tf.Tensor:
        def grad(dq: tf.Tensor) -> tuple[tf.Tensor, ...]:
            position, delta = _position(x, lower, upper, bits)
            soft = _Staircase(position, alpha, steps)
            inside = tf.cast((x >= lower) & (x <= upper), tf.float32)
            slope, height = inside * soft.slope, soft.value / steps
            # Moving an end also moves where x stands between them.
            at_upper = height - slope * position / steps
            return (
                dq * slope,
                tf.reduce_sum(dq * (1.0 - slope - at_upper)),
                tf.reduce_sum(dq * at_upper),
                tf.reduce_sum(dq * inside * delta * soft.by_alpha),
            )

        return grid_values(*dsq_grid(x, lower, upper, bits)), grad

    return quantize(x, lower, upper, alpha)


@register_quantizer(
    name="dsq",
    paper="Differentiable Soft Quantization: Bridging Full-Precision and Low-Bit Neural Networks",
    arxiv="1908.05033",
    bits=(1, 8),
    target="both",
    representation="Affine",
    learnable=True,
)
class DSQ(UniformQuantizer):
    r"""Differentiable soft quantization between learned bounds (weights and activations).

    Forward: ``q = l + Delta * (i + (sgn(x - m_i) + 1) / 2)`` with ``Delta = (u - l) / (2^k - 1)``,
    ``i = floor((x - l) / Delta)``, ``m_i = l + (i + 1/2) Delta``; l below l, u above u.

    Gradient: that of the soft value, where ``s tanh(kappa (x - m_i))`` replaces ``sgn(x - m_i)``,
    ``s = 1 / (1 - alpha)``, ``kappa = ln(2 / alpha - 1) / Delta``, to x (``dL/dx = dL/dq * Delta s
    kappa (1 - tanh^2(kappa (x - m_i))) / 2`` for ``l <= x <= u``, else 0), to l, u and alpha.

    The trained variables are ``lower``, ``upper`` and ``alpha``. The bounds are unset where they do
    not differ: the first training step sets them to the least and the greatest value; at inference
    those serve the one call.

    Args:
        bits: k in 1..8.
        alpha: in 0.001..0.999, the initial one: near 0 the soft value is the hard one, near 1 the
            clipped x.
        trainable_alpha: False keeps alpha as it is (0.4 in MQBench).
        ema: of activations: instead of being trained the bounds follow the least and the greatest
            value of the training batches, ``new = (1 - ema) old + ema batch`` (0.1 in a
            third-party release). None trains them.

    Raises:
        ValueError: bits outside 1..8, an alpha outside its range, or an ema outside 0..1.

    Paper: R. Gong, X. Liu, S. Jiang, T. Li, P. Hu, J. Lin, F. Yu, J. Yan, ICCV 2019, arXiv
    1908.05033.

    Deviations: alpha is kept in its range after each step, and bounds that training made meet are
    estimated anew. Zero need be no level: the zero point ``-l / Delta`` is not whole. Where all
    values are equal they are the only level. NaN gives the lowest level.
    """

    per_channel = False

    def __init__(
        self,
        bits: int = 4,
        alpha: float = 0.2,
        trainable_alpha: bool = True,
        ema: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.bits = check_bits(bits, 1, 8, "dsq")
        self.first_alpha = check_range(alpha, *ALPHA_RANGE, "dsq: alpha")
        self.trainable_alpha = bool(trainable_alpha)
        self.ema = None if ema is None else check_range(ema, 0.0, 1.0, "dsq: ema")
        self.precision = self.bits

    @property
    def _averages(self) -> bool:
        return self.ema is not None and self.for_activations

    def build(self, shape: Any) -> None:
        """Add the bounds and alpha."""
        self.lower = self.add_state("lower", trainable=not self._averages)
        self.upper = self.add_state("upper", trainable=not self._averages)
        self.alpha = self.add_state(
            "alpha", initial=self.first_alpha, trainable=self.trainable_alpha
        )
        super().build(shape)

    def _state(self, x: tf.Tensor, training: bool = False) -> tuple[tf.Tensor, ...]:
        """Return the bounds and alpha."""
        unset = tf.convert_to_tensor(self.upper) <= tf.convert_to_tensor(self.lower)
        lower = self.first_value(self.lower, unset, lambda: tf.reduce_min(x), training)
        upper = self.first_value(self.upper, unset, lambda: tf.reduce_max(x), training)
        if self._averages and training and (self.trainable or is_observing()):
            lower = self._follow(self.lower, lower, tf.reduce_min(x))
            upper = self._follow(self.upper, upper, tf.reduce_max(x))
        low, high = ALPHA_RANGE
        raw = tf.convert_to_tensor(self.alpha)
        outside = (raw < low) | (raw > high)
        alpha = self.first_value(
            self.alpha, outside, lambda: tf.clip_by_value(raw, low, high), training
        )
        return lower, tf.maximum(lower, upper), alpha

    def _follow(self, variable: Any, old: tf.Tensor, batch: tf.Tensor) -> tf.Tensor:
        moved = (1.0 - self.ema) * old + self.ema * batch
        variable.assign(tf.where(tf.math.is_finite(batch), moved, old))
        return tf.convert_to_tensor(variable)

    def forward(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return ``x`` on the grid."""
        return dsq(x, *self._state(x, training), self.bits)

    def grid(self, x: tf.Tensor) -> Grid:
        """Return codes, scale and zero point, which need not be a whole number."""
        lower, upper, _ = self._state(x)
        return dsq_grid(x, lower, upper, self.bits)

    def fixed_grid(self) -> tuple[float, float] | None:
        """Return scale and zero point of activations whose bounds are set."""
        if not (self.for_activations and self.built):
            return None
        lower, upper = tf.convert_to_tensor(self.lower), tf.convert_to_tensor(self.upper)
        if not bool(lower < upper):
            return None
        _, scale, zero_point = dsq_grid(lower, lower, upper, self.bits)
        return float(scale), float(zero_point)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "bits": self.bits,
            "alpha": self.first_alpha,
            "trainable_alpha": self.trainable_alpha,
            "ema": self.ema,
        }
