"""Between real values and the integer codes of a file's quantized inputs and outputs."""

from __future__ import annotations

from typing import Any

import numpy as np


def encode(array: np.ndarray, detail: dict[str, Any], name: str) -> np.ndarray:
    """Return an array in an input's type: ``code = round(value / scale) + zero_point``.

    Args:
        array: values, or codes in the input's own type, which pass as they are.
        detail: what the runtime tells about the input.
        name: the input's name in messages.

    Raises:
        ValueError: the array's type does not convert.
    """
    dtype = np.dtype(detail["dtype"])
    if array.dtype == dtype:
        return np.ascontiguousarray(array)
    scale, zero_point = detail["quantization"]
    numeric = array.dtype.kind in "biuf"
    if numeric and scale and dtype.kind in "iu":
        limits = np.iinfo(dtype)
        codes = np.rint(np.asarray(array, np.float64) / scale) + zero_point
        return np.clip(codes, limits.min, limits.max).astype(dtype)
    # Integers to float, float64 to float32, int64 to int32: nothing else keeps the meaning.
    if not numeric or (array.dtype.kind == "f" and dtype.kind != "f"):
        raise ValueError(f"input {name!r}: expected {dtype} values, received {array.dtype}")
    return np.ascontiguousarray(array, dtype)


def decode(array: np.ndarray, detail: dict[str, Any]) -> np.ndarray:
    """Return an output's values: ``scale · (code − zero_point)`` where it is quantized."""
    scale, zero_point = detail["quantization"]
    if not scale or array.dtype.kind not in "iu":
        return array
    return (np.float32(scale) * (array.astype(np.float32) - zero_point)).astype(np.float32)
