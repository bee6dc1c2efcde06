"""QuantizeConfigs made of the quantizers of the catalogue."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tensorflow_model_optimization as tfmot
from tensorflow_model_optimization.python.core.quantization.keras import (
    quantize_aware_activation,
)

from kerasq.keras import keras, register
from kerasq.quantizers import Quantizer, check_target, clone, for_use, get, serialize
from kerasq.quantizers.base import build_in_scope
from kerasq.quantizers.registry import clone_for_depthwise, clone_for_transpose

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
        """Return this layer's copy of the quantizer, its variables added to the layer's.

        Args:
            tensor_shape: of what is quantized; TFMOT gives None for an activation's, which is that
                of the layer's output.
            name: what is quantized, in front of "_quantizer".
            layer: TFMOT's wrapper or its QuantizeLayer.
        """
        copy = clone(self.quantizer, name=f"{name}_quantizer")
        shape = _output_shape(layer) if tensor_shape is None else tensor_shape
        build_in_scope(copy, shape)
        layer._trainable_weights.extend(copy.trainable_weights)
        layer._non_trainable_weights.extend(copy.non_trainable_weights)
        # TFMOT keeps an activation's quantizer where a SavedModel does not find it.
        layer._track_trackable(copy, copy.name, overwrite=True)
        return {"quantizer": copy}

    def __call__(self, inputs: Any, training: Any, weights: dict[str, Any], **_: Any) -> tf.Tensor:
        """Return the quantized tensor."""
        return weights["quantizer"](inputs, training=training)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"quantizer": serialize(self.quantizer)}


def _output_shape(wrapper: Any) -> Any:
    return wrapper.layer.compute_output_shape(wrapper.input_shape_of_build)


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
    transposed = (
        keras.layers.Conv1DTranspose,
        keras.layers.Conv2DTranspose,
        keras.layers.Conv3DTranspose,
    )
    return clone_for_transpose if isinstance(layer, transposed) else clone


def _fused_activation(layer: Any) -> Any:
    """Return the layer's activation if TFMOT knows where to quantize it, else None."""
    aware = quantize_aware_activation.QuantizeAwareActivation
    known = aware._PRE_QUANT_ACTIVATIONS | aware._POST_QUANT_ACTIVATIONS
    activation = vars(layer).get("activation")  # that of an LSTM is its cell's: no such attribute
    return activation if getattr(activation, "__name__", None) in known else None


@register
class QuantizeConfig(_tfmot.QuantizeConfig):
    """How TFMOT quantizes a layer, with our quantizers.

    For ``tfmot.quantization.keras.quantize_annotate_layer(layer, QuantizeConfig(...))``. Weights
    are those of Dense, Conv1D, Conv2D, Conv3D, DepthwiseConv2D, SeparableConv1D, SeparableConv2D
    and the transposed convolutions; activations are those of any layer with one output tensor.

    Forward and gradient: those of the quantizers. The activation's is applied where TFMOT puts it:
    after linear, ReLU and swish, before softmax, sigmoid and tanh, on both sides of GELU. With
    any other activation, or none (PReLU, LayerNormalization, Add, pooling, ...), the output of the
    layer is quantized. ``QuantizeConfig()`` leaves a layer as it is.

    Args:
        weight: a quantizer of weights by name, config, class or instance; None leaves them.
        activation: the same for the layer's activation.

    Raises:
        ValueError: an unknown quantizer, one that is not for this use, a layer without a kernel.
    """

    def __init__(self, weight: Any = None, activation: Any = None) -> None:
        self.weight = _for_use(weight, "weights")
        self.activation = _for_use(activation, "activations")

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; what the layer's user has asked for is not switched off.

        TFMOT replaces the method of each configuration whose layer feeds a Concatenate.
        """
        if name != "get_output_quantizers":
            super().__setattr__(name, value)

    def get_weights_and_quantizers(self, layer: Any) -> list[tuple[Any, LayerQuantizer]]:
        """Return the layer's kernels, each with a quantizer."""
        if self.weight is None:
            return []
        return [
            (getattr(layer, name), LayerQuantizer(copy(self.weight)))
            for name, copy in _weights(layer)
        ]

    def get_activations_and_quantizers(self, layer: Any) -> list[tuple[Any, LayerQuantizer]]:
        """Return the layer's activation with its quantizer, where TFMOT knows the activation."""
        activation = None if self.activation is None else _fused_activation(layer)
        return [] if activation is None else [(activation, LayerQuantizer(self.activation))]

    def set_quantize_weights(self, layer: Any, quantize_weights: list[Any]) -> None:
        """Put the quantized kernels in the place of the latent ones."""
        if self.weight is None:
            return
        for (name, _), value in zip(_weights(layer), quantize_weights, strict=True):
            setattr(layer, name, value)

    def set_quantize_activations(self, layer: Any, quantize_activations: list[Any]) -> None:
        """Put the quantized activation in the place of the layer's own."""
        if quantize_activations:
            layer.activation = quantize_activations[0]

    def get_output_quantizers(self, layer: Any) -> list[Any]:
        """Return a quantizer of the output, where no activation is quantized inside the layer."""
        if self.activation is None or _fused_activation(layer) is not None:
            return []
        return [LayerQuantizer(self.activation)]

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"weight": serialize(self.weight), "activation": serialize(self.activation)}


def _for_use(identifier: Any, use: str) -> Quantizer | None:
    quantizer = get(identifier)
    if quantizer is None:
        return None
    check_target(quantizer, use, "kerasq.tfmot.QuantizeConfig")
    return for_use(quantizer, use)


def quantize_scope(*args: dict[str, Any]) -> Any:
    """Return TFMOT's ``quantize_scope`` with our classes: for loading and cloning models.

    Args:
        *args: dictionaries of further custom objects.
    """
    ours = {cls.__name__: cls for cls in (LayerQuantizer, QuantizeConfig)}
    return _tfmot.quantize_scope(*args, ours)
