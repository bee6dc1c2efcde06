"""Arguments that cannot be right, refused before the work starts."""

from __future__ import annotations

import inspect
import numbers
import os
from typing import Any

import numpy as np
import tensorflow as tf

from kerasq.codebooks.finetuning import flat_layers
from kerasq.codebooks.method import Method

_TYPES: dict[str, Any] = {
    "int": numbers.Integral,
    "float": numbers.Real,
    "bool": (bool, np.bool_),
    "str": str,
    "None": type(None),
}


def check_arguments(
    batch_size: Any,
    checkpoint_dir: Any,
    report: Any,
    augment: Any,
    callback: Any,
    strategy: Any,
) -> None:
    """Raise where an argument of `compress` is of another kind.

    Raises:
        TypeError: a path that is none, a function that is none, a strategy that is none.
        ValueError: a batch size that is not a whole number of 1 or more.
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, numbers.Integral):
        raise TypeError(f"batch_size is a {type(batch_size).__name__}: pass a whole number")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    for name, path in (("checkpoint_dir", checkpoint_dir), ("report", report)):
        if path is not None and not isinstance(path, str | os.PathLike):
            raise TypeError(f"{name} is a {type(path).__name__}: pass a path")
    for name, function in (("augment", augment), ("callback", callback)):
        if function is not None and not callable(function):
            raise TypeError(f"{name} is a {type(function).__name__}: pass a function")
    if strategy is not None and not isinstance(strategy, tf.distribute.Strategy):
        raise TypeError(f"strategy is a {type(strategy).__name__}: pass a tf.distribute.Strategy")


def check_settings(method: Method) -> None:
    """Raise where a setting is of another type than the constructor's annotation.

    Annotations of other types than numbers, strings, booleans and None are not looked at.

    Raises:
        TypeError: naming the setting.
        ValueError: a number that is not finite, or a negative seed.
    """
    owner, config = type(method).__name__, method.get_config()
    for name, parameter in inspect.signature(type(method)).parameters.items():
        kinds = str(parameter.annotation).split(" | ")
        if name not in config or not set(kinds) <= _TYPES.keys():
            continue
        value = config[name]
        fits = isinstance(value, tuple(_TYPES[kind] for kind in kinds))
        if not fits or (isinstance(value, bool) and "bool" not in kinds):
            raise TypeError(f"{owner}: {name} is {value!r}, pass {parameter.annotation}")
        if isinstance(value, float) and not np.isfinite(value):
            raise ValueError(f"{owner}: {name} must be finite, got {value}")
    if method.seed < 0:
        raise ValueError(f"{owner}: seed must be at least 0, got {method.seed}")


def check_finite(model: Any, remedy: str) -> None:
    """Raise where a model has weights that are NaN or infinite.

    Raises:
        ValueError: naming the layer.
    """
    for layer in flat_layers(model):
        for weight in layer.weights:
            value = tf.convert_to_tensor(weight)
            if not value.dtype.is_floating or tf.reduce_all(tf.math.is_finite(value)):
                continue
            bad = int(tf.reduce_sum(tf.cast(~tf.math.is_finite(value), tf.int64)))
            name = weight.name.split("/")[-1].split(":")[0]
            raise ValueError(
                f"the {name} of layer {layer.name!r} has {bad} NaN or infinite weights: {remedy}"
            )
