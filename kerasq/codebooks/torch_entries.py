"""The entries of a PyTorch checkpoint by module: taken one by one, checked, and none left."""

from __future__ import annotations

from typing import Any

import numpy as np

# {name of the module: {name of the entry: array or number}}
Archive = dict[str, dict[str, Any]]


class Entries:
    """The entries of an archive.

    Args:
        archive: arrays and numbers by module and name.
    """

    def __init__(self, archive: Archive):
        self._archive = archive
        self._taken: dict[str, set[str]] = {}

    def has(self, name: str, key: str | None = None) -> bool:
        """Tell whether there is a module, with an entry of that name."""
        entry = self._archive.get(name)
        return entry is not None and (key is None or key in entry)

    def arrays(self, name: str, *keys: str) -> list[np.ndarray]:
        """Take arrays of finite numbers.

        Raises:
            ValueError: one is missing, empty, of another type or not finite.
        """
        return [self._take(name, keys, key, "finite numbers", _is_array) for key in keys]

    def numbers(self, name: str, *keys: str) -> list[int]:
        """Take whole numbers.

        Raises:
            ValueError: one is missing or of another type.
        """
        return [int(self._take(name, keys, key, "a whole number", _is_number)) for key in keys]

    def skip(self, name: str, key: str) -> None:
        """Take an entry that nothing is made of, if it is there."""
        self._taken.setdefault(name, set()).add(key)

    def check_all_taken(self) -> None:
        """Raise where a module or an entry is left.

        Raises:
            ValueError: that.
        """
        left = []
        for name, entry in self._archive.items():
            if name not in self._taken:
                left.append(name)
            else:
                left += [f"{name}.{key}" for key in entry if key not in self._taken[name]]
        if left:
            raise ValueError(f"the checkpoint has {sorted(left)}, which no ResNet has")

    def _take(self, name: str, keys: tuple[str, ...], key: str, wanted: str, fits: Any) -> Any:
        entry = self._archive.get(name)
        if entry is None:
            raise ValueError(f"the checkpoint has no {name!r}: it is not that of a ResNet")
        missing = [each for each in keys if each not in entry]
        if missing:
            raise ValueError(f"{name!r} of the checkpoint has no {missing}, but {sorted(entry)}")
        if not fits(entry[key]):
            raise ValueError(
                f"{key!r} of {name!r} of the checkpoint is not {wanted}: it is corrupt"
            )
        self.skip(name, key)
        return entry[key]


def _is_array(value: Any) -> bool:
    numeric = isinstance(value, np.ndarray) and value.dtype.kind in "biuf" and value.size > 0
    return numeric and bool(np.isfinite(value).all())


def _is_number(value: Any) -> bool:
    return np.shape(value) == () and np.asarray(value).dtype.kind in "biu"
