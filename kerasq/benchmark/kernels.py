"""One convolution, four ways, against each other: ``python -m kerasq.benchmark.kernels``.

A 3x3 convolution of 256 to 256 channels at 14x14, one thread: binary, of 16 and of 256 codewords,
and the stock runtime's own float32. Each is a file with a single operator, and their runs are
interleaved in one process.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path
from typing import Any

from kerasq.benchmark.latency import Timing, compare
from kerasq.benchmark.progress import stage
from kerasq.benchmark.report import print_timings, write_json
from kerasq.export import convert, inspect
from kerasq.keras import keras
from kerasq.layers import CodebookConv2D, QuantConv2D

SIZE, CHANNELS = 14, 256
BASELINE = "float32, XNNPACK"


def layers() -> dict[str, Any]:
    """Return the convolutions by label, the float one first."""
    common = {"kernel_size": 3, "padding": "same"}
    return {
        BASELINE: keras.layers.Conv2D(CHANNELS, **common),
        "binary, 1x1 planes": QuantConv2D(
            CHANNELS, input_quantizer="ste_sign", kernel_quantizer="bwn", **common
        ),
        "codebook, K=16, d=8": CodebookConv2D(CHANNELS, subvector=8, codewords=16, **common),
        "codebook, K=256, d=8": CodebookConv2D(CHANNELS, subvector=8, codewords=256, **common),
    }


def single(layer: Any) -> bytes:
    """Return the file of a model of one layer.

    Raises:
        RuntimeError: the file has more than one operator, so that its time is not the operator's.
    """
    content = convert(keras.Sequential([keras.layers.Input((SIZE, SIZE, CHANNELS)), layer]))
    operators = [operator.name for operator in inspect(content).operators]
    if len(operators) != 1:
        raise RuntimeError(f"{layer.name} became {len(operators)} operators: {operators}")
    return content


def measure(runs: int = 50) -> dict[str, Timing]:
    """Build the four files and measure them, interleaved, on one thread."""
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        with stage("build four files of one operator"):
            for index, (label, layer) in enumerate(layers().items()):
                files[label] = Path(folder) / f"{index}.tflite"
                files[label].write_bytes(single(layer))
        with stage(f"{runs} runs of each"):
            return compare(files, runs)


def main() -> None:
    """Measure and print, and write JSON where it is asked for."""
    parser = argparse.ArgumentParser(description="Time one convolution four ways.")
    parser.add_argument("--runs", type=int, default=50, help="measured runs of each")
    parser.add_argument("--json", type=Path, help="write the result as JSON")
    arguments = parser.parse_args()
    timings = measure(arguments.runs)
    baseline = timings[BASELINE].median
    if arguments.json is not None:
        rows = {
            label: {**dataclasses.asdict(timing), "times_faster": baseline / timing.median}
            for label, timing in timings.items()
        }
        write_json(arguments.json, rows)
    print_timings(timings, BASELINE)


if __name__ == "__main__":
    main()
