"""Calibration data as arrays, one for each input of a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
        ValueError: no data, data that ends early, shapes that are not those of the inputs, NaN or
            infinity, labels of some samples only.
    """
    labels = None
    if _is_array(data):
        arrays = [np.asarray(data)]
    elif _is_labelled(data, model):
        arrays, labels = _by_input(data[0], model), np.asarray(data[1])
    elif isinstance(data, list | tuple | dict) and _holds_arrays(data):
        arrays = _by_input(data, model)
    elif not isinstance(data, str | bytes) and (
        isinstance(data, Iterable) or hasattr(data, "__getitem__")
    ):
        arrays, labels = _concatenated(_batches(data), model)
    else:
        raise TypeError(
            f"calibration data cannot be a {type(data).__name__}: pass an array, a "
            "tf.data.Dataset or a Keras Sequence"
        )
    _check(arrays, model, "the calibration data")
    if labels is not None and len(labels) != len(arrays[0]):
        raise ValueError(
            f"the calibration data has {len(arrays[0])} samples, but labels of {len(labels)}"
        )
    return arrays, labels


def _concatenated(batches: Iterable[Any], model: Any) -> tuple[list[np.ndarray], np.ndarray | None]:
    parts, labels = [], []
    for number, batch in enumerate(batches):
        if isinstance(batch, tuple | list) and not _is_inputs(batch, len(model.inputs)):
            # By the rule of Keras: (inputs, labels, weights).
            labels += [np.asarray(label) for label in batch[1:2]]
            batch = batch[0] if batch else None
        parts.append(_by_input(batch, model))
        _check(parts[-1], model, f"batch {number} of the calibration data")
    if not parts:
        raise ValueError(
            "the calibration data has no batch: pass at least one, and a generator that has been "
            "read to its end anew"
        )
    arrays = [_joined(of_input, "inputs") for of_input in zip(*parts, strict=True)]
    return arrays, _joined(labels, "labels") if labels else None


def _joined(parts: Iterable[np.ndarray], what: str) -> np.ndarray:
    parts = list(parts)
    shapes = sorted({part.shape[1:] for part in parts})
    if len(shapes) > 1 or not all(part.ndim for part in parts):
        raise ValueError(
            f"the calibration data has batches with {what} of several shapes, {shapes}: all its "
            "samples take one shape"
        )
    return np.concatenate(parts)


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


def _batches(data: Any) -> Iterator[Any]:
    """Yield the batches; as many as are promised."""
    promised, batches = None, data
    if isinstance(data, tf.data.Dataset):
        promised = int(data.cardinality())
        if promised == tf.data.INFINITE_CARDINALITY:
            raise ValueError("the calibration dataset is endless: pass dataset.take(batches)")
    elif hasattr(data, "__getitem__") and hasattr(data, "__len__"):  # a Keras Sequence
        promised = len(data)
        batches = (data[i] for i in range(promised))
    count = 0
    try:
        for batch in batches:
            yield batch
            count += 1
    except (tf.errors.OpError, IndexError) as error:
        reason = getattr(error, "message", error)
        raise ValueError(
            f"the calibration data cannot be read from batch {count} on: {reason}"
        ) from error
    if promised is not None and count < promised:
        raise ValueError(
            f"the calibration data ends early, after {count} of {promised} batches: correct its "
            "length"
        )


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


def _check(arrays: list[np.ndarray], model: Any, owner: str) -> None:
    if len(arrays) != len(model.inputs):
        raise ValueError(
            f"model {model.name!r} has {len(model.inputs)} inputs, but {owner} {len(arrays)}"
        )
    for array, tensor in zip(arrays, model.inputs, strict=True):
        want = tuple(tensor.shape[1:])
        fits = array.ndim == len(want) + 1 and all(
            size in (None, given) for size, given in zip(want, array.shape[1:], strict=True)
        )
        if not fits:
            raise ValueError(
                f"input {tensor.name!r} of model {model.name!r} takes batches of shape "
                f"{(None, *want)}, but {owner} is {array.shape}"
            )
        if not len(array) or len(array) != len(arrays[0]):
            raise ValueError(
                f"{owner} has {len(array)} samples of input {tensor.name!r}, {len(arrays[0])} of "
                "the first input: pass as many, and at least one"
            )
        if array.dtype.kind in "cOUSmM":
            raise ValueError(
                f"{owner} has values of type {array.dtype} for input {tensor.name!r}: pass numbers"
            )
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            raise ValueError(
                f"{owner} has NaN or infinite values for input {tensor.name!r}: remove them"
            )
