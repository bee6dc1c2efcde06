"""DoReFa's gradients, and LogQuant of QNN's."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from kerasq import quantizers
from kerasq.quantizers import DoReFaGradients, QNNLinear, QNNLog, dorefa_gradients, log_gradients
from tests.quantizers.oracles.statistical import log_quant

DR = np.array([[0.02, -0.05, 0.01, 0.04]], np.float32)


def test_worked_numbers():
    got = dorefa_gradients(tf.constant(DR), 2, np.array([[0.3, -0.2, 0.4, -0.4]], np.float32))
    np.testing.assert_allclose(got, [[0.016667, -0.05, 0.016667, 0.016667]], atol=1e-6)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_maximum_is_each_samples(bits, rng):
    dr = rng.normal(0, 1, (5, 3, 4)).astype(np.float32) * [[[1]], [[10]], [[0]], [[1e-3]], [[5]]]
    got = dorefa_gradients(tf.constant(dr, tf.float32), bits).numpy()
    steps = 2**bits - 1
    for sample, want in zip(got, dr, strict=True):
        top = np.abs(want).max()
        if top == 0:
            assert not sample.any()
            continue
        unit = np.round(steps * (want / (2 * top) + 0.5)) / steps
        np.testing.assert_allclose(sample, 2 * top * (unit - 0.5), rtol=1e-4, atol=1e-6 * top)


def backward(q, x, dr, training):
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = q(x, training=training)
    np.testing.assert_array_equal(y, x)
    return tape.gradient(y, x, output_gradients=tf.constant(dr)).numpy()


def test_noise_in_training_only_and_without_bias(rng):
    q = DoReFaGradients(bits=2)
    x, dr = rng.normal(0, 1, (2000, 4)).astype(np.float32), np.repeat(DR, 2000, axis=0)
    np.testing.assert_allclose(backward(q, x, dr, False), dorefa_gradients(dr, 2).numpy())
    noisy = backward(q, x, dr, True)
    assert len(np.unique(noisy[:, 0].round(6))) == 2
    np.testing.assert_allclose(noisy.mean(0), DR[0], atol=2e-3)
    np.testing.assert_allclose(noisy[:, 1], -0.05, rtol=1e-6)


@pytest.mark.parametrize("jit", [False, True])
def test_in_graphs(jit, rng):
    q = DoReFaGradients(bits=4)
    x = rng.normal(0, 1, (6, 3, 3, 2)).astype(np.float32)

    @tf.function(jit_compile=jit, input_signature=[tf.TensorSpec([None, 3, 3, 2])])
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(q(x, training=True) ** 2)
        return tape.gradient(loss, x)

    got = gradient(tf.constant(x)).numpy()
    top = np.abs(2 * x).max((1, 2, 3), keepdims=True)
    assert np.all(np.abs(got - 2 * x) <= 2 * top / 15 + 1e-5)


def test_nothing_is_stored():
    with pytest.raises(ValueError, match="training only"):
        DoReFaGradients().represent(DR)
    with pytest.raises(ValueError, match="bits"):
        DoReFaGradients(bits=9)
    assert quantizers.clone(DoReFaGradients(bits=3)).bits == 3
    assert quantizers.catalogue()["dorefa_gradients"].target == "gradients"


@pytest.mark.parametrize("bits", [2, 3, 6, 8])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e20])
def test_log_gradients_are_log_quant_of_the_tensor(bits, scale, rng):
    g = (scale * rng.normal(0, 1, (7, 5, 3)) * 10.0 ** rng.integers(-4, 1, (7, 5, 3))).astype("f4")
    got = log_gradients(tf.constant(g), bits).numpy()
    np.testing.assert_allclose(got, log_quant(g.astype(np.float64), bits), rtol=1e-6)
    mantissa, _ = np.frexp(got[got != 0])
    assert set(np.abs(mantissa)) == {0.5}  # powers of two
    assert len(np.unique(np.abs(got[got != 0]))) <= 2 ** (bits - 1) - 1


@pytest.mark.parametrize("bits", [2, 3, 6])
def test_stochastic_log_gradients_have_no_bias(bits):
    g = np.array([1.0, -0.7, 0.6, 0.3, -0.1, 0.01, 0.0], np.float32)
    draws = np.stack([log_gradients(tf.constant(np.tile(g, (4000, 1))), bits, True).numpy()])
    draws = draws.reshape(-1, g.size)
    np.testing.assert_allclose(draws.mean(0), g, atol=0.03)
    for i, value in enumerate(g):
        neighbours = np.unique(np.abs(draws[:, i]))
        assert len(neighbours) <= 2
        assert neighbours.min() <= abs(value) <= neighbours.max()
    # Above AP2(max|g|) = 1 values are clipped.
    top = log_gradients(tf.constant([1.4, -1.4, 1.2]), bits, True).numpy()
    np.testing.assert_array_equal(top, [1, -1, 1])


@pytest.mark.parametrize("cls", [QNNLinear, QNNLog])
def test_gradient_bits_draw_in_training_only(cls, rng):
    q = cls(bits=4, gradient_bits=6)
    x = tf.constant(rng.uniform(-0.8, 0.8, 3000).astype(np.float32))
    g = tf.constant(rng.normal(0, 1, 3000).astype(np.float32))

    def gradient(training):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = q(x, training=training)
        np.testing.assert_array_equal(y, cls(bits=4)(x))
        return tape.gradient(y, x, output_gradients=g).numpy()

    np.testing.assert_allclose(gradient(False), log_quant(g.numpy(), 6), rtol=1e-6)
    first, second = gradient(True), gradient(True)
    assert not np.array_equal(first, second)
    assert cls.from_config(q.get_config()).gradient_bits == 6
    assert cls().gradient_bits is None
    with pytest.raises(ValueError, match="gradients: bits must be a whole number in 2..8"):
        cls(gradient_bits=1)


def test_log_gradients_of_nothing_and_of_what_is_not_finite():
    assert not log_gradients(tf.zeros([3]), 6).numpy().any()
    assert not log_gradients(tf.zeros([3]), 6, True).numpy().any()
    # A loss scale's optimizer looks for these.
    bad = log_gradients(tf.constant([np.nan, np.inf, -np.inf, 1.0]), 6, True).numpy()
    np.testing.assert_array_equal(bad[:3], [np.nan, np.inf, -np.inf])


@pytest.mark.parametrize("jit", [False, True])
def test_log_gradients_in_graphs(jit, rng):
    q = QNNLinear(bits=4, gradient_bits=8)
    x = rng.uniform(-0.8, 0.8, (6, 4)).astype(np.float32)

    @tf.function(jit_compile=jit, input_signature=[tf.TensorSpec([None, 4])])
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(q(x, training=True) ** 2)
        return tape.gradient(loss, x)

    got, want = gradient(tf.constant(x)).numpy(), 2 * q(x).numpy()
    assert np.all(np.abs(got) <= 2 * np.abs(want)) and np.all(got * want >= 0)
