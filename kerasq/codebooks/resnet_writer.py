"""Keras models as checkpoints of ResNets, whatever the layout of codebooks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf

from kerasq.codebooks.program import Program
from kerasq.codebooks.resnet_layout import EPSILON, Blocks, Layout
from kerasq.codebooks.resnet_reader import build_resnet
from kerasq.codebooks.torch_entries import Archive
from kerasq.keras import check_model, keras
from kerasq.layers import CodebookConv2D, CodebookDense

_MOST_CODEWORDS = 1 << 15  # PyTorch has no unsigned integers of 16 bits
_SIDE = 64  # of an image, where a model takes any


def archive_resnet(model: Any, layout: Layout) -> Archive:
    """Return the archive of a model with the layers of `build_resnet`.

    The statistics of BatchNormalization are folded into its scale and its offset.

    Raises:
        ValueError: a layer that the layout has no place for.
    """
    archive: Archive = {}
    for layer in model.layers:
        name = _module_name(layer)
        if isinstance(layer, CodebookConv2D | CodebookDense):
            blocks = _blocks_of(layer, layout)
            archive[name] = layout.write(blocks, isinstance(layer, CodebookConv2D))
        elif isinstance(layer, keras.layers.BatchNormalization):
            archive[name] = _folded(layer, layout.floats)
        elif type(layer) is keras.layers.Conv2D and not layer.use_bias:
            weight = np.transpose(_array(layer.kernel), (3, 2, 0, 1))
            archive[name] = {"weight": np.ascontiguousarray(weight, layout.floats)}
        elif type(layer) is keras.layers.Dense and layout.float_classifier:
            archive[name] = {"weight": np.ascontiguousarray(_array(layer.kernel).T)}
        elif layer.weights:
            raise ValueError(
                f"layer {layer.name!r} ({type(layer).__name__}) has no place in the layout of "
                f"{layout.name}"
            )
        if isinstance(layer, keras.layers.Dense) and layer.use_bias:
            archive.setdefault(layout.bias, {})["bias"] = _array(layer.bias)
    return archive


def _blocks_of(layer: Any, layout: Layout) -> Blocks:
    shipped = layer.codebook()
    convolves = isinstance(layer, CodebookConv2D)
    window, taps = shipped.shape[:-2], math.prod(shipped.shape[:-2])
    books, size, length = shipped.codewords.shape
    fits = books == 1 and (shipped.order == "channel" or taps == 1)
    fits = fits and math.prod(shipped.shape[:-1]) % length == 0
    if convolves:
        fits = fits and window[0] == window[1] and not layer.use_bias and layer.groups == 1
    if not fits:
        raise ValueError(
            f"layer {layer.name!r}: the layout of {layout.name} has square convolutions without "
            'bias and groups, with one codebook, order="channel" and whole blocks'
        )
    if size > _MOST_CODEWORDS:
        raise ValueError(
            f"layer {layer.name!r} has {size} codewords, the layout of {layout.name} at most "
            f"{_MOST_CODEWORDS}"
        )
    assignments = shipped.assignments().reshape(-1, shipped.shape[-1])
    assignments = assignments.astype(np.uint8 if size <= 256 else np.int16)
    kernel_size = window[0] if convolves else 1
    return Blocks(shipped.codewords[0], assignments, kernel_size, layer.codebook_dtype)


def _folded(layer: Any, dtype: type) -> dict[str, np.ndarray]:
    """Return scale and offset for a mean of 0 and a variance of 1.

    In float64, which gives those of a file back to the last bit.
    """
    deviation = np.sqrt(_array(layer.moving_variance).astype(np.float64) + layer.epsilon)
    gamma = _array(layer.gamma) if layer.scale else np.ones(deviation.shape)
    beta = _array(layer.beta) if layer.center else np.zeros(deviation.shape)
    scale = gamma / deviation
    bias = beta - scale * _array(layer.moving_mean)
    weight = scale * np.sqrt(1 + EPSILON)
    return {"weight": weight.astype(dtype), "bias": bias.astype(dtype)}


def checked_archive(model: Any, layout: Layout) -> Archive:
    """Return the archive of a model that computes what the ResNet of the archive does.

    A file says nothing of strides, padding and activations: an image goes through both, and the
    layers are compared.

    Raises:
        TypeError: not a Sequential or Functional model.
        ValueError: a layer that the layout has no place for, or one that computes something else.
    """
    check_model(model, "save")
    shape = tuple(model.inputs[0].shape[1:])
    if len(model.inputs) > 1 or len(shape) != 3:
        raise ValueError(
            f"model {model.name!r} is no ResNet: it has other inputs than one of images"
        )
    archive = archive_resnet(model, layout)
    try:
        twin = build_resnet(archive, layout, tuple(side or _SIDE for side in shape))
    except ValueError as error:
        raise ValueError(
            f"model {model.name!r} would make a file of {layout.name} that no ResNet can be read "
            f"from: {error}"
        ) from error
    image = np.random.default_rng(0).normal(size=(1, *twin.inputs[0].shape[1:]))
    found, wanted = (_outputs(one, image.astype(np.float32)) for one in (model, twin))
    for name, want in wanted.items():
        if not _close(found[name], want, layout.tolerance):
            raise ValueError(
                f"{name} of model {model.name!r} gives something else than in the ResNet that a "
                f"file of {layout.name} is read as: its strides, padding and activations are those "
                "of PyTorch, with logits at the end. Make them the same"
            )
    return archive


def _outputs(model: Any, image: np.ndarray) -> dict[str, np.ndarray]:
    """Return what modules with weights give for an image, in order, then what the model gives."""
    program = Program(model)
    values = {program.inputs[0]: tf.constant(image)}
    found = {}
    for step in program.steps:
        values.update(step.run(step.layer, values))
        if step.layer.weights:
            found[repr(_module_name(step.layer))] = values[step.outputs[0]]
    found["the output"] = values[program.outputs[0]]
    return {name: np.asarray(value, np.float32) for name, value in found.items()}


def _close(found: np.ndarray, want: np.ndarray, tolerance: float) -> bool:
    if found.shape != want.shape:
        return False
    return bool(np.abs(found - want).max() <= tolerance * np.abs(want).max())


def _array(variable: Any) -> np.ndarray:
    return np.asarray(tf.convert_to_tensor(variable))


def _module_name(layer: Any) -> str:
    return layer.name.replace("_", ".")
