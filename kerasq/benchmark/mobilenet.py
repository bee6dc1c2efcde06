"""MobileNetV2 with codebooks in its 1x1 convolutions, on photographs.

``python -m kerasq.benchmark.mobilenet WEIGHTS.h5 PHOTOS``, where the folder of photographs also
holds ``imagenet_labels.txt``. The network is calibrated on the photographs and random crops of
them, without training, and asked what they show; plain k-means stands beside. Bytes are those of
the exported files, answers those of Keras and of the stock runtime.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tensorflow as tf
import typer
from rich.table import Table

from kerasq.benchmark.budgets import METHODS, compressed, settings
from kerasq.benchmark.compression import kernels
from kerasq.benchmark.demo import in_batches
from kerasq.benchmark.progress import stage
from kerasq.benchmark.report import write_json
from kerasq.export import Inspection, Operator, convert, inspect
from kerasq.export.summary import table_console
from kerasq.keras import keras
from kerasq.runtime import Interpreter

RATIOS = (8.0, 12.0)
BATCH = 50
POSITIONS = 49  # of an image: all of the last maps, 7x7
HELD_OUT = 300
CROPS = 500
_AREAS = (0.2, 1.0)  # of a crop, of the picture
_ASPECTS = (3 / 4, 4 / 3)


@dataclasses.dataclass(frozen=True)
class Row:
    """One exported network.

    Attributes:
        name: "float32", "k-means" or "qcnn".
        asked: times that the 1x1 kernels were to be smaller; 1 of the float network.
        weights: elements of the kernels of the 1x1 convolutions.
        pointwise_bytes: of those kernels in the file, codebooks and indices; without biases.
        file_bytes: length of the file.
        labels: of each photograph, in Keras.
        runtime_labels: the same of the file in the runtime.
        same: photographs that have the float network's label, in Keras.
        runtime_same: the same of the file in the runtime.
        crops: per cent of other crops of the photographs that have the float network's label, in
            Keras.
        seconds: of choosing the settings and compressing.
    """

    name: str
    asked: float
    weights: int
    pointwise_bytes: int
    file_bytes: int
    labels: list[str]
    runtime_labels: list[str]
    same: int
    runtime_same: int
    crops: float
    seconds: float

    @property
    def ratio(self) -> float:
        """How many times smaller than in float32 the kernels of the 1x1 convolutions are."""
        return 4 * self.weights / self.pointwise_bytes


@dataclasses.dataclass(frozen=True)
class Photographs:
    """Photographs and what their labels are called.

    Attributes:
        names: of the files.
        pictures: (height, width, 3), float32, 0 to 255, as they are in the files.
        labels: of the network's outputs.
    """

    names: list[str]
    pictures: list[np.ndarray]
    labels: list[str]

    def centres(self, size: int) -> np.ndarray:
        """Return the middle of each, 7/8 of its shorter side, as inputs (n, size, size, 3)."""
        found = []
        for picture in self.pictures:
            height, width = picture.shape[:2]
            side = round(min(height, width) * 7 / 8)
            box = (height - side) // 2, (width - side) // 2, side, side
            found.append(_input(picture, box, size))
        return np.stack(found)

    def crops(self, count: int, size: int, rng: np.random.Generator) -> np.ndarray:
        """Return random crops of the pictures in turn, half of them mirrored, as inputs.

        As networks are trained on ImageNet, but for the smallest of those crops, which show
        nothing: a fifth to all of the picture, with sides of 3:4 to 4:3.
        """
        found = np.empty((count, size, size, 3), np.float32)
        for index in range(count):
            picture = self.pictures[index % len(self.pictures)]
            crop = _input(picture, _box(*picture.shape[:2], rng), size)
            found[index] = crop[:, ::-1] if rng.random() < 0.5 else crop
        return found


def _input(picture: np.ndarray, box: tuple[int, int, int, int], size: int) -> np.ndarray:
    """Return a rectangle of a picture as a square input, -1 to 1."""
    top, left, height, width = box
    crop = picture[top : top + height, left : left + width]
    return tf.image.resize(crop, (size, size), antialias=True).numpy() / 127.5 - 1


def _box(height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    area = rng.uniform(*_AREAS) * height * width
    aspect = np.exp(rng.uniform(*np.log(_ASPECTS)))
    rows = min(height, round((area / aspect) ** 0.5))
    columns = min(width, round((area * aspect) ** 0.5))
    top, left = rng.integers(0, height - rows + 1), rng.integers(0, width - columns + 1)
    return int(top), int(left), rows, columns


def photographs(folder: str | os.PathLike[str]) -> Photographs:
    """Read the ``.png`` and ``.jpg`` files of a folder, and ``imagenet_labels.txt``.

    Raises:
        OSError: no such folder or file.
        ValueError: no photograph there, or not 1001 labels (the first is of the background, which
            the network does not know).
    """
    folder = Path(folder)
    labels = (folder / "imagenet_labels.txt").read_text().splitlines()
    if len(labels) != 1001:
        raise ValueError(f"{folder / 'imagenet_labels.txt'} has {len(labels)} lines, not 1001")
    paths = sorted(path for path in folder.iterdir() if path.suffix in (".png", ".jpg"))
    if not paths:
        raise ValueError(f"{folder} has no photographs (.png, .jpg)")
    pictures = [
        tf.io.decode_image(path.read_bytes(), channels=3, expand_animations=False).numpy()
        for path in paths
    ]
    return Photographs(
        [path.name for path in paths], [x.astype(np.float32) for x in pictures], labels[1:]
    )


def folded(model: Any) -> Any:
    """Return the network with its batch normalizations folded into the convolutions before them.

    ``W ← W γ/√(σ² + ε)``, ``b ← β − μ γ/√(σ² + ε)``: the same function. Every response counts then
    as the following layers see it, and there is a bias to take up what is wrong on average. The
    normalizations stay where they are, with nothing left to do.

    Args:
        model: its normalizations come directly after convolutions without bias.
    """
    norms = {
        conv.name: norm
        for conv, norm in itertools.pairwise(model.layers)
        if isinstance(norm, keras.layers.BatchNormalization)
    }

    def copy(layer: Any) -> Any:
        changes = {"use_bias": True} if layer.name in norms else {}
        return type(layer).from_config({**layer.get_config(), **changes})

    clone = keras.models.clone_model(model, clone_function=copy)
    for layer in model.layers:
        weights = layer.get_weights()
        if layer.name in norms:
            norm = norms[layer.name]
            gamma, beta, mean, variance = norm.get_weights()
            scale = gamma / np.sqrt(variance + norm.epsilon)
            depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
            weights = [weights[0] * (scale[:, None] if depthwise else scale), beta - mean * scale]
        elif isinstance(layer, keras.layers.BatchNormalization):
            one, zero = np.ones_like(weights[0]), np.zeros_like(weights[0])
            weights = [one, zero, zero, one - layer.epsilon]
        if weights:
            clone.get_layer(layer.name).set_weights(weights)
    return clone


def mobilenet(path: str | os.PathLike[str]) -> Any:
    """Return MobileNetV2 with the weights of a Keras file.

    Reference: Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks,
    arXiv:1801.04381
    """
    model = keras.applications.MobileNetV2(weights=None)
    model.load_weights(os.fspath(path))
    return model


def is_pointwise(layer: Any) -> bool:
    """Tell whether a layer is a 1x1 convolution; those of depthwise layers are not."""
    return type(layer) is keras.layers.Conv2D and tuple(layer.kernel_size) == (1, 1)


def pointwise_kernels(inspection: Inspection) -> tuple[int, int]:
    """Return elements and bytes of the kernels of a file's 1x1 convolutions."""

    def pointwise(operator: Operator) -> bool:
        if operator.is_custom:
            options = operator.options
            return "Conv" in operator.name and options["kernel_h"] == options["kernel_w"] == 1
        shapes = [shape for _, shape, _ in operator.constants.values() if len(shape) == 4]
        return operator.name == "CONV_2D" and all(shape[1:3] == (1, 1) for shape in shapes)

    some = [operator for operator in inspection.operators if pointwise(operator)]
    return kernels(dataclasses.replace(inspection, operators=some))


