"""Which layers a method compresses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

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
    """
    if selection is None:
        return list(layers)
    if not isinstance(selection, Mapping):
        return [layer for layer in layers if selection(layer) is not False]
    check_names(layers, selection, f"{owner}(layers=...)")
    return [layer for layer in layers if selection.get(layer.name) is not False]


def check_names(layers: list[Any], names: Mapping[str, Any], argument: str) -> None:
    """Raise ValueError where a dict names a layer that is not there.

    Args:
        layers: all that can be compressed.
        names: a dict from layer names.
        argument: where it was given, for the message.
    """
    unknown = sorted(set(names) - {layer.name for layer in layers})
    if unknown:
        raise ValueError(
            f"{argument} names {unknown}, but the layers that can be compressed are "
            f"{[layer.name for layer in layers]}"
        )


def convolves(layer: Any) -> bool:
    """Tell whether a layer is a convolution; the others are dense."""
    return hasattr(layer, "kernel_size")
