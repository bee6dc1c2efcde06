"""Latency: what is measured, in which order, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

import kerasq
from kerasq.benchmark import latency
from kerasq.keras import keras


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("latency") / "dense.tflite"
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3)])
    kerasq.convert(model, path)
    return path


def test_timing_is_the_median_in_microseconds():
    timing = latency.Timing.of([1e-6, 2e-6, 3e-6, 4e-6, 100e-6])
    assert timing.median == pytest.approx(3.0)
    assert timing.low < timing.median < timing.high
    assert timing.runs == 5


def test_runs_are_interleaved_and_the_warmup_is_not_counted(monkeypatch):
    calls: list[str] = []

    class Fake:
        def __init__(self, path: str):
            self.path = path

        def invoke(self) -> None:
            calls.append(self.path)

    monkeypatch.setattr(latency, "load", lambda path, num_threads: Fake(path))
    timings = latency.compare({"one": "a", "two": "b"}, runs=4)
    assert calls == ["a", "b"] * (4 + 3)
    assert [timing.runs for timing in timings.values()] == [4, 4]


def test_measures_a_file(file):
    rounds: list[int] = []
    timings = latency.compare({"dense": file}, runs=5, on_round=rounds.append)
    assert timings["dense"].median > 0
    assert rounds == list(range(1, 9))


@pytest.mark.parametrize("arguments", [{"runs": 0}, {"num_threads": 0}])
def test_refuses_none(file, arguments):
    with pytest.raises(ValueError, match="at least 1"):
        latency.compare({"dense": file}, **arguments)


@pytest.mark.parametrize("dtype", [np.float32, np.int8, np.uint8, np.int64, np.bool_])
def test_random_inputs_have_the_type_and_shape(dtype, rng):
    x = latency._random(rng, {"dtype": dtype, "shape": np.array([2, 50])})
    assert x.dtype == dtype and x.shape == (2, 50)
    assert len(np.unique(x)) > 1
