"""Makes larq's layers take our quantizers by name, each layer with a quantizer of its own.

larq keeps the very instance that it is given, so that one quantizer with variables in two layers
would be built twice; and its depthwise layers do not tell a quantizer which axes are the filters.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Any

from kerasq.keras import keras, keras_version
from kerasq.quantizers.base import Quantizer
from kerasq.quantizers.registry import catalogue, clone, clone_for_depthwise, get

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
    for base in (layers_base.QuantizerDepthwiseBase, layers_base.QuantizerSeparableBase):
        base.__init__ = _per_filter(base.__init__)
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


def _per_filter(init: Any) -> Any:
    @functools.wraps(init)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        if isinstance(self.depthwise_quantizer, Quantizer):
            self.depthwise_quantizer = clone_for_depthwise(self.depthwise_quantizer)

    return wrapped
