"""How long one sweep of error correction takes, with the statistics gathered.

``python -m kerasq.benchmark.correction [--json FILE]``
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from kerasq.benchmark.progress import stage
from kerasq.codebooks import ErrorCorrection, KernelLayout, Moments
from kerasq.codebooks.qcnn import subspace_kmeans

# Name, kernel, d, K, seconds owed on two cores.
CASES = (
    ("conv 3x3 256->256", (3, 3, 256, 256), 8, 128, 1.5),
    ("dense 9216->4096", (9216, 4096), 4, 32, 12.0),
)


def problem(
    shape: tuple[int, ...], subvector: int, codewords: int, samples: int, seed: int = 0
) -> ErrorCorrection:
    """Return a layer of random weights, with moments of random inputs as after a ReLU.

    Args:
        shape: of the kernel.
        subvector: d.
        codewords: K.
        samples: rows of inputs.
        seed: of all that is random.
    """
    rng = np.random.default_rng(seed)
    kernel = rng.normal(size=shape).astype(np.float32)
    layout = KernelLayout(shape, subvector)
    size = layout.positions * layout.channels
    moments = Moments(size, shape[-1])
    for _ in range(0, samples, 1024):
        inputs = np.maximum(rng.standard_normal((1024, size), np.float32), 0)
        moments.update(inputs, inputs @ kernel.reshape(size, -1))
    start = subspace_kmeans(kernel, layout, codewords, 3, rng)
    return ErrorCorrection(layout, kernel, [moments], *start, round_to="float16")


def run(sweeps: int = 2) -> list[dict[str, float | str]]:
    """Return a row for each case: wall and processor seconds of the fastest sweep."""
    rows = []
    for name, shape, subvector, codewords, owed in CASES:
        with stage(f"{name}: statistics"):
            correction = problem(shape, subvector, codewords, 9216)
        before = correction.objective
        timed = [_timed(correction) for _ in range(sweeps)]
        wall, processor = min(timed)
        rows.append(
            {
                "layer": f"{name} d={subvector} K={codewords}",
                "seconds": round(wall, 2),
                "processor_seconds": round(processor, 2),
                "owed_seconds": owed,
                "objective": round(correction.objective / before, 4),
            }
        )
    return rows


def _timed(correction: ErrorCorrection) -> tuple[float, float]:
    wall, processor = time.perf_counter(), time.process_time()
    correction.sweep()
    return time.perf_counter() - wall, time.process_time() - processor


def main(
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the rows here.")] = None,
    sweeps: Annotated[int, typer.Option(min=1, help="Sweeps; the fastest counts.")] = 2,
) -> None:
    """Time one sweep of error correction on a convolution and on a dense layer."""
    rows = run(sweeps)
    for row in rows:
        typer.echo(
            f"{row['layer']}: {row['seconds']} s, {row['processor_seconds']} s of processor time "
            f"(owed: {row['owed_seconds']} s); objective {row['objective']} of the start"
        )
    if json_file is not None:
        json_file.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    typer.run(main)
