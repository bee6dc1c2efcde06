"""Write a model as a ``.tflite`` file, with the stock converter."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from kerasq.export.deploy import deploy, packed_operators
from kerasq.export.inspection import inspect
from kerasq.export.lowering import lower
from kerasq.files import write_whole


def convert(
    model: Any,
    path: str | os.PathLike[str] | None = None,
    *,
    integer: bool = False,
    calibration_data: Any = None,
) -> bytes:
    """Convert a trained model to a ``.tflite`` that stores its kernels packed.

    Every layer with a quantized kernel becomes one custom operator of kerasq
    (see :mod:`kerasq.export.operators`), or, on a uniform grid that TFLite's own integers hold, an
    operator of TFLite with an int8 or int4 kernel (see :mod:`kerasq.export.native`); all else is
    what TensorFlow's own converter makes of it.

    Args:
        model: a built Sequential or Functional model of the active Keras: layers of kerasq, layers
            of larq, a model wrapped by TFMOT, or one made by ``kerasq.codebooks.compress``.
        path: where to write the file; it appears whole or not at all.
        integer: compute in int8 where a layer with a kernel of 5 to 8 bits lies between two
            activation quantizers with fixed grids. Activations are no longer all equal to those
            of Keras: TFLite rounds the bias to a whole number of its units, which moves an
            activation by one step where it lies that close to the middle between two. Measure the
            accuracy, and the speed on the device that is meant.
        calibration_data: some of the model's inputs, as an array (N, ...), a ``tf.data.Dataset`` or
            a sequence of batches. With it, codebook operators get look-up tables of 8 bits (see
            :class:`kerasq.export.operators.ByteTables`), which are faster, and codewords of int8:
            codebooks by position of at most 256 codewords of 2 to 512 weights. Inputs, codewords
            and tables are rounded, so that predictions are no longer quite those of Keras, but
            those of the deployed model.

    Returns:
        The file's bytes.

    Raises:
        TypeError: no model, a subclassed one, or one of the Keras that is not active.
        ValueError: the model is not built, or a layer cannot be stored; the message names it; or
            calibration data without a codebook that it could serve, empty or not finite.
        RuntimeError: the converter split a packed layer, or dropped one.
    """
    content = convert_deployed(deploy(model, integer, calibration_data))
    if path is not None:
        write_whole(path, content)
    return content


def convert_deployed(deployed: Any) -> bytes:
    """Convert what :func:`kerasq.deploy` made of a model.

    Raises:
        RuntimeError: the converter split a packed layer, or dropped one.
    """
    converter = tf.lite.TFLiteConverter.from_keras_model(deployed)
    converter.allow_custom_ops = True
    with quiet():
        content = converter.convert()
    expected = packed_operators(deployed)
    found = sum(operator.is_custom for operator in inspect(content).operators)
    if found < expected:
        raise RuntimeError(
            f"the converter kept {found} of {expected} operators of kerasq in model "
            f"{deployed.name!r} whole. This is a mismatch with the installed TensorFlow "
            f"({tf.__version__}): kerasq is tested with the range its package states"
        )
    return lower(content)


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
