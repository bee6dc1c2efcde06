"""What a ``.tflite`` file holds: every operator and every byte."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from tensorflow.lite.python import schema_py_generated as schema

from kerasq.export.operator_options import read_options

_BUILTINS = {
    value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")
}
_TYPE_NAMES = {
    value: name.lower()
    for name, value in vars(schema.TensorType).items()
    if not name.startswith("_")
}


@dataclasses.dataclass(frozen=True)
class Operator:
    """One operator of a file.

    Attributes:
        index: position in execution order.
        name: ``CONV_2D``, ``KerasqBitplaneConv2D``, ...
        is_custom: whether it is one of kerasq's.
        layer: the Keras layer it comes from, as far as tensor names tell.
        constants: name -> (type, shape, bytes) of its constant inputs; a kernel that a DEQUANTIZE
            reads for it is its own.
        nbytes: bytes of those constants; one that several operators share counts at the first.
        weights: elements of the kernel, 0 for operators without.
        macs: multiply-accumulates an image, 0 for operators without a kernel.
        options: kerasq's own options.
    """

    index: int
    name: str
    is_custom: bool
    layer: str
    constants: dict[str, tuple[str, tuple[int, ...], int]]
    nbytes: int
    weights: int
    macs: int
    options: dict[str, int]

    @property
    def bits_per_weight(self) -> float:
        """Stored bits over the elements of the kernel; 0 without one."""
        return 8 * self.nbytes / self.weights if self.weights else 0.0


@dataclasses.dataclass(frozen=True)
class Inspection:
    """A file, taken apart.

    Attributes:
        operators: in execution order.
        total_bytes: length of the file.
        constant_bytes: bytes of all constants.
    """

    operators: list[Operator]
    total_bytes: int
    constant_bytes: int

    @property
    def weight_bytes(self) -> int:
        """Bytes of what has a kernel: weights, indices, codebooks, scales and biases."""
        return sum(operator.nbytes for operator in self.operators if operator.weights)

    @property
    def overhead_bytes(self) -> int:
        """Bytes of the file that are no constants: graph, names, metadata."""
        return self.total_bytes - self.constant_bytes

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image."""
        return sum(operator.macs for operator in self.operators)

    def rows(self) -> list[dict[str, Any]]:
        """Return one dict for each operator, and the rest of the file; the bytes add up to it."""
        rows = [
            {
                "operator": operator.name,
                "layer": operator.layer,
                "weights": operator.weights,
                "bits_per_weight": round(operator.bits_per_weight, 3),
                "bytes": operator.nbytes,
                "macs": operator.macs,
            }
            for operator in self.operators
        ]
        other = self.constant_bytes - sum(operator.nbytes for operator in self.operators)
        rest = {"weights": 0, "bits_per_weight": 0.0, "macs": 0, "layer": ""}
        rows.append({"operator": "(other constants)", **rest, "bytes": other})
        rows.append({"operator": "(graph, names, metadata)", **rest, "bytes": self.overhead_bytes})
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON types."""
        return {
            "total_bytes": self.total_bytes,
            "weight_bytes": self.weight_bytes,
            "macs": self.macs,
            "operators": self.rows(),
        }


def inspect(source: str | os.PathLike[str] | bytes) -> Inspection:
    """Take a ``.tflite`` file apart.

    Args:
        source: a path, or the file's bytes.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the bytes are no ``.tflite`` file, or a damaged one.
    """
    content = source if isinstance(source, bytes) else Path(source).read_bytes()
    name = "the given bytes" if isinstance(source, bytes) else os.fspath(source)
    if content[4:8] != b"TFL3":
        raise ValueError(f"{name} is not a .tflite file: the identifier TFL3 is missing")
    try:
        model = schema.ModelT.InitFromPackedBuf(content, 0)
        return _inspect(model, len(content))
    except (IndexError, TypeError, KeyError, AttributeError, OverflowError, MemoryError) as error:
        raise ValueError(f"{name} is a damaged .tflite file: {error}") from error
    except Exception as error:  # struct.error and flatbuffers' own, which share no other base
        if type(error).__module__.split(".")[0] in ("struct", "flatbuffers"):
            raise ValueError(f"{name} is a damaged .tflite file: {error}") from error
        raise


def _inspect(model: Any, total: int) -> Inspection:
    counted: tuple[set[int], set[int]] = (set(), set())  # buffers, and tensors with scales
    operators: list[Operator] = []
    constant_bytes = sum(_size(buffer) for buffer in model.buffers)
    for graph in model.subgraphs:
        stored = _dequantized(model, graph)
        for operator in graph.operators or []:
            operators.append(_operator(model, graph, operator, len(operators), counted, stored))
        constants = [t for t in graph.tensors if _size(model.buffers[t.buffer])]
        constant_bytes += sum(map(_grid_size, constants))
    return Inspection(operators, total, constant_bytes)


def _size(buffer: Any) -> int:
    return 0 if buffer.data is None else len(buffer.data)


def _grid_size(tensor: Any) -> int:
    """Return the bytes of a constant's scales and zero points."""
    grid = tensor.quantization
    arrays = () if grid is None else (grid.scale, grid.zeroPoint)
    return sum(array.nbytes for array in arrays if array is not None)


