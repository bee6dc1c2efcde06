"""One operator of a ``.tflite`` file as a file of its own."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from tensorflow.lite.python import schema_py_generated as schema

from kerasq.export.lowering import pack

# Of a constant, the runtime computes them once and keeps the result.
_ONCE = (schema.BuiltinOperator.DEQUANTIZE, schema.BuiltinOperator.DENSIFY)
_HANDLES = (schema.TensorType.RESOURCE, schema.TensorType.VARIANT)

CONSTANT = "constant"
CONTROL_FLOW = "control flow"
STATE = "keeps state"


@dataclasses.dataclass(frozen=True)
class Extract:
    """A file of one operator.

    Attributes:
        content: the file. Constants, and what the runtime computes of them once, are in it; so are
            the operator's options, custom ones too.
        operators: how many it has; before the one that was asked for, those that compute constants.
        inputs: the tensors of the original file that are its inputs, in their order.
    """

    content: bytes
    operators: int
    inputs: tuple[int, ...]


class Extractor:
    """The operators of a file's first graph, each to be made a file.

    Args:
        content: the file.
    """

    def __init__(self, content: bytes) -> None:
        self._model = schema.ModelT.InitFromPackedBuf(content, 0)
        self._graph = self._model.subgraphs[0]
        self._once: dict[int, Any] = {}  # tensor -> the operator that computes it of constants
        for operator in self._graph.operators or []:
            if self._builtin(operator) in _ONCE and not self._dynamic(operator.inputs):
                self._once |= dict.fromkeys(_indices(operator.outputs), operator)

    def __len__(self) -> int:
        return len(self._graph.operators or [])

    def outputs(self, index: int) -> list[int]:
        """Return the tensors that an operator computes."""
        return _indices(self._graph.operators[index].outputs)

    def dynamic_inputs(self, index: int) -> list[int]:
        """Return the tensors that an operator reads and that are no constants, each once."""
        return self._dynamic(self._graph.operators[index].inputs)

    def obstacle(self, index: int) -> str:
        """Return why an operator has no time of its own: in two words, or "" if it has."""
        operator = self._graph.operators[index]
        options = [operator.builtinOptions, getattr(operator, "builtinOptions2", None)]
        if any("subgraph" in name.lower() for o in options if o is not None for name in vars(o)):
            return CONTROL_FLOW
        tensors = [*_indices(operator.inputs), *_indices(operator.outputs)]
        if any(self._tensor(i).isVariable or self._tensor(i).type in _HANDLES for i in tensors):
            return STATE
        return CONSTANT if any(i in self._once for i in _indices(operator.outputs)) else ""

    def extract(self, index: int, shapes: Mapping[int, Iterable[int]]) -> Extract:
        """Return the file of an operator without an `obstacle`.

        Args:
            index: of the operator.
            shapes: of the tensors that it reads and computes, as they are in the whole model.
        """
        operator = self._graph.operators[index]
        inputs = self._dynamic(operator.inputs)
        part = _Part(self._model, self._graph, shapes)
        graph = schema.SubGraphT()
        graph.name = b"main"
        graph.operators = [
            *(part.operator(once) for once in self._needed(operator)),
            part.operator(operator),
        ]
        graph.inputs = np.int32([part.tensor(i) for i in inputs])
        graph.outputs = np.int32([part.tensor(i) for i in _indices(operator.outputs)])
        graph.tensors = part.tensors
        return Extract(part.file(graph), len(graph.operators), tuple(inputs))

    def _needed(self, operator: Any) -> list[Any]:
        """Return the operators that compute an operator's constants, in their order."""
        found: dict[int, Any] = {}
        for tensor in _indices(operator.inputs):
            if tensor in self._once:
                once = self._once[tensor]
                found |= {id(needed): needed for needed in (*self._needed(once), once)}
        return list(found.values())

    def _dynamic(self, tensors: Any) -> list[int]:
        read = dict.fromkeys(_indices(tensors))
        return [i for i in read if i not in self._once and not self._is_constant(i)]

    def _is_constant(self, tensor: int) -> bool:
        buffer = self._model.buffers[self._tensor(tensor).buffer]
        return buffer.data is not None and len(buffer.data) > 0

    def _tensor(self, index: int) -> Any:
        return self._graph.tensors[index]

    def _builtin(self, operator: Any) -> int:
        code = self._model.operatorCodes[operator.opcodeIndex]
        return max(code.builtinCode, code.deprecatedBuiltinCode)


class _Part:
    """A model that takes over tensors, buffers and operator codes as they are needed."""

    def __init__(self, model: Any, graph: Any, shapes: Mapping[int, Iterable[int]]) -> None:
        self.model, self.graph, self.shapes = model, graph, shapes
        self.tensors: list[Any] = []
        self.buffers: list[Any] = [schema.BufferT()]  # the empty one, of all that is no constant
        self.codes: list[Any] = []
        self.numbers: dict[int, int] = {-1: -1}  # of tensors; -1 is an input that is left out

    def tensor(self, index: int) -> int:
        """Return the new number of a tensor."""
        if index not in self.numbers:
            tensor = copy.copy(self.graph.tensors[index])
            data = self.model.buffers[tensor.buffer]
            tensor.buffer = 0
            if data.data is not None and len(data.data):
                self.buffers.append(data)
                tensor.buffer = len(self.buffers) - 1
            if index in self.shapes:
                tensor.shape = np.array([*self.shapes[index]], np.int32)
            self.numbers[index] = len(self.tensors)
            self.tensors.append(tensor)
        return self.numbers[index]

    def operator(self, operator: Any) -> Any:
        """Return a copy of an operator with the new numbers."""
        made = copy.copy(operator)
        self.codes.append(self.model.operatorCodes[operator.opcodeIndex])
        made.opcodeIndex = len(self.codes) - 1
        for name in ("inputs", "outputs", "intermediates"):
            tensors = getattr(operator, name)
            if tensors is not None:
                setattr(made, name, np.int32([self.tensor(int(i)) for i in tensors]))
        return made

    def file(self, graph: Any) -> bytes:
        """Return the file of a graph of these tensors."""
        made = schema.ModelT()
        made.version = self.model.version
        made.operatorCodes, made.buffers, made.subgraphs = self.codes, self.buffers, [graph]
        size = sum(len(buffer.data) for buffer in self.buffers if buffer.data is not None)
        return pack(made, size + 1024)


def _indices(tensors: Any) -> list[int]:
    """Return the numbers of tensors without those left out."""
    return [] if tensors is None else [int(i) for i in tensors if i >= 0]


def empty() -> bytes:
    """Return a file without operators, whose output is its input: one float."""
    graph, tensor, model = schema.SubGraphT(), schema.TensorT(), schema.ModelT()
    tensor.name, tensor.shape, tensor.type = b"x", np.int32([1]), schema.TensorType.FLOAT32
    graph.name, graph.tensors, graph.operators = b"main", [tensor], []
    graph.inputs = graph.outputs = np.int32([0])
    model.version, model.operatorCodes = 3, []
    model.subgraphs, model.buffers = [graph], [schema.BufferT()]
    return pack(model, 1024)
