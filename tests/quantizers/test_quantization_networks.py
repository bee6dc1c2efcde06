"""Quantization Networks."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from kerasq.quantizers import QuantizationNetworks, quantization_networks
from kerasq.quantizers.quantization_networks import first_biases
from tests.quantizers.oracles import G_STAR, W_STAR

LEVELS = (-1.0, 0.0, 1.0)
BETA, ALPHA = 1.25 / 1.2, 0.96
SOFT = {
    1: [0.362586, -0.233267, 0.141672, -0.047515, 0.023771, -0.514089, 0.277618, -0.094811],
    10: [0.939624, -0.643173, 0.193272, -0.025552, 0.011330, -0.959634, 0.817831, -0.077308],
}
SLOPE = [0.207332, 2.211496, 1.615723, 0.334792, 0.245337, 0.003353, 1.261507, 0.765806]


def run(x, temperature, levels=LEVELS, biases=(-0.45, 0.45), alpha=ALPHA, beta=BETA, hard=False):
    biases = tf.constant(biases, tf.float32)
    return quantization_networks(x, alpha, beta, biases, levels, temperature, hard)


@pytest.mark.parametrize("temperature", SOFT)
def test_worked_numbers(temperature):
    np.testing.assert_allclose(run(tf.constant(W_STAR), temperature), SOFT[temperature], atol=1e-6)


@pytest.mark.parametrize("hard", [False, True])
def test_worked_gradient(hard):
    x = tf.constant(W_STAR)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = run(x, 10.0, hard=hard)
    np.testing.assert_allclose(tape.gradient(y, x), SLOPE, atol=1e-5)


def test_hard_steps_are_the_limit():
    want = [0.96, -0.96, 0, 0, 0, -0.96, 0.96, 0]
    np.testing.assert_allclose(run(tf.constant(W_STAR), 10.0, hard=True), want, atol=1e-6)
    np.testing.assert_allclose(run(tf.constant(W_STAR), 2000.0), want, atol=1e-4)


def test_gradient_is_the_derivative_of_the_soft_function(rng):
    x, g = rng.normal(0, 0.5, 20), rng.normal(0, 1, 20)
    parameters = {"alpha": 0.9, "beta": 1.1}

    def loss(x, alpha, beta):  # float64, without the clamp that is not reached here
        distance = 3.0 * (beta * x[:, None] - np.array([-0.4, 0.5]))
        return (g * alpha * (-1 + (1 / (1 + np.exp(-distance))).sum(1))).sum()

    tensors = {key: tf.constant(value) for key, value in parameters.items()}
    inputs = tf.constant(x, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch([inputs, tensors])
        y = run(inputs, 3.0, biases=(-0.4, 0.5), **tensors)
    at_x, at = tape.gradient(y, [inputs, tensors], output_gradients=tf.constant(g, tf.float32))
    step = 1e-5
    for i in range(20):
        moved = np.eye(20)[i] * step
        slope = (loss(x + moved, **parameters) - loss(x - moved, **parameters)) / (2 * step)
        np.testing.assert_allclose(at_x[i], slope, rtol=1e-3, atol=1e-5)
    for key in parameters:
        up, down = ({**parameters, key: parameters[key] + s} for s in (step, -step))
        slope = (loss(x, **up) - loss(x, **down)) / (2 * step)
        np.testing.assert_allclose(at[key], slope, rtol=1e-3)


def test_two_levels_have_the_slope_of_temperature_one():
    x = tf.constant(W_STAR)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = run(x, 50.0, levels=(-1.0, 1.0), biases=(0.0,))
    sigma = 1 / (1 + np.exp(-BETA * W_STAR.astype(float)))
    want = ALPHA * BETA * 50 * 2 * sigma * (1 - sigma)
    np.testing.assert_allclose(tape.gradient(y, x), want, rtol=1e-5)


def test_first_biases_are_between_the_clusters(rng):
    clusters = np.concatenate([rng.normal(c, 0.01, 100) for c in (-1.1, 0.2, 0.9)])
    got = first_biases(tf.constant(rng.permutation(clusters), tf.float32), LEVELS)
    np.testing.assert_allclose(got, [-0.45, 0.55], atol=0.01)
    # Nothing but zeros: the empty clusters stay where the levels are.
    np.testing.assert_array_equal(first_biases(tf.zeros([5, 2]), LEVELS), [-0.5, 0.5])


def test_first_training_step_sets_the_scales(rng):
    q = QuantizationNetworks()
    w = rng.normal(0, 0.1, (20, 10)).astype(np.float32)
    before = q(w).numpy()
    assert float(q.beta) == 0 and q.trainable_variables
    q(tf.constant(w), training=True)
    np.testing.assert_allclose(float(q.beta), 1.25 / np.abs(w).max(), rtol=1e-6)
    np.testing.assert_allclose(float(q.alpha), 1 / float(q.beta), rtol=1e-6)
    np.testing.assert_array_equal(q(w), before)
    state = [v.numpy() for v in q.weights]
    q(tf.constant(5 * w), training=True)
    for variable, value in zip(q.weights, state, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    assert {v.name.split("/")[-1].split(":")[0] for v in q.trainable_variables} == {"alpha", "beta"}


def test_training_is_soft_and_inference_hard(rng):
    q = QuantizationNetworks(temperature=4.0)
    w = tf.constant(W_STAR)
    soft = q(w, training=True).numpy()
    assert len(np.unique(soft)) == 8 and len(np.unique(q(w).numpy())) <= 3
    q.temperature.assign(1e6)
    np.testing.assert_allclose(q(w, training=True), q(w), atol=1e-4)


def test_activations_without_a_level_below_zero(rng):
    x = np.maximum(rng.normal(0, 1, (40, 5)), 0).astype(np.float32)
    q = QuantizationNetworks(target="activations")
    assert q.levels() is None or not q.built
    q(x, training=True)
    assert set(np.unique(q(x))) <= set(q.levels()) and q.levels()[0] == 0


@pytest.mark.parametrize("jit", [False, True])
def test_in_graphs(jit, rng):
    q = QuantizationNetworks(target="activations")
    x = np.maximum(rng.normal(0, 1, (12, 5)), 0).astype(np.float32)
    q.build(x.shape)
    q.built = True

    @tf.function(jit_compile=jit, input_signature=[tf.TensorSpec([None, 5])])
    def step(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(q(x, training=True) ** 2)
        return tape.gradient(loss, list(map(tensor_of, q.trainable_variables)))

    assert all(np.isfinite(g).all() and g.numpy() != 0 for g in step(tf.constant(x)))
    assert float(q.beta) > 0


def tensor_of(variable):
    return variable if isinstance(variable, tf.Variable) else variable.value


@pytest.mark.parametrize("bad", [{"levels": [0]}, {"levels": [1, 0]}, {"temperature": 0}])
def test_bad_arguments(bad):
    with pytest.raises(ValueError, match="quantization_networks"):
        QuantizationNetworks(**bad)


def test_gradient_of_latent_weights_in_training():
    q = QuantizationNetworks()
    w = tf.constant(W_STAR)
    with tf.GradientTape() as tape:
        tape.watch(w)
        y = q(w, training=True)
    assert np.isfinite(tape.gradient(y, w, output_gradients=tf.constant(G_STAR))).all()
