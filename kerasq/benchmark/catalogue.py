"""Every method trained in the same small network: ``python -m kerasq.benchmark.catalogue``.

Fashion-MNIST, the same epochs and the same optimizer for all: the table tells that a method
trains, not how good it can get (each paper has a recipe of its own). The float network stands
first. Each network is exported, and its file run in the stock runtime on the test images.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from kerasq.benchmark.methods import FLOAT, agreement, compile_for_training, methods, small_network
from kerasq.benchmark.progress import stage
from kerasq.benchmark.report import write_json
from kerasq.export import convert
from kerasq.export.summary import table_console
from kerasq.keras import keras
from kerasq.runtime import Interpreter

TRAIN_IMAGES, EPOCHS, BATCH, RATE = 6_000, 3, 64, 2e-3
EXPORTED_IMAGES = 500


@dataclasses.dataclass(frozen=True)
class Result:
    """What came of one method.

    Attributes:
        name: of the method.
        top1: per cent of the test images, in Keras.
        same_labels: per cent of 500 test images that Keras and the file label alike.
        file_bytes: length of the file.
        seconds: of training.
    """

    name: str
    top1: float
    same_labels: float
    file_bytes: int
    seconds: float


def fashion_mnist(path: str | os.PathLike[str]) -> tuple[np.ndarray, ...]:
    """Read the ``.npz``: train and test images (n, 28, 28, 1) in 0..1, and their labels."""
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files}
    images = [arrays[f"x_{part}"][..., None].astype(np.float32) / 255 for part in ("train", "test")]
    labels = [arrays[f"y_{part}"].ravel().astype(np.int64) for part in ("train", "test")]
    return images[0], labels[0], images[1], labels[1]


def train(name: str, data: tuple[np.ndarray, ...], seed: int = 0) -> Any:
    """Return the network of a method after the epochs that all methods get."""
    keras.utils.set_random_seed(seed)
    model = small_network(name)
    compile_for_training(model, RATE)
    x, y = data[0][:TRAIN_IMAGES], data[1][:TRAIN_IMAGES]
    model.fit(x, y, batch_size=BATCH, epochs=EPOCHS, verbose=0)
    return model


def measure(name: str, data: tuple[np.ndarray, ...], seed: int = 0) -> Result:
    """Train a method's network, export it, and compare the two."""
    start = time.perf_counter()
    model = train(name, data, seed)
    seconds = time.perf_counter() - start
    x, y = data[2], data[3]
    top1 = 100.0 * float(np.mean(model.predict(x, batch_size=500, verbose=0).argmax(-1) == y))
    content = convert(model)
    same = agreement(model, Interpreter(model_content=content), x[:EXPORTED_IMAGES])
    return Result(name, top1, same, len(content), seconds)


def run(path: Path, names: list[str], show: Callable[[str], None]) -> Iterator[Result]:
    """Measure the methods in turn."""
    data = fashion_mnist(path)
    for index, name in enumerate(names, 1):
        show(f"{name} ({index} of {len(names)})")
        keras.backend.clear_session()
        yield measure(name, data)


def print_results(results: list[Result]) -> None:
    """Print a row for each method."""
    table = Table(title=f"Fashion-MNIST, {TRAIN_IMAGES} images, {EPOCHS} epochs")
    table.add_column("method", no_wrap=True)
    for column in ("top-1 %", "file = Keras %", "file bytes", "training s"):
        table.add_column(column, justify="right")
    for result in results:
        table.add_row(
            result.name,
            f"{result.top1:.2f}",
            f"{result.same_labels:.1f}",
            f"{result.file_bytes:,}",
            f"{result.seconds:.1f}",
        )
    table_console().print(table)


def main() -> None:
    """Measure and print, and write JSON where it is asked for."""
    parser = argparse.ArgumentParser(description="Train the same small network by every method.")
    parser.add_argument("--data", type=Path, required=True, help="Fashion-MNIST as .npz")
    parser.add_argument("--methods", nargs="+", help="names; all of the catalogue without it")
    parser.add_argument("--json", type=Path, help="write the result as JSON")
    arguments = parser.parse_args()
    if not arguments.data.is_file():
        parser.error(f"{arguments.data} is not a file")
    known = [FLOAT, *methods()]
    unknown = set(arguments.methods or ()) - set(known)
    if unknown:
        parser.error(f"no method is called {sorted(unknown)[0]!r}: {', '.join(known)}")
    results: list[Result] = []
    try:
        with stage("train, export and run") as show:
            for result in run(arguments.data, arguments.methods or known, show):
                results.append(result)
                if arguments.json is not None:  # after each, so that nothing is lost
                    write_json(arguments.json, [dataclasses.asdict(done) for done in results])
    finally:
        print_results(results)


if __name__ == "__main__":
    main()
