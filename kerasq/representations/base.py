"""What every representation can do, and how it is saved."""

from __future__ import annotations

import abc
import dataclasses
import io
import math
import os
from typing import ClassVar, Self

import numpy as np

from kerasq.files import write_whole


@dataclasses.dataclass(frozen=True, eq=False)
class Representation(abc.ABC):
    """How a quantized tensor is stored.

    Fields are numpy arrays, integers and tuples of integers; ``shape`` is that of the decoded
    tensor.
    """

    shape: tuple[int, ...]

    kinds: ClassVar[dict[str, type[Representation]]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        Representation.kinds[cls.__name__] = cls

    @abc.abstractmethod
    def decode(self) -> np.ndarray:
        """Return the quantized tensor, float32, shape ``self.shape``."""

    @property
    def nbytes(self) -> int:
        """Bytes of all stored arrays."""
        return sum(array.nbytes for array in self._fields().values() if hasattr(array, "nbytes"))

    @property
    def bits_per_weight(self) -> float:
        """Stored bits, scales and codebooks included, over the number of elements."""
        return 8 * self.nbytes / max(1, math.prod(self.shape))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an ``.npz`` file; it appears whole or not at all."""
        fields = {k: v for k, v in self._fields().items() if v is not None}
        content = io.BytesIO()
        np.savez(content, kind=type(self).__name__, **fields)
        write_whole(path, content.getbuffer())

    def _fields(self) -> dict[str, object]:
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    @classmethod
    def _from_fields(cls, stored: dict[str, np.ndarray]) -> Self:
        """Rebuild from the arrays of :meth:`save`: integers and tuples come back as such."""
        values = {}
        for field in dataclasses.fields(cls):
            value = stored.get(field.name)
            if value is not None and str(field.type).startswith("tuple"):
                value = tuple(int(v) for v in value)
            elif value is not None and str(field.type) == "int":
                value = int(value)
            elif value is not None and str(field.type) == "str":
                value = str(value)
            values[field.name] = value
        return cls(**values)


def load(path: str | os.PathLike[str]) -> Representation:
    """Read what :meth:`Representation.save` wrote.

    Raises:
        ValueError: the file holds no representation of kerasq.
    """
    with np.load(path, allow_pickle=False) as file:
        stored = dict(file)
    kind = str(stored.pop("kind", ""))
    if kind not in Representation.kinds:
        raise ValueError(f"{os.fspath(path)} holds no representation of kerasq (kind {kind!r})")
    return Representation.kinds[kind]._from_fields(stored)


def normalized_axes(channel_axes: tuple[int, ...], ndim: int) -> tuple[int, ...]:
    """Return ``channel_axes`` counted from the front, checked to be trailing axes."""
    axes = tuple(sorted(axis % ndim for axis in channel_axes)) if ndim else ()
    if axes != tuple(range(ndim - len(axes), ndim)):
        raise ValueError(f"channel axes {channel_axes} are not the last axes of a {ndim}-d tensor")
    return axes


def channels_of(shape: tuple[int, ...], channel_axes: tuple[int, ...]) -> int:
    """Return how many channels keep a scale of their own."""
    return math.prod(shape[axis] for axis in normalized_axes(channel_axes, len(shape)))
