"""The numbers that were worked out by hand from the papers' formulas."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from kerasq import quantizers
from tests.quantizers.oracles import G_STAR, GX_STAR, W_STAR, X_STAR


def run(name, config, x, g):
    q = quantizers.get({"class_name": name, "config": config})
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = q(x)
    return y.numpy(), tape.gradient(y, x, output_gradients=tf.constant(g)).numpy()


def test_ste_sign():
    y, gradient = run("ste_sign", {}, np.append(W_STAR, [0, -0.0]).astype("f4"), np.ones(10, "f4"))
    np.testing.assert_array_equal(y, [1, -1, 1, -1, 1, -1, 1, -1, 1, 1])
    np.testing.assert_array_equal(gradient, [1, 1, 1, 1, 1, 0, 1, 1, 1, 1])


BWN_GRADIENTS = {
    "paper": [0.059375, -0.11875, 0.178125, 0.2375, -0.296875, 0.075, -0.415625, 0.475],
    "exact": [-0.253125, 0.20625, -0.159375, 0.4875, -0.534375, 0.3, -0.628125, 0.675],
    "identity": G_STAR,
}


@pytest.mark.parametrize("gradient", BWN_GRADIENTS)
def test_bwn(gradient):
    y, got = run("bwn", {"gradient": gradient, "channel_axes": []}, W_STAR, G_STAR)
    np.testing.assert_allclose(y, 0.46875 * np.where(W_STAR >= 0, 1, -1), rtol=1e-6)
    np.testing.assert_allclose(((W_STAR - y) ** 2).sum(), 1.0746875, rtol=1e-6)
    np.testing.assert_allclose(got, BWN_GRADIENTS[gradient], rtol=1e-5)


@pytest.mark.parametrize("exact", [False, True])
def test_twn(exact):
    y, got = run("twn", {"exact": exact}, W_STAR, G_STAR)
    np.testing.assert_allclose(y, 0.775 * np.array([1, -1, 0, 0, 0, -1, 1, 0]), rtol=1e-6)
    np.testing.assert_allclose(((W_STAR - y) ** 2).sum(), 0.43, rtol=1e-5)
    np.testing.assert_array_equal(got, G_STAR)


def test_twn_exact_search_is_no_worse_than_any_number_of_weights(rng):
    for _ in range(20):
        w = rng.standard_t(3, 30).astype(np.float32)
        y, _ = run("twn", {"exact": True}, w, w)
        ordered = np.sort(np.abs(w.astype(np.float64)))[::-1]
        best = (ordered**2).sum() - (np.cumsum(ordered) ** 2 / np.arange(1, 31)).max()
        np.testing.assert_allclose(((w - y) ** 2).sum(), best, rtol=1e-4)


DOREFA_WEIGHTS = {
    1: 0.46875 * np.where(W_STAR >= 0, 1, -1),
    2: [1, -1 / 3, 1 / 3, -1 / 3, 1 / 3, -1, 1 / 3, -1 / 3],
    3: [0.714286, -0.428571, 0.428571, -0.142857, 0.142857, -1, 0.714286, -0.142857],
    4: [0.733333, -0.6, 0.333333, -0.066667, 0.066667, -1, 0.6, -0.2],
}
DOREFA_GRADIENT = [
    *[0.067061, -0.188675, 0.329322, 0.475049, -0.598272, 0.219530, -0.597495, 0.922246]
]


@pytest.mark.parametrize("bits", DOREFA_WEIGHTS)
def test_dorefa_weights(bits):
    y, got = run("dorefa_weights", {"bits": bits}, W_STAR, G_STAR)
    np.testing.assert_allclose(y, DOREFA_WEIGHTS[bits], atol=1e-6)
    np.testing.assert_allclose(got, G_STAR if bits == 1 else DOREFA_GRADIENT, atol=1e-6)


@pytest.mark.parametrize("bits", range(2, 9))
def test_dorefa_weights_reach_one_and_never_zero(bits):
    y, _ = run(
        "dorefa_weights", {"bits": bits}, np.linspace(-2, 2, 4001, dtype="f4"), np.ones(4001, "f4")
    )
    assert y.min() == -1.0 and y.max() == 1.0 and np.all(y != 0)


@pytest.mark.parametrize(("differentiate", "want"), [(False, 0.366), (True, 0.291)])
def test_dorefa_weights_maximum(differentiate, want):
    config = {"bits": 2, "differentiate_max": differentiate}
    _, got = run("dorefa_weights", config, np.array([0.8, -1.2], "f4"), np.ones(2, "f4"))
    np.testing.assert_allclose(got[1], want, atol=5e-4)
    np.testing.assert_allclose(got[0], (1 - np.tanh(0.8) ** 2) / np.tanh(1.2), rtol=1e-5)


def test_dorefa_activations():
    y, got = run("dorefa_activations", {"bits": 2}, X_STAR, GX_STAR)
    np.testing.assert_allclose(y, np.array([0, 0, 1, 2, 2, 3, 3, 3]) / 3, rtol=1e-7)
    np.testing.assert_array_equal(got, GX_STAR * [0, 1, 1, 1, 1, 0, 0, 0])


@pytest.mark.parametrize("bits", range(1, 9))
def test_dorefa_activations_keep_zero_and_one(bits):
    y, _ = run(
        "dorefa_activations", {"bits": bits}, np.array([0, 1, np.nan], "f4"), np.ones(3, "f4")
    )
    np.testing.assert_array_equal(y, [0, 1, 0])
