"""TFMOT's ``quantize_apply`` for models in models."""

from __future__ import annotations

from typing import Any

import tensorflow_model_optimization as tfmot
from tensorflow_model_optimization.python.core.quantization.keras import quantize_annotate

from kerasq.keras import check_model, keras
from kerasq.tfmot.quantize_config import quantize_scope


def quantize_apply(model: Any, **kwargs: Any) -> Any:
    """Return a copy of an annotated model that quantizes its annotated layers.

    TFMOT's ``quantize_apply``, with our classes known to it, and for nested models too: each one
    is quantized by itself, as TFMOT would alone.

    Args:
        model: a Sequential or Functional model; layers of it, or of models in it, are annotated by
            ``tfmot.quantization.keras.quantize_annotate_layer``.
        **kwargs: as for TFMOT's function: scheme, quantized_layer_name_prefix.

    Raises:
        TypeError: not a model, or a subclassed one.
        ValueError: no layer is annotated.
    """
    check_model(model, "quantize")
    if not _annotated(model, nested=True):
        raise ValueError(
            f"model {model.name!r} has no layer to quantize: annotate some by "
            "tfmot.quantization.keras.quantize_annotate_layer(layer, QuantizeConfig(...))"
        )
    with quantize_scope():
        return _apply(model, kwargs)


def _apply(model: Any, kwargs: dict[str, Any]) -> Any:
    if any(isinstance(layer, keras.Model) for layer in model.layers):
        model = _with_nested(model, kwargs)
    return tfmot.quantization.keras.quantize_apply(model, **kwargs) if _annotated(model) else model


def _with_nested(model: Any, kwargs: dict[str, Any]) -> Any:
    """Return a copy of a model whose nested models are quantized."""
    nested: dict[str, Any] = {}

    def copied(layer: Any) -> Any:
        if not isinstance(layer, keras.Model):
            return type(layer).from_config(layer.get_config())
        check_model(layer, "quantize")
        nested[layer.name] = _apply(layer, kwargs)
        return nested[layer.name]

    copy = keras.models.clone_model(model, clone_function=copied)
    for layer in model.layers:
        if layer.name not in nested:
            copy.get_layer(layer.name).set_weights(layer.get_weights())
    return copy


def _annotated(model: Any, nested: bool = False) -> bool:
    """Tell whether a layer of a model, or of a model in it, is annotated."""
    return any(
        isinstance(layer, quantize_annotate.QuantizeAnnotate)
        or (nested and isinstance(layer, keras.Model) and _annotated(layer, nested))
        for layer in model.layers
    )
