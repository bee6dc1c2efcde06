"""From a trained model to a deployed one: packed layers, batch normalization folded."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from kerasq.export.chaining import Link, link
from kerasq.export.describe import LayerSpec, activation_name, describe
from kerasq.export.monotone import evaluate, is_normalization
from kerasq.export.native import grid_of
from kerasq.export.packed import (
    BitPool,
    FoldedLayer,
    OutputTransform,
    PackedLayer,
    pack,
    pack_integers,
    packs_planes,
)
from kerasq.export.tables import use_byte_tables
from kerasq.export.thresholds import InputPlanes, input_planes, levels_of
from kerasq.graph import Graph, graph_of
from kerasq.keras import check_model, keras, keras_version
from kerasq.layers.blocks import Block

_QUANTIZERS = (
    "kernel_quantizer",
    "depthwise_quantizer",
    "pointwise_quantizer",
    "codebook",
    "codebooks",
    "hashed_kernel",
)
# Layers that pick or move values: quantizing commutes with them.
_PASSING = (
    keras.layers.MaxPooling2D,
    keras.layers.Flatten,
    keras.layers.Reshape,
    keras.layers.Dropout,
)


def deploy(model: Any, integer: bool = False, calibration_data: Any = None) -> Any:
    """Replace every layer with a quantized kernel by a packed one, and fold what can be folded.

    The deployed model predicts what the trained one predicts: binary sums are the same integers,
    float sums differ by their order of additions. A BatchNormalization that alone follows a
    quantized layer goes into its scales and bias, negative scales included, a ReLU behind it into
    the operator. One that alone precedes a binarized input goes into the thresholds, found by
    bisection of the very functions that were trained.

    Args:
        model: a built Sequential or Functional model of the active Keras, with layers of kerasq,
            larq or TFMOT. It is not changed.
        integer: compute in int8 between two activation quantizers; see :func:`kerasq.convert`.
        calibration_data: inputs of the model, for look-up tables of 8 bits; see
            :func:`kerasq.convert`.

    Returns:
        A Keras model for prediction. It is not saved by Keras: :func:`kerasq.convert` writes it.

    Raises:
        TypeError: no model, a subclassed one, or one of the Keras that is not active.
        ValueError: the model is not built, or a layer is quantized in a way that cannot be stored;
            the message names the layer. Calibration data, and no codebook that could use them.
    """
    deployed = _deploy(model, integer)
    if calibration_data is not None and not use_byte_tables(
        packed_layers(deployed), deployed, calibration_data
    ):
        raise ValueError(
            f"model {model.name!r} has no layer that calibration_data could serve: they give "
            "look-up tables of 8 bits to codebooks by position of at most 256 codewords of 2 to "
            "512 weights. Leave them out"
        )
    return deployed


def _deploy(model: Any, integer: bool) -> Any:
    check_model(model, "convert")
    plan = _Plan(model, integer)

    def clone(layer: Any) -> Any:
        if layer.name in plan.packed:
            return plan.packed[layer.name]
        if layer.name in plan.folded:
            return FoldedLayer(layer.name)
        if isinstance(layer, keras.Model):
            return _deploy(layer, integer)
        if isinstance(layer, Block):
            return DeployedBlock(layer.name, _deploy(_as_model(layer), integer))
        config = layer.get_config()
        if getattr(layer, "compute_dtype", "float32") in ("float16", "bfloat16"):
            config["dtype"] = "float32"  # mixed precision is for training
        return type(layer).from_config(config)

    with _tfmot_scope():
        deployed = keras.models.clone_model(model, clone_function=clone)
    for layer in deployed.layers:
        source = plan.layers.get(layer.name)
        kept = layer.name not in plan.packed and layer.name not in plan.folded
        if source is not None and kept and not isinstance(source, keras.Model | Block):
            layer.set_weights(source.get_weights())
    return deployed


def _as_model(block: Block) -> Any:
    """Return the graph of a block's parts as a model: of a copy of it, with the same weights."""
    copy = type(block).from_config(block.get_config())
    inputs = tf.nest.map_structure(lambda x: keras.Input(tuple(x.shape)[1:]), block.input)
    copy(inputs)
    copy.set_weights(block.get_weights())
    return keras.Model(inputs, copy.graph(inputs), name=block.name)


def _tfmot_scope() -> Any:
    """Return a scope in which TFMOT's own wrappers and configurations can be cloned."""
    if "tensorflow_model_optimization" not in sys.modules or keras_version() == 3:
        return contextlib.nullcontext()
    from kerasq.tfmot import quantize_scope

    return quantize_scope()


