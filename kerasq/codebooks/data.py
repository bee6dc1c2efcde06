"""Calibration data as arrays, one for each input of a model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf


def calibration_data(data: Any, model: Any) -> tuple[list[np.ndarray], np.ndarray | None]:
    """Return the inputs, one array for each of the model, and the labels where there are any.

    The data is read once: a shuffled dataset would give labels in another order the second time.

    Args:
        data: an array, or a list, tuple or dict of one for each input; (inputs, labels) of such;
            or a ``tf.data.Dataset``, Keras ``Sequence`` or other iterable of batches, each of which
            may be (inputs, labels, ...).
        model: built Sequential or Functional model.

    Raises:
        TypeError: data of another kind.
        ValueError: no data, shapes that are not those of the inputs, NaN or infinity, labels of
            some samples only.
    """
    labels = None
    if _is_array(data):
        arrays = [np.asarray(data)]
    elif _is_labelled(data, model):
        arrays, labels = _by_input(data[0], model), np.asarray(data[1])
    elif isinstance(data, list | tuple | dict) and _holds_arrays(data):
        arrays = _by_input(data, model)
    elif isinstance(data, Iterable) or hasattr(data, "__getitem__"):
        arrays, labels = _concatenated(_batches(data), model)
    else:
        raise TypeError(
            f"calibration data cannot be a {type(data).__name__}: pass an array, a "
            "tf.data.Dataset or a Keras Sequence"
        )
    _check(arrays, model)
    if labels is not None and len(labels) != len(arrays[0]):
        raise ValueError(
            f"the calibration data has {len(arrays[0])} samples, but labels of {len(labels)}"
        )
    return arrays, labels


def _concatenated(batches: Iterable[Any], model: Any) -> tuple[list[np.ndarray], np.ndarray | None]:
    parts, labels = [], []
    for batch in batches:
        if isinstance(batch, tuple | list) and not _is_inputs(batch, len(model.inputs)):
            # By the rule of Keras: (inputs, labels, weights).
            labels += [np.asarray(label) for label in batch[1:2]]
            batch = batch[0]
        parts.append(_by_input(batch, model))
    if not parts:
        raise ValueError("the calibration data has no batch: pass at least one")
    arrays = [np.concatenate(of_input) for of_input in zip(*parts, strict=True)]
    return arrays, np.concatenate(labels) if labels else None


def _is_labelled(data: Any, model: Any) -> bool:
    """Tell whether data is (inputs, labels) as arrays."""
    if not isinstance(data, list | tuple) or len(data) < 2 or not _is_array(data[1]):
        return False
    if _is_array(data[0]):
        return len(model.inputs) == 1
    return isinstance(data[0], list | tuple | dict) and _holds_arrays(data[0])


def _is_inputs(batch: Any, inputs: int) -> bool:
    return inputs > 1 and len(batch) == inputs and _holds_arrays(batch)


def _holds_arrays(data: Any) -> bool:
    items = data.values() if isinstance(data, dict) else data
    return all(_is_array(x) for x in items)


def _is_array(data: Any) -> bool:
    return isinstance(data, np.ndarray) or tf.is_tensor(data)


def _batches(data: Any) -> Iterable[Any]:
    if isinstance(data, tf.data.Dataset):
        if data.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise ValueError("the calibration dataset is endless: pass dataset.take(batches)")
        return data
    if hasattr(data, "__getitem__") and hasattr(data, "__len__"):  # a Keras Sequence
        return (data[i] for i in range(len(data)))
    return data


def _by_input(inputs: Any, model: Any) -> list[np.ndarray]:
    if isinstance(inputs, dict):
        names = model.input_names if hasattr(model, "input_names") else None
        names = names or [tensor.name for tensor in model.inputs]
        missing = [name for name in names if name not in inputs]
        if missing:
            raise ValueError(
                f"the calibration data lacks the inputs {missing} of model {model.name!r}"
            )
        return [np.asarray(inputs[name]) for name in names]
    if not isinstance(inputs, list | tuple):
        return [np.asarray(inputs)]
    return [np.asarray(x) for x in inputs]


def _check(arrays: list[np.ndarray], model: Any) -> None:
    if len(arrays) != len(model.inputs):
        raise ValueError(
            f"model {model.name!r} has {len(model.inputs)} inputs, but the calibration data "
            f"{len(arrays)}"
        )
    for array, tensor in zip(arrays, model.inputs, strict=True):
        want = tuple(tensor.shape[1:])
        fits = array.ndim == len(want) + 1 and all(
            size in (None, given) for size, given in zip(want, array.shape[1:], strict=True)
        )
        if not fits:
            raise ValueError(
                f"input {tensor.name!r} of model {model.name!r} takes batches of shape "
                f"{(None, *want)}, but the calibration data is {array.shape}"
            )
        if not len(array) or len(array) != len(arrays[0]):
            raise ValueError(
                f"the calibration data of input {tensor.name!r} has {len(array)} samples, the "
                f"first input {len(arrays[0])}: pass as many, and at least one"
            )
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            raise ValueError(
                f"the calibration data of input {tensor.name!r} has NaN or infinite values: "
                "remove them"
            )
