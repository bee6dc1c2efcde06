"""Repairs of TFMOT's saving.

TFMOT builds a QuantizeLayer twice on loading, which doubles its variables, and Keras stores the
variables of a layer by their order, which a QuantizeWrapper changes at its first call. Here a
QuantizeLayer is built once, and both classes store their variables by name. An h5 file and
``get_weights`` go by the order all the same: a QuantizeWrapper has its layer's variables first,
also where the layer was not yet built when it was wrapped.

A QuantizeWrapper leaves quantized tensors of some finished graph in the layer it wraps, which a
SavedModel of a transposed or separable convolution cannot hold: here the layer gets its variables
back after each call.

TFMOT does not tell a quantizer of activations the shape that it is for: a QuantizeWrapper remembers
that of its inputs.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from typing import Any

import tensorflow as tf
import tensorflow_model_optimization as tfmot
from tensorflow_model_optimization.python.core.quantization.keras import (
    quantize_layer,
    quantize_wrapper,
)

KNOWN = ("0.8.",)
_MARK = "_kerasq_mended"


def mend() -> None:
    """Repair an installed TFMOT of a known version, once; warn about an unknown one."""
    layer, wrapper = quantize_layer.QuantizeLayer, quantize_wrapper.QuantizeWrapper
    if getattr(layer, _MARK, False):
        return
    setattr(layer, _MARK, True)
    wrapper.build = _remembering(wrapper.build)
    if not tfmot.__version__.startswith(KNOWN):
        warnings.warn(
            f"kerasq.tfmot knows TFMOT {', '.join(v + 'x' for v in KNOWN)}, not "
            f"{tfmot.__version__}: its saving in the .keras format is left as it is",
            stacklevel=3,
        )
        return
    layer.build = _once(layer.build)
    for cls in (layer, wrapper):
        cls.save_own_variables = _save_by_name
        cls.load_own_variables = _load_by_name
    quantize_wrapper.QuantizeWrapperV2.build = _after_the_layer(
        quantize_wrapper.QuantizeWrapperV2.build
    )
    quantize_wrapper.QuantizeWrapperV2.call = _restoring(quantize_wrapper.QuantizeWrapperV2.call)


def _scope_of(layer: Any) -> Any:
    """Return the scope that a layer's variables need for paths of their own in an h5 file.

    Keras opens it where a layer is called, not where it is built from a config (in a model in a
    model).
    """
    inside = tf.get_current_name_scope().split("/")[-1] == layer.name
    return contextlib.nullcontext() if inside else tf.name_scope(layer.name)


def _once(build: Any) -> Any:
    @functools.wraps(build)
    def wrapped(self: Any, input_shape: Any) -> None:
        if not hasattr(self, "optimizer_step"):
            with _scope_of(self):
                build(self, input_shape)

    return wrapped


def _remembering(build: Any) -> Any:
    @functools.wraps(build)
    def wrapped(self: Any, input_shape: Any) -> None:
        self.input_shape_of_build = input_shape
        build(self, input_shape)

    return wrapped


def _after_the_layer(build: Any) -> Any:
    @functools.wraps(build)
    def wrapped(self: Any, input_shape: Any) -> None:
        with _scope_of(self):
            if not self.layer.built:
                self.layer.build(input_shape)
                self.layer.built = True
            build(self, input_shape)

    return wrapped


def _restoring(call: Any) -> Any:
    @functools.wraps(call)
    def wrapped(self: Any, inputs: Any, training: Any = None, **kwargs: Any) -> Any:
        latent = {id(weight): weight for weight, _, _ in self._weight_vars}
        places = {name: v for name, v in vars(self.layer).items() if id(v) in latent}
        try:
            return call(self, inputs, training=training, **kwargs)
        finally:
            for name, variable in places.items():
                setattr(self.layer, name, variable)

    return wrapped


def _own_variables(layer: Any) -> dict[str, Any]:
    """Return the variables of a layer and of the layer in it, by the end of their names.

    The front of a name depends on where the layer was built, and a QuantizeLayer puts its own name
    before those of its variables: weights are loaded into layers of other names. A variable of one
    of our quantizers keeps its quantizer's name: two quantizers may call a variable the same.
    """
    named: dict[str, Any] = {}
    inner = getattr(layer, "layer", None)
    inner_weights = [] if inner is None else inner.weights
    own = [*layer._trainable_weights, *layer._non_trainable_weights, *inner_weights]
    for variable in {id(v): v for v in own}.values():
        parts = variable.name.split(":")[0].split("/")
        ours = len(parts) > 1 and parts[-2].endswith("_quantizer")
        key = ".".join(parts[-2:]) if ours else parts[-1].removeprefix(f"{layer.name}_")
        if key in named:
            raise ValueError(
                f"layer {layer.name!r} has two variables called {key!r}: kerasq.tfmot cannot save "
                "it in the .keras format; save it as a SavedModel"
            )
        named[key] = variable
    return named


def _save_by_name(self: Any, store: Any) -> None:
    for key, variable in _own_variables(self).items():
        store[key] = variable.numpy()


def _load_by_name(self: Any, store: Any) -> None:
    named = _own_variables(self)
    if set(store.keys()) != set(named):
        raise ValueError(
            f"layer {self.name!r} has the variables {sorted(named)}, but the file holds "
            f"{sorted(store.keys())}: it was saved by another version, or without importing "
            "kerasq.tfmot first"
        )
    for key, variable in named.items():
        variable.assign(store[key])
