"""VGG-16 whole, 138 million weights: how long its compression takes, and in how much memory.

``python -m kerasq.benchmark.vgg [--layers N] [--images N] [--json FILE]``
"""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from kerasq.codebooks import QCNN, compress
from kerasq.keras import keras

# The paper's settings of VGG-16: convolutions and dense layers.
_CONVOLUTIONS, _DENSE = (6, 128), (4, 32)


def run(layers: int | None = None, images: int = 256, seed: int = 0) -> dict[str, Any]:
    """Compress VGG-16 of random weights on random images.

    Args:
        layers: how many of the first convolutions and dense layers; None takes all.
        images: how many.
        seed: of weights and images.

    Returns:
        minutes, peak memory in GiB, how many times smaller the kernels are, and a row for each
        layer.
    """
    keras.utils.set_random_seed(seed)
    model = keras.applications.VGG16(weights=None)
    data = np.random.default_rng(seed).random((images, 224, 224, 3), np.float32)
    kernels = [layer for layer in model.layers if hasattr(layer, "kernel")]
    taken = {layer.name for layer in kernels[:layers]}
    method = QCNN(
        *_CONVOLUTIONS,
        dense=_DENSE,
        layers=lambda layer: None if layer.name in taken else False,
        seed=seed,
    )
    rows: list[dict[str, Any]] = []

    def add(report: Any) -> None:
        rows.append(
            {
                "layer": report.name,
                "settings": str(report.settings),
                "seconds": round(report.seconds, 1),
                "error_before": report.solution.error_before,
                "error_after": report.solution.error_after,
            }
        )

    start = time.perf_counter()
    small = compress(model, data, method, batch_size=16, callback=add)
    minutes = (time.perf_counter() - start) / 60
    books = [layer.codebook() for layer in small.layers if layer.name in taken]
    return {
        "layers": len(books),
        "images": images,
        "minutes": round(minutes, 1),
        "peak_memory_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20), 2),
        "times_smaller": round(
            sum(4 * int(np.prod(book.shape)) for book in books)
            / sum(book.nbytes for book in books),
            2,
        ),
        "rows": rows,
    }


def main(
    layers: Annotated[int | None, typer.Option(min=1, help="First layers only.")] = None,
    images: Annotated[int, typer.Option(min=1, help="Random images.")] = 256,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures here.")
    ] = None,
) -> None:
    """Compress VGG-16 with random weights, and print time and memory."""
    figures = run(layers, images)
    typer.echo(
        f"{figures['layers']} layers on {images} images: {figures['minutes']} min, peak memory "
        f"{figures['peak_memory_gib']} GiB, kernels {figures['times_smaller']}x smaller"
    )
    if json_file is not None:
        json_file.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    typer.run(main)