def packed_layers(model: Any) -> list[PackedLayer]:
    """Return the packed layers of a deployed model, nested ones included, in order."""
    return [layer for layer in _deployed_layers(model) if isinstance(layer, PackedLayer)]


def packed_operators(model: Any) -> int:
    """Return how many operators of kerasq a deployed model has at least."""
    pools = [layer for layer in _deployed_layers(model) if isinstance(layer, BitPool)]
    return len(packed_layers(model)) + sum(pool.operators for pool in pools)


def _deployed_layers(model: Any) -> Iterator[Any]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _deployed_layers(layer)
        elif isinstance(layer, DeployedBlock):
            yield from _deployed_layers(layer.model)
        else:
            yield layer


class DeployedBlock(keras.layers.Layer):
    """A block of a deployed model: the deployed graph of its parts.

    Args:
        name: of the block.
        model: what :func:`deploy` made of its parts.
    """

    def __init__(self, name: str, model: Any) -> None:
        super().__init__(name=name, trainable=False, dtype="float32")
        self.model = model

    def call(self, inputs: Any, training: Any = None) -> Any:
        """Return the outputs of the parts."""
        return self.model(inputs)


class _Plan:
    """What becomes of each layer: packed, folded into a neighbour (an identity), or kept.

    Attributes:
        layers: the model's layers by name.
        packed: replacement by name.
        links: how bits reach a layer, by its name.
        folded: names of layers that a packed neighbour computes.
        inputs: input quantizers as bit planes, by name of the layer, or None.
        quantized: names of layers whose input quantizer is in the int8 operator before them.
    """

    def __init__(self, model: Any, integer: bool) -> None:
        self.graph: Graph = graph_of(model)
        self.layers = {layer.name: layer for layer in self.graph.layers}
        self.packed: dict[str, PackedLayer | BitPool] = {}
        self.links: dict[str, Link] = {}
        self.folded: set[str] = set()
        self.quantized: set[str] = set()
        specs = {}
        for layer in self.graph.layers:
            if isinstance(layer, Block):
                continue
            spec = describe(layer)
            if spec is not None:
                _check_settled(spec)
                specs[layer.name] = spec
            else:
                _refuse_unsupported(layer)
        self.inputs = {name: self._input(spec) for name, spec in specs.items()}
        for name in specs:
            self._chain(name, specs)
        outputs = {way.producer: way.output for way in self.links.values() if way.producer}
        for name, spec in specs.items():
            bits_in = _channels_in(spec) if name in self.links else 0
            if name in outputs:
                none = OutputTransform(None, spec.bias, "linear")
                self.packed[name] = pack(spec, self.inputs[name], none, bits_in, outputs[name])
                continue
            transform = self._output(spec)
            layer = self._integers(spec, transform, specs) if integer else None
            if layer is None and name in self.quantized:
                spec = dataclasses.replace(spec, input_quantizer=None)
            self.packed[name] = layer or pack(spec, self.inputs[name], transform, bits_in)

    def _input(self, spec: LayerSpec) -> InputPlanes | None:
        """Return the bit planes of the layer's input, a preceding normalization folded in."""
        if levels_of(spec.input_quantizer) is None or not packs_planes(spec.kernel):
            return None
        channels = _channels_in(spec)
        # The operator's padded +1 enters before its thresholds: it must not be normalized.
        if spec.pad_value == 0 and spec.k_map is None:
            name = self.graph.sole_producer(spec.name)
            layer = self.layers.get(name)
            if is_normalization(layer) and self.graph.sole_consumer(name) == spec.name:
                planes = input_planes(spec.input_quantizer, channels, lambda x: evaluate(layer, x))
                if planes is not None:
                    self.folded.add(name)
                return planes
        return input_planes(spec.input_quantizer, channels, None, spec.pad_value)

    def _chain(self, name: str, specs: dict[str, LayerSpec]) -> None:
        """Let bits reach a layer, where they can."""
        way = link(self.graph, specs, self.inputs, name)
        if way is None:
            return
        self.links[name] = way
        self.packed |= way.pools
        self.folded |= way.folded

    def _output(self, spec: LayerSpec) -> OutputTransform:
        """Fold what follows the layer: a normalization, then a ReLU."""
        scale, shift = None, spec.bias
        activation = activation_name(spec.activation)
        if activation is None:  # some other function: it stays operators of its own
            return OutputTransform(scale, shift, "linear")
        follower = self._follower(spec.name)
        if activation == "linear" and is_normalization(follower):
            scale, offset = _affine_of(follower)
            shift = shift * scale + offset
            self.folded.add(follower.name)
            follower = self._follower(follower.name)
        fused = _relu_of(follower)
        if activation == "linear" and fused is not None:
            activation = fused
            self.folded.add(follower.name)
        return OutputTransform(scale, shift, activation)

    def _integers(
        self, spec: LayerSpec, transform: OutputTransform, specs: dict[str, LayerSpec]
    ) -> PackedLayer | None:
        """Return an int8 layer where the output goes to one input quantizer only, or None."""
        reader = specs.get(self._reader(spec.name))
        if reader is None or self.inputs[reader.name] is not None:
            return None
        grids = grid_of(spec.input_quantizer), grid_of(reader.input_quantizer)
        if None in grids:
            return None
        layer = pack_integers(spec, transform, grids, spec.name in self.quantized)
        if layer is not None:
            self.quantized.add(reader.name)
        return layer

    def _reader(self, name: str) -> str | None:
        """Return the only layer that reads another's values, behind those that pass them on."""
        reader = self.graph.sole_consumer(name)
        while reader and (reader in self.folded or isinstance(self.layers[reader], _PASSING)):
            reader = self.graph.sole_consumer(reader)
        return reader if reader and self.graph.calls[reader] == 1 else None

    def _follower(self, name: str) -> Any:
        consumer = self.graph.sole_consumer(name)
        if not consumer or consumer in self.folded or self.graph.calls[consumer] != 1:
            return None
        return self.layers.get(consumer)


