"""From a trained model to a deployed one: packed layers, batch normalization folded."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import numpy as np

from kerasq.export.describe import LayerSpec, activation_name, describe
from kerasq.export.packed import FoldedLayer, OutputTransform, PackedLayer, pack
from kerasq.export.thresholds import InputPlanes, input_planes, levels_of
from kerasq.graph import Graph, graph_of
from kerasq.keras import check_model, keras, keras_version

_QUANTIZERS = ("kernel_quantizer", "depthwise_quantizer", "pointwise_quantizer", "codebook")


def deploy(model: Any) -> Any:
    """Replace every layer with a quantized kernel by a packed one, and fold what can be folded.

    The deployed model predicts what the trained one predicts: binary sums are the same integers,
    float sums differ by their order of additions. A BatchNormalization that alone follows a
    quantized layer goes into its scales and bias, negative scales included, a ReLU behind it into
    the operator. One that alone precedes a binarized input goes into the thresholds, found by
    bisection of the very functions that were trained.

    Args:
        model: a built Sequential or Functional model of the active Keras, with layers of kerasq,
            larq or TFMOT. It is not changed.

    Returns:
        A Keras model for prediction. It is not saved by Keras: :func:`kerasq.convert` writes it.

    Raises:
        TypeError: no model, a subclassed one, or one of the Keras that is not active.
        ValueError: the model is not built, or a layer is quantized in a way that cannot be stored;
            the message names the layer.
    """
    check_model(model, "convert")
    plan = _Plan(model)

    def clone(layer: Any) -> Any:
        if layer.name in plan.packed:
            return plan.packed[layer.name]
        if layer.name in plan.folded:
            return FoldedLayer(layer.name)
        if isinstance(layer, keras.Model):
            return deploy(layer)
        config = layer.get_config()
        if getattr(layer, "compute_dtype", "float32") in ("float16", "bfloat16"):
            config["dtype"] = "float32"  # mixed precision is for training
        return type(layer).from_config(config)

    with _tfmot_scope():
        deployed = keras.models.clone_model(model, clone_function=clone)
    for layer in deployed.layers:
        source = plan.layers.get(layer.name)
        kept = layer.name not in plan.packed and layer.name not in plan.folded
        if source is not None and kept and not isinstance(source, keras.Model):
            layer.set_weights(source.get_weights())
    return deployed


def _tfmot_scope() -> Any:
    """Return a scope in which TFMOT's own wrappers and configurations can be cloned."""
    if "tensorflow_model_optimization" not in sys.modules or keras_version() == 3:
        return contextlib.nullcontext()
    from kerasq.tfmot import quantize_scope

    return quantize_scope()


def packed_layers(model: Any) -> list[PackedLayer]:
    """Return the packed layers of a deployed model, nested ones included, in order."""
    found = []
    for layer in model.layers:
        if isinstance(layer, PackedLayer):
            found.append(layer)
        elif isinstance(layer, keras.Model):
            found += packed_layers(layer)
    return found


class _Plan:
    """What becomes of each layer: packed, folded into a neighbour (an identity), or kept.

    Attributes:
        layers: the model's layers by name.
        packed: replacement by name.
        folded: names of layers that a packed neighbour computes.
    """

    def __init__(self, model: Any) -> None:
        self.graph: Graph = graph_of(model)
        self.layers = {layer.name: layer for layer in self.graph.layers}
        self.packed: dict[str, PackedLayer] = {}
        self.folded: set[str] = set()
        specs = {}
        for layer in self.graph.layers:
            spec = describe(layer)
            if spec is not None:
                specs[layer.name] = spec
            else:
                _refuse_unsupported(layer)
        inputs = {name: self._input(spec) for name, spec in specs.items()}
        for name, spec in specs.items():
            self.packed[name] = pack(spec, inputs[name], self._output(spec))

    def _input(self, spec: LayerSpec) -> InputPlanes | None:
        """Return the bit planes of the layer's input, a preceding normalization folded in."""
        if levels_of(spec.input_quantizer) is None:
            return None
        channels = _channels_in(spec)
        # The operator's padded +1 enters before its thresholds: it must not be normalized.
        if spec.pad_value == 0 and spec.k_map is None:
            name = self.graph.sole_producer(spec.name)
            layer = self.layers.get(name)
            if _is_normalization(layer) and self.graph.sole_consumer(name) == spec.name:
                rank = len(_input_shape(layer))

                def normalize(x: np.ndarray) -> np.ndarray:
                    shaped = x.reshape(len(x), *[1] * (rank - 2), x.shape[-1])
                    return np.asarray(layer(shaped, training=False)).reshape(x.shape)

                planes = input_planes(spec.input_quantizer, channels, normalize)
                if planes is not None:
                    self.folded.add(name)
                return planes
        return input_planes(spec.input_quantizer, channels, None, spec.pad_value)

    def _output(self, spec: LayerSpec) -> OutputTransform:
        """Fold what follows the layer: a normalization, then a ReLU."""
        scale, shift = None, spec.bias
        activation = activation_name(spec.activation)
        if activation is None:  # some other function: it stays operators of its own
            return OutputTransform(scale, shift, "linear")
        follower = self._follower(spec.name)
        if activation == "linear" and _is_normalization(follower):
            scale, offset = _affine_of(follower)
            shift = shift * scale + offset
            self.folded.add(follower.name)
            follower = self._follower(follower.name)
        fused = _relu_of(follower)
        if activation == "linear" and fused is not None:
            activation = fused
            self.folded.add(follower.name)
        return OutputTransform(scale, shift, activation)

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


def _input_shape(layer: Any) -> tuple:
    shape = layer.input.shape
    return tuple(shape)


def _is_normalization(layer: Any) -> bool:
    if not isinstance(layer, keras.layers.BatchNormalization):
        return False
    axis = layer.axis if isinstance(layer.axis, int) else list(layer.axis)[0]
    return axis in (-1, len(_input_shape(layer)) - 1)


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
