"""Input quantizers as thresholds, found by bisecting the very function that was trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from kerasq.export.larq_quantizers import binary_levels
from kerasq.quantizers import Quantizer
from kerasq.representations import Affine, BitPlanes, Codebook

# Beyond this, batch normalization may overflow to NaN: a threshold further out is never reached.
_FAR = np.float32(1e18)
# Uniform levels of more bits, and uneven ones beyond these, cost more planes than they are worth.
_MAX_UNIFORM_BITS = 4
_MAX_THERMOMETER_LEVELS = 5
# The converter replaces infinite constants by the largest float: we do so ourselves.
_NEVER = np.finfo(np.float32).max


@dataclasses.dataclass(frozen=True)
class InputPlanes:
    """The quantization of an operator's input.

    ``code = #{j : direction · x ≥ thresholds[j]}``; bit i of ``level_bits[code]`` is plane i.

    Attributes:
        thresholds: float32 (channels or 1, levels − 1), ascending.
        direction: float32 (channels or 1,), each +1 or −1.
        level_bits: uint8 (levels,).
        basis: float32 scales of the planes, and the offset where there is one.
        planes: how many.
    """

    thresholds: np.ndarray
    direction: np.ndarray
    level_bits: np.ndarray
    basis: np.ndarray
    planes: int


def levels_of(quantizer: Any) -> np.ndarray | None:
    """Return the sorted output levels of an input quantizer that has few, or None."""
    if quantizer is None:
        return None
    if isinstance(quantizer, Quantizer):
        return quantizer.levels()
    return binary_levels(quantizer)


def input_planes(
    quantizer: Any,
    channels: int,
    before: Callable[[np.ndarray], np.ndarray] | None,
    pad_value: int = 0,
) -> InputPlanes | None:
    """Turn an input quantizer, and what directly precedes it, into thresholds of bit planes.

    Args:
        quantizer: an input quantizer, monotone in each element.
        channels: channels of the input.
        before: a monotone function of each channel that is applied first (batch normalization),
            of arrays (n, channels); None for the identity.
        pad_value: what the layer pads its quantized inputs with; the operator quantizes a 1 too.

    Returns:
        The planes; None where the quantizer has no fixed levels that few planes add up to.
    """
    levels = levels_of(quantizer)
    planes = None if levels is None or len(levels) < 2 else _planes_of(quantizer, levels)
    if planes is None:
        return None

    def function(x: np.ndarray) -> np.ndarray:
        return np.asarray(quantizer(x if before is None else before(x)), np.float32)

    if pad_value == 1 and np.any(function(np.ones((1, channels), np.float32)) != 1.0):
        return None
    per_feature = before is not None or getattr(quantizer, "per_feature", False)
    columns = channels if per_feature else 1
    thresholds, direction = _bisect(function, levels, columns)
    bits = (planes.signs() > 0).astype(np.uint8)  # (planes, levels)
    level_bits = (bits << np.arange(len(bits), dtype=np.uint8)[:, None]).sum(axis=0)
    basis = planes.scales[:, 0]
    if planes.offset is not None:
        basis = np.append(basis, planes.offset)
    return InputPlanes(
        thresholds, direction, level_bits.astype(np.uint8), basis.astype(np.float32), len(bits)
    )


def _planes_of(quantizer: Any, levels: np.ndarray) -> BitPlanes | None:
    """Return the levels as sums of at most 8 planes."""
    if not isinstance(quantizer, Quantizer):
        return BitPlanes.from_signs(levels[None], np.ones(1, np.float32))
    # What the levels themselves become tells their planes, unless thresholds lie elsewhere.
    differs = getattr(quantizer, "per_feature", False)
    if differs or not np.array_equal(quantizer(levels), levels):
        return _thermometer(levels) if len(levels) <= _MAX_THERMOMETER_LEVELS else None
    planes = quantizer.represent(levels)
    if isinstance(planes, Affine):
        planes = bit_planes_of(planes) if planes.bits <= _MAX_UNIFORM_BITS else None
    if isinstance(planes, Codebook):
        planes = _thermometer(levels) if len(levels) <= _MAX_THERMOMETER_LEVELS else None
    return planes


def _thermometer(levels: np.ndarray) -> BitPlanes:
    """Write level i as i planes of +1, then -1: planes of half the distances of the levels."""
    planes = len(levels) - 1
    signs = np.where(np.arange(len(levels)) > np.arange(planes)[:, None], 1, -1)
    offset = np.float32((levels[0] + levels[-1]) / 2)
    return BitPlanes.from_signs(signs, np.diff(levels) / 2, offset if offset else None)


def bit_planes_of(kernel: Affine) -> BitPlanes:
    """Write ``scale · (code − zero_point)`` as one plane for each bit of the code."""
    codes = kernel.codes().astype(np.int32)
    signs = np.stack([2 * (codes >> i & 1) - 1 for i in range(kernel.bits)])
    scales = np.stack([kernel.scale * np.float32(2.0 ** (i - 1)) for i in range(kernel.bits)])
    offset = kernel.scale * (np.float32((2**kernel.bits - 1) / 2) - kernel.zero_point)
    return BitPlanes.from_signs(
        signs, scales, offset if np.any(offset) else None, kernel.channel_axes
    )


def directions(function: Callable[[np.ndarray], np.ndarray], channels: int) -> np.ndarray:
    """Return −1 for the channels in which a monotone function falls, else +1, float32."""
    low, high = function(_ends(channels))
    return np.where(high < low, -1, 1).astype(np.float32)


def sum_thresholds(
    reached: Callable[[np.ndarray], np.ndarray], channels: int, largest: int
) -> tuple[np.ndarray, np.ndarray]:
    """Find the integers at which a comparison changes: ``direction · sum ≥ thresholds``.

    Args:
        reached: a function of sums, float32 (n, channels), true on one side in each channel.
        channels: of the sums.
        largest: they lie within −largest and largest.

    Returns:
        Thresholds, int32 (channels or 1,), and direction, int8 (channels or 1,). A comparison that
        is true of all sums, or of none, has the least or the largest int32.
    """

    def at(sums: np.ndarray) -> np.ndarray:
        return reached(sums.astype(np.float32)[None])[0]

    ends = np.full(channels, -largest), np.full(channels, largest)
    direction = np.where(at(ends[0]) & ~at(ends[1]), -1, 1)
    low, high = ends[0] - 1, ends[1].copy()
    while np.any(high - low > 1):
        middle = (low + high) // 2
        found = at(direction * middle)
        low, high = np.where(found, low, middle), np.where(found, middle, high)
    integers = np.iinfo(np.int32)
    thresholds = np.where(at(direction * ends[0]), integers.min, high)
    thresholds = np.where(at(direction * ends[1]), thresholds, integers.max)
    return _one_or_all(thresholds.astype(np.int32)), _one_or_all(direction.astype(np.int8))


def _one_or_all(values: np.ndarray) -> np.ndarray:
    return values[:1] if np.all(values == values[0]) else values


def _ends(channels: int) -> np.ndarray:
    return np.stack([np.full(channels, -_FAR), np.full(channels, _FAR)]).astype(np.float32)


def _bisect(
    function: Callable[[np.ndarray], np.ndarray], levels: np.ndarray, channels: int
) -> tuple[np.ndarray, np.ndarray]:
    """Find, for each channel and level, the least float32 at which the function reaches it."""
    ends = _ends(channels)
    direction = directions(function, channels)
    # A row of channels for each level above the lowest, which is reached halfway to it.
    wanted = ((levels[:-1] + levels[1:]) / 2)[:, None]
    low = np.broadcast_to(_ordinal(ends[0]), (len(wanted), channels)).copy()
    high = np.broadcast_to(_ordinal(ends[1]), low.shape).copy()
    while np.any(high - low > 1):
        middle = low + (high - low) // 2
        reached = function(direction * _from_ordinal(middle)) >= wanted
        high = np.where(reached, middle, high)
        low = np.where(reached, low, middle)
    thresholds = _from_ordinal(high)
    # TensorFlow's arithmetic takes denormal numbers for zero.
    thresholds = np.where(np.abs(thresholds) <= np.finfo(np.float32).tiny, 0.0, thresholds)
    # A level that is reached everywhere, or nowhere.
    at_low, at_high = function(direction * ends[0:1]), function(direction * ends[1:2])
    thresholds = np.where(at_low >= wanted, -_NEVER, thresholds)
    thresholds = np.where(at_high < wanted, _NEVER, thresholds)
    return np.ascontiguousarray(thresholds.T, np.float32), direction


def _ordinal(x: np.ndarray) -> np.ndarray:
    """Map float32 to int64 so that neighbours differ by 1; both zeros are 0."""
    bits = np.ascontiguousarray(x, np.float32).view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


def _from_ordinal(n: np.ndarray) -> np.ndarray:
    bits = np.where(n < 0, (-n) | 0x80000000, n).astype(np.uint32)
    return bits.view(np.float32)
