"""Our quantizers inside larq's layers."""

from __future__ import annotations

import numpy as np
import pytest

from kerasq import quantizers
from kerasq.keras import keras, keras_version

pytestmark = pytest.mark.keras2
if keras_version() == 2:
    import larq

WEIGHTS = [n for n, e in quantizers.catalogue().items() if e.target in ("weights", "both")]
ACTIVATIONS = [n for n, e in quantizers.catalogue().items() if e.target in ("activations", "both")]


def network(weights=str, activations=str):
    stack = [keras.Input((8, 8, 3))]
    for name in WEIGHTS:
        stack.append(larq.layers.QuantConv2D(4, 3, padding="same", kernel_quantizer=weights(name)))
        stack.append(keras.layers.BatchNormalization())
    stack += [
        larq.layers.QuantConv2D(4, 3, input_quantizer=activations(name), pad_values=1.0)
        for name in ACTIVATIONS
    ]
    stack += [
        larq.layers.QuantDepthwiseConv2D(2, depthwise_quantizer=weights("bwn")),
        keras.layers.Flatten(),
        larq.layers.QuantDense(3, kernel_quantizer=weights("twn"), activation="softmax"),
    ]
    return keras.Sequential(stack)


@pytest.fixture(scope="module")
def trained():
    keras.utils.set_random_seed(1)
    rng = np.random.default_rng(2)
    model = network(quantizers.get, quantizers.get)
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    x = rng.normal(0, 1, (32, 8, 8, 3)).astype(np.float32)
    model.fit(x, rng.integers(0, 3, 32), epochs=2, verbose=0)
    return model, x, model.predict(x, verbose=0)


@pytest.mark.parametrize("target", ["model.keras", "model.h5", "model"])
def test_saved_model_predicts_the_same(trained, tmp_path, target):
    model, x, want = trained
    model.save(tmp_path / target)
    loaded = keras.models.load_model(tmp_path / target)
    # Our layers of the same names do not take the place of larq's.
    assert [type(layer) for layer in loaded.layers] == [type(layer) for layer in model.layers]
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), want)


def test_weights_only_and_names_make_the_same_network(trained, tmp_path):
    model, x, want = trained
    model.save_weights(tmp_path / "model.weights.h5")
    other = network()
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(other.predict(x, verbose=0), want)


def test_represent_is_what_the_layer_uses(trained):
    model, _, _ = trained
    for layer in model.layers:
        q = getattr(layer, "kernel_quantizer", None)
        if q is not None:
            with larq.context.quantized_scope(True):
                used = keras.backend.get_value(layer.kernel + 0)
            np.testing.assert_array_equal(q.represent(layer.get_weights()[0]).decode(), used)


def test_each_layer_has_its_own_quantizer():
    q = quantizers.get("bwn")
    first, second = (larq.layers.QuantDense(2, kernel_quantizer=q) for _ in range(2))
    assert first.kernel_quantizer is not q
    assert first.kernel_quantizer is not second.kernel_quantizer


def test_depthwise_layers_have_a_scale_per_filter():
    for layer in (
        larq.layers.QuantDepthwiseConv2D(3, depthwise_quantizer="bwn"),
        larq.layers.QuantSeparableConv2D(4, 3, depthwise_quantizer="bwn"),
    ):
        assert layer.depthwise_quantizer.channel_axes == (-2, -1)


def test_larqs_own_names_stay_larqs():
    layer = larq.layers.QuantDense(2, kernel_quantizer="approx_sign")
    assert type(layer.kernel_quantizer) is larq.quantizers.ApproxSign


def test_summary_tells_the_bits(trained, capsys):
    larq.models.summary(trained[0])
    table = capsys.readouterr().out
    assert "1-bit" in table and "2-bit" in table
