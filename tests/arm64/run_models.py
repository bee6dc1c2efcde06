"""On aarch64: run each exported model in the stock LiteRT runtime and compare with Keras.

    python tests/arm64/run_models.py FOLDER LIBRARY

Needs numpy and ai_edge_litert only. Every model runs twice: the whole batch on one thread, then
one sample on two threads, after the same interpreter was resized.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter, load_delegate

TOLERANCE = 1e-4  # of the largest expected value


def predict(interpreter: Interpreter, x: np.ndarray) -> np.ndarray:
    """Run one batch, resizing the input to it."""
    interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def difference(y: np.ndarray, expected: np.ndarray, labels_only: bool) -> str | None:
    """Say what differs, or nothing."""
    if y.shape != expected.shape:
        return f"shape {y.shape}, Keras {expected.shape}"
    if not np.isfinite(y).all():
        return "not finite"
    if labels_only:
        wrong = int(np.sum(y.argmax(-1) != expected.argmax(-1)))
        return f"{wrong} of {len(y)} labels differ" if wrong else None
    error = np.abs(y - expected).max() / np.abs(expected).max()
    return None if error <= TOLERANCE else f"relative error {error:.2e}"


def check(folder: Path, library: str, entry: dict) -> None:
    """Run one model both ways; raise AssertionError where it differs from Keras."""
    data = np.load(folder / f"{entry['stem']}.npz")
    x, expected = data["input"], data["expected"]
    for batch, num_threads in ((len(x), 1), (1, 2)):
        interpreter = Interpreter(
            model_path=str(folder / f"{entry['stem']}.tflite"),
            num_threads=num_threads,
            experimental_delegates=[load_delegate(library)],
        )
        if batch == 1:
            predict(interpreter, x)  # of another size, so that the next call has to resize
        wrong = difference(predict(interpreter, x[:batch]), expected[:batch], entry["labels_only"])
        if wrong:
            raise AssertionError(f"batch {batch}, {num_threads} threads: {wrong}")


def main() -> int:
    """Run all models and return the exit code."""
    parser = argparse.ArgumentParser(description="Run exported models and compare with Keras.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("library", help="libkerasq_tflite.so of this architecture")
    arguments = parser.parse_args()
    entries = json.loads((arguments.folder / "models.json").read_text())
    failed = 0
    for entry in entries:
        try:
            check(arguments.folder, arguments.library, entry)
        except (AssertionError, RuntimeError, ValueError) as error:
            failed += 1
            print(f"FAILED {entry['name']}: {error}", flush=True)
        else:
            print(f"passed {entry['name']}", flush=True)
    print(f"{platform.machine()}: {len(entries) - failed} passed, {failed} failed")
    return 1 if failed or not entries else 0


if __name__ == "__main__":
    sys.exit(main())
