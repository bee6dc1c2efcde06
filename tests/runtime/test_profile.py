"""What the kernels count, and what the runtime delegated."""

from __future__ import annotations

import numpy as np
import pytest

import kerasq
from kerasq.export import inspect
from kerasq.keras import keras
from kerasq.runtime.profile import Profile, delegated
from kerasq.runtime.stock import RUNTIMES
from tests.runtime import models

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def content():
    rng = np.random.default_rng(1)
    model = models.sequential(
        (6, 6, 4),
        models.bitplane_conv(rng, 4, 8),
        keras.layers.MaxPooling2D(),
        keras.layers.ReLU(),
        models.codebook_conv(rng, 8, 8, codewords=8),
    )
    return models.convert(model)


def opened(content, runtime="ai_edge_litert", **arguments):
    interpreter = kerasq.Interpreter(model_content=content, runtime=runtime, **arguments)
    interpreter.allocate_tensors()
    return interpreter


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_counts_the_operators_of_the_file(content, runtime):
    interpreter = opened(content, runtime, profile=True)
    ours = [o.index for o in inspect(content).operators if o.is_custom]
    assert [p.index for p in interpreter.operator_profiles()] == ours
    for runs in range(3):
        profiles = interpreter.operator_profiles()
        assert [p.runs for p in profiles] == [runs, runs]
        assert all((p.nanoseconds > 0) == (runs > 0) for p in profiles)
        interpreter.invoke()
    assert [p.kernel.split("_")[0] for p in profiles] == ["bitplane", "codebook"]
    assert all(p.scratch_bytes > 0 for p in profiles)


def test_follows_the_shape_of_the_input(content):
    interpreter = opened(content, profile=True)
    small = interpreter.operator_profiles()
    interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], (1, 60, 60, 4))
    interpreter.allocate_tensors()
    large = interpreter.operator_profiles()
    assert [p.index for p in small] == [p.index for p in large]
    assert all(s.scratch_bytes < b.scratch_bytes for s, b in zip(small, large, strict=True))


def test_interpreters_count_apart(content):
    first, second = (opened(content, profile=True) for _ in range(2))
    first.invoke()
    assert [p.runs for p in first.operator_profiles()] == [1, 1]
    assert [p.runs for p in second.operator_profiles()] == [0, 0]


def test_is_off_unless_asked_for(content):
    with pytest.raises(ValueError, match="profile=True"):
        opened(content).operator_profiles()


def test_a_profile_that_no_delegate_has(content):
    assert Profile(kerasq.runtime.library_path()).read() == []


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_tells_what_is_delegated(content, runtime):
    listed = inspect(content).operators
    whole = opened(content, runtime)
    assert delegated(whole, len(listed)) == set(range(len(listed)))
    plain = opened(content, runtime, keep_tensors=True)
    ours = {o.index for o in listed if o.is_custom}
    assert delegated(plain, len(listed)) == ours


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_keeps_every_tensor(content, runtime):
    interpreter = opened(content, runtime, keep_tensors=True)
    x = np.random.default_rng(0).normal(size=(1, 6, 6, 4)).astype(np.float32)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    tensors = {d["name"]: d["index"] for d in interpreter.get_tensor_details()}
    pooled = next(index for name, index in tensors.items() if "max_pool" in name.lower())
    assert np.any(interpreter.get_tensor(pooled))
