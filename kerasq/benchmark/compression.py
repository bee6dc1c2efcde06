"""Every codebook method on one network: ``python -m kerasq.benchmark.compression``.

A trained CIFAR-10 ResNet is compressed by each method at about 2.5 bits for each weight of its
convolutions, with plain k-means beside, and every result is fine-tuned in the same way: against the
float network's outputs, for the same time. Bytes are those of the exported file.

With ``--ratio``, Q-CNN's error correction and plain k-means are compared at a size of one's choice.
With ``--byte-tables``, codebook operators compute with look-up tables of 8 bits, and what is
measured is the file in the stock runtime.

Where TensorFlow does not use oneDNN by itself (on processors without AVX-512 VNNI), the environment
variable ``TF_ENABLE_ONEDNN_OPTS=1`` doubles the steps that fine-tuning takes in its minutes.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from kerasq.benchmark.cifar import fine_tune
from kerasq.benchmark.demo import in_batches, resnet_settings
from kerasq.benchmark.digits import accuracy
from kerasq.benchmark.networks import Images, cifar10, resnet_cifar10
from kerasq.benchmark.progress import stage
from kerasq.benchmark.report import write_json
from kerasq.codebooks import (
    PQF,
    QCNN,
    BitGoesDown,
    DeepCompression,
    DeepKMeans,
    FixedPoint,
    HashedNets,
    Method,
    VectorQuantization,
    compress,
)
from kerasq.export import convert, inspect
from kerasq.export.summary import table_console
from kerasq.keras import keras
from kerasq.runtime import Interpreter

FLOAT = "float"
CALIBRATION_IMAGES = 1000


@dataclasses.dataclass(frozen=True)
class Row:
    """What a method makes of the network.

    Attributes:
        name: of the method and its kind.
        settings: its arguments that are not the default ones.
        ratio: how many times smaller than in float32 the convolutions' kernels are in the file.
        bits_per_weight: of the convolutions' kernels.
        file_bytes: length of the file.
        before: top-1 before fine-tuning, per cent.
        after: after it; None without.
        seconds: of the compression.
        tuning_seconds: of the fine-tuning.
    """

    name: str
    settings: str
    ratio: float
    bits_per_weight: float
    file_bytes: int
    before: float
    after: float | None
    seconds: float
    tuning_seconds: float


def methods(model: Any, seed: int = 0) -> dict[str, Method]:
    """Return the methods at about 2.5 bits for each weight of a ResNet's convolutions.

    Their own training after the weights are shared is left out: all are fine-tuned alike. Training
    that comes before (pruning, rows drawn to clusters) belongs to the method.
    """
    convolutions = [x.name for x in model.layers if isinstance(x, keras.layers.Conv2D)]
    # What a codebook costs is shared by few weights in the first stage.
    rows = {name: 64 if name.startswith("layer3") else 32 for name in convolutions}
    pairs = {"layers": resnet_settings(model), "seed": seed}
    return {
        "k-means": QCNN(2, 16, error_correction=False, **pairs),
        "qcnn": QCNN(2, 16, sweeps=8, **pairs),
        "bit_goes_down": BitGoesDown(layer_steps=0, steps=0, seed=seed),
        "pqf": PQF(steps=0, seed=seed),
        "deep_compression": DeepCompression(
            0.6,
            conv_bits=4,
            dense_bits=4,
            prune_steps=300,
            retrain_steps=300,
            finetune_steps=0,
            seed=seed,
        ),
        "deep_kmeans": DeepKMeans(rows, steps=300, codebook_dtype="float16", seed=seed),
        "vector_quantization scalar": VectorQuantization(
            "scalar", codewords=6, codebook_dtype="float16", seed=seed
        ),
        "vector_quantization residual": VectorQuantization(
            "residual", 4, 32, shared=True, codebook_dtype="float16", seed=seed
        ),
        "fixed_point": FixedPoint("l2", 5, seed=seed),
        "hashed_nets (dense layer)": HashedNets(2.5 / 32, steps=300, seed=seed),
    }


def at_ratio(ratio: float, seed: int = 0) -> dict[str, Method]:
    """Return the methods that take a budget, for kernels so many times smaller than in float32.

    Each chooses the settings of the layers for itself: k-means without data.
    """
    budget = {"ratio": ratio, "sweeps": 8, "seed": seed}
    return {"k-means": QCNN(error_correction=False, **budget), "qcnn": QCNN(**budget)}


def run(
    model: Any,
    data: Images,
    chosen: dict[str, Method],
    images: int = 5000,
    minutes: float = 0.0,
    seed: int = 0,
    byte_tables: bool = False,
) -> list[Row]:
    """Compress a network by each method, fine-tune, and measure; the float network comes first.

    Args:
        model: images to logits.
        data: training images, of which the first are looked at, and test images.
        chosen: methods by name.
        images: training images that the methods look at.
        minutes: most wall time of the fine-tuning of each; 0 leaves it out.
        seed: of the fine-tuning.
        byte_tables: give codebook operators look-up tables of 8 bits, and measure the file.
    """
    calibration = data.x_train[:CALIBRATION_IMAGES] if byte_tables else None
    floating = convert(model)
    weights, _ = kernels(inspect(floating))
    rows = [_row(FLOAT, "", floating, weights, None, (0.0, 0.0), accuracy_of(model, data))]
    given = data.x_train[:images], data.y_train[:images]
    for name, method in chosen.items():
        start = time.perf_counter()
        with stage(f"compress: {name}") as show:
            report = functools.partial(_show, show)
            small = compress(model, given, method, verbose=False, callback=report)
        seconds = time.perf_counter() - start
        content = convert(small, calibration_data=calibration)
        before, after, spent = _accuracy(small, content, data, byte_tables), None, 0.0
        if minutes:
            with stage(f"fine-tune: {name}, {minutes:g} minutes at most") as show:
                tuning = fine_tune(
                    small, model, data.x_train, minutes=minutes, seed=seed, show=show
                )
            content = convert(small, calibration_data=calibration)
            after, spent = _accuracy(small, content, data, byte_tables), tuning.seconds
        rows.append(_row(name, _changed(method), content, weights, after, (seconds, spent), before))
    return rows


def _show(show: Any, report: Any) -> None:
    show(str(report))


def _row(
    name: str,
    settings: str,
    content: bytes,
    weights: int,
    after: float | None,
    seconds: tuple[float, float],
    before: float,
) -> Row:
    found = inspect(content)
    _, stored = kernels(found)  # a sum of kernels is several operators: not to be counted twice
    ratio, bits = 4 * weights / stored, 8 * stored / weights
    return Row(name, settings, ratio, bits, found.total_bytes, before, after, *seconds)


def kernels(inspection: Any) -> tuple[int, int]:
    """Return elements and bytes of the convolutions' kernels in a file, without what follows them.

    The last constants of our operators are a multiplier and a bias, into which normalizations are
    folded, and with tables of 8 bits a scale; TFLite's own convolutions have a bias, their only
    vector.
    """
    weights = stored = 0
    for operator in inspection.operators:
        if operator.weights and "conv" in operator.name.lower():
            weights += operator.weights
            constants = [(shape, size) for _, shape, size in operator.constants.values()]
            if operator.is_custom:
                constants = constants[: -3 if operator.options.get("tables") else -2]
            stored += sum(size for shape, size in constants if operator.is_custom or len(shape) > 1)
    return weights, stored


def _accuracy(model: Any, content: bytes, data: Images, in_file: bool) -> float:
    """Return top-1 of the test images, in Keras or of the file in the stock runtime."""
    if not in_file:
        return accuracy_of(model, data)
    interpreter = Interpreter(model_content=content)
    return accuracy(in_batches(interpreter.predict, data.x_test), data.y_test)


def accuracy_of(model: Any, data: Images) -> float:
    """Return top-1 of the test images in Keras, per cent."""
    return accuracy(
        in_batches(functools.partial(model.predict, verbose=0), data.x_test), data.y_test
    )


def _changed(method: Method) -> str:
    """Return a method's arguments that are not the default ones, as far as they are short."""
    default, config = type(method)().get_config(), method.get_config()
    return ", ".join(
        f"{key}={value}"
        for key, value in config.items()
        if value != default[key] and not isinstance(value, dict)
    )