def run(
    model: Any,
    photos: Photographs,
    ratios: Sequence[float] = RATIOS,
    crops: int = CROPS,
    seed: int = 0,
    methods: Sequence[str] = tuple(METHODS),
) -> list[Row]:
    """Compress the 1x1 convolutions by some ratios, export and ask what the photographs show.

    Args:
        model: from square images, -1 to 1, to as many outputs as there are labels.
        photos: of these and of crops, `crops` in all, the layers' inputs are learned.
        ratios: of the kernels' bytes, in float32 over compressed.
        crops: images that calibrate.
        seed: of the crops, k-means and the sampled positions.
        methods: of `METHODS`.

    Returns:
        The float network, then each method at each ratio.
    """
    exam = _Exam(model, photos, crops, seed)
    rows = [exam.row("float32", 1.0, model, 0.0)]
    plain = folded(model)
    for ratio in ratios:
        for name in methods:
            start = time.perf_counter()
            with stage(f"choose the settings of {ratio:g}x: {name}"):
                layers = settings(plain, exam.calibration, name, ratio, seed, is_pointwise)
            arguments = {"layers": layers, "positions": POSITIONS, "seed": seed}
            small = compressed(plain, exam.calibration, name, ratio, BATCH, **arguments)
            seconds = time.perf_counter() - start
            rows.append(exam.row(name, ratio, small, seconds))
    return rows


