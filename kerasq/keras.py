"""The active Keras: version 2 (``tf_keras``) or version 3 (``keras``), resolved once.

The rule: what is already there is followed. ``TF_USE_LEGACY_KERAS`` decides where it is set;
otherwise an imported ``tf_keras`` means Keras 2 and an imported ``tensorflow`` or ``keras`` means
Keras 3. Where nothing is imported yet, Keras 2 is selected, since larq and TFMOT need it.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
from typing import Any, TypeVar

_LEGACY = "TF_USE_LEGACY_KERAS"
_TRUE = ("1", "true", "True")


def _select() -> int:
    if _LEGACY in os.environ:
        return 2 if os.environ[_LEGACY] in _TRUE else 3
    if "tf_keras" not in sys.modules and ("tensorflow" in sys.modules or "keras" in sys.modules):
        return 3
    # TensorFlow reads the variable when `tf.keras` is first used: larq, which writes `tf.keras`,
    # then gets the same Keras as we do.
    os.environ[_LEGACY] = "1"
    return 2


_VERSION = _select()


@functools.cache
def _module() -> Any:
    """Import the active Keras, on first use: ``import kerasq`` stays quick and only selects."""
    module = importlib.import_module("tf_keras" if _VERSION == 2 else "keras")
    if _VERSION == 3 and module.backend.backend() != "tensorflow":
        raise ImportError(
            f"kerasq needs Keras 3 on TensorFlow, but its backend is "
            f"{module.backend.backend()!r}: set KERAS_BACKEND=tensorflow before importing keras"
        )
    return module


def __getattr__(name: str) -> Any:
    if name == "keras":
        return _module()
    raise AttributeError(f"module 'kerasq.keras' has no attribute {name!r}")


def keras_version() -> int:
    """Return the major version of the active Keras: 2 (``tf_keras``) or 3 (``keras``)."""
    return _VERSION


_Class = TypeVar("_Class", bound=type)


def register(cls: _Class) -> _Class:
    """Register a class for saving and loading, as ``kerasq>Name`` and as the bare ``Name``.

    The bare name is for layers of larq, whose h5 configurations hold quantizers without their
    package.
    """
    _module().utils.register_keras_serializable(package="kerasq")(cls)
    _module().utils.get_custom_objects()[cls.__name__] = cls
    return cls


def is_foreign(obj: Any) -> bool:
    """Tell whether ``obj`` belongs to the Keras that is not active."""
    active, other = ("tf_keras", "keras") if _VERSION == 2 else ("keras", "tf_keras")
    roots = {base.__module__.split(".")[0] for base in type(obj).__mro__}
    return other in roots and active not in roots


def check_model(model: Any, purpose: str) -> None:
    """Raise one clear error unless ``model`` is a built Sequential or Functional model.

    Args:
        model: what the user passed.
        purpose: what it is needed for, as a verb ("compress", "convert").

    Raises:
        TypeError: not a model, a model of the Keras that is not active, or a subclassed model.
        ValueError: the model has no weights and shapes yet.
    """
    if is_foreign(model):
        other = 3 if _VERSION == 2 else 2
        flag = "0" if _VERSION == 2 else "1"
        raise TypeError(
            f"cannot {purpose} a model of Keras {other}: kerasq is running with Keras {_VERSION}. "
            f"Set {_LEGACY}={flag} in the environment before Python starts"
        )
    if not isinstance(model, _module().Model):
        raise TypeError(f"cannot {purpose} a {type(model).__name__}: pass a Keras model")
    is_sequential = isinstance(model, _module().Sequential)
    if is_sequential and not (model.built and model.inputs):
        raise ValueError(
            f"cannot {purpose} model {model.name!r} before it is built: give its first layer an "
            "Input, or call model.build(input_shape)"
        )
    if not is_sequential and not getattr(model, "inputs", None):
        raise TypeError(
            f"cannot {purpose} the subclassed model {model.name!r}: its graph of layers is not "
            "known. Write it with the Functional API or as a Sequential"
        )
