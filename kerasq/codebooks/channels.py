"""Channels of a network that can be permuted together without changing its function."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from kerasq.codebooks.program import Program, Step
from kerasq.keras import keras, keras_version

# Functions that treat all channels alike.
_ACTIVATIONS = [
    "linear",
    "relu",
    "relu6",
    "leaky_relu",
    "elu",
    "selu",
    "gelu",
    "sigmoid",
    "hard_sigmoid",
    "tanh",
    "softplus",
    "softsign",
    "exponential",
    "swish",
    "silu",
    "hard_swish",
    "hard_silu",
    "mish",
    "softmax",
]
_PASSING = [
    "Activation",
    "ReLU",
    "LeakyReLU",
    "ELU",
    "Dropout",
    "SpatialDropout2D",
    "GaussianNoise",
    "GaussianDropout",
    "AlphaDropout",
    "ActivityRegularization",
    "ZeroPadding2D",
    "Cropping2D",
    "MaxPooling2D",
    "AveragePooling2D",
    "UpSampling2D",
    "GlobalMaxPooling2D",
    "GlobalAveragePooling2D",
    "Flatten",
    "Reshape",
]
_MERGING = ["Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"]


@dataclasses.dataclass(frozen=True)
class ChannelGroup:
    """Tensors whose channels are permuted together: a residual stream, or one layer's output.

    Attributes:
        weights: variables, each with the axis that is permuted.
        readers: the Conv2D and Dense layers that read the channels.
    """

    weights: list[tuple[Any, int]] = dataclasses.field(default_factory=list)
    readers: list[Any] = dataclasses.field(default_factory=list)

    def permute(self, order: np.ndarray) -> None:
        """Put channel ``order[i]`` in place i, in all layers."""
        for variable, axis in self.weights:
            value = np.asarray(tf.convert_to_tensor(variable))
            variable.assign(np.take(value, order, axis))


def channel_groups(program: Program) -> list[ChannelGroup]:
    """Return the groups of channels of a network that can be permuted.

    Channels that reach an input or output of the network, a layer of unknown kind, a Concatenate,
    a grouped convolution or a Flatten with more than one position stay as they are.
    """
    tensors = _Tensors()
    weights: dict[int, list[tuple[int, Any, int]]] = {}  # (tensor, variable, axis) of a layer
    readers: dict[int, tuple[int, Any]] = {}
    calls: dict[int, tuple[int, ...]] = {}
    for step in program.steps:
        layer, ends = step.layer, (step.inputs[0], step.outputs[0])
        if getattr(layer, "weights", None):
            # Called again: the same weights, so the same order.
            for first, now in zip(calls.setdefault(id(layer), ends), ends, strict=True):
                tensors.join(first, now)
        if _is_kernel(step):
            weights[id(layer)] = [(ends[0], layer.kernel, -2), (ends[1], layer.kernel, -1)]
            if layer.use_bias:
                weights[id(layer)].append((ends[1], layer.bias, 0))
            readers[id(layer)] = (ends[0], layer)
        elif _passes(step):
            for other in (*step.inputs[1:], ends[1]):
                tensors.join(ends[0], other)
            weights[id(layer)] = [(ends[0], v, _axis(v)) for v in layer.weights]
        else:
            for tensor in (*step.inputs, *step.outputs):
                tensors.fix(tensor)
    for tensor in (*program.inputs, *program.outputs):
        tensors.fix(tensor)
    groups: dict[int, ChannelGroup] = {}
    for of_layer in weights.values():
        for tensor, variable, axis in of_layer:
            groups.setdefault(tensors.root(tensor), ChannelGroup()).weights.append((variable, axis))
    for tensor, layer in readers.values():
        groups[tensors.root(tensor)].readers.append(layer)
    return [g for root, g in groups.items() if g.readers and not tensors.is_fixed(root)]


class _Tensors:
    """Sets of tensors that have the same channels in the same order."""

    def __init__(self):
        self._parents: dict[int, int] = {}
        self._fixed: set[int] = set()

    def root(self, tensor: int) -> int:
        while tensor in self._parents:
            tensor = self._parents[tensor]
        return tensor

    def join(self, a: int, b: int) -> None:
        a, b = self.root(a), self.root(b)
        if a != b:
            self._parents[b] = a

    def fix(self, tensor: int) -> None:
        self._fixed.add(tensor)

    def is_fixed(self, root: int) -> bool:
        return any(self.root(tensor) == root for tensor in self._fixed)


def _is_kernel(step: Step) -> bool:
    layer = step.layer
    return (
        type(layer) in (keras.layers.Conv2D, keras.layers.Dense)
        and getattr(layer, "groups", 1) == 1
        and _is_alike(layer)
    )


def _passes(step: Step) -> bool:
    """Tell whether a step treats all channels alike, up to weights of one entry a channel."""
    layer, (inputs, outputs) = step.layer, _shapes(step)
    if type(layer) is keras.layers.BatchNormalization:
        axis = layer.axis if isinstance(layer.axis, int) else layer.axis[0]
        return axis in (-1, len(inputs[0]) - 1)
    if not _is_alike(layer) or len({shape[-1] for shape in (*inputs, *outputs)}) > 1:
        return False
    if type(layer) is keras.layers.DepthwiseConv2D:
        return layer.depth_multiplier == 1
    if _is_any(layer, _MERGING):
        return len({len(shape) for shape in inputs}) == 1
    return _is_any(layer, _PASSING)


def _is_any(layer: Any, names: list[str]) -> bool:
    return any(type(layer) is getattr(keras.layers, name) for name in names)


def _is_alike(layer: Any) -> bool:
    """Tell whether a layer's activation treats channels alike, and they are the last axis."""
    activation = getattr(layer, "activation", None)
    known = activation is None or (
        getattr(activation, "__name__", "") in _ACTIVATIONS
        and activation.__module__.split(".")[0] in ("keras", "tf_keras", "tensorflow")
    )
    return known and getattr(layer, "data_format", None) in (None, "channels_last")


def _shapes(step: Step) -> tuple[list[tuple], list[tuple]]:
    node = step.node
    inputs = node.keras_inputs if keras_version() == 2 else node.input_tensors
    tensors = (inputs, tf.nest.flatten(node.outputs))
    return tuple([tuple(tensor.shape) for tensor in side] for side in tensors)


def _axis(variable: Any) -> int:
    """Return the channel axis of a weight of BatchNormalization or a depthwise convolution."""
    return 2 if len(variable.shape) == 4 else 0
