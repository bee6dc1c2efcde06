"""The demos: one network, compressed in several ways, exported, run and measured."""

from __future__ import annotations

import functools
import re
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from kerasq.benchmark.cifar import fine_tune
from kerasq.benchmark.digits import accuracy, binary_network, digits, float_network, train
from kerasq.benchmark.latency import compare
from kerasq.benchmark.networks import cifar10, resnet_cifar10
from kerasq.benchmark.progress import epoch_callback, stage
from kerasq.benchmark.report import Report, Row
from kerasq.codebooks import QCNN, compress
from kerasq.export import convert, inspect
from kerasq.export.tflite import quiet
from kerasq.files import write_whole
from kerasq.keras import keras
from kerasq.runtime import Interpreter

FLOAT_EPOCHS, BINARY_EPOCHS = 20, 40


class Exhibition:
    """Exported networks, each measured in the stock runtime as it is added.

    Args:
        folder: where the files go; it is made.
        x: test images.
        y: their labels.
    """

    def __init__(self, folder: Path, x: np.ndarray, y: np.ndarray):
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._x, self._y = folder, x, y
        self._measure: dict[str, Callable[[float], Row]] = {}
        self._files: dict[str, Path] = {}
        self._weights = 0
        self._start = time.perf_counter()

    def add(self, name: str, content: bytes, model: Any = None) -> float:
        """Write a file, measure its top-1, and that of the Keras model it comes from.

        The first is the float network: its kernels are what the others' are compared with.

        Returns:
            The top-1 in the runtime, per cent.
        """
        path = self._folder / (re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") + ".tflite")
        with stage(f"run {name} in the stock runtime"):
            write_whole(path, content)
            interpreter = Interpreter(model_path=str(path), num_threads=2)
            top1 = accuracy(in_batches(interpreter.predict, self._x), self._y)
            keras_top1 = None
            if model is not None:
                logits = in_batches(functools.partial(model.predict, verbose=0), self._x)
                keras_top1 = accuracy(logits, self._y)
        inspection = inspect(content)
        if not self._files:
            self._weights = sum(operator.weights for operator in inspection.operators)
        self._files[name] = path
        self._measure[name] = functools.partial(
            _row, name, top1, keras_top1, inspection, self._weights
        )
        return top1

    def report(self, title: str, notes: list[str], runs: int = 200) -> Report:
        """Measure the latency of all of them, interleaved, and return the report."""
        with stage("measure latency, one thread") as show:
            timings = compare(
                self._files, runs, on_round=lambda done: show(f"round {done} of about {runs}")
            )
        rows = [self._measure[name](timing.median) for name, timing in timings.items()]
        seconds = time.perf_counter() - self._start
        notes = [*notes, f"all of it took {seconds:.0f} s; files and report in {self._folder}"]
        return Report(title, rows, len(self._y), seconds, notes)


def _row(
    name: str, top1: float, keras_top1: float | None, found: Any, weights: int, microseconds: float
) -> Row:
    sizes = (found.total_bytes, found.weight_bytes, weights)
    return Row(name, top1, keras_top1, *sizes, microseconds, found.rows())


def in_batches(predict: Callable[[np.ndarray], Any], x: np.ndarray, batch: int = 100) -> np.ndarray:
    """Return the predictions of all rows, computed a batch at a time."""
    parts = range(0, len(x), batch)
    return np.concatenate([np.asarray(predict(x[i : i + batch])) for i in parts])


def int8(model: Any, x: np.ndarray) -> bytes:
    """Return TFLite's own int8 file, by the stock converter and representative images."""

    def representative() -> Iterator[list[np.ndarray]]:
        yield from ([image[None]] for image in x)

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = representative
    with quiet():
        return converter.convert()


def _compressed(model: Any, x: np.ndarray, method: QCNN, text: str) -> Any:
    with stage(text) as show:
        report = functools.partial(_show_layer, show)
        return compress(model, x, method, verbose=False, callback=report)


def _show_layer(show: Callable[[str], None], report: Any) -> None:
    show(str(report))


def run_digits(folder: Path, images: int = 1000, seed: int = 0) -> Report:
    """Train small networks on scikit-learn's digits, compress, export and measure them.

    Args:
        folder: where the files go.
        images: calibration images.
        seed: of everything random.

    Raises:
        ImportError: scikit-learn is not installed.
        ValueError: fewer training images than ``images``.
    """
    keras.utils.set_random_seed(seed)
    data = digits(seed=seed)
    x = _calibration(data.x_train, images)
    found = Exhibition(folder, data.x_test, data.y_test)
    with stage("train the float network") as show:
        callbacks = [epoch_callback(show, FLOAT_EPOCHS)]
        model = train(float_network(), data, FLOAT_EPOCHS, callbacks=callbacks)
    found.add("float32", convert(model), model)
    found.add("int8 (TFLite)", int8(model, x))
    for correction, name in ((False, "Q-CNN, plain k-means"), (True, "Q-CNN, error-corrected")):
        method = QCNN(4, 16, error_correction=correction, seed=seed, layers={"classifier": (1, 8)})
        small = _compressed(model, x, method, f"compress: {name}")
        found.add(name, convert(small), small)
    with stage("train the binary network") as show:
        callbacks = [epoch_callback(show, BINARY_EPOCHS)]
        binary = train(binary_network(), data, BINARY_EPOCHS, 0.005, callbacks)
    found.add("binary, trained", convert(binary), binary)
    return found.report("scikit-learn's digits, a small residual network", [])


def run_cifar(
    data: Path,
    weights: Path,
    folder: Path,
    images: int = 5000,
    minutes: float = 10.0,
    seed: int = 0,
) -> Report:
    """Compress a trained CIFAR-10 ResNet, fine-tune its codewords, export and measure.

    Args:
        data: CIFAR-10 as ``.npz``.
        weights: trained ResNet as ``.npz``.
        folder: where the files go.
        images: calibration images, of the training set.
        minutes: most wall time of fine-tuning.
        seed: of everything random.

    Raises:
        ValueError: a file is no such archive, or has fewer training images than ``images``.
    """
    keras.utils.set_random_seed(seed)
    with stage("read the data and the network"):
        cifar = _read(data, cifar10)
        model = _read(weights, resnet_cifar10)
    x = _calibration(cifar.x_train, images)
    found = Exhibition(folder, cifar.x_test, cifar.y_test)
    found.add("float32", convert(model), model)
    found.add("int8 (TFLite)", int8(model, x[:500]))
    for correction, name in ((False, "Q-CNN, plain k-means"), (True, "Q-CNN, error-corrected")):
        method = QCNN(
            2, 16, error_correction=correction, sweeps=8, seed=seed, layers=resnet_settings(model)
        )
        small = _compressed(model, x, method, f"compress: {name}")
        found.add(name, convert(small), small)
    with stage(f"fine-tune the codewords, {minutes:g} minutes at most") as show:
        tuning = fine_tune(small, model, cifar.x_train, minutes=minutes, seed=seed, show=show)
    found.add("Q-CNN, fine-tuned", convert(small), small)
    note = (
        f"fine-tuning: {tuning.steps} steps in {tuning.seconds:.0f} s; distillation loss on images "
        f"held out of the training set {tuning.loss_before:.4f} -> {tuning.loss_after:.4f}"
    )
    return found.report(f"CIFAR-10, {model.name}", [note], runs=100)


def resnet_settings(model: Any) -> dict[str, tuple[int, int]]:
    """Return d and K of the layers that 16 codewords for pairs of channels do not suit.

    Three input channels have no pairs, and ten outputs cannot share 16 codewords. The first stage,
    where bytes are cheapest, and the last convolution of each other, where errors are
    largest, get 32.
    """
    names = [layer.name for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    first, second, third = ([n for n in names if n.startswith(f"layer{s}_")] for s in (1, 2, 3))
    better = dict.fromkeys([*first, second[-1], third[-1]], (2, 32))
    return {"conv1": (1, 32), "linear": (1, 8), **better}


def _calibration(x: np.ndarray, images: int) -> np.ndarray:
    if images > len(x):
        raise ValueError(f"{images} calibration images asked for, the training set has {len(x)}")
    return x[:images]


def _read(path: Path, reader: Callable[[Path], Any]) -> Any:
    try:
        return reader(path)
    except KeyError as error:
        raise ValueError(f"{path} lacks the array {error.args[0]}") from error
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"cannot read {path} as an .npz archive: {error}") from error
