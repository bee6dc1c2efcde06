"""A trained LeNet on MNIST, compressed by Q-CNN from 1000 images.

``python -m kerasq.benchmark.lenet_mnist --weights lenet.npz --data mnist_test10k.npz``. There is no
training data: the first images of the test set calibrate, all others test. Nothing is trained, and
no setting is chosen by hand: a budget of bytes is given, and Q-CNN chooses the sub-vectors and
codewords of each layer from the calibration images. Errors are those of the exported files in the
stock runtime, bytes those of the files; plain k-means with the same budget stands beside.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from kerasq.benchmark.budgets import METHODS, Settings, compressed, settings
from kerasq.benchmark.demo import in_batches
from kerasq.benchmark.digits import accuracy
from kerasq.benchmark.lenet import lenet5
from kerasq.benchmark.networks import Images
from kerasq.benchmark.progress import stage
from kerasq.benchmark.report import write_json
from kerasq.export import convert, inspect
from kerasq.export.summary import table_console
from kerasq.keras import keras
from kerasq.runtime import Interpreter

IMAGES = 1000
RATIOS = (12.5, 16.0, 20.0, 25.0)
FLOAT = "float32"


@dataclasses.dataclass(frozen=True)
class Row:
    """One exported network.

    Attributes:
        name: "float32", "qcnn" or "k-means".
        asked: times that the kernels were to be smaller; 1 of the float network.
        weight_bytes: bytes of all weights in the file, biases included.
        file_bytes: length of the file.
        accuracy: per cent of the test images that the file labels rightly in the runtime.
        keras_accuracy: the same of the Keras model.
        settings: (d, K) of each layer.
        seconds: of choosing the settings and compressing.
    """

    name: str
    asked: float
    weight_bytes: int
    file_bytes: int
    accuracy: float
    keras_accuracy: float
    settings: Settings
    seconds: float


def mnist(path: str | os.PathLike[str], images: int = IMAGES) -> Images:
    """Read test images of 28x28 bytes as the network takes them, 0 to 255/256.

    Args:
        path: ``.npz`` with ``x_test`` and ``y_test``.
        images: of the first, which are to calibrate: they come as the training images, and are no
            longer among the test images.

    Raises:
        ValueError: no such arrays, or no more images than that.
    """
    with np.load(path) as file:
        if not {"x_test", "y_test"} <= set(file.files):
            raise ValueError(f"x_test and y_test are needed, it has {file.files}")
        x, labels = file["x_test"], file["y_test"].astype(int)
    if len(x) <= images:
        raise ValueError(f"{images} of {len(x)} images calibrate: none is left to test on")
    x = x[..., None].astype(np.float32) / 256
    return Images(x[:images], labels[:images], x[images:], labels[images:])


def trained_lenet5(path: str | os.PathLike[str]) -> Any:
    """Return LeNet-5 with the weights of Caffe, whose dense layer reads maps channel by channel.

    Args:
        path: ``.npz`` with ``conv1.weight`` (outputs, inputs, height, width), ``ip1.weight``
            (outputs, inputs), ``conv1.bias``, ...

    Raises:
        ValueError: a weight is not there, or has another shape.
    """
    model, names = lenet5(), ("conv1", "conv2", "ip1", "ip2")
    with np.load(path) as file:
        weights = {name: file[name] for name in file.files}
    missing = {f"{name}.{part}" for name in names for part in ("weight", "bias")} - set(weights)
    if missing:
        raise ValueError(f"no LeNet-5: it lacks {sorted(missing)}")
    height, width, channels = model.get_layer("pool2").output.shape[1:]
    for name in names:
        kernel = weights[f"{name}.weight"]
        if name == "ip1":
            kernel = kernel.reshape(-1, channels, height, width).transpose(0, 2, 3, 1)
            kernel = kernel.reshape(len(kernel), -1)
        kernel = kernel.transpose(2, 3, 1, 0) if kernel.ndim == 4 else kernel.T
        model.get_layer(name).set_weights([kernel, weights[f"{name}.bias"]])
    return model


def run(model: Any, data: Images, ratios: Sequence[float] = RATIOS, seed: int = 0) -> list[Row]:
    """Compress a network by some ratios, export and measure; the float network comes first.

    Args:
        model: images to logits.
        data: training images calibrate, test images test; labels are only looked at to measure.
        ratios: of the kernels' bytes, in float32 over compressed.
        seed: of k-means and of the sampled positions.
    """
    rows = [_measure(FLOAT, 1.0, model, data, {}, 0.0)]
    for ratio in ratios:
        for name in METHODS:
            start = time.perf_counter()
            with stage(f"choose the settings of {ratio:g}x: {name}"):
                layers = settings(model, data.x_train, name, ratio, seed)
            small = compressed(model, data.x_train, name, ratio, layers=layers, seed=seed)
            seconds = time.perf_counter() - start
            rows.append(_measure(name, ratio, small, data, layers, seconds))
    return rows


def _measure(
    name: str,
    asked: float,
    model: Any,
    data: Images,
    layers: Settings,
    seconds: float,
) -> Row:
    with stage(f"export {name} and run it"):
        content = convert(model)
        predict = Interpreter(model_content=content).predict
        runtime = accuracy(in_batches(predict, data.x_test), data.y_test)
    in_keras = accuracy(model.predict(data.x_test, verbose=0), data.y_test)
    found = inspect(content)
    sizes = found.weight_bytes, found.total_bytes
    return Row(name, asked, *sizes, runtime, in_keras, layers, seconds)


def print_rows(rows: list[Row], title: str) -> None:
    """Print a row for each file."""
    table = Table(title=title)
    table.add_column("network")
    for column in ("weight bytes", "smaller", "file bytes", "smaller", "top-1 %", "Keras %", "s"):
        table.add_column(column, justify="right")
    table.add_column("d, K of each layer")
    for row in rows:
        table.add_row(
            row.name,
            f"{row.weight_bytes:,}",
            f"{rows[0].weight_bytes / row.weight_bytes:.1f}x",
            f"{row.file_bytes:,}",
            f"{rows[0].file_bytes / row.file_bytes:.1f}x",
            f"{row.accuracy:.2f}",
            f"{row.keras_accuracy:.2f}",
            f"{row.seconds:.0f}" if row.seconds else "",
            " ".join(f"{d},{k}" for d, k in row.settings.values()),
        )
    table_console().print(table)


def main() -> None:
    """Measure and print, and write JSON where it is asked for."""
    parser = argparse.ArgumentParser(description="Compress a trained LeNet on MNIST.")
    parser.add_argument("--weights", type=Path, required=True, help="lenet.npz")
    parser.add_argument("--data", type=Path, required=True, help="mnist_test10k.npz")
    parser.add_argument(
        "--images", type=int, default=IMAGES, help="how many of the first images calibrate"
    )
    parser.add_argument("--ratio", type=float, action="append", help="times smaller; repeat it")
    parser.add_argument("--seed", type=int, default=0, help="of all that is random")
    parser.add_argument("--json", type=Path, help="write the rows as JSON")
    arguments = parser.parse_args()
    ratios = tuple(arguments.ratio or RATIOS)
    if arguments.images < 1 or min(ratios) <= 1:
        parser.error("--images must be at least 1, and a --ratio above 1")
    unreadable = (OSError, ValueError, zipfile.BadZipFile)
    try:
        model = trained_lenet5(arguments.weights)
    except unreadable as error:
        parser.error(f"--weights {arguments.weights}: {error}")
    try:
        data = mnist(arguments.data, arguments.images)
    except unreadable as error:
        parser.error(f"--data {arguments.data}: {error}")
    keras.utils.set_random_seed(arguments.seed)
    rows = run(model, data, ratios, arguments.seed)
    calibrating, testing = len(data.x_train), len(data.x_test)
    title = f"LeNet-5, MNIST: the first {calibrating} test images calibrate, {testing} test"
    print_rows(rows, title)
    if arguments.json is not None:
        write_json(arguments.json, [dataclasses.asdict(row) for row in rows])


if __name__ == "__main__":
    main()
