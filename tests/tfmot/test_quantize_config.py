"""Our quantizers inside TFMOT: annotate, apply, train, save, load."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from kerasq import quantizers
from kerasq.keras import keras, keras_version

if keras_version() == 2:
    import tensorflow_model_optimization as tfmot

    import kerasq.tfmot as ours

    annotate = tfmot.quantization.keras.quantize_annotate_layer

WEIGHTS = [n for n, e in quantizers.catalogue().items() if e.target in ("weights", "both")]
ACTIVATIONS = [n for n, e in quantizers.catalogue().items() if e.target in ("activations", "both")]
keras2 = pytest.mark.keras2


def apply(model):
    with ours.quantize_scope():
        return tfmot.quantization.keras.quantize_apply(model)


def network():
    config, L = ours.QuantizeConfig, keras.layers
    stack = [keras.Input((10, 10, 3))]
    for name in WEIGHTS:
        stack.append(annotate(L.Conv2D(4, 3, padding="same", activation="relu"), config(name)))
    for name in ACTIVATIONS:
        stack.append(annotate(L.Conv2D(4, 1, activation="relu"), config("twn", name)))
    stack += [
        annotate(L.DepthwiseConv2D(3), config("bwn")),
        annotate(L.SeparableConv2D(4, 3), config("bwn")),
        annotate(L.Conv2DTranspose(3, 2), config("bwn")),
        L.Reshape((-1, 3)),
        annotate(L.Conv1D(4, 3), config(quantizers.BWN(gradient="exact"), "ste_sign")),
        L.Flatten(),
        annotate(L.Dense(3, activation="softmax"), config("twn")),
    ]
    return keras.Sequential(stack)


@pytest.fixture(scope="module")
def trained():
    keras.utils.set_random_seed(1)
    rng = np.random.default_rng(2)
    annotated = network()
    model = apply(annotated)
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    x = rng.normal(0, 1, (32, 10, 10, 3)).astype(np.float32)
    model.fit(x, rng.integers(0, 3, 32), epochs=2, verbose=0)
    return annotated, model, x, model.predict(x, verbose=0)


@keras2
@pytest.mark.parametrize("target", ["model.keras", "model.h5", "model"])
def test_saved_model_predicts_the_same_and_trains(trained, tmp_path, target):
    _, model, x, want = trained
    model.save(tmp_path / target)
    with ours.quantize_scope():
        loaded = keras.models.load_model(tmp_path / target)
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), want)
    loaded.fit(x, np.zeros(32), verbose=0)
    assert not np.array_equal(loaded.predict(x, verbose=0), want)


@keras2
def test_weights_only(trained, tmp_path):
    annotated, model, x, want = trained
    model.save_weights(tmp_path / "model.weights.h5")
    other = apply(annotated)
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(other.predict(x, verbose=0), want)


@keras2
def test_tfmots_own_quantizers_survive_too(tmp_path, rng):
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            keras.layers.Conv2D(3, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(2),
        ]
    )
    model = tfmot.quantization.keras.quantize_model(model)
    model.compile("sgd", "mse")
    x = rng.normal(0, 1, (16, 6, 6, 2)).astype(np.float32)
    model.fit(x, np.zeros((16, 2)), verbose=0)
    model.save(tmp_path / "model.keras")
    with ours.quantize_scope():
        loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))


@keras2
@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("kind", ["Dense", "Conv1D", "Conv2D", "DepthwiseConv2D"])
def test_layer_computes_with_the_quantized_kernel(name, kind, rng):
    size = {"Dense": (5,), "Conv1D": (8, 5)}.get(kind, (8, 8, 5))
    make = {
        "Dense": lambda: keras.layers.Dense(4),
        "Conv1D": lambda: keras.layers.Conv1D(4, 3),
        "Conv2D": lambda: keras.layers.Conv2D(4, 3),
        "DepthwiseConv2D": lambda: keras.layers.DepthwiseConv2D(3),
    }[kind]
    inputs = keras.Input(size)
    plain = keras.layers.Activation("linear")(inputs)
    wrapped = annotate(make(), ours.QuantizeConfig(name))
    model = apply(keras.Model(inputs, wrapped(plain)))
    x = rng.normal(0, 1, (3, *size)).astype(np.float32)
    layer = model.layers[-1]
    kernel = next(w for w in layer.weights if "kernel" in w.name)
    q = quantizers.get(name)
    if kind == "DepthwiseConv2D":
        q = quantizers.clone_for_depthwise(q)
    reference = make()
    reference(x)
    reference.set_weights([q.represent(kernel).decode(), np.zeros(reference.bias.shape)])
    # TFMOT quantizes the layer before an annotated one to 8 bits.
    before = keras.Model(model.inputs, model.layers[-2].output)
    want = reference(before(x))
    np.testing.assert_allclose(model(x), want, rtol=1e-5, atol=1e-5)


@keras2
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_is_quantized(name, rng):
    inputs = keras.Input((5,))
    wrapped = annotate(keras.layers.Dense(40), ours.QuantizeConfig(activation=name))
    y = apply(keras.Model(inputs, wrapped(inputs)))(rng.normal(size=(9, 5))).numpy()
    assert set(np.unique(y)) <= set(quantizers.get(name).levels())


@keras2
def test_config_round_trip():
    config = ours.QuantizeConfig(
        {"class_name": "dorefa_weights", "config": {"bits": 3}}, "ste_sign"
    )
    copy = ours.QuantizeConfig.from_config(config.get_config())
    assert copy.get_config() == config.get_config()
    assert copy.weight.bits == 3


@keras2
def test_errors():
    with pytest.raises(ValueError, match="did you mean 'twn'"):
        ours.QuantizeConfig("twnn")
    with pytest.raises(ValueError, match="quantizes weights, not activations"):
        ours.QuantizeConfig(activation="bwn")
    with pytest.raises(ValueError, match="'pool' .MaxPooling2D. has no kernel"):
        ours.QuantizeConfig("bwn").get_weights_and_quantizers(keras.layers.MaxPool2D(name="pool"))


def test_keras3_says_what_to_type():
    environment = {**os.environ, "TF_USE_LEGACY_KERAS": "0"}
    run = subprocess.run(
        [sys.executable, "-c", "import kerasq.tfmot"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode != 0
    assert "ImportError" in run.stderr and "TF_USE_LEGACY_KERAS=1" in run.stderr
