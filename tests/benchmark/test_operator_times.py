"""Where the time goes: every operator, what ran it, and what they leave unattributed."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf

import kerasq
from kerasq.benchmark import operator_times
from kerasq.benchmark.latency import Timing
from kerasq.benchmark.operator_table import print_operator_times
from kerasq.benchmark.operator_times import BUILTIN, OTHER_GRAPH, REFUSED, XNNPACK
from kerasq.export import inspect
from kerasq.export.extraction import CONSTANT, CONTROL_FLOW
from kerasq.keras import keras
from kerasq.layers import QuantConv2D
from kerasq.runtime.profile import OperatorProfile
from tests.runtime import models

RUNS = 4
KERNELS = {
    "KerasqBitplaneConv2D": "bitplane_",
    "KerasqBitplaneDense": "bitplane_weights_",
    "KerasqCodebookConv2D": "codebook_",
    "KerasqCodebookDense": "codebook_",
    "KerasqSparseConv2D": "sparse_gemm_",
    "KerasqSparseDense": "sparse_gemm_",
    "KerasqHashedDense": "hashed_gemm_",
}


class Loop(keras.layers.Layer):
    """Control flow: as often as the input does not tell."""

    def call(self, x):
        def goes_on(i, y):
            return i < tf.cast(3 + 0 * tf.reduce_sum(x), tf.int32)

        return tf.while_loop(goes_on, lambda i, y: (i + 1, 1.1 * y), (0, x))[1]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Every operator of kerasq, and some of TFLite's."""
    rng = np.random.default_rng(3)
    model = models.sequential(
        (9, 9, 4),
        models.bitplane_conv(rng, 4, 8),
        keras.layers.MaxPooling2D(),
        models.codebook_conv(rng, 8, 8, codewords=8),
        models.codebook_conv(rng, 8, 16, codewords=8, order="channel"),
        models.sparse_conv(rng, 16, 8),
        models.bitplane_conv(rng, 8, 8, groups=8),
        keras.layers.Flatten(),
        models.bitplane_dense(rng, 128, 16),
        models.codebook_dense(rng, 16, 16, codewords=8),
        models.sparse_dense(rng, 16, 16),
        models.hashed_dense(rng, 16, 12),
        keras.layers.Dense(3, activation="softmax"),
    )
    path = tmp_path_factory.mktemp("times") / "all.tflite"
    path.write_bytes(models.convert(model))
    return path


@pytest.fixture(scope="module")
def times(file):
    return operator_times.measure(file, RUNS)


def written(tmp_path, model):
    path = tmp_path / "model.tflite"
    path.write_bytes(models.convert(model))
    return path


def test_lists_the_operators_of_the_file(times, file):
    listed = inspect(file).operators
    assert [(o.index, o.name, o.layer) for o in times.operators] == [
        (o.index, o.name, o.layer) for o in listed
    ]
    assert [o.constant_bytes for o in times.operators] == [o.nbytes for o in listed]
    assert {o.name for o in times.operators} >= set(KERNELS)
    shapes = {o.name: o.shape for o in times.operators}
    assert shapes["MAX_POOL_2D"] == (1, 4, 4, 8)
    assert shapes["KerasqHashedDense"] == (1, 12)


def test_tells_what_ran(times):
    for operator in times.operators:
        if operator.name in KERNELS:
            assert operator.kernel.startswith(KERNELS[operator.name])
        else:
            assert operator.kernel in (XNNPACK, BUILTIN)
    pooling = next(o for o in times.operators if o.name == "MAX_POOL_2D")
    assert pooling.kernel == XNNPACK
    depthwise = times.operators[5]
    assert depthwise.kernel.startswith("bitplane_depthwise_")


def test_the_instruction_set_shows(file, monkeypatch):
    monkeypatch.setenv("KERASQ_ISA", "scalar")
    for operator in operator_times.measure(file, 1).operators:
        assert operator.kernel.endswith("_scalar") == (operator.name in KERNELS)


def test_a_codebook_tells_the_way_its_map_makes_worth_while(tmp_path):
    names = set()
    for size in (1, 40):
        rng = np.random.default_rng(5)
        layer = models.codebook_conv(rng, 16, 64, subvector=8, codewords=256, bits=8)
        path = written(tmp_path, models.sequential((size, size, 16), layer))
        names.add(operator_times.measure(path, 1).operators[0].kernel.rsplit("_", 1)[0])
    assert names == {"codebook_look_up", "codebook_gemm"}


def test_everything_adds_up(times):
    assert times.whole.runs == RUNS
    assert all(o.microseconds is not None and o.microseconds >= 0 for o in times.operators)
    assert all(o.microseconds > 0 for o in times.operators if o.name in KERNELS)
    parts = sum(o.microseconds for o in times.operators)
    assert parts == pytest.approx(times.attributed)
    assert parts + times.call + times.unattributed == pytest.approx(times.whole.median)
    shares = [times.share(t) for t in (times.call, times.unattributed)]
    shares += [times.share(o.microseconds) for o in times.operators]
    assert sum(shares) == pytest.approx(100)


