"""LeNets on Fashion-MNIST, compressed: ``python -m kerasq.benchmark.lenet --data FILE.npz``.

The float network is trained, compressed on the same images, and both are exported;
errors are those of the files in the stock runtime, bytes are those of the files.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from kerasq import codebooks
from kerasq.benchmark.demo import in_batches
from kerasq.benchmark.digits import accuracy, train
from kerasq.benchmark.networks import Images
from kerasq.benchmark.progress import epoch_callback, stage
from kerasq.benchmark.report import write_json
from kerasq.export import convert
from kerasq.export.summary import table_console
from kerasq.keras import keras
from kerasq.runtime import Interpreter

# Of each method, by network.
METHODS: dict[str, dict[str, dict[str, Any]]] = {
    "deep_compression": {
        "lenet5": {
            "sparsity": {"conv1": 0.2, "conv2": 0.85, "ip1": 0.91, "ip2": 0.8},
            "conv_bits": 6,
            "prune_steps": 700,
            "retrain_steps": 600,
            "finetune_steps": 100,
        },
        "lenet300": {
            "sparsity": {"ip1": 0.91, "ip2": 0.9, "ip3": 0.7},
            "prune_steps": 1500,
            "retrain_steps": 1500,
            "finetune_steps": 600,
            "weight_decay": 3e-4,
        },
    },
    "hashed_nets": {
        "lenet5": {"ratio": 0.1, "steps": 2000},
        "lenet300": {
            "ratio": 0.24,
            "steps": 8000,
            "learning_rate": 3e-3,
            "weight_decay": 1e-4,
            "value_dtype": "float16",
        },
    },
}
EPOCHS = {"lenet5": 12, "lenet300": 15}
# Taught by the float network; the others by the labels.
DISTILLED = {("lenet5", "deep_compression")}


@dataclasses.dataclass(frozen=True)
class Row:
    """One exported network.

    Attributes:
        name: "float32", or the method.
        error: per cent of the test images that the file labels wrongly, in the runtime.
        keras_error: the same of the Keras model.
        file_bytes: length of the file.
        seconds: of training or compressing.
    """

    name: str
    error: float
    keras_error: float
    file_bytes: int
    seconds: float


def fashion_mnist(path: str | os.PathLike[str]) -> Images:
    """Read images of 28x28 bytes; their pixels go from 0 to 1.

    Args:
        path: ``.npz`` with ``x_train``, ``y_train``, ``x_test`` and ``y_test``.
    """
    with np.load(path) as file:
        arrays = [file[name] for name in ("x_train", "y_train", "x_test", "y_test")]
    scaled = [x[..., None].astype(np.float32) / 255 for x in arrays[::2]]
    return Images(scaled[0], arrays[1].astype(int), scaled[1], arrays[3].astype(int))


def lenet5() -> Any:
    """Return Caffe's LeNet-5: two convolutions with pooling, two dense layers; 431,080 weights."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1), name="image"),
            keras.layers.Conv2D(20, 5, name="conv1"),
            keras.layers.MaxPooling2D(2, name="pool1"),
            keras.layers.Conv2D(50, 5, name="conv2"),
            keras.layers.MaxPooling2D(2, name="pool2"),
            keras.layers.Flatten(name="flat"),
            keras.layers.Dense(500, activation="relu", name="ip1"),
            keras.layers.Dense(10, name="ip2"),
        ],
        name="lenet5",
    )


def lenet300() -> Any:
    """Return LeNet-300-100: three dense layers; 266,610 weights."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1), name="image"),
            keras.layers.Flatten(name="flat"),
            keras.layers.Dense(300, activation="relu", name="ip1"),
            keras.layers.Dense(100, activation="relu", name="ip2"),
            keras.layers.Dense(10, name="ip3"),
        ],
        name="lenet300",
    )


NETWORKS: dict[str, Callable[[], Any]] = {"lenet5": lenet5, "lenet300": lenet300}


def run(
    data: Images, network: str, method: str, epochs: int | None = None, **changes: Any
) -> list[Row]:
    """Train, compress, export and measure.

    Args:
        data: images and labels.
        network: of `NETWORKS`.
        method: of `METHODS`.
        epochs: of the float network; those of `EPOCHS` where not given.
        **changes: of the method's arguments.

    Returns:
        The rows of the float and of the compressed network.
    """
    keras.utils.set_random_seed(0)
    model = NETWORKS[network]()
    epochs = EPOCHS[network] if epochs is None else epochs
    start = time.perf_counter()
    with stage(f"train {network}") as show:
        train(model, data, epochs, 1e-3, [epoch_callback(show, epochs)])
    rows = [_measure("float32", model, data, start)]
    settings = {**METHODS[method][network], **changes}
    chosen = codebooks.catalogue()[method].cls(**settings)
    taught = (network, method) in DISTILLED
    given = data.x_train if taught else (data.x_train, data.y_train)
    start = time.perf_counter()
    with stage(f"compress {network}: {method}", animated=False):
        small = codebooks.compress(model, given, chosen)
    return [*rows, _measure(method, small, data, start)]


def _measure(name: str, model: Any, data: Images, start: float) -> Row:
    seconds = time.perf_counter() - start
    with stage(f"export {name} and run it"):
        content = convert(model)
        predict = Interpreter(model_content=content).predict
        error = 100 - accuracy(in_batches(predict, data.x_test), data.y_test)
    keras_error = 100 - accuracy(model.predict(data.x_test, verbose=0), data.y_test)
    return Row(name, error, keras_error, len(content), seconds)


def print_rows(rows: list[Row], title: str) -> None:
    """Print a row for each file."""
    table = Table(title=title)
    table.add_column("network")
    for column in ("error %", "Keras %", "over float", "file bytes", "smaller", "s"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            row.name,
            f"{row.error:.2f}",
            f"{row.keras_error:.2f}",
            f"{row.error - rows[0].error:+.2f}",
            f"{row.file_bytes:,}",
            f"{rows[0].file_bytes / row.file_bytes:.1f}x",
            f"{row.seconds:.0f}",
        )
    table_console().print(table)


def main() -> None:
    """Measure and print, and write JSON where it is asked for."""
    parser = argparse.ArgumentParser(description="Compress a LeNet on Fashion-MNIST.")
    parser.add_argument("--data", type=Path, required=True, help="fashion_mnist.npz")
    parser.add_argument("--method", choices=METHODS, default="deep_compression")
    parser.add_argument("--network", choices=NETWORKS, default="lenet5")
    parser.add_argument("--json", type=Path, help="write the result as JSON")
    arguments = parser.parse_args()
    try:
        data = fashion_mnist(arguments.data)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        parser.error(f"--data {arguments.data}: {error}")
    rows = run(data, arguments.network, arguments.method)
    print_rows(rows, f"{arguments.network}, {arguments.data.name}, {len(data.y_test)} test images")
    if arguments.json is not None:
        write_json(arguments.json, [dataclasses.asdict(row) for row in rows])


if __name__ == "__main__":
    main()
