"""GEMMLOWP quantization to 8 bits."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from kerasq.quantizers import Int8Gemmlowp, gemmlowp
from kerasq.quantizers.int8 import chunked_range
from tests.quantizers.oracles import W_STAR, X_STAR


def test_worked_numbers():
    rep = Int8Gemmlowp().represent(W_STAR)
    np.testing.assert_allclose(rep.scale, 0.00784314, rtol=1e-5)
    codes = rep.codes().astype(int)
    np.testing.assert_array_equal(codes[[0, 1, 2, 3, 4, 5]], [255, 89, 191, 140, 159, 0])
    assert codes[6] in (229, 230) and codes[7] in (127, 128)  # exact ties: 229.5 and 127.5


def test_true_zero_is_a_level(rng):
    for w in (W_STAR, np.abs(W_STAR), -np.abs(W_STAR), np.append(W_STAR, 0).astype(np.float32)):
        q = Int8Gemmlowp(true_zero=True)
        rep = q.represent(w)
        zero = float(rep.zero_point[0])
        assert zero == round(zero) and 0 <= zero <= 255
        np.testing.assert_allclose(rep.decode(), w, atol=float(rep.scale[0]) * 0.5001)
    assert q(w).numpy()[-1] == 0.0


@pytest.mark.parametrize("value", [0.0, 0.3, -7.0])
def test_one_number_stays(value):
    w = np.full((3, 4), value, np.float32)
    q = Int8Gemmlowp()
    np.testing.assert_array_equal(q(w), w)
    np.testing.assert_array_equal(q.represent(w).decode(), w)


@pytest.mark.parametrize("samples", [1, 3, 8, 16, 20])
def test_range_is_the_mean_over_chunks(samples, rng):
    x = rng.normal(0, 1, (samples, 5, 2)).astype(np.float32)
    chunks = np.arange(samples) * min(8, samples) // samples
    lows = [x[chunks == c].min() for c in np.unique(chunks)]
    highs = [x[chunks == c].max() for c in np.unique(chunks)]
    low, high = chunked_range(tf.constant(x))
    np.testing.assert_allclose(low, np.mean(lows), rtol=1e-6)
    np.testing.assert_allclose(high, np.mean(highs), rtol=1e-6)


def test_averages_move_in_training_only(rng):
    q = Int8Gemmlowp(target="activations")
    x = rng.normal(0, 1, (16, 6)).astype(np.float32)
    first = q(x).numpy()  # nothing seen yet: the tensor's own range
    assert q.fixed_grid() is None and float(q.seen) == 0
    low, high = (float(end) for end in chunked_range(tf.constant(x)))
    np.testing.assert_array_equal(q(x, training=True), first)
    np.testing.assert_allclose([float(q.minimum), float(q.maximum)], [low, high])
    q(3 * x, training=True)
    np.testing.assert_allclose(float(q.maximum), 0.9 * high + 0.1 * 3 * high, rtol=1e-6)
    np.testing.assert_allclose(float(q.minimum), 0.9 * low + 0.1 * 3 * low, rtol=1e-6)
    before = [w.numpy() for w in q.weights]
    y = q(5 * x).numpy()
    for variable, value in zip(q.weights, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    scale, zero = q.fixed_grid()
    np.testing.assert_allclose(y.max(), scale * (255 - zero), rtol=1e-6)
    np.testing.assert_array_equal(q.represent(5 * x).decode(), y)


def test_outside_of_the_range_the_gradient_passes():
    x = tf.constant(X_STAR)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = gemmlowp(x, tf.constant(0.0), tf.constant(1.0))
    np.testing.assert_array_equal(tape.gradient(y, x), np.ones(8))
    np.testing.assert_allclose([y.numpy().min(), y.numpy().max()], [0, 1], rtol=1e-6)


def test_stochastic_rounding_has_no_bias(rng):
    w = np.append(np.full(20000, 0.1234), [-1, 1]).astype(np.float32)
    q = Int8Gemmlowp(stochastic=True)
    y = q(w, training=True).numpy()[:-2]
    assert len(np.unique(y)) == 2
    np.testing.assert_allclose(y.mean(), 0.1234, atol=1e-4)
    assert len(np.unique(q(w).numpy()[:-2])) == 1


@pytest.mark.parametrize("jit", [False, True])
def test_unknown_batch(jit, rng):
    q = Int8Gemmlowp(target="activations")
    x = tf.constant(rng.normal(0, 1, (11, 4)), tf.float32)
    q(x)

    @tf.function(jit_compile=jit, input_signature=[tf.TensorSpec([None, 4])])
    def step(x):
        return q(x, training=True)

    low, high = chunked_range(x)
    np.testing.assert_allclose(step(x), gemmlowp(x, low, high), atol=1e-6)
    assert float(q.seen) == 1
