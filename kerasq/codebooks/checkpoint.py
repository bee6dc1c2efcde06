"""Finished layers on disk, so that a run can be taken up again."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from kerasq.codebooks.method import Solution

_RUN = "run.json"


class Checkpoint:
    """A folder with one file for each finished layer, and what run they belong to.

    Files appear whole or not at all: each is written beside and then renamed.

    Args:
        folder: is made where it does not exist.
        run: what the layers depend on; JSON values.

    Raises:
        ValueError: the folder belongs to another run; the difference is named.
    """

    def __init__(self, folder: str | os.PathLike[str], run: dict[str, Any]):
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        run = json.loads(json.dumps(run))
        path = self._folder / _RUN
        if path.exists():
            self._compare(json.loads(path.read_text()), run)
        else:
            text = json.dumps(run, indent=1).encode()
            self._write(_RUN, lambda file: file.write(text))

    def _compare(self, found: dict[str, Any], run: dict[str, Any]) -> None:
        other = sorted(k for k in found.keys() | run.keys() if found.get(k) != run.get(k))
        if other:
            changes = "; ".join(f"{k}: {found.get(k)} there, {run.get(k)} here" for k in other)
            raise ValueError(
                f"checkpoint_dir {str(self._folder)!r} holds another run ({changes}): pass another "
                "folder, or remove it"
            )

    def load(self, index: int, layer: str) -> Solution | None:
        """Return a layer's solution, None where it is not finished."""
        path = self._folder / _file(index)
        if not path.exists():
            return None
        try:
            with np.load(path) as file:
                before, after = file["errors"]
                return Solution(file["codewords"], file["assignments"], float(before), float(after))
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(
                f"the checkpoint {str(path)!r} of layer {layer!r} cannot be read ({error}): "
                "remove it"
            ) from error

    def save(self, index: int, solution: Solution) -> None:
        """Write a layer's solution."""
        arrays = {
            "codewords": solution.codewords,
            "assignments": solution.assignments,
            "errors": np.array([solution.error_before, solution.error_after]),
        }
        self._write(_file(index), lambda file: np.savez(file, **arrays))

    def _write(self, name: str, write: Callable[[BinaryIO], Any]) -> None:
        descriptor, temporary = tempfile.mkstemp(dir=self._folder, suffix=".part")
        try:
            with os.fdopen(descriptor, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self._folder / name)
        except BaseException:  # Ctrl-C too leaves nothing half-written
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise


def _file(index: int) -> str:
    return f"layer-{index:04}.npz"
