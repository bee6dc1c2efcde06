"""From the operators of :mod:`kerasq.export.native` to TFLite's own, in a converted file."""

from __future__ import annotations

import copy
from typing import Any

import flatbuffers
import numpy as np
from tensorflow.lite.python import schema_py_generated as schema

from kerasq.export.native import CONVOLUTION, DENSE, DEPTHWISE, PREFIX
from kerasq.export.operator_options import read_options

_BUILTIN, _TYPE, _OPTIONS = schema.BuiltinOperator, schema.TensorType, schema.BuiltinOptions
_ACTIVATIONS = (
    schema.ActivationFunctionType.NONE,
    schema.ActivationFunctionType.RELU,
    schema.ActivationFunctionType.RELU6,
)
# Operators that pick or move values, and the version that does so with int8.
_PASS_INTEGERS = {_BUILTIN.MAX_POOL_2D: 2, _BUILTIN.RESHAPE: 1, _BUILTIN.SHAPE: 1}
_NAMES = {_TYPE.INT4: b"int4", _TYPE.INT8: b"int8", _TYPE.INT32: b"int32", _TYPE.FLOAT32: b"float"}
_DTYPES = {_TYPE.INT8: np.int8, _TYPE.INT32: np.int32, _TYPE.FLOAT32: np.float32}
# XNNPACK's and NEON's loads from a mapped file are aligned as the stock converter aligns them.
_ALIGNMENT = 16


def lower(content: bytes) -> bytes:
    """Replace each of our stand-ins by the operators of TFLite that it stands for.

    A kernel's codes become a quantized constant behind a DEQUANTIZE, or the kernel of an int8
    operator between a QUANTIZE and a DEQUANTIZE; a QUANTIZE right behind a DEQUANTIZE to the same
    grid goes, also across max pooling and reshaping. A file without stand-ins stays as it is.

    Args:
        content: a ``.tflite`` file.
    """
    if PREFIX.encode() not in content:
        return content
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    for graph in model.subgraphs:
        _Graph(model, graph).lower()
    _drop_unused(model)
    return pack(model, len(content))


def pack(model: Any, size: int) -> bytes:
    """Return the file of a model's object tree.

    Args:
        model: `ModelT` of the schema.
        size: bytes that the file will take, about.
    """
    builder = _Builder(size)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


class _Builder(flatbuffers.Builder):
    """A builder that aligns the constants, as the schema asks of it."""

    def CreateNumpyVector(self, x: np.ndarray) -> int:  # noqa: N802 - flatbuffers' name
        if x.dtype == np.uint8 and x.size >= _ALIGNMENT:
            self.Prep(_ALIGNMENT, x.size)
        return super().CreateNumpyVector(x)


