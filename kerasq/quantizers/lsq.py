"""A uniform grid whose step is learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from kerasq.quantizers.base import UniformQuantizer, check_bits, grid_values, reduced_axes
from kerasq.quantizers.registry import register_quantizer
from kerasq.quantizers.uniform import Grid


def rounded(x: tf.Tensor, low: float, high: float) -> tf.Tensor:
    """Return ``round(clip(x, low, high))``, half to even; NaN gives ``low``."""
    # No clip_by_value: it keeps -0.0 at low = 0, which no code can store.
    return tf.round(tf.where(x > low, tf.minimum(x, high), low))


def lsq_range(bits: int, signed: bool) -> tuple[float, float]:
    """Return ``-Q_N`` and ``Q_P``."""
    return (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if signed else (0.0, 2.0**bits - 1)


def lsq_first_step(v: tf.Tensor, bits: int, signed: bool, axes: Sequence[int]) -> tf.Tensor:
    """Return ``2 mean|v| / sqrt(Q_P)``, over ``axes``."""
    return tf.reduce_mean(tf.abs(v), axis=axes) * (2.0 / np.sqrt(lsq_range(bits, signed)[1]))


def lsq_grid(v: tf.Tensor, step: tf.Tensor, bits: int, signed: bool) -> Grid:
    """Return codes, scale and zero point; a step of 0 (nothing but zeros so far) counts as 1."""
    low, high = lsq_range(bits, signed)
    step = tf.where(step > 0.0, step, tf.ones_like(step))
    return rounded(v / step, low, high) - low, step, np.float32(-low)


def lsq(
    v: tf.Tensor, step: tf.Tensor, bits: int, signed: bool = True, gradient_scale: Any = 1.0
) -> tf.Tensor:
    """Values on the grid of a learned step, a scalar or with kept dimensions; see :class:`LSQ`."""
    low, high = lsq_range(bits, signed)
    axes = [axis for axis, size in enumerate(step.shape) if size == 1] if step.shape.rank else None

    @tf.custom_gradient
    def quantize(v: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        codes, scale, zero_point = lsq_grid(v, step, bits, signed)
        ratio = v / scale
        inside = (ratio > low) & (ratio < high)

        def grad(dq: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            residual = tf.where(inside, tf.round(ratio) - ratio, tf.clip_by_value(ratio, low, high))
            pull = tf.reduce_sum(dq * residual, axis=axes, keepdims=axes is not None)
            return tf.where(inside, dq, tf.zeros_like(dq)), pull * gradient_scale

        return grid_values(codes, scale, zero_point), grad

    return quantize(v, step)


@register_quantizer(
    name="lsq",
    paper="Learned Step Size Quantization",
    arxiv="1902.08153",
    bits=(1, 8),
    target="both",
    representation="Affine",
    learnable=True,
)
class LSQ(UniformQuantizer):
    r"""Learned step size quantization (weights and activations).

    Forward: ``q = s * round(clip(v / s, -Q_N, Q_P))``. With a sign ``Q_N = 2^(b-1)``, ``Q_P =
    2^(b-1) - 1``; without one ``Q_N = 0``, ``Q_P = 2^b - 1``.

    Gradient: ``dL/dv = dL/dq * 1{-Q_N < v/s < Q_P}``; ``dL/ds = sum(dL/dq * r) / sqrt(N * Q_P)``,
    where ``r = round(v/s) - v/s`` inside, ``-Q_N`` where ``v/s <= -Q_N`` and ``Q_P`` where ``v/s >=
    Q_P``. N is the number of weights that share the step, or of features per sample.

    The step s is the trained variable ``step``. While it holds 0 it is unset: the first training
    step sets it to ``2 mean|v| / sqrt(Q_P)``; at inference that value serves the one call.

    Args:
        bits: b in 1..8; with a sign at least 2.
        signed: whether values have a sign; None: weights have one, activations have none.
        count_batch: of activations, let N be all elements of the batch, as many releases do.
        channel_axes: (), one step per layer, as the paper; (-1,) for a step per filter.
            Activations have one.

    Raises:
        ValueError: bits outside 1..8, 1 bit with a sign, or an axis outside the kernel.

    Paper: S. K. Esser, J. L. McKinstry, D. Bablani, R. Appuswamy, D. S. Modha, ICLR 2020, arXiv
    1902.08153.

    Deviations: a step that training drove to 0 or below is estimated anew. NaN gives the lowest
    level. Steps per filter are an extension.
    """

    def __init__(
        self,
        bits: int = 4,
        signed: bool | None = None,
        count_batch: bool = False,
        *,
        channel_axes: Sequence[int] = (),
        **kwargs: Any,
    ) -> None:
        axes = () if kwargs.get("target") == "activations" else channel_axes
        super().__init__(channel_axes=axes, **kwargs)
        self.bits = check_bits(bits, 1, 8, "lsq")
        self.signed = None if signed is None else bool(signed)
        self.count_batch = bool(count_batch)
        self.precision = self.bits
        if self.signed or (self.signed is None and self.target == "weights"):
            check_bits(self.bits, 2, 8, "lsq with a sign")

    @property
    def has_sign(self) -> bool:
        """Tell whether the grid has negative values."""
        return not self.for_activations if self.signed is None else self.signed

    def build(self, shape: Any) -> None:
        """Add the step: one, or one for each channel."""
        check_bits(self.bits, 2 if self.has_sign else 1, 8, "lsq with a sign")
        kept = set(range(len(shape))) - set(reduced_axes(len(shape), self.channel_axes))
        steps = [shape[axis] for axis in sorted(kept)] if self.channel_axes else []
        self.step = self.add_state("step", steps, trainable=True)
        super().build(shape)

    def _step(self, v: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return the step, with kept dimensions where there is one for each channel."""
        axes = reduced_axes(v.shape.rank, self.channel_axes)
        unset = tf.convert_to_tensor(self.step) <= 0.0
        step = self.first_value(
            self.step, unset, lambda: lsq_first_step(v, self.bits, self.has_sign, axes), training
        )
        if not self.channel_axes:
            return step
        return tf.reshape(step, [1 if axis in axes else n for axis, n in enumerate(v.shape)])

    def _gradient_scale(self, v: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        """Return ``1 / sqrt(N * Q_P)``."""
        if self.for_activations and not self.count_batch:
            count = tf.reduce_prod(tf.shape(v)[1:])
        else:
            count = tf.size(v) // tf.size(step)
        elements = tf.cast(tf.maximum(count, 1), tf.float32)
        return 1.0 / tf.sqrt(elements * lsq_range(self.bits, self.has_sign)[1])

    def forward(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return ``x`` on the grid."""
        step = self._step(x, training)
        return lsq(x, step, self.bits, self.has_sign, self._gradient_scale(x, step))

    def grid(self, x: tf.Tensor) -> Grid:
        """Return codes, scale and zero point."""
        return lsq_grid(x, self._step(x), self.bits, self.has_sign)

    def fixed_grid(self) -> tuple[float, float] | None:
        """Return scale and zero point of activations whose step is set."""
        if not (self.for_activations and self.built):
            return None
        step = float(tf.convert_to_tensor(self.step))
        return (step, -lsq_range(self.bits, self.has_sign)[0]) if step > 0 else None

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        config = {"bits": self.bits, "signed": self.signed, "count_batch": self.count_batch}
        return {**super().get_config(), **config}
