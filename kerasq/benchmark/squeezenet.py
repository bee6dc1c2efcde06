"""The published Deep Compression of SqueezeNet, on photographs.

``python -m kerasq.benchmark.squeezenet compressed_SqueezeNet.net PHOTOS``, where the folder of
photographs also holds ``imagenet_labels.txt``.
"""

from __future__ import annotations

import argparse
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from rich.table import Table

from kerasq.benchmark.progress import stage
from kerasq.benchmark.report import write_json
from kerasq.codebooks.deep_compression_files import read_net
from kerasq.export import convert
from kerasq.export.summary import table_console
from kerasq.keras import keras
from kerasq.layers import CodebookConv2D
from kerasq.runtime import Interpreter

SIDE = 227
_MEAN = np.array([104, 117, 123], np.float32)  # of the pixels: blue, green, red
_POOLED = (1, 4, 8)  # a pooling follows conv1, fire4 and fire8


def squeezenet(convolution: Callable[..., Any] | None = None) -> Any:
    """Build SqueezeNet v1.0, from images to the 1000 averaged maps of its last convolution.

    Images are (227, 227, 3): blue, green, red, less their means. Caffe rounds the size of a pooled
    map up, and TensorFlow down; from 227 pixels on, all three poolings divide. The last
    convolution has one pixel of padding, though its kernel is 1x1: the average is of 15x15.

    Args:
        convolution: makes a convolution, with the arguments of ``keras.layers.Conv2D``, which it is
            where not given.

    Reference: Iandola et al., SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and
    <0.5MB model size, arXiv:1602.07360
    """
    convolution = convolution or keras.layers.Conv2D
    x = inputs = keras.Input((SIDE, SIDE, 3), name="images")
    x = convolution(96, 7, 2, activation="relu", name="conv1")(x)
    x = keras.layers.MaxPooling2D(3, 2, name="pool1")(x)
    squeezed = (16, 16, 32, 32, 48, 48, 64, 64)
    for fire, width in enumerate(squeezed, 2):
        x = _fire(x, width, f"fire{fire}", convolution)
        if fire in _POOLED:
            x = keras.layers.MaxPooling2D(3, 2, name=f"pool{fire}")(x)
    x = keras.layers.Dropout(0.5, name="drop9")(x)
    x = keras.layers.ZeroPadding2D(1, name="pad_final")(x)
    x = convolution(1000, 1, activation="relu", name="conv_final")(x)
    outputs = keras.layers.GlobalAveragePooling2D(name="pool_final")(x)
    return keras.Model(inputs, outputs, name="squeezenet")


def _fire(x: Any, width: int, name: str, convolution: Callable[..., Any]) -> Any:
    x = convolution(width, 1, activation="relu", name=f"{name}_conv1x1_1")(x)
    ones = convolution(4 * width, 1, activation="relu", name=f"{name}_conv1x1_2")(x)
    threes = convolution(4 * width, 3, activation="relu", padding="same", name=f"{name}_conv3x3_2")(
        x
    )
    return keras.layers.Concatenate(name=f"{name}_concat")([ones, threes])


def load_squeezenet(path: str | os.PathLike[str]) -> Any:
    """Return the network of a ``.net`` file of SqueezeNet; its convolutions are codebook layers.

    Args:
        path: of the file.

    Raises:
        ValueError: a file that is truncated or corrupt, or of another network.
    """
    codebook = {"subvector": 1, "codewords": 256, "shared": True, "fixed_zero": True}
    model = squeezenet(functools.partial(CodebookConv2D, **codebook))
    convolutions = [layer for layer in model.layers if isinstance(layer, CodebookConv2D)]
    shapes = {layer.name: _caffe(layer.kernel_shape) for layer in convolutions}
    stored = read_net(path, shapes)
    for layer in convolutions:
        net = stored[layer.name]
        layer.set_codebook(net.codebook[None, :, None], net.codes.transpose(2, 3, 1, 0))
        layer.bias.assign(net.bias)
    return model


def _caffe(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return (Ct, Cs, kh, kw) of a kernel (kh, kw, Cs, Ct)."""
    return (shape[3], shape[2], shape[0], shape[1])


def photograph(path: str | os.PathLike[str]) -> np.ndarray:
    """Return the middle of a photograph as the network takes it, float32 (227, 227, 3).

    Its shorter side is made 256 pixels first.
    """
    image = tf.io.decode_image(Path(path).read_bytes(), channels=3, expand_animations=False)
    height, width = image.shape[:2]
    scale = 256 / min(height, width)
    size = round(height * scale), round(width * scale)
    pixels = tf.image.resize(image, size, antialias=True).numpy()
    top, left = (size[0] - SIDE) // 2, (size[1] - SIDE) // 2
    return pixels[top : top + SIDE, left : left + SIDE, ::-1] - _MEAN


def main() -> None:
    """Label the photographs, in Keras and in the runtime."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("net", type=Path, help="compressed_SqueezeNet.net")
    parser.add_argument("photos", type=Path, help="folder of photographs, imagenet_labels.txt")
    parser.add_argument("--json", type=Path, help="write the result as JSON")
    arguments = parser.parse_args()
    names = (arguments.photos / "imagenet_labels.txt").read_text().splitlines()[1:]  # no background
    paths = sorted(p for p in arguments.photos.iterdir() if p.suffix in (".png", ".jpg"))
    with stage("read and export the network"):
        model = load_squeezenet(arguments.net)
        content = convert(model)
    images = np.stack([photograph(path) for path in paths])
    answers = model.predict(images, verbose=0)
    run = Interpreter(model_content=content).predict(images)
    table = Table(title=f"{arguments.net.name}, {arguments.net.stat().st_size:,} bytes")
    for column in ("photograph", "Keras", ".tflite"):
        table.add_column(column)
    rows = [
        {"photograph": path.name, "keras": names[ours.argmax()], "tflite": names[theirs.argmax()]}
        for path, ours, theirs in zip(paths, answers, run, strict=True)
    ]
    for row in rows:
        table.add_row(*row.values())
    table_console().print(table)
    print(f".tflite: {len(content):,} bytes")
    if arguments.json is not None:
        write_json(arguments.json, {"tflite_bytes": len(content), "photographs": rows})


if __name__ == "__main__":
    main()