class _Graph:
    """A graph whose operators are rewritten in order.

    Attributes:
        operators: those written so far.
        integers: float tensor -> the int8 tensor that it dequantizes.
        dequantized: constants by their codes and scale -> the float tensor of their values.
    """

    def __init__(self, model: Any, graph: Any) -> None:
        self.model, self.graph = model, graph
        self.operators: list[Any] = []
        self.integers: dict[int, int] = {}
        self.dequantized: dict[tuple[int, ...], int] = {}

    def lower(self) -> None:
        """Rewrite all operators, then drop what nobody reads."""
        for operator in self.graph.operators:
            code = self.model.operatorCodes[operator.opcodeIndex]
            name = (code.customCode or b"").decode()
            builtin = max(code.builtinCode, code.deprecatedBuiltinCode)
            if name.startswith(PREFIX):
                self._lower(name, operator)
            elif builtin in _PASS_INTEGERS and int(operator.inputs[0]) in self.integers:
                self._pass_integers(builtin, operator)
            else:
                self.operators.append(operator)
        self.graph.operators = self._used()

    def _lower(self, name: str, operator: Any) -> None:
        options = read_options(np.asarray(operator.customOptions, np.uint8).tobytes())
        x, *constants = (int(i) for i in operator.inputs)
        y = int(operator.outputs[0])
        if options["integer"]:
            kernel, scale, bias, source, target = constants
            x = self._quantize(x, *self._values(source))
            scales = self._values(scale)
            axis = 3 if name == DEPTHWISE else 0
            kernel = self._typed(kernel, _TYPE.INT8, _grid(scales, [0], axis))
            bias_scale = np.float32(self._grid_of(x).scale[0] * scales)
            bias = self._typed(bias, _TYPE.INT32, _grid(bias_scale, [0], 0))
            grid = self._values(target)
            out = self._typed(y, _TYPE.INT8, _grid(grid[:1], grid[1:], 0))
            self._compute(name, options, [x, kernel, bias], out)
            self._dequantize(out, y)
        else:
            kernel = self._dequantized(name, options["kernel_bits"], *constants[:3])
            self._compute(name, options, [x, kernel, constants[3]], y)

    def _compute(self, name: str, options: dict[str, int], inputs: list[int], output: int) -> None:
        """Add the operator that multiplies."""
        integer = bool(options["integer"])
        activation = _ACTIVATIONS[options["activation"]]
        if name == DENSE:
            built = schema.FullyConnectedOptionsT()
            built.keepNumDims = len(self.graph.tensors[inputs[0]].shape) != 2
            version = 5 if built.keepNumDims else 4 if integer else 1
            code, kind = _BUILTIN.FULLY_CONNECTED, _OPTIONS.FullyConnectedOptions
        elif name == CONVOLUTION:
            built = schema.Conv2DOptionsT()
            code, kind, version = _BUILTIN.CONV_2D, _OPTIONS.Conv2DOptions, 3 if integer else 1
        else:
            built = schema.DepthwiseConv2DOptionsT()
            built.depthMultiplier = options["channels_out"] // options["groups"]
            dilated = options["dilation_h"] * options["dilation_w"] > 1
            version = 3 if integer else 2 if dilated else 1
            code, kind = _BUILTIN.DEPTHWISE_CONV_2D, _OPTIONS.DepthwiseConv2DOptions
        if name != DENSE:
            built.padding = options["padding"]  # SAME and VALID have our numbers
            built.strideH, built.strideW = options["stride_h"], options["stride_w"]
            built.dilationHFactor = options["dilation_h"]
            built.dilationWFactor = options["dilation_w"]
        built.fusedActivationFunction = activation
        self._add(code, version, inputs, output, kind, built)

    def _dequantized(self, name: str, bits: int, kernel: int, scale: int, zero: int) -> int:
        """Return the float tensor of a kernel; layers that share one share the tensor."""
        key = (kernel, scale, zero, bits)
        if key not in self.dequantized:
            scales, zeros = self._values(scale), self._values(zero)
            grid = _grid(scales, zeros, 3 if name == DEPTHWISE else 0)
            if bits == 4:
                stored = self._typed(kernel, _TYPE.INT4, grid)
                tensor = self.graph.tensors[stored]
                tensor.buffer = self._buffer(_nibbles(self._values(kernel)))
            else:
                stored = self._typed(kernel, _TYPE.INT8, grid)
            values = self._typed(kernel, _TYPE.FLOAT32, None)
            self.graph.tensors[values].buffer = 0
            version = 6 if bits == 4 else 5 if len(scales) > 1 else 2
            self._add(_BUILTIN.DEQUANTIZE, version, [stored], values)
            self.dequantized[key] = values
        return self.dequantized[key]

    def _quantize(self, x: int, scale: float, zero: float) -> int:
        """Return the int8 tensor of a float one whose values are on the grid already."""
        known = self.integers.get(x)
        if known is not None and self._is_grid(known, scale, zero):
            return known
        out = self._typed(x, _TYPE.INT8, _grid([scale], [zero], 0))
        self._add(_BUILTIN.QUANTIZE, 1, [x], out)
        self.integers[x] = out
        return out

    def _is_grid(self, tensor: int, scale: float, zero: float) -> bool:
        grid = self._grid_of(tensor)
        return grid.scale[0] == np.float32(scale) and grid.zeroPoint[0] == int(zero)

    def _dequantize(self, integers: int, values: int) -> None:
        self.integers[values] = integers
        self._add(_BUILTIN.DEQUANTIZE, 2, [integers], values)

    def _pass_integers(self, builtin: int, operator: Any) -> None:
        """Let an operator that only picks or moves values do so with the codes."""
        inputs = [int(i) for i in operator.inputs]
        inputs[0] = self.integers[inputs[0]]
        y = int(operator.outputs[0])
        passed = copy.copy(operator)
        passed.inputs = np.array(inputs, np.int32)
        if builtin == _BUILTIN.SHAPE:
            self.operators.append(passed)
            return
        out = self._typed(y, _TYPE.INT8, self._grid_of(inputs[0]))
        passed.opcodeIndex = self._code(builtin, _PASS_INTEGERS[builtin])
        passed.outputs = np.array([out], np.int32)
        self.operators.append(passed)
        self._dequantize(out, y)

    def _used(self) -> list[Any]:
        """Return the operators without the dequantizations that nobody reads any more."""
        read = {int(i) for operator in self.operators for i in operator.inputs}
        read |= {int(i) for i in self.graph.outputs}
        codes = self.model.operatorCodes
        return [
            operator
            for operator in self.operators
            if codes[operator.opcodeIndex].builtinCode != _BUILTIN.DEQUANTIZE
            or int(operator.outputs[0]) in read
        ]

    def _add(
        self,
        builtin: int,
        version: int,
        inputs: list[int],
        output: int,
        options_type: int = 0,
        options: Any = None,
    ) -> None:
        operator = schema.OperatorT()
        operator.opcodeIndex = self._code(builtin, version)
        operator.inputs, operator.outputs = np.int32(inputs), np.int32([output])
        operator.builtinOptionsType, operator.builtinOptions = options_type, options
        self.operators.append(operator)

    def _code(self, builtin: int, version: int) -> int:
        """Return the index of an operator's code, added where the file lacks it."""
        for index, code in enumerate(self.model.operatorCodes):
            if code.builtinCode == builtin and code.version == version:
                return index
        code = schema.OperatorCodeT()
        code.builtinCode, code.version = builtin, version
        code.deprecatedBuiltinCode = min(builtin, 127)
        self.model.operatorCodes.append(code)
        return len(self.model.operatorCodes) - 1

    def _typed(self, tensor: int, kind: int, grid: Any) -> int:
        """Return a copy of a tensor with another type and grid, on the same buffer."""
        typed = copy.copy(self.graph.tensors[tensor])
        typed.type, typed.quantization = kind, grid
        typed.name = typed.name + b"/" + _NAMES[kind]
        self.graph.tensors.append(typed)
        return len(self.graph.tensors) - 1

    def _grid_of(self, tensor: int) -> Any:
        return self.graph.tensors[tensor].quantization

    def _values(self, tensor: int) -> np.ndarray:
        """Return a constant."""
        entry = self.graph.tensors[tensor]
        data = np.asarray(self.model.buffers[entry.buffer].data, np.uint8)
        return data.view(_DTYPES[entry.type])

    def _buffer(self, data: np.ndarray) -> int:
        buffer = schema.BufferT()
        buffer.data = data
        self.model.buffers.append(buffer)
        return len(self.model.buffers) - 1