class _Exam:
    """The images that calibrate, and those that the networks are asked about.

    Attributes:
        calibration: the photographs and crops of them.
    """

    def __init__(self, model: Any, photos: Photographs, crops: int, seed: int):
        size = model.input_shape[1]
        with stage(f"cut {crops + HELD_OUT} crops"):
            self._photos = photos.centres(size)
            others = max(0, crops - len(self._photos))
            drawn = photos.crops(others, size, np.random.default_rng(seed))
            self._crops = photos.crops(HELD_OUT, size, np.random.default_rng([seed, 1]))
        self.calibration = np.concatenate([self._photos, drawn])
        self._labels = photos.labels
        self._wanted = _answers(model, self._photos), _answers(model, self._crops)

    def row(self, name: str, asked: float, model: Any, seconds: float) -> Row:
        """Export a network and ask it and its file."""
        with stage(f"export {name} and run it"):
            content = convert(model)
            runtime = Interpreter(model_content=content).predict(self._photos).argmax(-1)
            answers = _answers(model, self._photos)
            crops = 100 * float(np.mean(_answers(model, self._crops) == self._wanted[1]))
        found = inspect(content)
        return Row(
            name,
            asked,
            *pointwise_kernels(found),
            found.total_bytes,
            [self._labels[i] for i in answers],
            [self._labels[i] for i in runtime],
            int((answers == self._wanted[0]).sum()),
            int((runtime == self._wanted[0]).sum()),
            crops,
            seconds,
        )


def _answers(model: Any, x: np.ndarray) -> np.ndarray:
    """Return the outputs' largest entries, in Keras."""
    return in_batches(functools.partial(model.predict, verbose=0), x).argmax(-1)


def table(rows: list[Row]) -> Table:
    """Return the networks for a terminal, the float network first."""
    found = Table(title="MobileNetV2, ImageNet weights: 1x1 convolutions compressed")
    found.add_column("network")
    columns = ("1x1 bytes", "smaller", "bits/weight", "file bytes", "same label", ".tflite")
    for column in (*columns, "other crops", "s"):
        found.add_column(column, justify="right")
    for row in rows:
        found.add_row(
            row.name,
            f"{row.pointwise_bytes:,}",
            f"{row.ratio:.2f}x",
            f"{8 * row.pointwise_bytes / row.weights:.2f}",
            f"{row.file_bytes:,}",
            f"{row.same} of {len(row.labels)}",
            f"{row.runtime_same} of {len(row.labels)}",
            f"{row.crops:.1f} %",
            f"{row.seconds:.0f}" if row.seconds else "",
        )
    return found


def photo_table(row: Row, floating: Row, names: list[str]) -> Table:
    """Return what a network sees in each photograph, beside the float network."""
    found = Table(title=f"{row.name}, 1x1 weights {row.ratio:.2f}x smaller")
    for column in ("photograph", "float", "Keras", ".tflite"):
        found.add_column(column)
    for name, *labels in zip(names, floating.labels, row.labels, row.runtime_labels, strict=True):
        first, *others = (label.split(",")[0] for label in labels)
        colored = [x if x == first else f"[red]{x}[/]" for x in others]
        found.add_row(name, first, *colored)
    return found


def main(
    weights: Annotated[Path, typer.Argument(help="MobileNetV2 of Keras as .h5.", exists=True)],
    photos: Annotated[
        Path, typer.Argument(help="Folder of photographs, imagenet_labels.txt.", exists=True)
    ],
    ratios: Annotated[
        list[float] | None, typer.Option("--ratio", min=1, help="Times smaller; repeat it.")
    ] = None,
    methods: Annotated[
        list[str] | None, typer.Option("--method", help="k-means or qcnn; both without.")
    ] = None,
    crops: Annotated[int, typer.Option(min=1, help="Images that calibrate.")] = CROPS,
    seed: Annotated[int, typer.Option(help="Of all that is random.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the rows here.")] = None,
) -> None:
    """Compress the 1x1 convolutions of MobileNetV2 and ask what photographs show."""
    unknown = sorted(set(methods or ()) - set(METHODS))
    if unknown:
        raise typer.BadParameter(f"no methods {unknown}: there are {list(METHODS)}")
    try:
        found = photographs(photos)
    except (OSError, ValueError, tf.errors.InvalidArgumentError) as error:
        raise typer.BadParameter(f"{photos}: {error}") from error
    try:
        model = mobilenet(weights)
    except (OSError, KeyError, ValueError) as error:
        raise typer.BadParameter(f"{weights} has no weights of MobileNetV2: {error}") from error
    keras.utils.set_random_seed(seed)
    rows = run(model, found, ratios or RATIOS, crops, seed, methods or tuple(METHODS))
    console = table_console()
    console.print(table(rows))
    for row in rows[1:]:
        console.print(photo_table(row, rows[0], found.names))
    if json_file is not None:
        write_json(json_file, [{**dataclasses.asdict(row), "ratio": row.ratio} for row in rows])


if __name__ == "__main__":
    typer.run(main)
