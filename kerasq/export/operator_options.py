"""The options of a custom operator: a flexbuffer map of integers."""

from __future__ import annotations

from flatbuffers import flexbuffers


def read_options(data: bytes) -> dict[str, int]:
    """Return the options of one of kerasq's operators.

    Raises:
        ValueError: the bytes are no flexbuffer map of integers.
    """
    try:
        options = flexbuffers.Loads(data)
    except Exception as error:  # the reader indexes without checks: any error means damage
        raise ValueError(f"the options of a custom operator are damaged: {error}") from error
    if not isinstance(options, dict) or not all(isinstance(v, int) for v in options.values()):
        raise ValueError("the options of a custom operator are no map of integers")
    return {str(key): int(value) for key, value in options.items()}
