"""Tensors as sums of scaled planes of ±1."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from kerasq.representations.base import Representation, channels_of, normalized_axes
from kerasq.representations.packing import pack_bits, unpack_bits


@dataclasses.dataclass(frozen=True, eq=False)
class BitPlanes(Representation):
    """A tensor as ``Σᵢ scaleᵢ · planeᵢ + offset`` with ``planeᵢ ∈ {−1, +1}``.

    Attributes:
        shape: shape of the tensor.
        packed: uint8 (P, C, ceil(n / 8)): bit 1 is +1; the n elements of a channel in row-major
            order, least significant bit first. Without channel axes C is 1.
        scales: float32 (P, C) or (P, 1).
        offset: float32 (C,) or (1,), or None for 0.
        channel_axes: trailing axes whose elements are the channels.
    """

    packed: np.ndarray
    scales: np.ndarray
    offset: np.ndarray | None
    channel_axes: tuple[int, ...]

    @classmethod
    def from_signs(
        cls,
        signs: np.ndarray,
        scales: np.ndarray,
        offset: np.ndarray | float | None = None,
        channel_axes: tuple[int, ...] = (),
    ) -> BitPlanes:
        """Pack planes of −1 and +1.

        Args:
            signs: (P, *shape), every element −1 or +1.
            scales: (P,), one a plane, or (P, C), one a plane and channel.
            offset: added to every element: a number or (C,).
            channel_axes: trailing axes of the tensor that keep their own scale.

        Raises:
            ValueError: an element that is neither −1 nor +1, or scales of another shape.
        """
        signs = np.asarray(signs)
        if not np.all(np.abs(signs) == 1):
            raise ValueError("the elements of a bit plane are -1 and +1")
        shape = tuple(signs.shape[1:])
        axes = normalized_axes(channel_axes, len(shape))
        channels = channels_of(shape, axes)
        scales = np.asarray(scales, np.float32)
        scales = scales.reshape(len(signs), -1)
        if scales.shape[1] not in (1, channels):
            raise ValueError(f"{scales.shape[1]} scales a plane for {channels} channels")
        if offset is not None:
            offset = np.atleast_1d(np.asarray(offset, np.float32))
        rows = signs.reshape(len(signs), -1, channels).transpose(0, 2, 1)
        return cls(shape, pack_bits(rows > 0, 1), scales, offset, axes)

    def signs(self) -> np.ndarray:
        """Return the planes, float32 of −1 and +1, shape (P, *shape)."""
        planes, channels, _ = self.packed.shape
        bits = unpack_bits(self.packed, 1, math.prod(self.shape) // max(1, channels))
        signs = 2.0 * bits.transpose(0, 2, 1).astype(np.float32) - 1.0
        return signs.reshape(planes, *self.shape)

    def decode(self) -> np.ndarray:
        """Return ``Σᵢ scaleᵢ · planeᵢ + offset`` in float32, summed in the order of the planes."""
        planes, channels, _ = self.packed.shape
        signs = self.signs().reshape(planes, -1, channels)
        total = self.scales[0] * signs[0]
        for scale, plane in zip(self.scales[1:], signs[1:], strict=True):
            total = total + scale * plane
        if self.offset is not None:
            total = total + self.offset
        return total.astype(np.float32).reshape(self.shape)
