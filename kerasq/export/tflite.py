"""Write a model as a ``.tflite`` file, with the stock converter."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf

from kerasq.export.deploy import deploy, packed_layers
from kerasq.export.inspection import inspect


def convert(model: Any, path: str | os.PathLike[str] | None = None) -> bytes:
    """Convert a trained model to a ``.tflite`` that stores its kernels packed.

    Every layer with a quantized kernel becomes one custom operator of kerasq
    (see :mod:`kerasq.export.operators`); all else is what TensorFlow's own converter makes of it.

    Args:
        model: a built Sequential or Functional model of the active Keras: layers of kerasq, layers
            of larq, a model wrapped by TFMOT, or one made by ``kerasq.codebooks.compress``.
        path: where to write the file; it appears whole or not at all.

    Returns:
        The file's bytes.

    Raises:
        TypeError: no model, a subclassed one, or one of the Keras that is not active.
        ValueError: the model is not built, or a layer cannot be stored; the message names it.
        RuntimeError: the converter split a packed layer, or dropped one.
    """
    deployed = deploy(model)
    converter = tf.lite.TFLiteConverter.from_keras_model(deployed)
    converter.allow_custom_ops = True
    with quiet():
        content = converter.convert()
    expected = len(packed_layers(deployed))
    found = sum(operator.is_custom for operator in inspect(content).operators)
    if found < expected:
        raise RuntimeError(
            f"the converter kept {found} of {expected} packed layers of model {model.name!r} "
            "whole. This is a mismatch with the installed TensorFlow "
            f"({tf.__version__}): kerasq is tested with the range its package states"
        )
    if path is not None:
        write_whole(path, content)
    return content


def write_whole(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file that appears whole or not at all."""
    path = Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the converter's chatter, which TensorFlow writes to file descriptors 1 and 2, away.

    It is shown if the conversion fails.
    """
    with tempfile.TemporaryFile() as log:
        saved = [os.dup(1), os.dup(2)]
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        failed = True
        try:
            yield
            failed = False
        finally:
            for descriptor, original in zip((1, 2), saved, strict=True):
                os.dup2(original, descriptor)
                os.close(original)
            if failed:
                log.seek(0)
                os.write(2, log.read())