def test_memory(times):
    by_name = {o.name: o for o in times.operators}
    pooling = by_name["MAX_POOL_2D"]
    assert pooling.scratch_bytes is None
    assert pooling.activation_bytes == pooling.peak_bytes == 4 * (9 * 9 * 8 + 4 * 4 * 8)
    hashed = by_name["KerasqHashedDense"]
    assert hashed.activation_bytes == 4 * (16 + 12)
    assert hashed.scratch_bytes > 0
    assert hashed.peak_bytes == hashed.activation_bytes + hashed.scratch_bytes


def test_more_threads_take_more_scratch(times, file):
    threaded = operator_times.measure(file, 1, num_threads=2)
    assert threaded.threads == 2
    pairs = zip(times.operators, threaded.operators, strict=True)
    assert all(one.scratch_bytes < two.scratch_bytes for one, two in pairs if one.scratch_bytes)


def test_clocks_are_interleaved_and_the_warmup_is_not_counted(monkeypatch):
    calls = []

    class Fake:
        def __init__(self, name):
            self.name = name

        def invoke(self):
            calls.append(self.name)

        def operator_profiles(self):
            runs = calls.count("whole")
            return [OperatorProfile(0, "codebook_gemm_avx2", 64, runs, 2000 * runs)]

    clocks = operator_times._Clocks(Fake("whole"), {1: Fake("pool")}, Fake("nothing"))
    shown = []
    clocks.run(RUNS, shown.append)
    assert calls == ["whole", "pool", "nothing"] * (RUNS + 3)
    assert [len(seconds) for seconds in (clocks.whole, clocks.call)] == [RUNS, RUNS]
    assert clocks.parts[0] == pytest.approx([2e-6] * RUNS)
    assert len(clocks.parts[1]) == RUNS
    assert shown[-1] == f"round {RUNS + 3} of {RUNS + 3}"


def test_control_flow_has_no_time_of_its_own(tmp_path):
    rng = np.random.default_rng(0)
    path = written(tmp_path, models.sequential((4,), Loop(), models.hashed_dense(rng, 4, 3)))
    times = operator_times.measure(path, RUNS)
    loop = next(o for o in times.operators if o.name == "WHILE")
    assert (loop.note, loop.microseconds) == (CONTROL_FLOW, None)
    inner = [o for o in times.operators if o.note == OTHER_GRAPH]
    assert inner and all(o.microseconds is None and o.kernel == "" for o in inner)
    assert next(o for o in times.operators if o.name == "KerasqHashedDense").microseconds > 0
    assert times.unattributed > 0


def test_a_constant_kernel_is_part_of_its_reader(tmp_path):
    path = tmp_path / "int8.tflite"
    lsq = {"class_name": "lsq", "config": {"bits": 8}}
    layers = [QuantConv2D(8, 3, kernel_quantizer=name) for name in (lsq, "bwn")]
    kerasq.convert(keras.Sequential([keras.layers.Input((8, 8, 4)), *layers]), path)
    dequantize, convolution, bitplane = operator_times.measure(path, RUNS).operators
    assert (dequantize.note, dequantize.microseconds) == (CONSTANT, None)
    assert convolution.name == "CONV_2D" and convolution.note == ""
    assert convolution.microseconds > 0 and bitplane.microseconds > 0


def test_an_operator_that_the_runtime_refuses_alone(file, monkeypatch):
    opened = operator_times._opened

    def refuse(content, num_threads):
        if b"KerasqHashedDense" not in content and any(
            o.name == "MAX_POOL_2D" for o in inspect(content).operators
        ):
            raise RuntimeError("not this one")
        return opened(content, num_threads)

    monkeypatch.setattr(operator_times, "_opened", refuse)
    times = operator_times.measure(file, 1)
    pooling = next(o for o in times.operators if o.name == "MAX_POOL_2D")
    assert (pooling.note, pooling.microseconds) == (REFUSED, None)


def test_without_operators_of_ours(tmp_path):
    path = written(tmp_path, models.sequential((4,), keras.layers.Dense(2)))
    with pytest.raises(ValueError, match="none of kerasq's operators: .*without --per-op"):
        operator_times.measure(path)


@pytest.mark.parametrize("arguments", [{"runs": 0}, {"num_threads": 0}])
def test_no_runs_or_threads(file, arguments):
    with pytest.raises(ValueError, match="at least 1"):
        operator_times.measure(file, **arguments)


def test_json_and_table(times, capsys):
    content = json.loads(json.dumps(times.to_dict()))
    assert content["whole"]["median"] == times.whole.median
    assert len(content["operators"]) == len(times.operators)
    assert content["operators"][0]["share"] == times.share(times.operators[0].microseconds)
    print_operator_times(times, "a title")
    printed = capsys.readouterr().out
    for word in ("a title", "KerasqHashedDense", XNNPACK, "unattributed", "whole model", "scratch"):
        assert word in printed


def test_the_table_says_why_there_is_no_time(capsys):
    row = operator_times.OperatorTime(
        0, "WHILE", "", (), BUILTIN, None, CONTROL_FLOW, 0, 0, scratch_bytes=None
    )
    other = operator_times.OperatorTime(1, "PAD", "", (2,), XNNPACK, 1.5, BUILTIN, 0, 8, None)
    times = operator_times.OperatorTimes([row, other], Timing(10.0, 9.0, 11.0, 5), 1.0, 1)
    print_operator_times(times, "two")
    printed = capsys.readouterr().out
    assert CONTROL_FLOW in printed and "XNNPACK (alone TFLite)" in printed
