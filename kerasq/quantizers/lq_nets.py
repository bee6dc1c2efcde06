"""LQ-Nets: a learned basis of bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from kerasq.quantizers.abc_net import (
    cell_moments,
    cells_of,
    least_squares,
    plane_levels,
    staircase,
)
from kerasq.quantizers.base import Quantizer, check_bits, reduced_axes
from kerasq.quantizers.registry import register_quantizer
from kerasq.representations import BitPlanes

# The third quartile of the normal distribution, from which the release makes its first basis.
QUARTILE = 0.6745
RIDGE = 1e-4
DECAY = 0.9


def lq_codes(bits: int) -> np.ndarray:
    """Return the planes (K, 2^K) of -1 and +1: plane i of code c is its bit i."""
    return np.where((np.arange(2**bits) >> np.arange(bits)[:, None]) & 1, 1, -1)


class LQGrid(NamedTuple):
    """The levels of a basis, as ``sum_i scale_i h_i + offset`` with h of -1 and +1.

    Attributes:
        levels: (..., 2^K), ascending.
        codes: (..., 2^K), which code each level is.
        scales: (..., K), of the planes.
        offset: (...), or None for 0.
    """

    levels: tf.Tensor
    codes: tf.Tensor
    scales: tf.Tensor
    offset: tf.Tensor | None

    def steps(self, x: tf.Tensor) -> list[tf.Tensor]:
        """Return where ``x`` is above each of the thresholds, halfway between the levels."""
        thresholds = 0.5 * (self.levels[..., :-1] + self.levels[..., 1:])
        return [x > threshold for threshold in tf.unstack(thresholds, axis=-1)]


def lq_grid(basis: tf.Tensor, unsigned: bool) -> LQGrid:
    """Return the levels of a basis (..., K); ``unsigned`` codes are 0 and 1, else -1 and +1.

    A bit of 0 and 1 is half of one of -1 and +1, and a half: hence the offset.
    """
    scales, offset = (0.5 * basis if unsigned else basis), None
    levels = plane_levels(lq_codes(basis.shape[-1]), scales)
    if unsigned:
        offset = levels[..., -1]
        levels = levels + offset[..., None]
    codes = tf.argsort(levels, axis=-1, stable=True)
    ordered = tf.gather(levels, codes, batch_dims=levels.shape.rank - 1)
    return LQGrid(ordered, codes, scales, offset)


def lq_nets(x: tf.Tensor, grid: LQGrid) -> tf.Tensor:
    """Return the nearest level; see :class:`LQNets`."""

    @tf.custom_gradient
    def quantize(x: tf.Tensor) -> tf.Tensor:
        def grad(dq: tf.Tensor) -> tf.Tensor:
            if grid.offset is None:
                return dq
            return tf.where(x <= grid.levels[..., -1], dq, tf.zeros_like(dq))

        return staircase(grid.steps(x), grid.levels), grad

    return quantize(x)


def lq_fit(x: tf.Tensor, basis: tf.Tensor, grid: LQGrid, axes: Sequence[int]) -> tf.Tensor:
    """Return the least-squares basis of the codes that ``x`` has on the grid (one step of QEM)."""
    bits = basis.shape[-1]
    moments = cell_moments(x, cells_of(grid.steps(x)), 2**bits, axes)
    bit_values = lq_codes(bits) if grid.offset is None else (lq_codes(bits) + 1) // 2
    planes = tf.gather(tf.constant(bit_values.T), grid.codes)  # (..., 2^K, K)
    return least_squares(moments, tf.linalg.matrix_transpose(planes), RIDGE, basis)


@register_quantizer(
    name="lq_nets",
    paper="LQ-Nets: Learned Quantization for Highly Accurate and Compact Deep Neural Networks",
    arxiv="1807.10029",
    bits=(1, 4),
    target="both",
    representation="BitPlanes",
)
class LQNets(Quantizer):
    r"""Weights or activations on the 2^K sums of a learned basis of K numbers.

    Forward: ``q = v^T e``, the nearest of the levels; e in {-1, 1}^K and a basis v per filter for
    weights, e in {0, 1}^K and one basis for activations. Halfway the lower level is taken.

    A training step quantizes with v, then moves it towards the least squares of its codes (QEM):
    ``v <- 0.9 v + 0.1 v*``, ``v* = (E E^T + 1e-4 I)^-1 (E x + 1e-4 v)``. At inference v stays.

    Gradient: weights ``dL/dw = dL/dq``; activations, which should come from a ReLU, ``dL/dx = dL/dq
    * 1{x <= the top level}``. The basis, the variable ``basis`` (..., K), has no gradient.

    The first basis is ``v_i = c 2^i``, i = 0..K-1: for activations ``c = 2 * 0.6745 / (2^K - 1)``,
    for weights ``c = 0.6745 * sqrt(2/n) / 2^(K-1)``, ``n = kh kw c_out``.

    Args:
        bits: K in 1..4.
        channel_axes: (-1,), a basis per filter; () for one per layer. Activations have one.

    Raises:
        ValueError: bits outside 1..4, or an axis outside the kernel.

    Paper: D. Zhang, J. Yang, D. Ye, G. Hua, ECCV 2018, arXiv 1807.10029.

    Deviations: the release adds 1e-4 for weights only; without it the activations' matrix is
    singular as soon as a bit is never set. An all-zero filter gives zeros. NaN gives the lowest
    level. A depthwise kernel's n is kh kw times its multiplier.
    """

    def __init__(
        self, bits: int = 2, *, channel_axes: Sequence[int] = (-1,), **kwargs: Any
    ) -> None:
        axes = () if kwargs.get("target") == "activations" else channel_axes
        super().__init__(channel_axes=axes, **kwargs)
        self.bits = check_bits(bits, 1, 4, "lq_nets")
        self.precision = self.bits

    def build(self, input_shape: Any) -> None:
        """Add the basis."""
        shape, powers = tuple(input_shape), 2.0 ** np.arange(self.bits)
        if self.for_activations:
            channels, unit = [], 2 * QUARTILE / (2**self.bits - 1)
        else:
            reduced = reduced_axes(len(shape), self.channel_axes)
            channels = [size for axis, size in enumerate(shape) if axis not in reduced]
            # A transposed convolution's filters come before its inputs.
            filters = shape[-2 if self.channel_axes == (-2,) else -1]
            fan_out = np.prod(shape[:-2]) * filters
            unit = QUARTILE * np.sqrt(2 / fan_out) / 2 ** (self.bits - 1)
        self.basis = self.add_state("basis", (*channels, self.bits), unit * powers)
        super().build(input_shape)

    def forward(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return the levels of the basis; a training step then moves the basis."""
        basis, grid = self._grid(x)
        quantized = lq_nets(x, grid)
        if training:
            axes = reduced_axes(x.shape.rank, self.channel_axes)
            fitted = lq_fit(tf.stop_gradient(x), basis, grid, axes)
            moved = DECAY * basis + (1.0 - DECAY) * fitted
            self.basis.assign(tf.reshape(moved, self.basis.shape))
        return quantized

    def _grid(self, x: tf.Tensor) -> tuple[tf.Tensor, LQGrid]:
        """Return the basis (kept dimensions, K) and its levels, zero for a filter of zeros."""
        basis = tf.convert_to_tensor(self.basis)
        if self.for_activations:
            return basis, lq_grid(basis, unsigned=True)
        axes = reduced_axes(x.shape.rank, self.channel_axes)
        some = tf.reduce_any(tf.not_equal(x, 0.0), axis=axes, keepdims=True)
        basis = tf.reshape(basis, [*some.shape, self.bits])
        return basis, lq_grid(basis * tf.cast(some, basis.dtype)[..., None], unsigned=False)

    def pack(self, w: tf.Tensor) -> BitPlanes:
        """Return the bits of the codes as planes with the scales v, or v / 2 and an offset."""
        _, grid = self._grid(w)
        cells = cells_of(grid.steps(w)).numpy().astype(int)
        codes = np.broadcast_to(grid.codes.numpy(), (*cells.shape, 2**self.bits))
        codes = np.take_along_axis(codes, cells[..., None], -1)[..., 0]
        return BitPlanes.from_signs(
            lq_codes(self.bits)[:, codes],
            grid.scales.numpy().reshape(-1, self.bits).T,
            None if grid.offset is None else grid.offset.numpy(),
            channel_axes=self.channel_axes,
        )

    def levels(self) -> np.ndarray | None:
        """Return the at most 16 levels of the activations' basis; None for weights."""
        if not self.for_activations:
            return None
        if not self.built:
            self.build(())
            self.built = True
        grid = lq_grid(tf.convert_to_tensor(self.basis), unsigned=True)
        return np.unique(grid.levels.numpy())

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "bits": self.bits}
