"""Trained networks and data sets read from plain ``.npz`` files."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import numpy as np

from kerasq.keras import keras

# Channel statistics that the networks were trained with, of pixels in 0 ... 1.
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_STD = np.array([0.229, 0.224, 0.225], np.float32)


@dataclasses.dataclass(frozen=True)
class Images:
    """Normalised images (n, H, W, C), float32, and their labels (n,)."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def cifar10(path: str | os.PathLike[str], train: int | None = None) -> Images:
    """Read CIFAR-10: ``x_train``, ``y_train``, ``x_test``, ``y_test``, images as bytes.

    Args:
        path: the ``.npz``.
        train: how many training images to take; None takes all.
    """
    with np.load(path) as file:
        x_train, y_train = file["x_train"][:train], file["y_train"][:train]
        x_test, y_test = file["x_test"], file["y_test"]
    return Images(_normalise(x_train), y_train.ravel(), _normalise(x_test), y_test.ravel())


def _normalise(images: np.ndarray) -> np.ndarray:
    scaled = images.astype(np.float32)
    scaled /= 255
    scaled -= _MEAN
    scaled /= _STD
    return scaled


def resnet_cifar10(path: str | os.PathLike[str]) -> Any:
    """Build a trained CIFAR-10 ResNet as a Functional model from images to logits.

    The depth is that of the file. Stride-2 convolutions pad one pixel on both sides, as the network
    was trained, so that the padding is a layer of its own. A shortcut to a smaller map drops every
    other pixel and pads channels with zeros on both sides.

    Args:
        path: ``.npz`` of the PyTorch weights, named ``conv1.weight``, ``layer1.0.bn1.bias``, ...

    Reference: He et al., Deep Residual Learning for Image Recognition, arXiv:1512.03385
    """
    with np.load(path) as file:
        weights = {name.removeprefix("module."): file[name] for name in file.files}
    x = inputs = keras.Input((32, 32, 3), name="images")
    x = _conv_bn(x, 16, 1, "conv1", "bn1")
    x = keras.layers.ReLU(name="relu1")(x)
    for stage, filters in enumerate((16, 32, 64), 1):
        block = 0
        while f"layer{stage}.{block}.conv1.weight" in weights:
            stride = 2 if stage > 1 and block == 0 else 1
            x = _residual_block(x, filters, stride, f"layer{stage}_{block}")
            block += 1
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    logits = keras.layers.Dense(10, name="linear")(x)
    depth = 2 + sum(name.endswith((".conv1.weight", ".conv2.weight")) for name in weights)
    model = keras.Model(inputs, logits, name=f"resnet{depth}")
    for layer in model.layers:
        _load(layer, weights)
    return model


def _conv_bn(x: Any, filters: int, stride: int, conv: str, norm: str) -> Any:
    padding = "same"
    if stride == 2:  # "same" would pad one side only
        x = keras.layers.ZeroPadding2D(1, name=f"{conv}_pad")(x)
        padding = "valid"
    x = keras.layers.Conv2D(filters, 3, strides=stride, padding=padding, use_bias=False, name=conv)(
        x
    )
    return keras.layers.BatchNormalization(epsilon=1e-5, momentum=0.9, name=norm)(x)


def _residual_block(x: Any, filters: int, stride: int, name: str) -> Any:
    y = _conv_bn(x, filters, stride, f"{name}_conv1", f"{name}_bn1")
    y = keras.layers.ReLU(name=f"{name}_relu1")(y)
    y = _conv_bn(y, filters, 1, f"{name}_conv2", f"{name}_bn2")
    if stride == 2:
        x = keras.layers.MaxPooling2D(1, strides=2, name=f"{name}_drop")(x)  # every other pixel
        # Padding of "height" in a map turned so that the channels are there.
        x = keras.layers.Permute((3, 1, 2), name=f"{name}_turn")(x)
        x = keras.layers.ZeroPadding2D(((filters // 4, filters // 4), (0, 0)), name=f"{name}_pad")(
            x
        )
        x = keras.layers.Permute((2, 3, 1), name=f"{name}_return")(x)
    y = keras.layers.Add(name=f"{name}_add")([y, x])
    return keras.layers.ReLU(name=f"{name}_relu2")(y)


def _load(layer: Any, weights: dict[str, np.ndarray]) -> None:
    stage, _, rest = layer.name.partition("_")
    source = f"{stage}.{rest.replace('_', '.', 1)}" if rest else stage
    if isinstance(layer, keras.layers.Conv2D):
        layer.set_weights([weights[f"{source}.weight"].transpose(2, 3, 1, 0)])
    elif isinstance(layer, keras.layers.Dense):
        layer.set_weights([weights[f"{source}.weight"].T, weights[f"{source}.bias"]])
    elif isinstance(layer, keras.layers.BatchNormalization):
        names = ("weight", "bias", "running_mean", "running_var")
        layer.set_weights([weights[f"{source}.{name}"] for name in names])
