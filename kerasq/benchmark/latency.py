"""Latency in the stock runtime: medians of interleaved runs."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Timing:
    """Microseconds of one inference.

    Attributes:
        median: half of the runs were faster.
        low: a tenth of the runs were faster.
        high: a tenth of the runs were slower.
        runs: how many were measured.
    """

    median: float
    low: float
    high: float
    runs: int

    @classmethod
    def of(cls, seconds: list[float]) -> Timing:
        """Summarize measured seconds."""
        low, median, high = (float(q) for q in np.percentile(np.array(seconds) * 1e6, [10, 50, 90]))
        return cls(median, low, high, len(seconds))


def compare(
    files: Mapping[str, str | os.PathLike[str]],
    runs: int = 100,
    num_threads: int = 1,
    on_round: Callable[[int], None] | None = None,
) -> dict[str, Timing]:
    """Measure files against each other, one sample at a time, in one process.

    Each round runs every file once, so that a machine that slows down meanwhile slows all of them
    and the ratios hold. A tenth of the rounds (at least 3) comes first and is not counted.

    Args:
        files: label -> ``.tflite`` file.
        runs: rounds that are measured.
        num_threads: threads of the runtime.
        on_round: called with the number of rounds that are done.

    Returns:
        The timing of each label.

    Raises:
        ValueError: ``runs`` or ``num_threads`` below 1, or a file that the runtime refuses.
    """
    if runs < 1 or num_threads < 1:
        raise ValueError(f"runs and threads must be at least 1, got {runs} and {num_threads}")
    interpreters = {label: load(path, num_threads) for label, path in files.items()}
    warmup = max(3, runs // 10)
    seconds: dict[str, list[float]] = {label: [] for label in files}
    for turn in range(warmup + runs):
        for label, interpreter in interpreters.items():
            start = time.perf_counter()
            interpreter.invoke()
            if turn >= warmup:
                seconds[label].append(time.perf_counter() - start)
        if on_round is not None:
            on_round(turn + 1)
    return {label: Timing.of(values) for label, values in seconds.items()}


def load(path: str | os.PathLike[str], num_threads: int = 1, **arguments: Any) -> Any:
    """Return an interpreter with random inputs of the file's own shape, ready to be invoked.

    Args:
        path: the file.
        num_threads: threads of the runtime.
        **arguments: more of `kerasq.Interpreter`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the runtime refuses it.
    """
    from kerasq.runtime import Interpreter

    interpreter = Interpreter(os.fspath(path), num_threads=num_threads, **arguments)
    interpreter.allocate_tensors()
    rng = np.random.default_rng(0)
    for detail in interpreter.get_input_details():
        interpreter.set_tensor(detail["index"], _random(rng, detail))
    return interpreter


def _random(rng: np.random.Generator, detail: Mapping[str, Any]) -> np.ndarray:
    dtype, shape = np.dtype(detail["dtype"]), detail["shape"]
    if dtype.kind == "f":
        return rng.normal(size=shape).astype(dtype)
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)
