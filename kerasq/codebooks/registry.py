"""The catalogue of codebook methods, by name."""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any, TypeVar

from kerasq.codebooks.method import Method


@dataclasses.dataclass(frozen=True)
class Entry:
    """A method of the catalogue.

    Attributes:
        name: its name.
        cls: its class.
        paper: title of the paper.
        arxiv: arXiv id, or None.
    """

    name: str
    cls: type[Method]
    paper: str
    arxiv: str | None


_ENTRIES: dict[str, Entry] = {}
_Class = TypeVar("_Class", bound=type[Method])


def register_method(name: str, paper: str, arxiv: str | None = None) -> Any:
    """Return a decorator that registers a method under a name and sets its ``name``."""

    def decorate(cls: _Class) -> _Class:
        cls.name = name
        _ENTRIES[name] = Entry(name, cls, paper, arxiv)
        return cls

    return decorate


def catalogue() -> dict[str, Entry]:
    """Return the catalogue, ``{name: Entry}``, in alphabetical order."""
    return dict(sorted(_ENTRIES.items()))


def get(identifier: Any) -> Method:
    """Return a method, from an instance, a class or a name.

    Raises:
        ValueError: an unknown name; the nearest one is suggested.
        TypeError: anything else.
    """
    if isinstance(identifier, Method):
        return identifier
    if isinstance(identifier, type) and issubclass(identifier, Method):
        return identifier()
    if not isinstance(identifier, str):
        raise TypeError(
            f"method is a {type(identifier).__name__}: pass a name of "
            "kerasq.codebooks.catalogue(), or an instance such as kerasq.codebooks.QCNN(...)"
        )
    if identifier in _ENTRIES:
        return _ENTRIES[identifier].cls()
    near = difflib.get_close_matches(identifier, _ENTRIES, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(
        f"no codebook method is called {identifier!r}: {hint}known: {list(catalogue())}"
    )
