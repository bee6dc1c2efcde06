"""Calibration data as arrays, one for each input of a model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf


def calibration_arrays(data: Any, model: Any) -> list[np.ndarray]:
    """Return the data as one array for each model input, images first.

    Args:
        data: an array, or a list, tuple or dict of one for each input; or a ``tf.data.Dataset``,
            Keras ``Sequence`` or other iterable of batches. A batch may be (inputs, labels, ...):
            the labels are not used.
        model: built Sequential or Functional model.

    Raises:
        TypeError: data of another kind.
        ValueError: no data, shapes that are not those of the inputs, NaN or infinity.
    """
    if isinstance(data, np.ndarray) or tf.is_tensor(data):
        arrays = [np.asarray(data)]
    elif isinstance(data, list | tuple | dict) and _holds_arrays(data):
        arrays = _by_input(data, model)
    elif isinstance(data, Iterable) or hasattr(data, "__getitem__"):
        parts = [_by_input(_inputs_of(batch, model), model) for batch in _batches(data)]
        if not parts:
            raise ValueError("the calibration data has no batch: pass at least one")
        arrays = [np.concatenate(of_input) for of_input in zip(*parts, strict=True)]
    else:
        raise TypeError(
            f"calibration data cannot be a {type(data).__name__}: pass an array, a "
            "tf.data.Dataset or a Keras Sequence"
        )
    _check(arrays, model)
    return arrays


def labels_of(data: Any, model: Any) -> np.ndarray | None:
    """Return the labels of (inputs, labels), as one array; None where there are none.

    Args:
        data: as of `calibration_arrays`.
        model: built Sequential or Functional model.
    """
    if isinstance(data, np.ndarray | dict) or tf.is_tensor(data):
        return None
    inputs = len(model.inputs)
    if isinstance(data, list | tuple) and _holds_arrays(data):
        return np.asarray(data[1]) if inputs == 1 and len(data) > 1 else None
    parts = [
        np.asarray(batch[1])
        for batch in _batches(data)
        if isinstance(batch, tuple | list) and len(batch) > 1 and not _is_inputs(batch, inputs)
    ]
    return np.concatenate(parts) if parts else None


def _is_inputs(batch: Any, inputs: int) -> bool:
    return inputs > 1 and len(batch) == inputs and _holds_arrays(batch)


def _holds_arrays(data: Any) -> bool:
    items = data.values() if isinstance(data, dict) else data
    return all(isinstance(x, np.ndarray) or tf.is_tensor(x) for x in items)


def _batches(data: Any) -> Iterable[Any]:
    if isinstance(data, tf.data.Dataset):
        if data.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise ValueError("the calibration dataset is endless: pass dataset.take(batches)")
        return data
    if hasattr(data, "__getitem__") and hasattr(data, "__len__"):  # a Keras Sequence
        return (data[i] for i in range(len(data)))
    return data


def _inputs_of(batch: Any, model: Any) -> Any:
    """Return a batch without its labels, by the rule of Keras: (inputs, labels, weights)."""
    if isinstance(batch, tuple | list) and not _is_inputs(batch, len(model.inputs)):
        return batch[0]
    return batch


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
    if len(model.inputs) == 1 and len(inputs) > 1:
        inputs = inputs[:1]  # (inputs, labels)
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
