"""Tensors on a uniform grid."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from kerasq.representations.base import Representation, channels_of, normalized_axes
from kerasq.representations.packing import pack_bits, unpack_bits


@dataclasses.dataclass(frozen=True, eq=False)
class Affine(Representation):
    """A tensor as ``scale · (code − zero_point)``.

    Attributes:
        shape: shape of the tensor.
        packed: uint8 (ceil(n·bits / 8),): the codes in row-major order.
        bits: width of a code, 1 to 8.
        scale: float32 (C,) or (1,).
        zero_point: float32 (C,) or (1,); halves are allowed, for grids without a zero.
        channel_axes: trailing axes whose elements are the channels.
    """

    packed: np.ndarray
    bits: int
    scale: np.ndarray
    zero_point: np.ndarray
    channel_axes: tuple[int, ...]

    @classmethod
    def from_codes(
        cls,
        codes: np.ndarray,
        bits: int,
        scale: np.ndarray | float,
        zero_point: np.ndarray | float,
        channel_axes: tuple[int, ...] = (),
    ) -> Affine:
        """Pack unsigned codes.

        Args:
            codes: unsigned integers below ``2**bits``, any shape.
            bits: 1 to 8.
            scale: a number, or (C,).
            zero_point: the code of the value 0, a whole or half number, or (C,).
            channel_axes: trailing axes that keep their own scale.

        Raises:
            ValueError: bits out of range, codes that do not fit, a scale of another shape.
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
        return cls(tuple(codes.shape), packed, bits, scale, zero_point, axes)

    def codes(self) -> np.ndarray:
        """Return the codes, uint8, shape ``self.shape``."""
        return unpack_bits(self.packed, self.bits, math.prod(self.shape)).reshape(self.shape)

    def decode(self) -> np.ndarray:
        """Return ``scale · (code − zero_point)`` in float32."""
        channels = channels_of(self.shape, self.channel_axes)
        codes = self.codes().reshape(-1, channels).astype(np.float32)
        return (self.scale * (codes - self.zero_point)).astype(np.float32).reshape(self.shape)