def _dequantized(model: Any, graph: Any) -> dict[int, Any]:
    """Return the constants that are dequantized, by the tensor of their float values."""
    found = {}
    for operator in graph.operators or []:
        code = model.operatorCodes[operator.opcodeIndex]
        if max(code.builtinCode, code.deprecatedBuiltinCode) == schema.BuiltinOperator.DEQUANTIZE:
            tensor = graph.tensors[operator.inputs[0]]
            if _size(model.buffers[tensor.buffer]):
                found[int(operator.outputs[0])] = tensor
    return found


def _operator(
    model: Any,
    graph: Any,
    operator: Any,
    index: int,
    counted: tuple[set[int], set[int]],
    stored: dict[int, Any],
) -> Operator:
    code = model.operatorCodes[operator.opcodeIndex]
    custom = None if code.customCode is None else code.customCode.decode()
    builtin = max(code.builtinCode, code.deprecatedBuiltinCode)
    constants, nbytes = {}, 0
    buffers, scales = counted
    tensors = [stored.get(int(i), graph.tensors[i]) for i in operator.inputs if i >= 0]
    dequantizes = int(operator.outputs[0]) in stored if len(operator.outputs) else False
    for tensor in tensors:
        size = _size(model.buffers[tensor.buffer])
        if size == 0 or dequantizes:
            continue
        shape = tuple(int(n) for n in tensor.shape) if tensor.shape is not None else ()
        constants[tensor.name.decode()] = (_TYPE_NAMES[tensor.type], shape, size)
        if tensor.buffer not in buffers:
            buffers.add(tensor.buffer)
            nbytes += size
        if id(tensor) not in scales:
            scales.add(id(tensor))
            nbytes += _grid_size(tensor)
    options = {}
    is_custom = custom is not None and custom.startswith("Kerasq")
    if is_custom and operator.customOptions is not None:
        options = read_options(np.asarray(operator.customOptions, np.uint8).tobytes())
    name = custom or _BUILTINS.get(builtin, str(builtin))
    outputs = [graph.tensors[i] for i in operator.outputs]
    weights, macs = _cost(name, tensors, outputs, options)
    layer = _layer(constants, outputs)
    return Operator(index, name, is_custom, layer, constants, nbytes, weights, macs, options)


def _cost(name: str, inputs: list, outputs: list, options: dict[str, int]) -> tuple[int, int]:
    """Return the elements of the kernel and the multiply-accumulates of one image."""
    if name in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
        weights = math.prod(int(n) for n in inputs[1].shape)
    elif name.startswith("Kerasq") and not name.startswith("KerasqBitpack"):
        taps = options.get("kernel_h", 1) * options.get("kernel_w", 1)
        channels = options.get("bits_in") or int(inputs[0].shape[-1])
        weights = taps * channels // options.get("groups", 1) * options["channels_out"]
    else:
        return 0, 0
    shape = [int(n) for n in outputs[0].shape]
    return weights, weights * math.prod(shape[1:-1])


def _layer(constants: dict[str, Any], outputs: list) -> str:
    """Return the layer's name out of a tensor's: ``model/layer/op`` or ``model/layer_1/op``."""
    names = [*constants, *(tensor.name.decode() for tensor in outputs)]
    for name in names:
        parts = name.split(";")[0].split("/")
        if len(parts) >= 3:
            return "/".join(parts[1:-1])
    return ""
