"""Layers that are a monotone function of each channel: what thresholds can take in."""

from __future__ import annotations

from typing import Any

import numpy as np

from kerasq.keras import keras
from kerasq.layers.rprelu import RPReLU

# Activations that never fall, not by a rounding either, by name.
_RISING = ("linear", "relu", "relu6", "hard_sigmoid", "hard_tanh")


def is_normalization(layer: Any) -> bool:
    """Tell whether a layer is a BatchNormalization of the last axis."""
    if not isinstance(layer, keras.layers.BatchNormalization):
        return False
    axis = layer.axis if isinstance(layer.axis, int) else list(layer.axis)[0]
    return axis in (-1, len(input_shape(layer)) - 1)


def is_rising(activation: Any) -> bool:
    """Tell whether an activation is one that never falls."""
    return activation is None or getattr(activation, "__name__", "") in _RISING


def is_elementwise(layer: Any) -> bool:
    """Tell whether a layer is a monotone function of every element, the same for all."""
    if isinstance(layer, keras.layers.Activation):
        return is_rising(layer.activation)
    if isinstance(layer, keras.layers.ReLU):
        return layer.negative_slope >= 0 and layer.threshold >= 0
    if isinstance(layer, keras.layers.LeakyReLU):
        slope = getattr(layer, "negative_slope", None)
        return bool((layer.alpha if slope is None else slope) >= 0)
    return False


def is_channelwise(layer: Any) -> bool:
    """Tell whether a layer is a monotone function of every element, one for each channel."""
    if is_normalization(layer):
        return True
    rank = len(input_shape(layer)) if isinstance(layer, keras.layers.PReLU | RPReLU) else 0
    if isinstance(layer, keras.layers.PReLU):
        slopes = np.asarray(layer.alpha)
        return slopes.size == slopes.shape[-1] and bool(np.all(slopes >= 0))
    if isinstance(layer, RPReLU):
        return layer.axis in (-1, rank - 1) and bool(np.all(np.asarray(layer.beta) >= 0))
    return False


def evaluate(layer: Any, x: np.ndarray) -> np.ndarray:
    """Return the outputs of such a layer at inference, for arrays (n, channels)."""
    shaped = x.reshape(len(x), *[1] * (len(input_shape(layer)) - 2), x.shape[-1])
    normalizes = isinstance(layer, keras.layers.BatchNormalization)
    y = layer(shaped, training=False) if normalizes else layer(shaped)
    return np.asarray(y, np.float32).reshape(x.shape)


def input_shape(layer: Any) -> tuple:
    """Return the shape of a layer's input, the batch included."""
    return tuple(layer.input.shape)