def table(title: str, rows: list[Row], images: int, where: str = "Keras") -> Table:
    """Return the table for a terminal."""
    found = Table(title=title, caption=f"top-1 of {images} test images, in {where}")
    found.add_column("method")
    for column in ("conv weights", "bits/weight", "file", "before", "fine-tuned", "seconds"):
        found.add_column(column, justify="right")
    found.add_column("settings", overflow="fold")
    for row in rows:
        spent = f"{row.seconds:.0f}" + (f" + {row.tuning_seconds:.0f}" if row.after else "")
        found.add_row(
            row.name,
            f"{row.ratio:.1f}x smaller",
            f"{row.bits_per_weight:.2f}",
            f"{row.file_bytes:,}",
            f"{row.before:.2f} %",
            "–" if row.after is None else f"{row.after:.2f} %",
            "" if row.name == FLOAT else spent,
            row.settings,
        )
    return found


def main(
    data: Annotated[Path, typer.Option(help="CIFAR-10 as .npz.", exists=True)],
    weights: Annotated[Path, typer.Option(help="Trained ResNet as .npz.", exists=True)],
    network: Annotated[str, typer.Option(help="resnet20 or resnet56.")] = "resnet20",
    names: Annotated[
        list[str] | None, typer.Option("--methods", help="Only these; repeat the option.")
    ] = None,
    minutes: Annotated[
        float, typer.Option("--fine-tune", min=0, help="Minutes of fine-tuning of each; 0: none.")
    ] = 0.0,
    ratio: Annotated[
        float | None,
        typer.Option(help="Only k-means and Q-CNN, for kernels so many times smaller.", min=1),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=300, help="Training and test images; all without.")
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="Images that the methods look at.")] = 5000,
    byte_tables: Annotated[
        bool, typer.Option("--byte-tables", help="Tables of 8 bits; measure the file.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of all that is random.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the rows here.")] = None,
) -> None:
    """Compress a CIFAR-10 ResNet by every codebook method and compare."""
    keras.utils.set_random_seed(seed)
    model = resnet_cifar10(weights)
    if model.name != network:
        raise typer.BadParameter(f"{weights} holds a {model.name}, not a {network}")
    found = cifar10(data, train=limit)
    if limit is not None:
        found = dataclasses.replace(found, x_test=found.x_test[:limit], y_test=found.y_test[:limit])
    all_methods = methods(model, seed) if ratio is None else at_ratio(ratio, seed)
    unknown = sorted(set(names or ()) - set(all_methods))
    if unknown:
        raise typer.BadParameter(f"no methods {unknown}: there are {list(all_methods)}")
    chosen = {name: all_methods[name] for name in names or all_methods}
    rows = run(model, found, chosen, images, minutes, seed, byte_tables)
    where = "the stock runtime" if byte_tables else "Keras"
    table_console().print(table(f"CIFAR-10, {model.name}", rows, len(found.y_test), where))
    if json_file is not None:
        write_json(json_file, [dataclasses.asdict(row) for row in rows])


if __name__ == "__main__":
    typer.run(main)
