"""Checkpoints of PyTorch (``.pth``) as dicts of arrays; PyTorch is an optional extra."""

from __future__ import annotations

import io
import os
import zipfile
from typing import Any

import numpy as np

from kerasq.files import write_whole

PathLike = str | os.PathLike[str]


def read_pth(path: PathLike) -> dict[str, Any]:
    """Return the dict of a ``.pth`` file, its tensors as arrays.

    Raises:
        ImportError: PyTorch is not installed.
        ValueError: a file that holds no dict, is cut short or corrupt.
    """
    torch = _torch()
    _check_zip(path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
        return {name: _arrays(value) for name, value in loaded.items()}
    except OSError:
        raise
    except Exception as error:  # PyTorch raises what its unpickler and its zip reader raise
        raise ValueError(f"{os.fspath(path)!r} is not a checkpoint of networks: {error}") from error


def write_pth(path: PathLike, values: dict[str, Any]) -> None:
    """Write a dict of arrays, or of dicts of them, as a ``.pth`` file, whole or not at all.

    Raises:
        ImportError: PyTorch is not installed.
    """
    torch = _torch()
    content = io.BytesIO()
    torch.save(_tensors(torch, values), content)
    write_whole(path, content.getbuffer())


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            "reading and writing .pth files needs PyTorch: pip install kerasq[torch]"
        ) from error
    return torch


def _check_zip(path: PathLike) -> None:
    """Raise where a zip file is damaged: PyTorch, which writes them, does not look at checksums."""
    with open(path, "rb") as file:
        begins_as_zip = file.read(4) == b"PK\3\4"
        length = file.seek(0, os.SEEK_END)
    if not begins_as_zip:
        return  # of PyTorch before 1.6, or none at all
    owner = repr(os.fspath(path))
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{owner} is cut short: it ends at byte {length}, before its directory")
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
            at = None if bad is None else archive.getinfo(bad).header_offset
    except Exception as error:  # the zip reader raises errors of any kind
        raise ValueError(f"{owner} is corrupt: {error}") from error
    if bad is not None:
        raise ValueError(f"{owner} is corrupt: {bad!r}, from byte {at} on, has another checksum")


def _arrays(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _arrays(part) for key, part in value.items()}
    # A parameter that is trained has an array only when it is detached.
    return value.detach().numpy() if hasattr(value, "detach") else value


def _tensors(torch: Any, value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tensors(torch, part) for key, part in value.items()}
    # A copy: arrays of TensorFlow cannot be written to.
    return torch.from_numpy(np.array(value)) if isinstance(value, np.ndarray) else value
