"""Shift-based batch normalization and Range BN against numpy, written from the formulas."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from kerasq import layers
from kerasq.keras import keras
from kerasq.layers.normalization import range_statistics

X = np.array([1.0, 2.0, 4.0, -1.0], np.float32).reshape(4, 1)
KAPPA = 0.175 * (1 + np.sqrt(np.pi * np.log(4)))


def constant(value):
    return keras.initializers.Constant(value)


def ap2(x):
    """sign(x) 2^round(log2|x|), float64."""
    x = np.asarray(x, np.float64)
    with np.errstate(divide="ignore"):
        power = np.exp2(np.round(np.log2(np.abs(x))))
    return np.sign(x) * np.where(x == 0, 0, power)


def shift_oracle(x, gamma, beta, gy, epsilon=1e-5):
    """Outputs, inverse std and the release's gradients of a training step."""
    c = x - x.mean(0)
    inverse = 1 / np.sqrt((c * ap2(c)).mean(0) + epsilon)
    r = ap2(inverse)
    dx = ap2(gamma) * r * (gy - gy.mean(0) - r**2 * ap2(c) * (ap2(c) * gy).mean(0))
    return ap2(gamma) * c * r + beta, inverse, dx, (gy * ap2(c * r)).sum(0), gy.sum(0)


def test_shift_worked_numbers():
    layer = layers.ShiftBatchNormalization(
        gamma_initializer=constant(1.3), beta_initializer=constant(0.1)
    )
    y = layer(X, training=True).numpy().ravel()
    np.testing.assert_allclose(y, [-0.15, 0.35, 1.35, -1.15], rtol=1e-6)
    np.testing.assert_allclose(layer.moving_mean.numpy(), [0.125 * 1.5], rtol=1e-6)
    # The average is that of the inverse std, not of its power of two.
    np.testing.assert_allclose(layer.moving_inverse.numpy(), [0.875 + 0.125 * 0.617212], rtol=1e-6)


