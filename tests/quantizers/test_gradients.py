"""DoReFa's gradients."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from kerasq import quantizers
from kerasq.quantizers import DoReFaGradients, dorefa_gradients

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
