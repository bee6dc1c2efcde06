"""Which layers a method compresses."""

from __future__ import annotations

import difflib
import numbers
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Selection = Mapping[str, bool] | Callable[[Any], bool] | None


def selected(layers: list[Any], selection: Selection, owner: str) -> list[Any]:
    """Return the layers to compress.

    Args:
        layers: all that can be.
        selection: a dict from layer names, or a function of the layer, to False for those that stay
            float.
        owner: the method, for the message.

    Raises:
        ValueError: the dict names a layer that is not there.
        TypeError: something else, or a choice that is not True, False or None.
    """
    check_selection(layers, selection, f"{owner}(layers=...)")
    chosen = []
    for layer in layers:
        choice = choice_of(selection, layer)
        if not isinstance(choice, bool | np.bool_ | None):
            raise TypeError(
                f"{owner}(layers=...) gives layer {layer.name!r} {choice!r}: pass True or False"
            )
        if choice is None or choice:
            chosen.append(layer)
    return chosen


def check_selection(layers: list[Any], selection: Any, argument: str) -> None:
    """Raise where choices of single layers are neither a dict of their names nor a function.

    Args:
        layers: all that can be compressed.
        selection: a dict from layer names, a function of the layer, or None.
        argument: where it was given, for the message.

    Raises:
        ValueError: the dict names a layer that is not there.
        TypeError: something else.
    """
    if isinstance(selection, Mapping):
        check_names(layers, selection, argument)
    elif selection is not None and not callable(selection):
        raise TypeError(
            f"{argument} is a {type(selection).__name__}: pass a dict from layer names, or a "
            "function of the layer"
        )


def choice_of(selection: Any, layer: Any) -> Any:
    """Return what a dict from layer names, or a function of the layer, says of a layer."""
    if selection is None:
        return None
    return selection.get(layer.name) if isinstance(selection, Mapping) else selection(layer)


def check_pair(choice: Any, owner: str) -> None:
    """Raise where a choice is not (d, K), two whole numbers.

    Raises:
        TypeError: naming the owner.
    """
    whole = isinstance(choice, tuple | list) and all(
        isinstance(x, numbers.Integral) and not isinstance(x, bool) for x in choice
    )
    if not whole or len(choice) != 2:
        raise TypeError(
            f"{owner} is given {choice!r}: pass (d, K), two whole numbers, or True, False or None"
        )


def check_names(layers: list[Any], names: Mapping[str, Any], argument: str) -> None:
    """Raise ValueError where a dict names a layer that is not there.

    Args:
        layers: all that can be compressed.
        names: a dict from layer names.
        argument: where it was given, for the message.
    """
    unknown = sorted(set(names) - {layer.name for layer in layers}, key=str)
    if unknown:
        known = [layer.name for layer in layers]
        near = [difflib.get_close_matches(str(name), known, 1) for name in unknown]
        hints = ", ".join(repr(found[0]) for found in near if found)
        raise ValueError(
            f"{argument} names {unknown}, but the layers that can be compressed are {known}"
            + (f": did you mean {hints}?" if hints else "")
        )


def convolves(layer: Any) -> bool:
    """Tell whether a layer is a convolution; the others are dense."""
    return hasattr(layer, "kernel_size")
