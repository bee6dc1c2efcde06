"""The catalogue of published layers and blocks, each under its name."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable
from typing import TypeVar

from kerasq.keras import keras
from kerasq.layers.quantized import register_layer


@dataclasses.dataclass(frozen=True)
class Entry:
    """One row of the catalogue.

    ``representation`` is how its kernels are stored, "-" for none; ``role`` what it stands for in
    a network: "convolution", "block", "normalization" or "activation".
    """

    name: str
    cls: type[keras.layers.Layer]
    paper: str
    arxiv: str
    representation: str
    role: str


_ENTRIES: dict[str, Entry] = {}
_Class = TypeVar("_Class", bound=type[keras.layers.Layer])


def register_block(
    *, name: str, paper: str, arxiv: str, representation: str = "-", role: str = "convolution"
) -> Callable[[_Class], _Class]:
    """Return a decorator that puts a layer into the catalogue and registers it with Keras.

    The catalogue name becomes a custom object too, so that a config may use it as class name.
    """

    def decorate(cls: _Class) -> _Class:
        register_layer(cls)
        keras.utils.get_custom_objects().setdefault(name, cls)
        _ENTRIES[name] = Entry(name, cls, paper, arxiv, representation, role)
        return cls

    return decorate


def catalogue() -> dict[str, Entry]:
    """Return the catalogue, ``{name: Entry}``, in alphabetical order."""
    return dict(sorted(_ENTRIES.items()))


def get(name: str) -> type[keras.layers.Layer]:
    """Return the class of a layer by its catalogue name or class name.

    Raises:
        ValueError: no layer has that name; the nearest one is suggested.
    """
    classes = {entry.cls.__name__: entry.cls for entry in _ENTRIES.values()}
    classes |= {entry.name: entry.cls for entry in _ENTRIES.values()}
    if name in classes:
        return classes[name]
    nearest = difflib.get_close_matches(name, classes, n=1, cutoff=0.4)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    raise ValueError(f"no layer is called {name!r}: {hint}The names are: {', '.join(catalogue())}")
