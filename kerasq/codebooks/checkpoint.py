"""Finished layers on disk, so that a run can be taken up again."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kerasq.codebooks.site import Solution
from kerasq.files import write_whole

_RUN = "run.json"
_MOST_NAMED = 5  # differences in an error
_NAMES = "_names"  # of a file's arrays: one with a damaged directory seems to have fewer


def digest(*buffers: Any) -> str:
    """Return 16 hexadecimal digits that stand for bytes or contiguous arrays."""
    found = hashlib.sha256()
    for buffer in buffers:
        flat = buffer.reshape(-1).view(np.uint8) if isinstance(buffer, np.ndarray) else buffer
        found.update(flat)
    return found.hexdigest()[:16]


class Checkpoint:
    """A folder with one file for each finished layer, and what run they belong to.

    Files appear whole or not at all: each is written beside and then renamed.

    Args:
        folder: is made where it does not exist.
        run: what the layers depend on; JSON values.

    Raises:
        ValueError: the folder belongs to another run, the difference is named; a file in its place.
        OSError: it cannot be written.
    """

    def __init__(self, folder: str | os.PathLike[str], run: dict[str, Any]):
        self._folder = Path(folder)
        if self._folder.exists() and not self._folder.is_dir():
            raise ValueError(f"checkpoint_dir {str(folder)!r} is a file: pass a folder")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(error, self._folder) from error
        run = json.loads(json.dumps(run, default=np.generic.item))  # numbers of NumPy too
        path = self._folder / _RUN
        if path.exists():
            self._compare(_read_run(path), run)
        else:
            text = json.dumps(run, indent=1).encode()
            self._write(_RUN, text)

    def _compare(self, found: dict[str, Any], run: dict[str, Any]) -> None:
        other = list(_differences(found, run))
        if other:
            changes = "; ".join(other[:_MOST_NAMED])
            if len(other) > _MOST_NAMED:
                changes += f"; and {len(other) - _MOST_NAMED} more"
            raise ValueError(
                f"checkpoint_dir {str(self._folder)!r} holds another run ({changes}): pass another "
                "folder, or remove it"
            )

    def load(self, index: int, layer: str) -> Solution | None:
        """Return a layer's solution, None where it is not finished."""
        arrays = self._read(f"layer-{index:04}", f"layer {layer!r}")
        if arrays is None:
            return None
        before, after = (float(error) for error in arrays.pop("_errors"))
        history = tuple(float(value) for value in arrays.pop("_history"))
        return Solution(arrays, before, after, history)

    def save(self, index: int, solution: Solution) -> None:
        """Write a layer's solution."""
        errors = np.array([solution.error_before, solution.error_after])
        arrays = {**solution.weights, "_errors": errors, "_history": np.array(solution.history)}
        self._save(f"layer-{index:04}", arrays)

    def load_stage(self, name: str) -> dict[str, np.ndarray] | None:
        """Return what was saved of a stage of training, None where there is nothing."""
        return self._read(_stage(name), f"stage {name!r}")

    def save_stage(self, name: str, arrays: dict[str, np.ndarray]) -> None:
        """Write the state of a stage of training."""
        self._save(_stage(name), arrays)

    def _read(self, name: str, owner: str) -> dict[str, np.ndarray] | None:
        path = self._folder / f"{name}.npz"
        if not path.exists():
            return None
        try:
            with np.load(path) as file:
                arrays = dict(file)
            missing = sorted(set(arrays.pop(_NAMES)) - arrays.keys())
            if missing:
                raise ValueError(f"it has lost {missing}")
            return arrays
        except Exception as error:  # NumPy raises what its zip reader raises, of any kind
            raise ValueError(
                f"the checkpoint {str(path)!r} of {owner} cannot be read ({error}): remove it"
            ) from error

    def _save(self, name: str, arrays: dict[str, np.ndarray]) -> None:
        # In memory first: a ZipFile that cannot be written complains once more when it is dropped.
        content = io.BytesIO()
        np.savez(content, **arrays, **{_NAMES: np.array(sorted(arrays))})
        self._write(f"{name}.npz", content.getbuffer())

    def _write(self, name: str, content: bytes | memoryview) -> None:
        try:
            write_whole(self._folder / name, content)
        except OSError as error:
            raise _unwritable(error, self._folder / name) from error


def _unwritable(error: OSError, path: Path) -> OSError:
    return OSError(
        error.errno,
        f"cannot write the checkpoint ({error.strerror or error}): make room and run again "
        "with the same arguments, what was finished before is kept",
        str(path),
    )


def _read_run(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
        if not isinstance(found, dict):
            raise ValueError(f"it holds a {type(found).__name__}")
        return found
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"the checkpoint {str(path)!r} cannot be read ({error}): pass another folder, or "
            "remove it"
        ) from error


def _differences(found: Any, run: Any, name: str = "") -> Iterator[str]:
    """Yield what differs between two runs, with its name."""
    if isinstance(found, dict) and isinstance(run, dict):
        keys = {**run, **found}
        # Of another method or model all the rest differs too.
        for key in ["name"] if found.get("name") != run.get("name") else keys:
            path = f"{name} {key}" if name else key
            yield from _differences(found.get(key), run.get(key), path)
    elif found != run:
        yield f"{name}: {found} there, {run} here"


def _stage(name: str) -> str:
    return "stage-" + re.sub(r"[^A-Za-z0-9_.-]", "_", name)
