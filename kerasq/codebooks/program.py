"""A model as a list of layer calls, which can be run in parts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import tensorflow as tf

from kerasq.keras import keras, keras_version


@dataclasses.dataclass(frozen=True)
class Step:
    """One call of a layer; inputs and outputs are numbers of tensors.

    A model in the model is not a step, its layers' calls are.
    """

    layer: Any
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    node: Any = dataclasses.field(repr=False)

    def run(self, layer: Any, values: Mapping[int, tf.Tensor]) -> dict[int, tf.Tensor]:
        """Call ``layer`` in the place of the step's own, with the step's arguments."""
        given = [values[number] for number in self.inputs]
        if keras_version() == 2:
            named = {key: _Endless(x) for key, x in zip(_input_ids(self.node), given, strict=True)}
            args, kwargs = self.node.map_arguments(named)
        else:
            named = dict(zip(_input_ids(self.node), given, strict=True))
            args, kwargs = self.node.arguments.fill_in(named)
        results = tf.nest.flatten(layer(*args, **kwargs))
        return dict(zip(self.outputs, results, strict=True))


class _Endless:
    """What Keras 2 takes a tensor from: it pops one for each use."""

    def __init__(self, value: tf.Tensor):
        self._value = value

    def pop(self) -> tf.Tensor:
        return self._value


class Program:
    """The steps of a Sequential or Functional model in topological order.

    Attributes:
        steps: the calls.
        inputs: tensor numbers of the model's inputs, in order.
        outputs: those of its outputs.
        dtypes: of the inputs.
    """

    def __init__(self, model: Any):
        self.steps: list[Step] = []
        self._count = 0
        self.inputs = [self._new() for _ in model.inputs]
        self.dtypes = [tensor.dtype for tensor in model.inputs]
        self.outputs = self._append(model, self.inputs)

    def _new(self) -> int:
        self._count += 1
        return self._count - 1

    def _append(self, model: Any, inputs: Iterable[int]) -> list[int]:
        """Append a model's calls; return the numbers of its outputs."""
        numbers = {_tensor_id(t): n for t, n in zip(model.inputs, inputs, strict=True)}
        function = getattr(model, "_functional", None) or model
        for depth in sorted(function._nodes_by_depth, reverse=True):
            for node in function._nodes_by_depth[depth]:
                if node.is_input:
                    continue
                layer = node.layer if keras_version() == 2 else node.operation
                sources = tuple(numbers[key] for key in _input_ids(node))
                if is_graph(layer) and len(sources) == len(layer.inputs):
                    results = self._append(layer, sources)
                else:
                    results = [self._new() for _ in _output_ids(node)]
                    self.steps.append(Step(layer, sources, tuple(results), node))
                numbers.update(zip(_output_ids(node), results, strict=True))
        return [numbers[_tensor_id(tensor)] for tensor in model.outputs]

    def ancestors(self, targets: Iterable[int]) -> set[int]:
        """Return the places in `steps` of the calls that some tensors depend on."""
        needed, found = set(targets), set()
        for place in range(len(self.steps) - 1, -1, -1):
            step = self.steps[place]
            if needed.intersection(step.outputs):
                found.add(place)
                needed.update(step.inputs)
        return found


def is_graph(layer: Any) -> bool:
    """Tell whether a layer is a Sequential or Functional model of Keras's own classes."""
    own = type(layer).__module__.split(".")[0] in ("keras", "tf_keras")
    return own and isinstance(layer, keras.Model) and bool(getattr(layer, "inputs", None))


def _tensor_id(tensor: Any) -> Any:
    return str(id(tensor)) if keras_version() == 2 else id(tensor)


def _input_ids(node: Any) -> list[Any]:
    tensors = node.keras_inputs if keras_version() == 2 else node.input_tensors
    return list(dict.fromkeys(_tensor_id(tensor) for tensor in tensors))


def _output_ids(node: Any) -> list[Any]:
    if keras_version() == 3:
        return [id(tensor) for tensor in node.outputs]
    return [str(id(tensor)) for tensor in tf.nest.flatten(node.outputs)]
