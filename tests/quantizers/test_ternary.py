"""TNN's thresholds and stochastic firing, TTQ's trained values."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from kerasq import quantizers
from kerasq.keras import keras, keras_version
from kerasq.layers import QuantConv2D, QuantDense
from tests.quantizers.oracles import G_STAR, W_STAR


def make(name, **config):
    return quantizers.get({"class_name": name, "config": config})


def test_tnn_rounds_by_default():
    x = np.linspace(-1, 1, 2001, dtype=np.float32)
    np.testing.assert_array_equal(make("tnn")(x), np.round(x))
    np.testing.assert_array_equal(make("tnn")(np.float32([-0.5, 0.5, -0.0, np.nan])), np.zeros(4))


def test_tnn_compares_strictly_with_both_thresholds():
    q = make("tnn", lower=-3, upper=2)
    np.testing.assert_array_equal(q(np.float32([-4, -3, 0, 2, 3])), [-1, 0, 0, 0, 1])
    same = make("tnn", lower=0, upper=0)
    np.testing.assert_array_equal(same(np.float32([-1, 0, 1])), [-1, 0, 1])
    np.testing.assert_array_equal(q.levels(), [-1, 0, 1])


def test_tnn_gradient_is_the_identity():
    for training in (False, True):
        x = tf.constant(2 * W_STAR)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = make("tnn", stochastic=True)(x, training=training)
        np.testing.assert_array_equal(
            tape.gradient(y, x, output_gradients=tf.constant(G_STAR)), G_STAR
        )


def test_tnn_fires_with_the_mean_of_its_input():
    y = np.float32([-1, -0.7, -0.25, 0, 0.1, 0.6, 1, 1.7, -3])
    q = make("tnn", stochastic=True)
    fired = q(np.tile(y, (40000, 1)), training=True).numpy()
    assert set(np.unique(fired)) == {-1, 0, 1}
    np.testing.assert_allclose(fired.mean(0), np.clip(y, -1, 1), atol=0.012)
    assert np.all(fired[:, 1:4] <= 0) and np.all(fired[:, 3:6] >= 0)
    np.testing.assert_array_equal(q(y), np.round(np.clip(y, -1, 1)))
    np.testing.assert_array_equal(make("tnn")(y, training=True), q(y))


def test_tnn_with_thresholds_of_each_neuron(rng):
    q = make("tnn", lower=[-1, 0, -2], upper=[1, 0, 5])
    x = rng.integers(-6, 7, (50, 3)).astype(np.float32)
    want = (x > [1, 0, 5]).astype(int) - (x < [-1, 0, -2])
    np.testing.assert_array_equal(q(x), want)
    np.testing.assert_array_equal(q.represent(x).decode(), want)
    assert q.per_feature and not make("tnn").per_feature
    copy = quantizers.get(quantizers.serialize(q))
    np.testing.assert_array_equal(copy(x), want)
    with pytest.raises(ValueError, match="3 thresholds"):
        make("tnn", lower=[-1, 0, -2]).build((None, 4))


@pytest.mark.parametrize(
    "config",
    [
        {"lower": 1, "upper": 0},
        {"upper": float("nan")},
        {"upper": float("inf")},
        {"lower": [0, 0], "upper": [1, 1, 1]},
        {"lower": [[0.0]]},
        {"channel_axes": [-1]},
    ],
)
def test_tnn_refuses(config):
    with pytest.raises(ValueError, match="tnn"):
        make("tnn", **config)


def test_tnn_quantizes_activations_of_a_layer(rng):
    layer = QuantDense(3, input_quantizer=make("tnn", stochastic=True), use_bias=False)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Activation("tanh"), layer])
    model.compile(keras.optimizers.SGD(0.01), "mse")
    x = rng.normal(0, 1, (32, 6)).astype(np.float32)
    model.fit(x, 9 * x[:, :3], epochs=2, verbose=0)
    expected = np.round(np.tanh(x)) @ np.array(layer.kernel)
    np.testing.assert_allclose(model(x), expected, rtol=1e-5, atol=1e-6)


def ttq_with(w_p, w_n, **config):
    q = make("ttq", **config)
    q.build(W_STAR.shape)
    q.built = True
    q.w_p.assign(w_p)
    q.w_n.assign(w_n)
    return q


def ttq_gradients(q, w, g):
    w = tf.constant(w)
    trained = [v.value if keras_version() == 3 else v for v in (q.w_p, q.w_n)]
    with tf.GradientTape() as tape:
        tape.watch(w)
        y = q(w)
    return y.numpy(), [
        v.numpy() for v in tape.gradient(y, [w, *trained], output_gradients=tf.constant(g))
    ]


def test_ttq():
    y, (at_w, at_p, at_n) = ttq_gradients(ttq_with(0.7, 0.5), W_STAR, G_STAR)
    np.testing.assert_allclose(y, [0.7, -0.5, 0.7, -0.5, 0, -0.5, 0.7, -0.5])
    np.testing.assert_allclose([at_p, at_n], [-0.3, -1.6], rtol=1e-5)
    np.testing.assert_allclose(at_w, [0.07, -0.1, 0.21, 0.2, -0.5, 0.3, -0.49, 0.4], rtol=1e-5)


@pytest.mark.parametrize("config", [{}, {"sparsity": 0.5}])
def test_ttq_gradients_of_its_values_are_finite_differences(config):
    def loss(w_p, w_n):
        return float((ttq_with(w_p, w_n, **config)(W_STAR).numpy() * G_STAR).sum())

    _, (_, at_p, at_n) = ttq_gradients(ttq_with(0.75, 0.5, **config), W_STAR, G_STAR)
    np.testing.assert_allclose(at_p, (loss(1.0, 0.5) - loss(0.5, 0.5)) / 0.5, rtol=1e-5)
    np.testing.assert_allclose(at_n, (loss(0.75, 0.75) - loss(0.75, 0.25)) / 0.5, rtol=1e-5)


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.9, 1.0])
def test_ttq_reaches_its_sparsity(sparsity, rng):
    w = rng.normal(0, 1, (5, 41)).astype(np.float32)
    zeros = np.mean(make("ttq", sparsity=sparsity)(w).numpy() == 0)
    assert abs(zeros - sparsity) <= 1 / w.size


def test_ttq_starts_at_one_and_trains_in_a_layer(rng, tmp_path):
    layer = QuantConv2D(2, 3, kernel_quantizer="ttq")
    model = keras.Sequential([keras.Input((5, 5, 3)), layer, keras.layers.Flatten()])
    q = layer.kernel_quantizer
    assert (float(q.w_p), float(q.w_n)) == (1.0, 1.0)
    model.compile(keras.optimizers.SGD(0.05), "mse")
    x = rng.normal(0, 0.5, (16, 5, 5, 3)).astype(np.float32)
    model.fit(x, np.zeros((16, 18), np.float32), verbose=0)
    assert float(q.w_p) != 1.0 and float(q.w_n) != 1.0
    kernel = layer.kernel.numpy()
    stored = q.represent(kernel)
    np.testing.assert_array_equal(stored.decode(), q(kernel))
    np.testing.assert_array_equal(
        stored.codewords.ravel(), np.float32([-float(q.w_n), 0, float(q.w_p)])
    )
    model.save(tmp_path / "model.keras")
    copy = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(copy(x), model(x))


def test_ttq_compiles(rng):
    w, q = rng.normal(0, 1, (3, 4, 5)).astype(np.float32), make("ttq", sparsity=0.4)
    compiled = tf.function(q, jit_compile=True)
    np.testing.assert_array_equal(compiled(tf.constant(w)), q(w))


@pytest.mark.parametrize("config", [{"t": -0.1}, {"t": 1.5}, {"sparsity": 2}, {"sparsity": -1}])
def test_ttq_refuses(config):
    with pytest.raises(ValueError, match="ttq: "):
        make("ttq", **config)
