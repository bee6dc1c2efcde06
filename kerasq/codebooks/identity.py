"""What a run's results depend on, for a checkpoint and for other workers to compare."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np

from kerasq.codebooks.checkpoint import digest
from kerasq.codebooks.method import LayerSettings, Method
from kerasq.codebooks.program import Program

_PLAIN = (bool, int, float, str, list, tuple, type(None))
_NO_IDENTITY = ("name", "function")  # marshalled code differs from process to process


def run_of(model: Any, method: Method, plan: dict[str, LayerSettings]) -> dict[str, Any]:
    """Return what the codebooks depend on but for the data: JSON values."""
    config = {k: v for k, v in method.get_config().items() if k != "layers"}
    return {
        "model": {
            "name": model.name,
            "graph": digest(json.dumps(_graph(model), default=_kind).encode()),
            "weights": digest(*map(np.ascontiguousarray, model.get_weights())),
        },
        "method": {"name": method.name, **config},
        "layers": {name: dataclasses.asdict(settings) for name, settings in plan.items()},
    }


def data_of(arrays: list[np.ndarray] | None) -> list[dict[str, Any]] | None:
    """Return what tells data from other data: JSON values."""
    if arrays is None:
        return None
    return [
        {"shape": list(x.shape), "type": str(x.dtype), "values": digest(np.ascontiguousarray(x))}
        for x in arrays
    ]


def _graph(model: Any) -> list[Any]:
    """Return the calls of a model's layers, with the plain values of their configurations."""
    return [
        (type(step.layer).__name__, step.inputs, step.outputs, _settings(step.layer))
        for step in Program(model).steps
    ]


def _settings(layer: Any) -> dict[str, Any]:
    config = layer.get_config()
    return {k: v for k, v in config.items() if isinstance(v, _PLAIN) and k not in _NO_IDENTITY}


def _kind(value: Any) -> str:
    return type(value).__name__
