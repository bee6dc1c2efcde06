"""On the host: write each model, an input and what Keras predicts for it into a folder.

python tests/arm64/export_models.py FOLDER
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from models import MODELS, Operator, build
from tensorflow.lite.python import schema_py_generated as schema

import kerasq
from kerasq.export.tflite import quiet


def convert(model: Any) -> bytes:
    """Convert as a user would; the stock converter is enough where the operators are layers."""
    if not any(isinstance(layer, Operator) for layer in model.layers):
        return kerasq.convert(model)
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.allow_custom_ops = True
    with quiet():
        return converter.convert()


def operators(content: bytes) -> int:
    """Count our operators in a file: what is not fused would run without our kernels."""
    model = schema.Model.GetRootAs(content)
    graph = model.Subgraphs(0)
    indices = (graph.Operators(i).OpcodeIndex() for i in range(graph.OperatorsLength()))
    names = [model.OperatorCodes(index).CustomCode() for index in indices]
    return sum(name is not None and name.startswith(b"Kerasq") for name in names)


def main() -> None:
    """Export every model, then the list that says all are there."""
    parser = argparse.ArgumentParser(description="Export the models of the aarch64 test.")
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    entries = []
    for index, name in enumerate(MODELS):
        case, x = build(name)
        stem = f"model{index:02d}"
        content = convert(case.model)
        if operators(content) != case.operators:
            sys.exit(f"{name}: {operators(content)} of {case.operators} operators in the file")
        expected = case.model(x, training=False).numpy()
        if case.labels_only and len(np.unique(expected.argmax(-1))) < 3:
            sys.exit(f"{name}: its labels are nearly all the same: comparing them shows nothing")
        (folder / f"{stem}.tflite").write_bytes(content)
        np.savez(folder / f"{stem}.npz", input=x, expected=expected)
        entries.append({"name": name, "stem": stem, "labels_only": case.labels_only})
    (folder / "models.json").write_text(json.dumps(entries, indent=1))
    print(f"exported {len(entries)} models to {folder}")


if __name__ == "__main__":
    main()
