"""Every operator against XNNPACK's int8, shape by shape: ``python -m kerasq.benchmark.kernels``.

Each is a file with a single operator, float32 in and out, but for XNNPACK's own int8, which is int8
in and out. The files of a shape are run in turn in one process, so that ratios hold on a noisy
machine; times are medians.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tensorflow as tf
import typer
from rich.table import Table

from kerasq.benchmark.latency import Timing, compare
from kerasq.benchmark.progress import stage
from kerasq.benchmark.report import write_json
from kerasq.export import convert, inspect
from kerasq.export.summary import table_console
from kerasq.export.tflite import quiet
from kerasq.keras import keras
from kerasq.layers import CodebookConv2D, CodebookDense, QuantConv2D, QuantDense

INT8, FLOAT = "XNNPACK int8", "XNNPACK float32"


@dataclasses.dataclass(frozen=True)
class Shape:
    """A convolution on a square map, or a dense layer of one row.

    Attributes:
        size: of the map; None for a dense layer.
        channels_in: Cin.
        channels_out: Ct.
        kernel: its height and width.
        stride: of both axes.
    """

    size: int | None
    channels_in: int
    channels_out: int
    kernel: int = 1
    stride: int = 1

    @property
    def name(self) -> str:
        """What the shape is called on the command line."""
        channels = f"{self.channels_in}-{self.channels_out}"
        if self.size is None:
            return f"dense_{channels}"
        stride = f"_stride{self.stride}" if self.stride > 1 else ""
        return f"{self.kernel}x{self.kernel}_{channels}_{self.size}x{self.size}{stride}"

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image."""
        positions = 1 if self.size is None else (-(-self.size // self.stride)) ** 2
        return self.kernel**2 * self.channels_in * self.channels_out * positions

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input."""
        if self.size is None:
            return (self.channels_in,)
        return (self.size, self.size, self.channels_in)


SHAPES = (
    Shape(56, 64, 64, 3),
    Shape(28, 128, 128, 3),
    Shape(14, 256, 256, 3),
    Shape(7, 512, 512, 3),
    Shape(28, 128, 256, 3, 2),
    Shape(14, 256, 256),
    Shape(56, 64, 256),
    Shape(None, 25088, 4096),
    Shape(None, 4096, 4096),
    Shape(None, 512, 1000),
)


def _float(shape: Shape) -> Any:
    return _layer(shape, keras.layers.Conv2D, keras.layers.Dense)


def _layer(shape: Shape, convolution: Any, dense: Any, **arguments: Any) -> Any:
    if shape.size is None:
        return dense(shape.channels_out, **arguments)
    return convolution(
        shape.channels_out, shape.kernel, strides=shape.stride, padding="same", **arguments
    )


def _quantized(input_quantizer: Any, kernel_quantizer: Any) -> Callable[[Shape], Any]:
    return lambda shape: _layer(
        shape,
        QuantConv2D,
        QuantDense,
        input_quantizer=input_quantizer,
        kernel_quantizer=kernel_quantizer,
    )


def _codebook(codewords: int, length: int) -> Callable[[Shape], Any]:
    arguments = {"subvector": length, "codewords": codewords}
    return lambda shape: _layer(shape, CodebookConv2D, CodebookDense, **arguments)


_TWO_BITS = {"class_name": "lsq", "config": {"bits": 2}}
OPERATORS: dict[str, Callable[[Shape], Any]] = {
    "binary": _quantized("ste_sign", "bwn"),
    "2x2 bit planes": _quantized(_TWO_BITS, _TWO_BITS),
    "codebook K=16 d=8": _codebook(16, 8),
    "codebook K=16 d=4": _codebook(16, 4),
    "codebook K=256 d=8": _codebook(256, 8),
    "weight-only binary": _quantized(None, "bwn"),
    "weight-only ternary": _quantized(None, "twn"),
    "weight-only codebook K=16": _codebook(16, 1),
}
# With look-up tables of 8 bits beside those of floats.
_WITH_BYTES = ("codebook K=16 d=8", "codebook K=16 d=4", "codebook K=256 d=8")


def files(shape: Shape, names: list[str] | None = None) -> dict[str, bytes]:
    """Return the files of a shape by operator, XNNPACK's own first.

    Args:
        shape: of the layer.
        names: of `OPERATORS`, or all.

    Raises:
        RuntimeError: a file has more than one operator, so that its time is not the operator's.
    """
    x = np.random.default_rng(0).normal(size=(8, *shape.input_shape)).astype(np.float32)
    plain = keras.Sequential([keras.layers.Input(shape.input_shape), _float(shape)])
    found = {INT8: _int8(plain, x), FLOAT: single(plain)}
    for name in names or OPERATORS:
        model = keras.Sequential([keras.layers.Input(shape.input_shape), OPERATORS[name](shape)])
        model(x[:1], training=True)  # some quantizers take their scale from data
        found[name] = single(model)
        if name in _WITH_BYTES:
            found[f"{name}, 8-bit tables"] = single(model, calibration_data=x)
    return found


def single(model: Any, **arguments: Any) -> bytes:
    """Return the file of a model of one layer.

    Raises:
        RuntimeError: the file has more than one operator, so that its time is not the operator's.
    """
    content = convert(model, **arguments)
    operators = [operator.name for operator in inspect(content).operators]
    if len(operators) != 1:
        raise RuntimeError(
            f"{model.layers[-1].name} became {len(operators)} operators: {operators}"
        )
    return content


def _int8(model: Any, x: np.ndarray) -> bytes:
    """Return TFLite's own int8 file, int8 in and out."""
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([image[None]] for image in x)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    with quiet():
        return converter.convert()


def measure(
    shape: Shape, names: list[str] | None = None, runs: int = 50, threads: int = 1
) -> dict[str, Timing]:
    """Build the files of a shape and measure them in turn."""
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        with stage(f"{shape.name}: build the files"):
            for index, (label, content) in enumerate(files(shape, names).items()):
                paths[label] = Path(folder) / f"{index}.tflite"
                paths[label].write_bytes(content)
        with stage(f"{shape.name}: {runs} runs of each") as show:
            return compare(paths, runs, threads, lambda turn: show(f"round {turn}"))


def table(shape: Shape, timings: dict[str, Timing], threads: int) -> Table:
    """Return the table of a shape for a terminal."""
    workers = "1 thread" if threads == 1 else f"{threads} threads"
    found = Table(title=f"{shape.name}, {shape.macs / 1e6:.1f} M multiply-adds, {workers}")
    found.add_column("operator")
    for column in ("µs", "times faster than int8", "than float32"):
        found.add_column(column, justify="right")
    for label, timing in timings.items():
        ratios = (timings[base].median / timing.median for base in (INT8, FLOAT))
        found.add_row(label, f"{timing.median:,.0f}", *(f"{ratio:.2f}" for ratio in ratios))
    return found


def main(
    shapes: Annotated[
        list[str] | None, typer.Option("--shape", help="Only this; repeat the option.")
    ] = None,
    operators: Annotated[
        list[str] | None, typer.Option("--operator", help="Only this; repeat the option.")
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Measured runs of each file.")] = 50,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the runtime.")] = 1,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures here.")
    ] = None,
) -> None:
    """Time every operator against XNNPACK's int8 and float32, shape by shape."""
    by_name = {shape.name: shape for shape in SHAPES}
    _known(shapes, by_name, "--shape")
    _known(operators, OPERATORS, "--operator")
    found = {}
    for name in shapes or by_name:
        shape = by_name[name]
        timings = measure(shape, operators, runs, threads)
        table_console().print(table(shape, timings, threads))
        found[name] = {
            label: {
                **dataclasses.asdict(timing),
                "faster_than_int8": timings[INT8].median / timing.median,
                "faster_than_float32": timings[FLOAT].median / timing.median,
            }
            for label, timing in timings.items()
        }
    if json_file is not None:
        write_json(json_file, found)


def _known(names: list[str] | None, known: Any, option: str) -> None:
    unknown = sorted(set(names or ()) - set(known))
    if unknown:
        raise typer.BadParameter(f"{option}: no {unknown}: there are {list(known)}")


if __name__ == "__main__":
    typer.run(main)
