"""Depthwise convolutions as grouped ones, for which there are codebook layers."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from kerasq.codebooks.cloning import clone_with_replacements
from kerasq.codebooks.method import LayerSettings
from kerasq.codebooks.program import Program
from kerasq.keras import keras, keras_version

_SHARED = ("name", "trainable", "dtype", "kernel_size", "strides", "padding", "data_format")
_SHARED += ("dilation_rate", "activation", "use_bias", "bias_initializer", "bias_regularizer")
_SHARED += ("bias_constraint",)


def depthwise_layers(model: Any) -> list[Any]:
    """Return the DepthwiseConv2D layers of a model, subclasses left out, in topological order."""
    layers = [step.layer for step in Program(model).steps]
    return list({id(x): x for x in layers if type(x) is keras.layers.DepthwiseConv2D}.values())


def kernel_shape(layer: Any) -> tuple[int, ...]:
    """Return the shape of a kernel; a depthwise one's as of the grouped convolution."""
    if not isinstance(layer, keras.layers.DepthwiseConv2D):
        return tuple(layer.kernel.shape)
    rows, columns, channels, multiplier = _kernel(layer).shape
    return rows, columns, 1, channels * multiplier


def as_grouped_convolutions(model: Any) -> Any:
    """Return a copy whose DepthwiseConv2D layers are Conv2D with a group for each channel.

    Output ``c · multiplier + m`` of a depthwise convolution is that of multiplier m on channel c,
    and a group's outputs follow each other: the kernel (kh, kw, C, multiplier) is, as it lies,
    (kh, kw, 1, C · multiplier).
    """
    layers = depthwise_layers(model)
    if not layers:
        return model
    settings = {id(layer): _Grouped() for layer in layers}
    copy, twins = clone_with_replacements(model, settings)
    for layer in layers:
        kernel = np.asarray(tf.convert_to_tensor(_kernel(layer)))
        twins[id(layer)].kernel.assign(kernel.reshape(kernel_shape(layer)))
    return copy


@dataclasses.dataclass(frozen=True)
class _Grouped(LayerSettings):
    """A depthwise convolution becomes a float grouped one."""

    def replacement(self, layer: Any) -> Any:
        *_, channels = kernel_shape(layer)
        config = {key: value for key, value in layer.get_config().items() if key in _SHARED}
        groups = _kernel(layer).shape[-2]
        return keras.layers.Conv2D.from_config({**config, "filters": channels, "groups": groups})

    def __str__(self) -> str:
        return "grouped"


def _kernel(layer: Any) -> Any:
    return layer.depthwise_kernel if keras_version() == 2 else layer.kernel
