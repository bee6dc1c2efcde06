"""QuantizeConfigs made of the quantizers of the catalogue."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tensorflow_model_optimization as tfmot

from kerasq.keras import keras, register
from kerasq.quantizers import (
    Quantizer,
    check_target,
    clone,
    clone_for_depthwise,
    get,
    serialize,
)

_tfmot = tfmot.quantization.keras


@register
class LayerQuantizer(_tfmot.quantizers.Quantizer):
    """One of our quantizers as TFMOT knows quantizers.

    Args:
        quantizer: a quantizer by name, config, class or instance; each layer gets its own copy.
    """

    def __init__(self, quantizer: Any) -> None:
        self.quantizer = get(quantizer)

    def build(self, tensor_shape: Any, name: str, layer: Any) -> dict[str, Any]:
        """Return this layer's copy of the quantizer, its variables added to the layer's."""
        copy = clone(self.quantizer, name=f"{name}_quantizer")
        if tensor_shape is not None:
            with tf.name_scope(copy.name):
                copy.build(tensor_shape)
            layer._trainable_weights.extend(copy.trainable_weights)
            layer._non_trainable_weights.extend(copy.non_trainable_weights)
        return {"quantizer": copy}

    def __call__(self, inputs: Any, training: Any, weights: dict[str, Any], **_: Any) -> tf.Tensor:
        """Return the quantized tensor."""
        return weights["quantizer"](inputs, training=training)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"quantizer": serialize(self.quantizer)}


def _weights(layer: Any) -> list[tuple[str, Any]]:
    """Return the attributes that hold kernels, and how to copy a quantizer for each.

    Raises:
        ValueError: a layer without a kernel.
    """
    names = ("depthwise_kernel", "pointwise_kernel", "kernel")
    found = [name for name in names if getattr(layer, name, None) is not None]
    if not found:
        raise ValueError(
            f"kerasq.tfmot.QuantizeConfig: layer {layer.name!r} ({type(layer).__name__}) has no "
            "kernel to quantize; use weight=None for it"
        )
    return [(name, _copy_for(layer, name)) for name in found]


def _copy_for(layer: Any, name: str) -> Any:
    if name == "depthwise_kernel":
        return clone_for_depthwise
    if isinstance(layer, (keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose)):
        return _clone_for_transpose
    return clone


def _clone_for_transpose(quantizer: Quantizer) -> Quantizer:
    """Clone for a kernel (..., filters, input channels)."""
    filters = (-2,) if quantizer.channel_axes == (-1,) else quantizer.channel_axes
    return clone(quantizer, channel_axes=filters) if filters else clone(quantizer)


@register
class QuantizeConfig(_tfmot.QuantizeConfig):
    """How TFMOT quantizes a layer, with our quantizers.

    For ``tfmot.quantization.keras.quantize_annotate_layer(layer, QuantizeConfig(...))`` on layers
    with a kernel: Dense, Conv1D, Conv2D, DepthwiseConv2D, SeparableConv2D, Conv2DTranspose.

    Forward and gradient: those of the quantizers; the activation's is applied where TFMOT puts it
    (after ReLU and linear, before softmax, sigmoid and tanh).

    Args:
        weight: a quantizer of weights by name, config, class or instance; None leaves them.
        activation: the same for the layer's activation.

    Raises:
        ValueError: an unknown quantizer, one that is not for this use, a layer without a kernel.
    """

    def __init__(self, weight: Any = None, activation: Any = None) -> None:
        self.weight = get(weight)
        self.activation = get(activation)
        for quantizer, use in ((self.weight, "weights"), (self.activation, "activations")):
            if quantizer is not None:
                check_target(quantizer, use, "kerasq.tfmot.QuantizeConfig")

    def get_weights_and_quantizers(self, layer: Any) -> list[tuple[Any, LayerQuantizer]]:
        """Return the layer's kernels, each with a quantizer."""
        if self.weight is None:
            return []
        return [
            (getattr(layer, name), LayerQuantizer(copy(self.weight)))
            for name, copy in _weights(layer)
        ]

    def get_activations_and_quantizers(self, layer: Any) -> list[tuple[Any, LayerQuantizer]]:
        """Return the layer's activation with its quantizer."""
        if self.activation is None:
            return []
        if not hasattr(layer, "activation"):
            raise ValueError(
                f"kerasq.tfmot.QuantizeConfig: layer {layer.name!r} ({type(layer).__name__}) has "
                "no activation to quantize; use activation=None for it"
            )
        return [(layer.activation, LayerQuantizer(self.activation))]

    def set_quantize_weights(self, layer: Any, quantize_weights: list[Any]) -> None:
        """Put the quantized kernels in the place of the latent ones."""
        if self.weight is None:
            return
        for (name, _), value in zip(_weights(layer), quantize_weights, strict=True):
            setattr(layer, name, value)

    def set_quantize_activations(self, layer: Any, quantize_activations: list[Any]) -> None:
        """Put the quantized activation in the place of the layer's own."""
        if self.activation is not None:
            layer.activation = quantize_activations[0]

    def get_output_quantizers(self, layer: Any) -> list[Any]:
        """Return none: the activation is quantized where it is computed."""
        return []

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"weight": serialize(self.weight), "activation": serialize(self.activation)}


def quantize_scope(*args: dict[str, Any]) -> Any:
    """Return TFMOT's ``quantize_scope`` with our classes: for loading and cloning models.

    Args:
        *args: dictionaries of further custom objects.
    """
    ours = {cls.__name__: cls for cls in (LayerQuantizer, QuantizeConfig)}
    return _tfmot.quantize_scope(*args, ours)
