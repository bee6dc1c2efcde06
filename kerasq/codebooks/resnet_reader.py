"""Checkpoints of ResNets as Keras models, whatever the layout of codebooks."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from kerasq.codebooks.resnet_layout import EPSILON, Blocks, Layout, check_channels
from kerasq.codebooks.torch_entries import Archive, Entries
from kerasq.keras import keras
from kerasq.layers import CodebookConv2D, CodebookDense


def build_resnet(archive: Archive, layout: Layout, input_shape: tuple[int, int, int]) -> Any:
    """Return the ResNet whose layers an archive holds, with its depth and its widths.

    A float convolution has ``weight`` (outputs, inputs, k, k); a BatchNormalization ``weight`` and
    ``bias``, with ``running_mean`` and ``running_var`` where they are not folded into these.

    Raises:
        ValueError: entries that are missing, do not fit, or belong to no ResNet.
    """
    entries = Entries(archive)
    add = _Adder(entries, layout)
    inputs = keras.Input(input_shape)
    x = add.conv(inputs, "conv1", 2)
    x = keras.layers.ReLU(name="relu")(add.norm(x, "bn1"))
    # What comes from a ReLU is at least zero: zeros around it change no maximum.
    x = keras.layers.ZeroPadding2D(1, name="maxpool_pad")(x)
    x = keras.layers.MaxPooling2D(3, 2, name="maxpool")(x)
    stage = 1
    while entries.has(f"layer{stage}.0.conv1"):
        block = 0
        while entries.has(f"layer{stage}.{block}.conv1"):
            stride = 2 if stage > 1 and block == 0 else 1
            x = add.block(x, f"layer{stage}.{block}", stride)
            block += 1
        stage += 1
    x = keras.layers.GlobalAveragePooling2D(name="avgpool")(x)
    model = keras.Model(inputs, add.classifier(x), name="resnet")
    entries.check_all_taken()
    return model


class _Adder:
    """Adds the modules of a checkpoint as Keras layers with their weights."""

    def __init__(self, entries: Entries, layout: Layout):
        self._entries, self._layout = entries, layout

    def block(self, x: Any, name: str, stride: int) -> Any:
        """Add a basic block (2 convolutions) or a bottleneck (3, its stride in the second)."""
        bottleneck = self._entries.has(f"{name}.conv3")
        short, count = x, 3 if bottleneck else 2
        for i in range(1, count + 1):
            strides = stride if i == (2 if bottleneck else 1) else 1
            x = self.norm(self.conv(x, f"{name}.conv{i}", strides), f"{name}.bn{i}")
            if i < count:
                x = keras.layers.ReLU(name=_keras_name(f"{name}.relu{i}"))(x)
        if self._entries.has(f"{name}.downsample.0"):
            short = self.conv(short, f"{name}.downsample.0", stride)
            short = self.norm(short, f"{name}.downsample.1")
        if tuple(x.shape) != tuple(short.shape):
            raise ValueError(
                f"{name!r} of the checkpoint adds maps {tuple(x.shape[1:])} and "
                f"{tuple(short.shape[1:])}: its {name + '.downsample.0'!r} is missing or of "
                "another size"
            )
        x = keras.layers.Add(name=_keras_name(f"{name}.add"))([x, short])
        return keras.layers.ReLU(name=_keras_name(f"{name}.relu"))(x)

    def conv(self, x: Any, name: str, stride: int) -> Any:
        """Add a convolution, float or quantized."""
        if self._entries.has(name, "weight"):
            blocks, kernel = None, self._float_kernel(name, x.shape[-1], 4)
            size, outputs = kernel.shape[0], kernel.shape[-1]
            make = keras.layers.Conv2D
        else:
            blocks = self._blocks(name, x.shape[-1], True)
            size, outputs = blocks.size, blocks.assignments.shape[1]
            make = functools.partial(CodebookConv2D, **self._settings(blocks))
        if size > 1:  # PyTorch's padding: the same on all sides, whatever the stride
            x = keras.layers.ZeroPadding2D(size // 2, name=_keras_name(f"{name}.pad"))(x)
        layer = make(outputs, size, stride, use_bias=False, name=_keras_name(name))
        x = layer(x)
        layer.kernel.assign(kernel) if blocks is None else _set_codebook(layer, blocks)
        return x

    def norm(self, x: Any, name: str) -> Any:
        """Add a BatchNormalization, whose statistics are 0 and 1 where the file has none."""
        keys = ["weight", "bias"]
        if self._entries.has(name, "running_mean") or self._entries.has(name, "running_var"):
            keys += ["running_mean", "running_var"]
            self._entries.skip(name, "num_batches_tracked")
        values = self._entries.arrays(name, *keys)
        for key, value in zip(keys, values, strict=True):
            _check_length(value, x.shape[-1], f"{key} of {name!r}")
        if len(values) == 4 and values[3].min() < 0:
            raise ValueError(f"running_var of {name!r} of the checkpoint is below zero")
        layer = keras.layers.BatchNormalization(
            momentum=0.9, epsilon=EPSILON, name=_keras_name(name)
        )
        x = layer(x)
        weights = [layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance]
        for weight, value in zip(weights[: len(values)], values, strict=True):
            weight.assign(value.astype(np.float32))
        return x

    def classifier(self, x: Any) -> Any:
        """Add the dense layer, float or quantized."""
        if self._layout.float_classifier and self._entries.has("fc", "weight"):
            blocks, kernel = None, self._float_kernel("fc", x.shape[-1], 2)
            layer = keras.layers.Dense(kernel.shape[1], name="fc")
        else:
            blocks = self._blocks("fc", x.shape[-1], False)
            units = blocks.assignments.shape[1]
            layer = CodebookDense(units, name="fc", **self._settings(blocks))
        (bias,) = self._entries.arrays(self._layout.bias, "bias")
        _check_length(bias, layer.units, f"bias of {self._layout.bias!r}")
        x = layer(x)
        layer.kernel.assign(kernel) if blocks is None else _set_codebook(layer, blocks)
        layer.bias.assign(bias.astype(np.float32))
        return x

    def _float_kernel(self, name: str, channels: int, axes: int) -> np.ndarray:
        """Return a kernel as Keras has it, of a weight (outputs, inputs) or with (k, k) after."""
        (weight,) = self._entries.arrays(name, "weight")
        if weight.ndim != axes or (axes == 4 and weight.shape[2] != weight.shape[3]):
            raise ValueError(f"{name!r} of the checkpoint has no kernel, but {weight.shape}")
        check_channels(channels, name, weight.shape[1])
        return np.moveaxis(weight, (1, 0), (-2, -1)).astype(np.float32)

    def _blocks(self, name: str, channels: int, convolves: bool) -> Blocks:
        blocks = self._layout.read(self._entries, name, channels, convolves)
        low, high = blocks.assignments.min(), blocks.assignments.max()
        if low < 0 or high >= len(blocks.codewords):
            raise ValueError(
                f"{name!r} of the checkpoint has assignments {low} to {high}, but "
                f"{len(blocks.codewords)} codewords"
            )
        return blocks

    def _settings(self, blocks: Blocks) -> dict[str, Any]:
        return {
            "subvector": blocks.codewords.shape[1],
            "codewords": len(blocks.codewords),
            "codebook_dtype": blocks.dtype,
            "gradient": self._layout.gradient,
            "shared": True,
            "order": "channel",
        }


def _set_codebook(layer: Any, blocks: Blocks) -> None:
    layer.set_codebook(blocks.codewords.astype(np.float32)[None], blocks.assignments)


def _check_length(value: np.ndarray, length: int, owner: str) -> None:
    if value.shape != (length,):
        raise ValueError(f"{owner} of the checkpoint has {value.shape} values, not {(length,)}")


def _keras_name(name: str) -> str:
    return name.replace(".", "_")