def _channels_in(spec: LayerSpec) -> int:
    if spec.geometry is None or spec.geometry.groups == 1:
        return spec.kernel.shape[-2]
    if spec.kernel.shape[-2] == spec.geometry.groups:  # depthwise
        return spec.geometry.groups
    return spec.kernel.shape[-2] * spec.geometry.groups


def _check_settled(spec: LayerSpec) -> None:
    """Raise where an input quantizer has yet to take its scale from data.

    Raises:
        ValueError: what becomes of one image depends on the others in its batch.
    """
    if spec.input_quantizer is None:
        return
    image = np.linspace(-2, 2, 4 * _channels_in(spec), dtype=np.float32)
    image = image.reshape(1, 2, 2, -1) if spec.geometry is not None else image.reshape(4, -1)[None]
    alone = np.asarray(spec.input_quantizer(image))
    beside = np.asarray(spec.input_quantizer(np.concatenate([image, 50 * image])))
    if not np.array_equal(alone[0], beside[0], equal_nan=True):
        raise ValueError(
            f"layer {spec.name!r}: its input quantizer has taken no scale from data yet. Train the "
            "model, or run kerasq.quantizers.calibrate(model, data), before converting it"
        )


def _affine_of(layer: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return scale and offset of a BatchNormalization at inference."""
    variance = np.asarray(layer.moving_variance, np.float64)
    scale = 1.0 / np.sqrt(variance + layer.epsilon)
    if layer.scale:
        scale = scale * np.asarray(layer.gamma, np.float64)
    offset = -np.asarray(layer.moving_mean, np.float64) * scale
    if layer.center:
        offset = offset + np.asarray(layer.beta, np.float64)
    return scale.astype(np.float32), offset.astype(np.float32)


def _relu_of(layer: Any) -> str | None:
    if isinstance(layer, keras.layers.Activation):
        name = activation_name(layer.activation)
        return name if name in ("relu", "relu6") else None
    if not isinstance(layer, keras.layers.ReLU):
        return None
    if np.any(layer.negative_slope) or np.any(layer.threshold):
        return None
    if layer.max_value is None:
        return "relu"
    return "relu6" if float(layer.max_value) == 6.0 else None


def _refuse_unsupported(layer: Any) -> None:
    """Raise for a layer that holds a quantized kernel which would otherwise leave as float.

    Raises:
        ValueError: always when it, or a layer inside it, has a kernel quantizer or a codebook.
    """
    if isinstance(layer, keras.Model) or not isinstance(layer, keras.layers.Layer):
        return  # nested models are deployed by themselves
    for part in layer._flatten_layers():
        found = [name for name in _QUANTIZERS if getattr(part, name, None) is not None]
        if found:
            raise ValueError(
                f"layer {layer.name!r} ({type(layer).__name__}) has a {found[0]}, but the "
                "operators of kerasq know only 2-d convolutions, depthwise convolutions and dense "
                "layers: write it with QuantConv2D, QuantDepthwiseConv2D or QuantDense, or leave "
                "it in float"
            )
