"""Showing data to a model, so that its quantizers gather their ranges."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from kerasq.quantizers.base import observing


def calibrate(model: Any, data: Any, steps: int | None = None, batch_size: int = 32) -> None:
    """Run data through a model so that its quantizers gather their state, as in training.

    Everything else is in inference mode: weights, BatchNormalization and Dropout stay as they are.

    Args:
        model: Keras model with quantizers in its layers.
        data: array of inputs, or a ``tf.data.Dataset``, Keras ``Sequence`` or other iterable of
            batches, each of inputs or (inputs, labels, ...).
        steps: how many batches at most; None takes all.
        batch_size: of an array.

    Raises:
        ValueError: no batch, an endless dataset without steps, or a model without quantizers.
    """
    count = 0
    with observing() as observers:
        for inputs in itertools.islice(input_batches(data, steps, batch_size), steps):
            model(inputs, training=False)
            count += 1
    if not count:
        raise ValueError("calibrate: the data has no batch: pass at least one")
    if not observers:
        raise ValueError(f"calibrate: model {model.name!r} has no quantizer in its layers")


def input_batches(data: Any, steps: int | None = None, batch_size: int = 32) -> Iterator[Any]:
    """Yield the inputs of each batch.

    Args:
        data: as of :func:`calibrate`.
        steps: how many batches the caller takes; None for all.
        batch_size: of an array.

    Raises:
        ValueError: an endless dataset without steps.
    """
    for batch in _batches(data, steps, batch_size):
        yield batch[0] if isinstance(batch, tuple) else batch


def _batches(data: Any, steps: int | None, batch_size: int) -> Iterable[Any]:
    if isinstance(data, np.ndarray) or tf.is_tensor(data):
        return (data[i : i + batch_size] for i in range(0, len(data), batch_size))
    if isinstance(data, tf.data.Dataset):
        if steps is None and data.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise ValueError("the dataset is endless: take some of it, data.take(steps)")
        return data
    if hasattr(data, "__getitem__") and hasattr(data, "__len__"):  # a Keras Sequence
        return (data[i] for i in range(len(data)))
    return data
