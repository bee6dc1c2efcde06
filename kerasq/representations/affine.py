"""Tensors on a uniform grid."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from kerasq.representations.base import Representation, channels_of, normalized_axes
from kerasq.representations.packing import pack_bits, unpack_bits


@dataclasses.dataclass(frozen=True, eq=False)
class Affine(Representation):
    """A tensor as ``scale · (code − zero_point)``, with outliers, if any, kept as they are.

    Attributes:
        shape: shape of the tensor.
        packed: uint8 (ceil(n·bits / 8),): the codes in row-major order.
        bits: width of a code, 1 to 8.
        scale: float32 (C,) or (1,).
        zero_point: float32 (C,) or (1,); halves are allowed, for grids without a zero.
        channel_axes: trailing axes whose elements are the channels.
        outlier_index: uint32 (m,): ascending positions of the outliers in row-major order, or None.
        outlier_value: float32 (m,): their values, or None.
    """

    packed: np.ndarray
    bits: int
    scale: np.ndarray
    zero_point: np.ndarray
    channel_axes: tuple[int, ...]
    outlier_index: np.ndarray | None = None
    outlier_value: np.ndarray | None = None

    @classmethod
    def from_codes(
        cls,
        codes: np.ndarray,
        bits: int,
        scale: np.ndarray | float,
        zero_point: np.ndarray | float,
        channel_axes: tuple[int, ...] = (),
        outliers: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> Affine:
        """Pack unsigned codes.

        Args:
            codes: unsigned integers below ``2**bits``, any shape.
            bits: 1 to 8.
            scale: a number, or (C,).
            zero_point: the code of the value 0, a whole or half number, or (C,).
            channel_axes: trailing axes that keep their own scale.
            outliers: ascending positions in row-major order, and the values there, which replace
                those of the codes.

        Raises:
            ValueError: bits out of range, codes that do not fit, a scale of another shape, outliers
                that are not ascending positions of the tensor with a value each.
        """
        if not 1 <= bits <= 8:
            raise ValueError(f"Affine stores codes of 1 to 8 bits, not {bits}")
        codes = np.asarray(codes)
        axes = normalized_axes(channel_axes, codes.ndim)
        channels = channels_of(codes.shape, axes)
        scale = np.atleast_1d(np.asarray(scale, np.float32))
        zero_point = np.atleast_1d(np.asarray(zero_point, np.float32))
        for name, array in (("scale", scale), ("zero_point", zero_point)):
            if array.shape not in ((1,), (channels,)):
                raise ValueError(f"{name} of shape {array.shape} for {channels} channels")
        packed = pack_bits(codes.reshape(-1), bits)
        sparse = (None, None) if outliers is None else _checked_outliers(*outliers, codes.size)
        return cls(tuple(codes.shape), packed, bits, scale, zero_point, axes, *sparse)

    def codes(self) -> np.ndarray:
        """Return the codes, uint8, shape ``self.shape``."""
        return unpack_bits(self.packed, self.bits, math.prod(self.shape)).reshape(self.shape)

    def decode(self) -> np.ndarray:
        """Return ``scale · (code − zero_point)`` in float32, and the outliers in their places."""
        channels = channels_of(self.shape, self.channel_axes)
        codes = self.codes().reshape(-1, channels).astype(np.float32)
        values = (self.scale * (codes - self.zero_point)).astype(np.float32).reshape(-1)
        if self.outlier_index is not None:
            values[self.outlier_index] = self.outlier_value
        return values.reshape(self.shape)


def _checked_outliers(index: np.ndarray, value: np.ndarray, size: int) -> tuple[np.ndarray, ...]:
    index, value = np.asarray(index), np.asarray(value, np.float32)
    ascending = np.all(np.diff(index.astype(np.int64)) > 0)
    inside = index.size == 0 or (index[0] >= 0 and index[-1] < size)
    if index.ndim != 1 or value.shape != index.shape or not (ascending and inside):
        raise ValueError(
            f"outliers are ascending positions below {size} and as many values, not {index.shape} "
            f"and {value.shape}: {index[:4]}"
        )
    return index.astype(np.uint32), value
