"""The files of the Q-CNN reference code: codebooks and biases ``.bin``, assignments ``.cbn``.

Little-endian. ``.bin``: int32 number of axes, int32 sizes, float32 values, row-major. ``.cbn``: the
same head, int32 bits of an index, then blocks of 4096 bytes with as many whole indices as fit, most
significant bit first; the last block is filled up with zeros.

A layer of number ℓ has ``PREFIX.ctrdLst.ℓℓ.bin`` (M, K, d), ``PREFIX.asmtLst.ℓℓ.cbn`` (Ct, kh, kw,
M) or (Ct, M), and ``PREFIX.biasVec.ℓℓ.bin`` (Ct,).
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from kerasq.codebooks.cloning import clone_with_replacements
from kerasq.codebooks.compress import sites_of
from kerasq.codebooks.method import CodebookSettings, LayerSettings
from kerasq.codebooks.program import Program, Step
from kerasq.keras import check_model, keras
from kerasq.layers import CodebookConv2D, CodebookDense
from kerasq.representations.codebook import index_bits

_BLOCK = 4096
_MOST_AXES = 8
_CHANNEL_MAJOR = (3, 1, 2)  # of Permute: a map (H, W, C) becomes (C, H, W)

PathLike = str | os.PathLike[str]


def write_bin(path: PathLike, values: np.ndarray) -> None:
    """Write float32 values as ``.bin``."""
    values = np.asarray(values, "<f4")
    _write(path, _head(values.shape) + values.tobytes())


def read_bin(path: PathLike) -> np.ndarray:
    """Read a ``.bin`` file: float32.

    Raises:
        ValueError: a file that is cut short, too long or no ``.bin``, or has values that are not
            finite; the byte is named.
    """
    data = Path(path).read_bytes()
    shape, at = _read_head(data, path)
    _check_length(data, at + 4 * math.prod(shape), path)
    values = np.frombuffer(data, "<f4", offset=at)
    if not np.isfinite(values).all():
        first = int(np.argmin(np.isfinite(values)))
        raise ValueError(f"{os.fspath(path)}: a value of {values[first]}, at byte {at + 4 * first}")
    return values.reshape(shape).astype(np.float32)


def write_cbn(path: PathLike, indices: np.ndarray, bits: int) -> None:
    """Write indices below 2^bits as ``.cbn``.

    Raises:
        ValueError: an index that does not fit.
    """
    indices = np.asarray(indices)
    if indices.size and not 0 <= indices.min() <= indices.max() < 1 << bits:
        raise ValueError(
            f"{os.fspath(path)}: indices {indices.min()} to {indices.max()} do not fit {bits} bits"
        )
    each = 8 * _BLOCK // bits
    blocks = -(-indices.size // each)
    flat = np.zeros(blocks * each, np.uint32)
    flat[: indices.size] = indices.ravel()
    shifts = np.arange(bits - 1, -1, -1, dtype=np.uint32)
    packed = bytearray()
    for block in flat.reshape(blocks, each):
        stream = (block[:, None] >> shifts & 1).astype(np.uint8)
        packed += np.packbits(stream).tobytes().ljust(_BLOCK, b"\0")
    _write(path, _head(indices.shape) + np.array(bits, "<i4").tobytes() + bytes(packed))


def read_cbn(path: PathLike) -> np.ndarray:
    """Read a ``.cbn`` file: uint16 indices, from 0.

    Raises:
        ValueError: a file that is cut short, too long or no ``.cbn``; the byte is named.
    """
    data = Path(path).read_bytes()
    shape, at = _read_head(data, path)
    bits = _integer(data, at, path)
    if not 1 <= bits <= 16:
        raise ValueError(f"{os.fspath(path)}: {bits} bits of an index, at byte {at}, not 1 to 16")
    at, each = at + 4, 8 * _BLOCK // bits
    blocks = -(-math.prod(shape) // each)
    _check_length(data, at + blocks * _BLOCK, path)
    weights = 1 << np.arange(bits - 1, -1, -1)
    indices = np.empty((blocks, each), np.uint16)
    for i in range(blocks):
        block = np.frombuffer(data, np.uint8, _BLOCK, at + i * _BLOCK)
        indices[i] = np.unpackbits(block)[: each * bits].reshape(each, bits) @ weights
    return indices.ravel()[: math.prod(shape)].reshape(shape)


def load_qcnn(folder: PathLike, prefix: str, model: Any) -> Any:
    """Return a copy of a model with the codebooks of Q-CNN files in its layers.

    The files are those of the model's Conv2D and Dense layers, in order. The first dense layer
    reads a map channel by channel: a Permute is put ahead of its Flatten.

    Args:
        folder: of the files.
        prefix: of their names.
        model: built Sequential or Functional model of the network's architecture; its weights are
            not looked at.

    Raises:
        FileNotFoundError: a file that is missing.
        ValueError: files of other layers than the model's, damaged files.
    """
    check_model(model, "load_qcnn")
    program = Program(model)
    steps = sites_of(program)
    pattern = re.compile(re.escape(prefix) + r"\.ctrdLst\.(\d+)\.bin")
    names = sorted(path.name for path in Path(folder).iterdir())
    numbers = sorted((m[1] for m in map(pattern.fullmatch, names) if m), key=int)
    if len(numbers) != len(steps):
        raise ValueError(
            f"{os.fspath(folder)} has codebooks of {len(numbers)} layers named {prefix!r}, but "
            f"model {model.name!r} has {len(steps)} Conv2D and Dense layers"
        )
    stored = [
        _Stored.read(Path(folder), prefix, number, step.layer)
        for number, step in zip(numbers, steps, strict=True)
    ]
    settings: dict[int, LayerSettings] = {
        id(step.layer): one.settings for step, one in zip(steps, stored, strict=True)
    }
    flatten = _flatten_of_map(program, steps)
    if flatten is not None:
        settings[id(flatten)] = _ChannelMajorFlatten()
    copy, twins = clone_with_replacements(model, settings)
    for step, one in zip(steps, stored, strict=True):
        twin = twins[id(step.layer)]
        twin.set_codebook(one.codewords, one.assignments)
        if twin.bias is not None:
            twin.bias.assign(one.bias)
    return copy


def save_qcnn(model: Any, folder: PathLike, prefix: str) -> None:
    """Write the codebooks of a compressed model as Q-CNN files.

    A layer's number is its place in the model, from 1, inputs not counted.

    Args:
        model: whose convolutions and dense layers are all codebook layers, as `QCNN` makes them.
        folder: is made where it does not exist.
        prefix: of the names.

    Raises:
        ValueError: a layer that the files cannot hold.
    """
    check_model(model, "save_qcnn")
    program = Program(model)
    steps = [s for s in program.steps if isinstance(s.layer, CodebookConv2D | CodebookDense)]
    _check_storable(program, steps)
    Path(folder).mkdir(parents=True, exist_ok=True)
    for number, step in enumerate(program.steps, 1):
        if step in steps:
            _Stored.of(step.layer).write(Path(folder), prefix, f"{number:02}")


@dataclasses.dataclass(frozen=True)
class _Stored:
    """One layer's arrays, as a codebook layer has them: assignments (..., M, Ct)."""

    codewords: np.ndarray
    assignments: np.ndarray
    bias: np.ndarray

    @property
    def settings(self) -> CodebookSettings:
        _, size, length = self.codewords.shape
        return CodebookSettings(length, size, "float32")

    @classmethod
    def of(cls, layer: Any) -> _Stored:
        codebook = layer.codebook()
        spaces = codebook.assignments().shape[-2]
        codewords = codebook.codewords.astype(np.float32)
        codewords = np.broadcast_to(codewords, (spaces, *codewords.shape[1:]))
        outputs = layer.kernel_shape[-1]
        bias = np.zeros(outputs) if layer.bias is None else np.asarray(layer.bias)
        return cls(codewords, codebook.assignments(), bias)

    @classmethod
    def read(cls, folder: Path, prefix: str, number: str, layer: Any) -> _Stored:
        codewords = read_bin(folder / f"{prefix}.ctrdLst.{number}.bin")
        indices = read_cbn(folder / f"{prefix}.asmtLst.{number}.cbn")
        bias = read_bin(folder / f"{prefix}.biasVec.{number}.bin").ravel()
        *sizes, channels, outputs = layer.kernel.shape
        spaces = -(-channels // codewords.shape[-1]) if codewords.ndim == 3 else 0
        want = (outputs, *sizes, spaces)
        if codewords.ndim != 3 or codewords.shape[0] != spaces or indices.shape != want:
            raise ValueError(
                f"layer {layer.name!r} with a kernel {tuple(layer.kernel.shape)} cannot have the "
                f"codebooks {codewords.shape} and indices {indices.shape} of layer {number} of "
                f"{prefix!r}"
            )
        if bias.shape != (outputs,) or (not layer.use_bias and bias.any()):
            raise ValueError(
                f"layer {layer.name!r} with {outputs} outputs and use_bias={layer.use_bias} cannot "
                f"have the bias {bias.shape} of layer {number} of {prefix!r}"
            )
        if indices.max() >= codewords.shape[1]:
            raise ValueError(
                f"layer {number} of {prefix!r} has an index {indices.max()} into "
                f"{codewords.shape[1]} codewords"
            )
        codewords = codewords[:, :, : min(codewords.shape[2], channels)]
        return cls(codewords, np.moveaxis(indices, 0, -1), bias)

    def write(self, folder: Path, prefix: str, number: str) -> None:
        indices = np.moveaxis(self.assignments, -1, 0)
        bits = index_bits(self.codewords.shape[1])
        write_bin(folder / f"{prefix}.ctrdLst.{number}.bin", self.codewords)
        write_cbn(folder / f"{prefix}.asmtLst.{number}.cbn", indices, bits)
        write_bin(folder / f"{prefix}.biasVec.{number}.bin", self.bias)


@dataclasses.dataclass(frozen=True)
class _ChannelMajorFlatten(LayerSettings):
    """A Flatten of (H, W, C) maps becomes one in the order (C, H, W)."""

    def replacement(self, layer: Any) -> Any:
        shape = tuple(layer.input.shape[1:])
        stages = [keras.Input(shape), keras.layers.Permute(_CHANNEL_MAJOR), keras.layers.Flatten()]
        return keras.Sequential(stages, name=layer.name)

    def __str__(self) -> str:
        return "channel-major"


def _flatten_of_map(program: Program, steps: list[Step]) -> Any | None:
    """Return the Flatten whose map the first dense layer reads in the order (H, W, C), or None."""
    source = {number: step for step in program.steps for number in step.outputs}
    dense = [s for s in steps if isinstance(s.layer, keras.layers.Dense)]
    at = source.get(dense[0].inputs[0]) if dense else None
    while at is not None and not isinstance(at.layer, keras.layers.Flatten):
        if at.layer.weights or len(at.inputs) > 1:
            return None
        at = source.get(at.inputs[0])
    if at is None or len(at.layer.input.shape) != 4 or math.prod(at.layer.input.shape[1:3]) == 1:
        return None
    before = source.get(at.inputs[0])
    permutes = before is not None and isinstance(before.layer, keras.layers.Permute)
    return None if permutes and tuple(before.layer.dims) == _CHANNEL_MAJOR else at.layer


def _check_storable(program: Program, steps: list[Step]) -> None:
    for step in program.steps:
        if hasattr(step.layer, "kernel") and step not in steps:
            raise ValueError(
                f"layer {step.layer.name!r} has a float kernel, which Q-CNN files cannot hold: "
                "compress it"
            )
    for step in steps:
        if step.layer.order != "position":
            raise ValueError(
                f"layer {step.layer.name!r} has sub-vectors by channel, Q-CNN files have them by "
                "position: compress it with QCNN"
            )
    flatten = _flatten_of_map(program, steps)
    if flatten is not None:
        raise ValueError(
            f"the dense layer after {flatten.name!r} reads the map in the order (H, W, C), Q-CNN's "
            f"in (C, H, W): compress a model with Permute({_CHANNEL_MAJOR}) ahead of the Flatten"
        )


def _head(shape: tuple[int, ...]) -> bytes:
    return np.array([len(shape), *shape], "<i4").tobytes()


def _read_head(data: bytes, path: PathLike) -> tuple[tuple[int, ...], int]:
    axes = _integer(data, 0, path)
    if not 1 <= axes <= _MOST_AXES:
        raise ValueError(f"{os.fspath(path)}: {axes} axes, at byte 0, not 1 to {_MOST_AXES}")
    shape = tuple(_integer(data, 4 + 4 * axis, path) for axis in range(axes))
    for axis, size in enumerate(shape):
        if size < 1:
            raise ValueError(f"{os.fspath(path)}: a size of {size}, at byte {4 + 4 * axis}")
    return shape, 4 + 4 * axes


def _integer(data: bytes, at: int, path: PathLike) -> int:
    if len(data) < at + 4:
        raise ValueError(f"{os.fspath(path)} ends at byte {len(data)}, in its head")
    return int.from_bytes(data[at : at + 4], "little", signed=True)


def _check_length(data: bytes, want: int, path: PathLike) -> None:
    if len(data) < want:
        raise ValueError(f"{os.fspath(path)} is cut short: it ends at byte {len(data)} of {want}")
    if len(data) > want:
        raise ValueError(
            f"{os.fspath(path)} has {len(data) - want} bytes too many, from byte {want} on"
        )


def _write(path: PathLike, data: bytes) -> None:
    """Write a file that appears whole or not at all."""
    path = Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
