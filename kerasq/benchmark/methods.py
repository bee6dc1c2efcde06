"""Networks in which a method of the catalogue does the work, whichever kind of method it is."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

import kerasq.layers as ql
from kerasq import quantizers
from kerasq.keras import keras

FLOAT = "float32"


@dataclasses.dataclass(frozen=True)
class Parts:
    """The layers that a network is made of; each is a function that makes one.

    Attributes:
        convolution: (filters, strides, name) -> a 3x3 convolution, SAME, of the quantized inputs
            that it expects; or a block with normalizations and a shortcut of its own.
        normalization: (name) -> what follows it.
        activation: (name) -> what follows that; None where the next layer quantizes its inputs.
        block_convolutions: how many convolutions a block stands for; 0 for a convolution.
    """

    convolution: Callable[[int, int, str], Any]
    normalization: Callable[[str], Any]
    activation: Callable[[str], Any] | None
    block_convolutions: int = 0


def methods() -> list[str]:
    """Return the names of all quantizers, calibrations and layers."""
    return sorted([*quantizers.catalogue(), *ql.catalogue()])


def parts(name: str, config: Mapping[str, Any] | None = None, blocks: int = 1) -> Parts:
    """Return the layers of a method, as its paper uses it.

    Args:
        name: of a quantizer or layer of the catalogues, or "float32".
        config: its arguments.
        blocks: residual blocks in the network, for the initial values that depend on it.
    """
    config = dict(config or {})
    if name == FLOAT:
        return Parts(_quantized(None, None), _batch_norm, _relu)
    if name in ql.catalogue():
        return _layer_parts(ql.catalogue()[name], config, blocks)
    entry = quantizers.catalogue()[name]
    method = {"class_name": name, "config": config}
    if entry.target == "weights":
        return Parts(_quantized(None, method), _batch_norm, _relu)
    if entry.target == "gradients":
        return Parts(_quantized(None, None), _batch_norm_after(method), _relu)
    if entry.target == "both":
        return Parts(_quantized(method, method), _batch_norm, None)
    return Parts(_quantized(method, _partner(entry, config)), _batch_norm, None)


def _partner(entry: quantizers.Entry, config: Mapping[str, Any]) -> Any:
    """Return weights that suit a method of activations: binary ones, or as many bits."""
    if not entry.representation.startswith("Affine"):
        return "bwn"
    bits = quantizers.get({"class_name": entry.name, "config": dict(config)}).precision
    return {"class_name": "dorefa_weights", "config": {"bits": bits}}


def _layer_parts(entry: Any, config: dict[str, Any], blocks: int) -> Parts:
    if entry.role == "normalization":
        return Parts(_quantized(None, None), lambda name: entry.cls(name=name, **config), _relu)
    if entry.role == "activation":
        return Parts(
            _quantized("ste_sign", "bwn"),
            _batch_norm,
            lambda name: entry.cls(name=name, **config),
        )
    if entry.role == "convolution":

        def convolution(filters: int, strides: int, name: str) -> Any:
            same = {"padding": "same", "use_bias": False, "name": name}
            return entry.cls(filters, 3, strides, **same, **config)

        return Parts(convolution, _batch_norm, None)

    if "num_blocks" in inspect.signature(entry.cls).parameters:
        config = {"num_blocks": blocks, **config}

    def block(filters: int, strides: int, name: str) -> Any:
        return entry.cls(filters, strides=strides, name=name, **config)

    return Parts(block, _identity, None, entry.cls.convolutions)


def _identity(name: str) -> Any:
    return keras.layers.Activation("linear", name=name)


def _quantized(inputs: Any, kernel: Any) -> Callable[[int, int, str], Any]:
    def convolution(filters: int, strides: int, name: str) -> Any:
        return ql.QuantConv2D(
            filters,
            3,
            strides,
            padding="same",
            use_bias=False,
            input_quantizer=inputs,
            kernel_quantizer=kernel,
            name=name,
        )

    return convolution


def _batch_norm(name: str) -> Any:
    return keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)


def _batch_norm_after(method: Mapping[str, Any]) -> Callable[[str], Any]:
    """Return a normalization behind what quantizes the gradients on their way back."""

    def normalization(name: str) -> Any:
        gradients = quantizers.get(method)
        return keras.Sequential([gradients, _batch_norm(f"{name}_norm")], name=name)

    return normalization


def _relu(name: str) -> Any:
    return keras.layers.ReLU(name=name)


def small_network(
    name: str,
    input_shape: tuple[int, int, int] = (28, 28, 1),
    classes: int = 10,
    filters: tuple[int, int, int] = (16, 32, 64),
    config: Mapping[str, Any] | None = None,
) -> Any:
    """Return the network that every method is trained in: two of its convolutions in three.

    The first convolution and the classifier are float, as in most of the papers; each
    convolution is followed by a batch normalization.

    Args:
        name: of the method.
        input_shape: of an image.
        classes: number of logits.
        filters: of the three convolutions.
        config: the method's arguments.
    """
    made = parts(name, config, blocks=len(filters) - 1)
    x = inputs = keras.Input(input_shape, name="images")
    x = keras.layers.Conv2D(filters[0], 3, strides=2, padding="same", use_bias=False, name="conv1")(
        x
    )
    x = _batch_norm("bn1")(x)
    for index, width in enumerate(filters[1:], 2):
        if made.activation is not None:
            x = made.activation(f"act{index - 1}")(x)
        x = made.convolution(width, 1, f"conv{index}")(x)
        x = keras.layers.MaxPooling2D(2, name=f"pool{index}")(x)
        x = made.normalization(f"bn{index}")(x)
    x = _relu("act")(x)
    x = keras.layers.GlobalAveragePooling2D(name="gap")(x)
    return keras.Model(inputs, keras.layers.Dense(classes, name="logits")(x), name=name)


def resnet20(name: str, config: Mapping[str, Any] | None = None) -> Any:
    """Return a CIFAR ResNet-20 whose 3x3 convolutions, but for the first, are the method's.

    He et al., "Deep Residual Learning for Image Recognition", arXiv 1512.03385; shortcuts to
    smaller maps are 1x1 convolutions in float. A block takes the place of as many convolutions as
    it has.

    Args:
        name: of the method.
        config: its arguments.
    """
    made = parts(name, config, blocks=9)
    x = inputs = keras.Input((32, 32, 3), name="images")
    x = keras.layers.Conv2D(16, 3, padding="same", use_bias=False, name="stem")(x)
    x = _relu("stem_relu")(_batch_norm("stem_bn")(x))
    for stage, width in enumerate((16, 32, 64), 1):
        for block in range(3):
            strides = 2 if stage > 1 and block == 0 else 1
            x = _residual(made, x, width, strides, f"s{stage}b{block}")
    x = keras.layers.GlobalAveragePooling2D(name="gap")(x)
    return keras.Model(inputs, keras.layers.Dense(10, name="logits")(x), name=name)


def _residual(made: Parts, x: Any, width: int, strides: int, name: str) -> Any:
    y = x
    if made.block_convolutions:  # it has a shortcut of its own
        for index in range(1, 3, made.block_convolutions):
            y = made.convolution(width, strides if index == 1 else 1, f"{name}_conv{index}")(y)
        return y
    for index, step in ((1, strides), (2, 1)):
        y = made.convolution(width, step, f"{name}_conv{index}")(y)
        y = made.normalization(f"{name}_bn{index}")(y)
        if index == 1 and made.activation is not None:
            y = made.activation(f"{name}_act")(y)
    if strides != 1:
        x = keras.layers.Conv2D(width, 1, strides, use_bias=False, name=f"{name}_down")(x)
    return _relu(f"{name}_out")(keras.layers.Add(name=f"{name}_add")([x, y]))


def compile_for_training(model: Any, learning_rate: float = 1e-3, **kwargs: Any) -> None:
    """Compile with Adam and the cross entropy of the logits."""
    model.compile(
        keras.optimizers.Adam(learning_rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        **kwargs,
    )


def agreement(model: Any, interpreter: Any, images: np.ndarray) -> float:
    """Return the per cent of images to which Keras and the file give the same label."""
    ours = model.predict(images, batch_size=100, verbose=0).argmax(-1)
    return 100.0 * float(np.mean(ours == interpreter.predict(images).argmax(-1)))
