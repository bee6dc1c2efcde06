"""Bit streams: small unsigned integers packed least significant bit first."""

from __future__ import annotations

import numpy as np


def row_bytes(count: int, bits: int) -> int:
    """Return the bytes of one packed row of ``count`` integers of ``bits`` bits."""
    return (count * bits + 7) // 8


def pack_bits(values: np.ndarray, bits: int) -> np.ndarray:
    """Pack the last axis into a bit stream, least significant bit first, each row to a byte.

    Element ``i`` of a row occupies the bits ``i·bits … i·bits + bits − 1`` of that row.

    Args:
        values: unsigned integers below ``2**bits``, shape (..., n).
        bits: width of one integer, 1 to 16.

    Returns:
        uint8 array, shape (..., ceil(n·bits / 8)).

    Raises:
        ValueError: ``bits`` out of range, or a value that does not fit.
    """
    if not 1 <= bits <= 16:
        raise ValueError(f"pack_bits packs integers of 1 to 16 bits, not {bits}")
    values = np.asarray(values)
    if values.size and (values.min() < 0 or values.max() >= 1 << bits):
        raise ValueError(
            f"values from {values.min()} to {values.max()} do not fit into {bits} unsigned bits"
        )
    shifts = np.arange(bits, dtype=np.uint16)
    stream = (values.astype(np.uint16)[..., None] >> shifts) & 1
    stream = stream.reshape(*values.shape[:-1], values.shape[-1] * bits).astype(np.uint8)
    return np.packbits(stream, axis=-1, bitorder="little")


def unpack_bits(packed: np.ndarray, bits: int, count: int) -> np.ndarray:
    """Undo :func:`pack_bits`.

    Args:
        packed: uint8 array, shape (..., ceil(count·bits / 8)).
        bits: width of one integer, 1 to 16.
        count: integers in a row.

    Returns:
        uint8 (uint16 above 8 bits) array, shape (..., count).
    """
    stream = np.unpackbits(packed, axis=-1, count=count * bits, bitorder="little")
    stream = stream.reshape(*packed.shape[:-1], count, bits)
    dtype = np.uint8 if bits <= 8 else np.uint16
    weights = (1 << np.arange(bits)).astype(dtype)
    return (stream.astype(dtype) * weights).sum(axis=-1, dtype=dtype)