def _grid(scales: Any, zeros: Any, axis: int) -> Any:
    """Return quantization parameters: one scale, or one for each channel of an axis."""
    grid = schema.QuantizationParametersT()
    grid.scale = np.array(scales, np.float32)
    grid.zeroPoint = np.broadcast_to(np.array(zeros, np.int64), grid.scale.shape).copy()
    grid.quantizedDimension = axis if len(grid.scale) > 1 else 0
    return grid


def _nibbles(codes: np.ndarray) -> np.ndarray:
    """Pack int4 codes, the first in the low half of a byte."""
    codes = codes.reshape(-1).view(np.uint8) & 15
    codes = np.append(codes, np.zeros(len(codes) % 2, np.uint8))
    return codes[0::2] | codes[1::2] << 4


def _drop_unused(model: Any) -> None:
    """Drop the operator codes, tensors and buffers that nothing refers to."""
    operators = [operator for graph in model.subgraphs for operator in graph.operators]
    kept = sorted({operator.opcodeIndex for operator in operators})
    model.operatorCodes = [model.operatorCodes[i] for i in kept]
    for operator in operators:
        operator.opcodeIndex = kept.index(operator.opcodeIndex)
    for index, graph in enumerate(model.subgraphs):
        signatures = [s for s in model.signatureDefs or [] if s.subgraphIndex == index]
        _drop_tensors(graph, signatures)
    tensors = [tensor for graph in model.subgraphs for tensor in graph.tensors]
    metadata = model.metadata or []
    # The first buffer is the empty one, of all tensors that are no constants.
    kept = sorted({0} | {entry.buffer for entry in (*tensors, *metadata)})
    new = {old: i for i, old in enumerate(kept)}
    model.buffers = [model.buffers[i] for i in kept]
    model.metadataBuffer = None
    for entry in (*tensors, *metadata):
        entry.buffer = new[entry.buffer]


def _drop_tensors(graph: Any, signatures: list[Any]) -> None:
    lists = [graph.inputs, graph.outputs]
    for operator in graph.operators:
        lists += [operator.inputs, operator.outputs]
        if operator.intermediates is not None:
            lists.append(operator.intermediates)
    kept = sorted({int(i) for indices in lists for i in indices if i >= 0})
    new = {-1: -1} | {old: i for i, old in enumerate(kept)}

    def renumbered(indices: Any) -> np.ndarray:
        return np.array([new[int(i)] for i in indices], np.int32)

    graph.tensors = [graph.tensors[i] for i in kept]
    graph.inputs, graph.outputs = renumbered(graph.inputs), renumbered(graph.outputs)
    for operator in graph.operators:
        operator.inputs = renumbered(operator.inputs)
        operator.outputs = renumbered(operator.outputs)
        if operator.intermediates is not None:
            operator.intermediates = renumbered(operator.intermediates)
    for signature in signatures:
        for entry in (*signature.inputs, *signature.outputs):
            entry.tensorIndex = new[entry.tensorIndex]
