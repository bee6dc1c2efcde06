"""A copy of a model with other layers in the place of some layers."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from kerasq.codebooks.method import LayerSettings
from kerasq.codebooks.program import is_graph
from kerasq.keras import keras


def clone_with_replacements(
    model: Any, settings: dict[int, LayerSettings]
) -> tuple[Any, dict[int, Any]]:
    """Copy a model, weights included, with untrained replacements in some places.

    Args:
        model: Sequential or Functional.
        settings: of the layers to replace, by their ``id``.

    Returns:
        The copy, and its replacements by the ``id`` of the layers they replace.
    """
    copies: dict[int, tuple[Any, Any]] = {}

    def copy(layer: Any) -> Any:
        if id(layer) not in copies:
            copies[id(layer)] = (layer, _copy(layer))
        return copies[id(layer)][1]

    def _copy(layer: Any) -> Any:
        if id(layer) in settings:
            return settings[id(layer)].replacement(layer)
        if is_graph(layer):
            return _clone_graph(layer, copy)
        if type(layer) is keras.layers.Lambda:
            return _lambda(layer)
        return layer.__class__.from_config(layer.get_config())

    clone = _clone_graph(model, copy)
    for key, (layer, twin) in copies.items():
        if key in settings:
            # A bias that is computed, such as a hashed one, has weights of its own.
            if getattr(layer, "use_bias", False) and hasattr(twin.bias, "assign"):
                twin.bias.assign(tf.convert_to_tensor(layer.bias))
        elif isinstance(layer, keras.layers.Layer) and not is_graph(layer):
            twin.set_weights(layer.get_weights())
    return clone, {key: copies[key][1] for key in settings}


def _clone_graph(model: Any, copy: Any) -> Any:
    clone = keras.models.clone_model(model, clone_function=copy)
    if not clone.built or not getattr(clone, "inputs", None):
        clone.build(model.input_shape)
    if not model.trainable:
        clone.trainable = False  # goes down to all its layers, so only then
    return clone


def _lambda(layer: Any) -> Any:
    # Through its configuration a function would lose its module, and Keras 3 refuses it.
    return keras.layers.Lambda(
        layer.function,
        output_shape=layer._output_shape,
        mask=layer.mask,
        arguments=layer.arguments,
        name=layer.name,
        dtype=layer.dtype,
    )
