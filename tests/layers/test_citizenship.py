"""Every quantizer is at home in Keras: saving, mixed precision, XLA, replicas, determinism."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from kerasq import layers, quantizers
from kerasq.keras import keras
from tests.layers import citizens
from tests.layers.citizens import KINDS, LEARNED, branches, data
from tests.layers.learned import LearnedScale

NAMES = [*quantizers.catalogue(), LearnedScale.__name__]
STATEFUL = [name for name in NAMES if citizens.has_state(name)]
USES = citizens.uses_of(NAMES)
each_use = pytest.mark.parametrize(("name", "place"), USES, ids=["-".join(use) for use in USES])
# A few in the quick run, all of them in the whole one.
SOME = [*LEARNED[:2], LearnedScale.__name__]
groups = pytest.mark.parametrize(
    "names",
    [SOME, pytest.param([n for n in NAMES if n not in SOME], marks=pytest.mark.slow)],
    ids=["some", "others"],
)


def assert_same_branches(got, want, names):
    want = branches(names, want)
    wrong = [use for use, y in branches(names, got).items() if not np.array_equal(y, want[use])]
    assert not wrong


@pytest.fixture(scope="module")
def trained():
    """All quantizers with variables, after one step."""
    model, y = citizens.compiled(STATEFUL, run_eagerly=True)
    model.train_on_batch(data(), y)
    want = np.asarray(model(data()))
    assert all(np.isfinite(y).all() and y.std() > 0 for y in branches(STATEFUL, want).values())
    return model, want


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_saved_model_predicts_the_same(trained, tmp_path, suffix):
    model, want = trained
    model.save(tmp_path / f"model{suffix}")
    loaded = keras.models.load_model(tmp_path / f"model{suffix}", compile=False)
    assert_same_branches(np.asarray(loaded(data())), want, STATEFUL)


def test_weights_only(trained, tmp_path):
    model, want = trained
    model.save_weights(tmp_path / "model.weights.h5")
    other = citizens.network(STATEFUL)
    assert not np.array_equal(other(data()), want)
    other.load_weights(tmp_path / "model.weights.h5")
    assert_same_branches(np.asarray(other(data())), want, STATEFUL)


def test_saved_model_format(trained, tmp_path):
    model, _ = trained
    model.export(str(tmp_path / "model"))
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    want = tf.function(lambda x: model(x, training=False))(tf.constant(data()))
    assert_same_branches(loaded.serve(tf.constant(data())).numpy(), want.numpy(), STATEFUL)


def test_learned_parameters_are_counted(trained):
    model, _ = trained
    trainable = {id(v) for v in model.trainable_weights}
    lines = []
    model.summary(print_fn=lambda line, **_: lines.append(line), line_length=200)
    text = "\n".join(lines).replace(",", "")
    count = sum(int(np.prod(w.shape)) for w in model.trainable_weights)
    assert f"Trainable params: {count}" in text
    learning = set()
    for name, place in citizens.uses_of(STATEFUL):
        q = getattr(model.get_layer(f"{name}_{place}"), f"{place}_quantizer")
        assert q.weights and all(id(v) in trainable for v in q.trainable_weights), name
        if q.trainable_weights:
            learning.add(name)
    assert learning - {LearnedScale.__name__} == set(LEARNED)


def layer_with(name, place, kind="QuantConv2D", **kwargs):
    return KINDS[kind](**{f"{place}_quantizer": name}, **kwargs)


@each_use
def test_config_tells_all_and_weights_restore_the_layer(name, place):
    for kind in KINDS:
        layer = layer_with(name, place, kind)
        x = tf.constant(data(4))
        layer(x, training=True)
        want = layer(x)
        copy = type(layer).from_config(layer.get_config())
        assert copy.get_config() == layer.get_config()
        copy.build(x.shape)
        assert len(copy.weights) == len(layer.weights)
        copy.set_weights(layer.get_weights())
        np.testing.assert_array_equal(copy(x), want)


@each_use
def test_gradients_reach_every_learned_parameter(name, place):
    for kind in KINDS:
        layer = layer_with(name, place, kind)
        x = tf.constant(data(4))
        layer(x, training=True)
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(x, training=True) ** 2)
        variables = layer.trainable_weights
        gradients = tape.gradient(loss, [getattr(v, "_value", v) for v in variables])
        for variable, gradient in zip(variables, gradients, strict=True):
            assert gradient is not None, variable.name
            assert np.isfinite(gradient).all(), variable.name


@each_use
def test_mixed_precision_keeps_the_arithmetic_float32(name, place):
    layer = layer_with(name, place, dtype="mixed_float16")
    y = layer(data(4), training=True)
    assert y.dtype == tf.float16 and np.isfinite(y).all()
    q = getattr(layer, f"{place}_quantizer")
    assert all(tf.convert_to_tensor(v).dtype == tf.float32 for v in [*q.weights, layer.weights[0]])
    if place == "kernel":
        kernel = tf.convert_to_tensor(getattr(layer, layer._kernel_name))
        _, used = layer._operands(data(4), kernel, False)
        np.testing.assert_array_equal(used, tf.cast(q(kernel), tf.float16))


@groups
def test_xla_trains_as_the_graph_does(names):
    losses = {}
    for jit in (False, True):
        model, y = citizens.compiled(names, jit_compile=jit)
        history = model.fit(data(), y, batch_size=16, epochs=2, verbose=0).history["loss"]
        losses[jit] = history
        assert np.isfinite(model.predict(data(), verbose=0)).all()
    # A rounding of XLA's moves some value across a threshold; noise is another for each.
    np.testing.assert_allclose(losses[True], losses[False], rtol=0.05)


@groups
@pytest.mark.parametrize("what", ["mirrored", "deterministic"])
def test_in_a_process_of_its_own(what, names):
    run = subprocess.run(
        [sys.executable, "-m", "tests.layers.citizens", what, *names],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0 and "passed" in run.stdout, run.stderr[-3000:]


@pytest.mark.parametrize("place", ["input", "kernel"])
def test_mask_passes_through_as_in_keras(place, rng):
    x = keras.layers.Masking()(tf.constant([[[1.0, 2.0]], [[0.0, 0.0]]]))
    layer = layers.QuantDense(3, **{f"{place}_quantizer": LearnedScale()})
    assert layer.supports_masking
    np.testing.assert_array_equal(mask_of(layer(x)), mask_of(keras.layers.Dense(3)(x)))


def mask_of(x):
    return x._keras_mask