def test_shift_against_numpy(rng):
    x = rng.normal(0.3, 2, (6, 5, 4, 3)).astype(np.float32)
    gy = rng.normal(0, 1, x.shape).astype(np.float32)
    gamma, beta = rng.normal(0, 1, (2, 3)).astype(np.float32)
    layer = layers.ShiftBatchNormalization()
    layer.build(x.shape)
    layer.gamma.assign(gamma)
    layer.beta.assign(beta)
    source = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(source)
        y = layer(source, training=True)
    got = tape.gradient(y, [source, *layer.trainable_weights], output_gradients=tf.constant(gy))
    flat = x.reshape(-1, 3).astype(np.float64)
    want = shift_oracle(flat, gamma, beta, gy.reshape(-1, 3).astype(np.float64))
    np.testing.assert_allclose(y.numpy().reshape(-1, 3), want[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(got[0].numpy().reshape(-1, 3), want[2], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got[1], want[3], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(got[2], want[4], rtol=1e-4, atol=1e-4)
    inverse = 0.875 + 0.125 * want[1]
    np.testing.assert_allclose(layer.moving_mean, 0.125 * flat.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(layer.moving_inverse, inverse, rtol=1e-5)
    # Inference: the averages, rounded to powers of two, and constants in the gradient.
    with tf.GradientTape() as tape:
        tape.watch(source)
        y = layer(source, training=False)
    got = tape.gradient(y, source, output_gradients=tf.constant(gy))
    scale = ap2(gamma) * ap2(inverse)
    want = scale * (flat - 0.125 * flat.mean(0)) + beta
    np.testing.assert_allclose(y.numpy().reshape(-1, 3), want, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(got, scale * gy, rtol=1e-6)


def range_oracle(x, chunks, factor, epsilon=1e-5):
    """Mean and inverse scale of a (n, C) batch."""
    parts = x.reshape(chunks, -1, x.shape[-1])
    spread = (parts.max(1) - parts.min(1)).mean(0)
    return x.mean(0), 1 / (spread * factor / np.sqrt(2 * np.log(parts.shape[1])) + epsilon)


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("paper", [-0.166511, 0.166511, 0.832555, -0.832555]),
        ("release", [-0.308235, 0.308235, 1.541173, -1.541173]),
    ],
)
def test_range_worked_numbers(name, want):
    layer = layers.RangeBatchNormalization(constant=name, gamma_initializer="ones")
    np.testing.assert_allclose(layer(X, training=True).numpy().ravel(), want, atol=1e-5)


@pytest.mark.parametrize("name", ["release", "paper"])
@pytest.mark.parametrize("jit", [False, True])
def test_range_against_numpy(name, jit, rng):
    x = rng.normal(0.3, 2, (8, 4, 6, 3)).astype(np.float32)
    layer = layers.RangeBatchNormalization(constant=name, momentum=0.75)
    layer.build(x.shape)
    step = tf.function(lambda x: layer(x, training=True), jit_compile=jit)
    y = step(tf.constant(x)).numpy().reshape(-1, 3)
    flat = x.reshape(-1, 3).astype(np.float64)
    chunks, factor = (16, KAPPA) if name == "release" else (1, 1.0)
    mean, inverse = range_oracle(flat, chunks, factor)
    gamma = layer.gamma.numpy()
    assert (gamma >= 0).all()
    assert (gamma < 1).all()
    np.testing.assert_allclose(y, gamma * (flat - mean) * inverse, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(layer.moving_mean, 0.25 * mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(layer.moving_inverse, 0.75 + 0.25 * inverse, rtol=1e-5)
    before = [w.numpy() for w in layer.weights]
    y = layer(x, training=False).numpy().reshape(-1, 3)
    want = gamma * (flat - 0.25 * mean) * (0.75 + 0.25 * inverse)
    np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5)
    for old, variable in zip(before, layer.weights, strict=True):
        np.testing.assert_array_equal(variable, old)


@pytest.mark.parametrize(
    ("count", "chunks"), [(32, 16), (448, 16), (16, 1), (4, 1), (34, 2), (100, 5), (289, 1)]
)
def test_range_chunks(count, chunks, rng):
    """16 where they divide the batch; else as many as leave 16 values in each."""
    x = rng.normal(0, 1, (count, 2)).astype(np.float32)
    mean, inverse = range_statistics(tf.constant(x))
    want = range_oracle(x.astype(np.float64), chunks, KAPPA)
    np.testing.assert_allclose(mean, want[0], atol=1e-6)
    np.testing.assert_allclose(inverse, want[1], rtol=1e-5)


def test_range_of_gaussian_values_is_their_deviation(rng):
    x = rng.normal(0, 3, (16 * 1024, 4)).astype(np.float32)
    _, release = range_statistics(tf.constant(x))
    _, paper = range_statistics(tf.constant(x), 1, "paper")
    assert np.abs(x * release.numpy()).std() < 1.1
    np.testing.assert_allclose((x * release.numpy()).std(0), 1.0, atol=0.1)
    np.testing.assert_allclose((x * paper.numpy()).std(0), 0.5, atol=0.1)


def test_range_gradient_is_the_derivative(rng):
    x = rng.normal(0, 1, (32, 2))
    gy = rng.normal(0, 1, x.shape).astype(np.float32)
    layer = layers.RangeBatchNormalization(num_chunks=4, gamma_initializer="ones")
    source = tf.constant(x.astype(np.float32))
    with tf.GradientTape() as tape:
        tape.watch(source)
        y = layer(source, training=True)
    got = tape.gradient(y, source, output_gradients=tf.constant(gy)).numpy()

    def loss(x):
        mean, inverse = range_oracle(x, 4, KAPPA)
        return ((x - mean) * inverse * gy).sum()

    for i, j in [(0, 0), (7, 1), *np.argwhere(x == x.max(0)), *np.argwhere(x == x.min(0))]:
        step = np.zeros_like(x)
        step[i, j] = 1e-6
        assert got[i, j] == pytest.approx((loss(x + step) - loss(x - step)) / 2e-6, abs=1e-3)


def test_range_quantizers(rng):
    """Inputs, and gamma, beta and the scale, by 1-bit methods whose values are plain to see."""
    x = rng.normal(0, 1, (16, 3)).astype(np.float32)
    layer = layers.RangeBatchNormalization(
        input_quantizer="ste_sign", parameter_quantizer="bwn", beta_initializer="random_normal"
    )
    y = layer(x, training=True).numpy()
    assert all(len(np.unique(y[:, c])) <= 2 for c in range(3))
    y = layer(x, training=False).numpy()
    mean = layer.moving_mean.numpy()
    gamma, beta = layer.gamma.numpy(), layer.beta.numpy()
    want = gamma * ((np.where(x >= 0, 1, -1) - mean) * layer.moving_inverse.numpy()) + beta
    np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="input_quantizer"):
        layers.RangeBatchNormalization(input_quantizer="bwn")


BOTH = [layers.ShiftBatchNormalization, layers.RangeBatchNormalization]


@pytest.mark.parametrize("cls", BOTH)
def test_inference_is_affine(cls, rng):
    x = rng.normal(1, 2, (64, 3)).astype(np.float32)
    layer = cls(beta_initializer="random_normal", gamma_initializer="random_normal")
    for _ in range(5):
        layer(x, training=True)
    scale, offset = layer.affine()
    assert scale.dtype == offset.dtype == np.float32
    np.testing.assert_allclose(layer(x), scale * x + offset, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cls", BOTH)
def test_averages_converge(cls, rng):
    x = rng.normal(1, 2, (64, 3)).astype(np.float32)
    layer = cls(gamma_initializer="ones")
    for _ in range(200):
        y = layer(x, training=True)
    np.testing.assert_allclose(layer(x, training=False), y, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cls", BOTH)
def test_constant_batch(cls):
    """No deviation: the output is beta, nothing is NaN."""
    layer = cls(beta_initializer=constant(0.5))
    x = tf.ones((32, 2))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
    np.testing.assert_array_equal(y, np.full((32, 2), 0.5))
    assert np.isfinite(tape.gradient(y, x)).all()
    assert np.isfinite(layer(np.ones((1, 2), np.float32), training=True)).all()


@pytest.mark.parametrize("cls", BOTH)
def test_frozen_layer_keeps_its_averages(cls, rng):
    x = rng.normal(1, 2, (64, 3)).astype(np.float32)
    layer = cls()
    layer(x, training=True)
    layer.trainable = False
    before = layer.moving_inverse.numpy()
    y = layer(x, training=True)
    np.testing.assert_array_equal(layer.moving_inverse, before)
    np.testing.assert_array_equal(y, layer(x, training=False))


@pytest.mark.parametrize("cls", BOTH)
def test_float16(cls, rng):
    """Statistics stay float32: a range of 1e5 does not overflow."""
    layer = cls(dtype="mixed_float16")
    x = rng.normal(0, 200, (64, 3)).astype(np.float16)
    y = layer(x, training=True)
    assert y.dtype == tf.float16
    assert layer.moving_inverse.dtype in ("float32", tf.float32)
    np.testing.assert_allclose(
        y,
        cls.from_config(
            {
                **layer.get_config(),
                "dtype": "float32",
                "gamma_initializer": constant(layer.gamma.numpy()),
            }
        )(x.astype(np.float32), training=True),
        rtol=1e-2,
        atol=1e-2,
    )


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_saving(suffix, tmp_path, rng):
    x = rng.normal(1, 2, (32, 8)).astype(np.float32)
    model = keras.Sequential(
        [
            keras.layers.Input((8,)),
            layers.ShiftBatchNormalization(momentum=0.5),
            keras.layers.Dense(5),
            layers.RangeBatchNormalization(constant="paper", input_quantizer="ste_sign"),
        ]
    )
    model.compile(keras.optimizers.SGD(0.1), keras.losses.MeanSquaredError())
    model.fit(x, np.ones((32, 5)), epochs=2, batch_size=12, verbose=0)
    model.save(tmp_path / f"model{suffix}")
    loaded = keras.models.load_model(tmp_path / f"model{suffix}")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))
    assert loaded.layers[2].get_config() == model.layers[2].get_config()


@pytest.mark.parametrize("cls", BOTH)
def test_replica_updates_the_averages(cls, rng):
    x = rng.normal(1, 2, (32, 3)).astype(np.float32)
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        layer = cls(momentum=0.875)
        layer.build((None, 3))
    strategy.run(lambda: layer(x, training=True))
    np.testing.assert_allclose(layer.moving_mean, 0.125 * x.mean(0), rtol=1e-5)


@pytest.mark.parametrize("cls", BOTH)
@pytest.mark.parametrize("jit", [False, True])
def test_compiled_with_a_symbolic_training_flag(cls, jit, rng):
    """A batch of unknown size, XLA, and ``training`` as a tensor."""
    x = rng.normal(1, 2, (32, 3)).astype(np.float32)
    layer, other = (cls(gamma_initializer=constant(0.7)) for _ in range(2))
    layer.build((None, 3))
    signature = [tf.TensorSpec((None, 3)), tf.TensorSpec((), tf.bool)]

    @tf.function(jit_compile=jit, input_signature=signature)
    def step(x, training):
        return layer(x, training=training)

    for training in (True, False):
        want = other(x, training=training)
        np.testing.assert_allclose(step(x, tf.constant(training)), want, rtol=1e-5, atol=1e-6)
    for got, want in zip(layer.weights, other.weights, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize(
    ("cls", "config", "message"),
    [
        (layers.ShiftBatchNormalization, {"momentum": 2.0}, "momentum"),
        (layers.RangeBatchNormalization, {"epsilon": -1.0}, "epsilon"),
        (layers.RangeBatchNormalization, {"constant": "other"}, "constant"),
        (layers.RangeBatchNormalization, {"num_chunks": 0}, "num_chunks"),
    ],
)
def test_bad_settings(cls, config, message):
    with pytest.raises(ValueError, match=message):
        cls(**config)
