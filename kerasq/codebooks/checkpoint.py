"""Finished layers on disk, so that a run can be taken up again."""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from kerasq.codebooks.site import Solution
from kerasq.files import write_whole

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
            self._write(_RUN, text)

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
                return dict(file)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(
                f"the checkpoint {str(path)!r} of {owner} cannot be read ({error}): remove it"
            ) from error

    def _save(self, name: str, arrays: dict[str, np.ndarray]) -> None:
        # In memory first: a ZipFile that cannot be written complains once more when it is dropped.
        content = io.BytesIO()
        np.savez(content, **arrays)
        self._write(f"{name}.npz", content.getbuffer())

    def _write(self, name: str, content: bytes | memoryview) -> None:
        try:
            write_whole(self._folder / name, content)
        except OSError as error:
            raise OSError(
                error.errno,
                f"cannot write the checkpoint ({error.strerror or error}): make room and run again "
                "with the same arguments, what was finished before is kept",
                str(self._folder / name),
            ) from error


def _stage(name: str) -> str:
    return "stage-" + re.sub(r"[^A-Za-z0-9_.-]", "_", name)
