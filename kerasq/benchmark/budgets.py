"""Q-CNN within a budget of bytes, with and without error correction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from kerasq.benchmark.progress import stage
from kerasq.codebooks import QCNN, compress
from kerasq.keras import keras

METHODS = {"k-means": False, "qcnn": True}  # whether errors are corrected
Settings = dict[str, tuple[int, int] | bool]


def settings(
    model: Any,
    x: np.ndarray,
    name: str,
    ratio: float,
    seed: int = 0,
    chosen: Callable[[Any], bool] = lambda layer: True,
) -> Settings:
    """Return (d, K) of each layer as Q-CNN chooses them, False for those that stay in float.

    Error correction weighs the errors of kernels by the inputs that they meet. Plain k-means looks
    at no data, here neither: settings chosen for the other would do it wrong.

    Args:
        model: float network.
        x: calibration images; their labels are not needed.
        name: of the method, of `METHODS`.
        ratio: float32 bytes of the chosen layers' kernels over those of the file.
        seed: of the estimated errors.
        chosen: tells of a convolution or dense layer whether it is to be compressed.
    """
    kinds = (keras.layers.Conv2D, keras.layers.Dense)
    layers = [layer for layer in model.layers if type(layer) in kinds]
    method = QCNN(ratio=ratio, seed=seed, layers=lambda layer: None if chosen(layer) else False)
    plan = method.plan_for(model, layers, [x] if METHODS[name] else None)
    found: Settings = {layer.name: False for layer in layers}
    found.update((name, (of.subvector, of.codewords)) for name, of in plan.items())
    return found


def compressed(
    model: Any, x: np.ndarray, name: str, ratio: float, batch_size: int = 128, **arguments: Any
) -> Any:
    """Return the network compressed by one of `METHODS`, and show what is being done.

    Args:
        model: float network.
        x: calibration images.
        name: of the method.
        ratio: that the settings were chosen for.
        batch_size: images at a time.
        **arguments: of `kerasq.codebooks.QCNN`, the settings of the layers among them.
    """
    method = QCNN(error_correction=METHODS[name], **arguments)
    with stage(f"compress {ratio:g}x: {name}") as show:
        return compress(
            model,
            x,
            method,
            batch_size=batch_size,
            verbose=False,
            callback=lambda report: show(str(report)),
        )
