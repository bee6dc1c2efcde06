"""Whole networks as the Q-CNN paper compresses them: convolutions, fine-tuning, dense layers."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from kerasq.codebooks.checkpoint import Checkpoint
from kerasq.codebooks.compress import compress, sites_of
from kerasq.codebooks.data import calibration_data
from kerasq.codebooks.finetuning import FineTuner, Stage, flat_layers
from kerasq.codebooks.method import LayerSettings
from kerasq.codebooks.program import Program
from kerasq.codebooks.qcnn import QCNN
from kerasq.keras import check_model, keras


def compress_in_stages(
    model: Any,
    data: Any,
    method: QCNN,
    stage: Stage,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Any:
    """Compress the convolutions, fine-tune the float dense layers to them, compress those.

    The dense layers' targets are the responses of the fine-tuned network.

    Args:
        model: as for `kerasq.codebooks.compress`.
        data: as there; with labels where the stage trains on labels.
        method: of all layers; a budget is that of the whole network.
        stage: the training of the dense layers between.
        checkpoint_dir: folder from which an interrupted run goes on.
        **options: of `kerasq.codebooks.compress`, but for ``report`` and ``strategy``: for both
            times it is called.

    Raises:
        ValueError: a model without convolutions, or without dense layers, to compress; and what
            `kerasq.codebooks.compress` raises.

    Reference: Wu et al., Quantized Convolutional Neural Networks for Mobile Devices,
    arXiv:1512.06473
    """
    check_model(model, "compress_in_stages")
    arrays, labels = calibration_data(data, model)
    given = arrays if labels is None else (arrays, labels)  # a dataset may shuffle
    layers = [step.layer for step in sites_of(Program(model))]
    plan = method.plan_for(model, layers, arrays)
    dense = {layer.name for layer in layers if isinstance(layer, keras.layers.Dense)} & plan.keys()
    if not dense or dense == plan.keys():
        raise ValueError(
            f"model {model.name!r} has not both convolutions and dense layers to compress: call "
            "compress"
        )
    folders = [
        None if checkpoint_dir is None else Path(checkpoint_dir) / name
        for name in ("convolutions", "fine-tuning", "dense")
    ]
    rest = {name: settings for name, settings in plan.items() if name not in dense}
    small = compress(model, given, _only(method, rest), folders[0], **options)
    checkpoint = None if folders[1] is None else Checkpoint(folders[1], _run_of(small, stage))
    tuner = FineTuner(model, arrays, labels, checkpoint, options.get("augment"), method.seed)
    tuned = [layer for layer in flat_layers(small) if layer.name in dense]
    tuner.run(small, stage, variables=[v for layer in tuned for v in layer.trainable_variables])
    chosen = {name: plan[name] for name in dense}
    return compress(small, given, _only(method, chosen), folders[2], **options)


def _only(method: QCNN, plan: dict[str, LayerSettings]) -> QCNN:
    """Return the method for the layers of a plan, which leaves all others as they are."""
    pairs = {name: (one.subvector, one.codewords) for name, one in plan.items()}
    config = {**method.get_config(), "bits_per_weight": None, "ratio": None}
    return QCNN(**{**config, "layers": lambda layer: pairs.get(layer.name, False)})


def _run_of(small: Any, stage: Stage) -> dict[str, Any]:
    digest = hashlib.sha256()
    for weight in small.get_weights():
        digest.update(np.ascontiguousarray(weight).tobytes())
    return {"stage": dataclasses.asdict(stage), "model": digest.hexdigest()[:16]}
