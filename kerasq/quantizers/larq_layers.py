"""Makes larq's layers take our quantizers by name, each layer with quantizers of its own.

larq keeps the very instance that it is given, so that one quantizer with variables in two layers
would be built twice; it builds a quantizer at its first call, under a name that counts instances,
so that variables neither exist when weights are loaded nor have the same path in every copy of a
model; and it does not tell a quantizer what it quantizes, and which axes are the filters.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Any

from kerasq.keras import keras, keras_version
from kerasq.quantizers.base import Quantizer, build_in_scope
from kerasq.quantizers.registry import (
    catalogue,
    check_target,
    clone,
    clone_for_depthwise,
    clone_for_transpose,
    for_use,
    get,
)

# The layers' quantizers, and the variable that each one quantizes.
_WEIGHTS = {
    "kernel_quantizer": "kernel",
    "depthwise_quantizer": "depthwise_kernel",
    "pointwise_quantizer": "pointwise_kernel",
}
_MARK = "_kerasq_attached"


def attach() -> None:
    """Teach an installed larq our quantizers. Once; nothing under Keras 3, which larq lacks."""
    if keras_version() != 2 or not _tensorflow_keras_is_2():
        return
    try:
        import larq
        from larq import layers_base
    except ImportError:
        return
    if getattr(larq.quantizers, _MARK, False):
        return
    larq.quantizers.get = _cloning(larq.quantizers.get)
    base = layers_base.BaseLayer
    base.__init__ = _with_own_quantizers(base.__init__)
    base.build = _building_quantizers(base)
    # The summary counts every variable but a bias as an operand of multiplications.
    larq.models.WeightProfile.is_bias = _no_operand(larq.models.WeightProfile.is_bias)
    setattr(larq.quantizers, _MARK, True)


def _tensorflow_keras_is_2() -> bool:
    """Tell whether ``import tensorflow.keras``, as larq does it, finds Keras 2.

    It does not where `tf_keras` was imported without ``TF_USE_LEGACY_KERAS``: larq then cannot be
    imported, and an attempt would turn ``tf.keras`` to Keras 3.
    """
    spec = importlib.util.find_spec("tensorflow.keras")
    return spec is not None and "tf_keras" in Path(spec.origin or "").parts


def _cloning(larq_get: Any) -> Any:
    @functools.wraps(larq_get)
    def wrapped(identifier: Any) -> Any:
        if isinstance(identifier, str) and identifier in catalogue():
            # A name that larq has itself (`ste_sign`) stays larq's own quantizer.
            found = keras.utils.get_custom_objects().get(identifier)
            if isinstance(found, type) and issubclass(found, Quantizer):
                return get(identifier)
        quantizer = larq_get(identifier)
        return clone(quantizer) if isinstance(quantizer, Quantizer) else quantizer

    return wrapped


def _with_own_quantizers(init: Any) -> Any:
    @functools.wraps(init)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> None:
        # The subclasses of larq's base layer have set their kernels' quantizers before.
        init(self, *args, **kwargs)
        for name in ("input_quantizer", *_WEIGHTS):
            quantizer = getattr(self, name, None)
            if isinstance(quantizer, Quantizer):
                setattr(self, name, _own(self, quantizer, name))

    return wrapped


def _own(layer: Any, quantizer: Quantizer, name: str) -> Quantizer:
    use = "weights" if name in _WEIGHTS else "activations"
    check_target(quantizer, use, f"larq {type(layer).__name__} {layer.name!r}, {name}")
    own = for_use(quantizer, use, name=name)
    if name == "depthwise_quantizer":
        return clone_for_depthwise(own)
    transposed = (keras.layers.Conv2DTranspose, keras.layers.Conv3DTranspose)
    if name == "kernel_quantizer" and isinstance(layer, transposed):
        return clone_for_transpose(own)
    return own


def _building_quantizers(base: type) -> Any:
    def build(self: Any, input_shape: Any) -> None:
        super(base, self).build(input_shape)
        for name in ("input_quantizer", *_WEIGHTS):
            quantizer = getattr(self, name, None)
            if isinstance(quantizer, Quantizer):
                weights = _WEIGHTS.get(name)
                build_in_scope(quantizer, getattr(self, weights).shape if weights else input_shape)

    return build


def _no_operand(is_bias: Any) -> Any:
    @functools.wraps(is_bias)
    def wrapped(self: Any) -> bool:
        return is_bias(self) or "_quantizer/" in self._weight.name

    return wrapped
