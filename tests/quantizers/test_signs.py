"""BinaryConnect and the signs of Bi-Real Net, ReActNet, BNN+ and FTPROP."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from kerasq import quantizers
from kerasq.keras import keras, keras_version
from kerasq.layers import QuantConv2D, QuantDense
from tests.quantizers.oracles import G_STAR, W_STAR

SIGNS = np.where(W_STAR >= 0, 1, -1)


def make(name, **config):
    return quantizers.get({"class_name": name, "config": config})


def value_and_gradient(q, x, g, training=False):
    x = tf.constant(x, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = q(x, training=training)
    return y.numpy(), tape.gradient(y, x, output_gradients=tf.constant(g, tf.float32)).numpy()


def gradient_of(q, x):
    return value_and_gradient(q, x, np.ones(np.shape(x)))[1]


def test_binary_connect():
    y, gradient = value_and_gradient(make("binary_connect"), W_STAR, G_STAR)
    np.testing.assert_array_equal(y, SIGNS)
    np.testing.assert_array_equal(gradient, G_STAR)
    step = make("binary_connect").kernel_constraint()(W_STAR - 0.1 * G_STAR)
    np.testing.assert_allclose(step, [0.79, -0.48, 0.27, -0.14, 0.10, -1.0, 0.67, -0.28], rtol=1e-5)


@pytest.mark.parametrize("h", [1.0, 0.5])
def test_binary_connect_draws_have_the_clipped_weights_as_their_mean(h):
    q, draws = make("binary_connect", stochastic=True, h=h), 40000
    y, gradient = value_and_gradient(
        q, np.tile(h * W_STAR, (draws, 1)), np.tile(G_STAR, (draws, 1)), training=True
    )
    assert set(np.unique(y)) == {-h, h}
    positive = [0.9, 0.25, 0.65, 0.45, 0.525, 0, 0.8, 0.4]
    np.testing.assert_allclose((y > 0).mean(0), positive, atol=0.012)
    np.testing.assert_allclose(y.mean(0), h * np.clip(W_STAR, -1, 1), atol=0.024 * h)
    assert np.all(y[:, 5] == -h)
    np.testing.assert_array_equal(gradient[0], G_STAR)


def test_binary_connect_draws_anew_in_a_graph():
    q = make("binary_connect", stochastic=True)
    draw = tf.function(lambda w: q(w, training=True), jit_compile=True)
    w = tf.zeros((1000,))
    assert np.any(draw(w).numpy() != draw(w).numpy())


def test_binary_connect_infers_with_real_weights_after_stochastic_training():
    q = make("binary_connect", stochastic=True, h=0.6)
    y, gradient = value_and_gradient(q, W_STAR, G_STAR)
    np.testing.assert_array_equal(y, np.clip(W_STAR, np.float32(-0.6), np.float32(0.6)))
    np.testing.assert_array_equal(gradient, G_STAR)
    assert q.precision == 32 and q.inference == "real"
    with pytest.raises(ValueError, match="set inference='sign'"):
        q.represent(W_STAR)


def test_binary_connect_can_infer_with_signs_after_stochastic_training():
    q = make("binary_connect", stochastic=True, inference="sign")
    np.testing.assert_array_equal(q(W_STAR), SIGNS)
    np.testing.assert_array_equal(q.represent(W_STAR).decode(), SIGNS)
    assert q.precision == 1
    copy = quantizers.clone(make("binary_connect", stochastic=True))
    assert (copy.stochastic, copy.inference) == (True, "real")


def test_binary_connect_glorot_coefficient():
    q = make("binary_connect", h="glorot")
    w = np.ones((3, 3, 128, 256), np.float32)
    h = q(w).numpy()[0, 0, 0, 0]
    np.testing.assert_allclose([h, 1 / h], [0.0208333, 48], rtol=1e-5)
    np.testing.assert_array_equal(q.kernel_constraint()(w), q(w))
    np.testing.assert_array_equal(make("binary_connect", h=0.3).kernel_constraint()(w), w * 0.3)
    with pytest.raises(ValueError, match="needs a kernel"):
        q(W_STAR)


@pytest.mark.parametrize(
    "config",
    [
        {"inference": "real"},
        {"stochastic": True, "inference": "mean"},
        {"h": 0},
        {"h": -1.0},
        {"h": True},
        {"channel_axes": [-1]},
        {"target": "activations"},
    ],
)
def test_binary_connect_refuses(config):
    with pytest.raises(ValueError, match="binary_connect"):
        make("binary_connect", **config)


def test_binary_connect_trains_in_a_layer(rng):
    quantizer = make("binary_connect", stochastic=True, h=0.05)
    layer = QuantDense(3, kernel_quantizer=quantizer, use_bias=False)
    model = keras.Sequential([keras.Input((6,)), layer])
    model.compile(keras.optimizers.SGD(1.0), "mse")
    x = rng.normal(0, 1, (32, 6)).astype(np.float32)
    model.fit(x, x[:, :3], epochs=3, verbose=0)
    assert np.abs(layer.kernel.numpy()).max() <= np.float32(0.05)
    np.testing.assert_allclose(model(x), x @ layer.kernel.numpy(), atol=1e-5)


APPROX = [-1.5, -0.75, -0.25, 0, 0.25, 0.75]


def test_approx_sign():
    y, gradient = value_and_gradient(make("approx_sign"), [*APPROX, -0.0, 1.0], np.ones(8))
    np.testing.assert_array_equal(y, [-1, -1, -1, 1, 1, 1, 1, 1])
    np.testing.assert_array_equal(gradient, [0, 0.5, 1.5, 2, 1.5, 0.5, 2, 0])


def test_approx_sign_gradient_is_the_derivative_of_its_parabolas(rng):
    def parabolas(x):
        c = np.clip(x, -1, 1)
        return np.where(c < 0, 2 * c + c**2, 2 * c - c**2)

    np.testing.assert_allclose(
        parabolas(np.array(APPROX)), [-1, -0.9375, -0.4375, 0, 0.4375, 0.9375]
    )
    x = rng.uniform(-1.5, 1.5, 200)
    slope = (parabolas(x + 1e-6) - parabolas(x - 1e-6)) / 2e-6
    np.testing.assert_allclose(gradient_of(make("approx_sign"), x), slope, atol=1e-4)


MAGNITUDE_AWARE = {
    "paper": [0.046875, -0.09375, 0.140625, 0.1875, -0.234375, 0, -0.328125, 0.375],
    "release": G_STAR * (np.abs(W_STAR) <= 1),
    "identity": G_STAR,
}


@pytest.mark.parametrize("gradient", MAGNITUDE_AWARE)
def test_magnitude_aware_sign(gradient):
    q = make("magnitude_aware_sign", gradient=gradient, channel_axes=[])
    y, got = value_and_gradient(q, W_STAR, G_STAR)
    np.testing.assert_allclose(y, 0.46875 * SIGNS, rtol=1e-6)
    np.testing.assert_allclose(got, MAGNITUDE_AWARE[gradient], rtol=1e-6)
    assert q.kernel_constraint() is None


REACT_X = np.float32([[-0.8], [-0.1], [0.1], [0.5]])


def react_with(shift, shape):
    q = make("react_sign")
    q.build(shape)
    q.built = True
    q.shift.assign(np.float32(shift))
    return q


def react_gradients(q, x, g):
    x = tf.constant(x)
    shift = q.shift.value if keras_version() == 3 else q.shift
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = q(x)
    at_x, at_shift = tape.gradient(y, [x, shift], output_gradients=tf.constant(g))
    return y.numpy(), at_x.numpy(), at_shift.numpy()


def test_react_sign():
    q = react_with([0.2], (4, 1))
    y, at_x, at_shift = react_gradients(q, REACT_X, np.ones_like(REACT_X))
    np.testing.assert_array_equal(y[:, 0], [-1, -1, -1, 1])
    np.testing.assert_allclose(-at_x[:, 0], [0, -1.4, -1.8, -1.4], atol=1e-6)
    np.testing.assert_allclose(at_shift, [-4.6], rtol=1e-6)


def test_react_sign_at_its_threshold_is_plus_one():
    at = np.float32([[0.2, -0.0, 1.5]])
    q = react_with([0.2, 0.0, 1.5], (1, 3))
    np.testing.assert_array_equal(q(at), [[1, 1, 1]])
    np.testing.assert_array_equal(q(at - np.float32(2e-7)), [[-1, -1, -1]])


def test_react_sign_sums_the_gradient_of_each_channel(rng):
    x = rng.normal(0, 0.7, (2, 3, 4, 5)).astype(np.float32)
    g = rng.normal(0, 1, x.shape).astype(np.float32)
    q = react_with(rng.normal(0, 0.3, 5), x.shape)
    _, at_x, at_shift = react_gradients(q, x, g)
    assert at_shift.shape == (5,)
    np.testing.assert_allclose(at_shift, -at_x.sum((0, 1, 2)), rtol=1e-5, atol=1e-6)


def test_react_sign_needs_known_channels():
    with pytest.raises(ValueError, match="must be known"):
        make("react_sign").build((None, None))
    assert make("react_sign").per_feature


def test_react_sign_learns_in_a_layer_and_is_saved(rng, tmp_path):
    layer = QuantConv2D(4, 3, input_quantizer="react_sign", kernel_quantizer="magnitude_aware_sign")
    model = keras.Sequential([keras.Input((5, 5, 3)), layer, keras.layers.Flatten()])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    x = rng.normal(0, 0.5, (16, 5, 5, 3)).astype(np.float32)
    model.fit(x, np.zeros((16, 36), np.float32), verbose=0)
    shift = layer.input_quantizer.shift.numpy()
    assert shift.shape == (3,) and np.all(shift != 0)
    model.save(tmp_path / "model.keras")
    copy = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(copy(x), model(x))


def test_swish_sign():
    q = make("swish_sign")
    want = [5.0, 4.41229, 2.26205, 0.500622, -0.0846216, -0.194992]
    x = np.array([0, 0.1, 0.25, 0.4, 0.5, 1.0])
    np.testing.assert_allclose(gradient_of(q, x), want, rtol=1e-5)
    np.testing.assert_allclose(gradient_of(q, -x), want, rtol=1e-5)
    np.testing.assert_array_equal(q(np.float32([-1, -0.0, 0, 1])), [-1, 1, 1, 1])


@pytest.mark.parametrize("beta", [1.0, 5.0, 10.0])
def test_swish_sign_gradient_is_the_derivative_of_sign_swish(beta, rng):
    def sign_swish(x):
        s = 1 / (1 + np.exp(-beta * x))
        return 2 * s * (1 + beta * x * (1 - s)) - 1

    x = rng.uniform(-2, 2, 200)
    slope = (sign_swish(x + 1e-6) - sign_swish(x - 1e-6)) / 2e-6
    np.testing.assert_allclose(gradient_of(make("swish_sign", beta=beta), x), slope, atol=1e-4)


def test_swish_sign_gradient_of_huge_inputs_is_zero():
    gradient = gradient_of(make("swish_sign"), [-np.inf, -3e38, -1e4, 1e4, 3e38, np.inf])
    np.testing.assert_array_equal(gradient, np.zeros(6))


@pytest.mark.parametrize("beta", [0, -1.0, float("nan"), float("inf")])
def test_swish_sign_refuses(beta):
    with pytest.raises(ValueError, match="swish_sign: beta"):
        make("swish_sign", beta=beta)


FTPROP = {
    "soft_hinge": [0.0706508, 0.7864477, 1, 0.7864477, 0.0706508],
    "saturated_hinge": [0, 1, 1, 1, 0],
}


@pytest.mark.parametrize("loss", FTPROP)
def test_ftprop_sign(loss):
    y, gradient = value_and_gradient(
        make("ftprop_sign", loss=loss), [-2, -0.5, 0, 0.5, 2], np.ones(5)
    )
    np.testing.assert_array_equal(y, [-1, -1, 1, 1, 1])
    np.testing.assert_allclose(gradient, FTPROP[loss], rtol=1e-5)


@pytest.mark.parametrize("loss", FTPROP)
def test_ftprop_sign_minimizes_the_loss_of_its_targets(loss, rng):
    z, g = tf.constant(rng.normal(0, 1, 100), tf.float32), rng.normal(0, 1, 100).astype("f4")
    target = -np.sign(g)
    with tf.GradientTape() as tape:
        tape.watch(z)
        product = z * target
        hinge = tf.nn.relu(1 - tf.maximum(product, -1.0))
        losses = 1 - tf.tanh(product) if loss == "soft_hinge" else hinge
        total = tf.reduce_sum(np.abs(g) * losses)
    _, gradient = value_and_gradient(make("ftprop_sign", loss=loss), z, g)
    np.testing.assert_allclose(gradient, tape.gradient(total, z), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "config"),
    [("magnitude_aware_sign", {"gradient": "caffe"}), ("ftprop_sign", {"loss": "hinge"})],
)
def test_unknown_variants_are_refused(name, config):
    with pytest.raises(ValueError, match=f"{name}: .* must be one of"):
        make(name, **config)


@pytest.mark.parametrize("name", ["approx_sign", "react_sign", "swish_sign", "ftprop_sign", "tnn"])
def test_activations_of_unknown_batch_compile(name, rng):
    q = make(name)
    x = rng.normal(0, 1, (7, 4)).astype(np.float32)
    y = q(x)
    step = tf.function(
        lambda x: tf.gradients(q(x, training=True), x)[0],
        input_signature=[tf.TensorSpec((None, 4))],
        jit_compile=True,
    )
    np.testing.assert_allclose(step(x), value_and_gradient(q, x, np.ones_like(y))[1], atol=1e-6)
