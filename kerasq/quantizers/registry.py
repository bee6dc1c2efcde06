"""The catalogue: every quantizer under its name, and the ways to ask for one."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from kerasq.keras import keras, register
from kerasq.quantizers.base import Quantizer


@dataclasses.dataclass(frozen=True)
class Entry:
    """One row of the catalogue.

    ``bits`` is the range of ``precision``; ``target`` what the method quantizes ("weights",
    "activations", "both" or "gradients"); ``learnable`` tells whether it holds parameters that are
    trained.
    """

    name: str
    cls: type[Quantizer]
    paper: str
    arxiv: str
    bits: tuple[int, int]
    target: str
    representation: str
    learnable: bool


TARGETS = ("weights", "activations", "both", "gradients")
_ENTRIES: dict[str, Entry] = {}
_Class = TypeVar("_Class", bound=type[Quantizer])


def register_quantizer(
    *,
    name: str,
    paper: str,
    arxiv: str,
    bits: int | tuple[int, int],
    target: str,
    representation: str,
    learnable: bool = False,
) -> Callable[[_Class], _Class]:
    """Return a decorator that puts a class into the catalogue and registers it with Keras.

    The catalogue name becomes a custom object too, so that layers of other libraries find it.
    """
    if target not in TARGETS:
        raise ValueError(f"{name}: target must be one of {TARGETS}, got {target!r}")
    span = (bits, bits) if isinstance(bits, int) else bits

    def decorate(cls: _Class) -> _Class:
        register(cls)
        # larq has a `ste_sign` of its own: where a name is taken it stays whose it is.
        keras.utils.get_custom_objects().setdefault(name, cls)
        _ENTRIES[name] = Entry(name, cls, paper, arxiv, span, target, representation, learnable)
        cls.method, cls.uses = name, target
        return cls

    return decorate


def catalogue() -> dict[str, Entry]:
    """Return the catalogue, ``{name: Entry}``, in alphabetical order."""
    return dict(sorted(_ENTRIES.items()))


def get(identifier: Any) -> Quantizer | None:
    """Return a quantizer.

    Args:
        identifier: a catalogue name, a class name, a config ``{"class_name", "config"}``, a class,
            or an instance (returned as it is); None gives None.

    Raises:
        ValueError: no quantizer has that name; the nearest one is suggested.
        TypeError: something that can be no quantizer.
    """
    if identifier is None or isinstance(identifier, Quantizer):
        return identifier
    if isinstance(identifier, str):
        return _class(identifier)()
    if isinstance(identifier, Mapping):
        if "class_name" not in identifier:
            raise ValueError(
                "a quantizer's config is {'class_name': name, 'config': {...}}, got the keys "
                f"{sorted(identifier)}"
            )
        name = identifier.get("registered_name") or identifier["class_name"]
        return _class(name).from_config(dict(identifier.get("config") or {}))
    if isinstance(identifier, type) and issubclass(identifier, Quantizer):
        return identifier()
    raise TypeError(
        f"cannot make a quantizer of {identifier!r}: pass a name of "
        "kerasq.quantizers.catalogue(), a config, a Quantizer class or an instance"
    )


def serialize(quantizer: Quantizer | None) -> dict[str, Any] | None:
    """Return the config from which :func:`get` makes an equal quantizer."""
    if quantizer is None:
        return None
    return {"class_name": type(quantizer).__name__, "config": quantizer.get_config()}


def clone(quantizer: Quantizer, **changes: Any) -> Quantizer:
    """Return a new, unbuilt quantizer of the same class and config.

    Args:
        quantizer: what to copy; its variables are not copied.
        **changes: entries of the config to replace.
    """
    return type(quantizer).from_config({**quantizer.get_config(), **changes})


def clone_for_depthwise(quantizer: Quantizer, **changes: Any) -> Quantizer:
    """Clone for a depthwise kernel (kh, kw, C, m), where per filter means the axes (-2, -1)."""
    if quantizer.channel_axes == (-1,):
        changes = {"channel_axes": (-2, -1), **changes}
    return clone(quantizer, **changes)


def clone_for_transpose(quantizer: Quantizer, **changes: Any) -> Quantizer:
    """Clone for a transposed convolution's kernel (..., filters, input channels)."""
    if quantizer.channel_axes == (-1,):
        changes = {"channel_axes": (-2,), **changes}
    return clone(quantizer, **changes)


def for_use(quantizer: Quantizer, use: str, **changes: Any) -> Quantizer:
    """Return an unbuilt copy of a quantizer, told what it is going to quantize.

    Args:
        quantizer: what to copy.
        use: "weights" or "activations"; a target in the quantizer's own config wins.
        **changes: entries of the config to replace.
    """
    if quantizer.target is None:
        changes["target"] = use
    return clone(quantizer, **changes)


def check_target(quantizer: Quantizer, use: str, owner: str) -> None:
    """Raise ValueError where a weight method is used on activations or the reverse.

    Args:
        quantizer: what the user gave.
        use: "weights" or "activations".
        owner: the layer, for the message.
    """
    target = quantizer.target
    if target == "gradients" and use == "activations":
        return  # in the place of an activation quantizer it meets the gradients on their way back
    if target not in (None, use):
        fitting = [e.name for e in catalogue().values() if e.target in ("both", use)]
        raise ValueError(
            f"{owner}: {quantizer.method!r} quantizes {target}, not {use}. For {use} there are: "
            f"{', '.join(fitting)}"
        )


def _class(name: str) -> type[Quantizer]:
    if name in _ENTRIES:
        return _ENTRIES[name].cls
    bare = name.rsplit(">", 1)[-1]
    by_class = {entry.cls.__name__: entry.cls for entry in _ENTRIES.values()}
    custom = keras.utils.get_custom_objects()
    found = by_class.get(bare) or custom.get(name) or custom.get(bare)
    if isinstance(found, type) and issubclass(found, Quantizer):
        return found
    nearest = difflib.get_close_matches(name, [*_ENTRIES, *by_class], n=1, cutoff=0.4)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    raise ValueError(
        f"no quantizer is called {name!r}: {hint}The names are: {', '.join(catalogue())}"
    )
