"""The convolutions of ABC-Net and HORQ against sums of binary convolutions."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from kerasq import layers
from kerasq.keras import keras, keras_version


def sgn(x):
    return np.where(x >= 0, 1.0, -1.0)


def convolve(x, w, stride=1, pad=None):
    """SAME convolution with odd kernels by its definition, float64; VALID where ``pad`` is None."""
    kh, kw, _, _ = w.shape
    if pad is not None:
        total = [
            max((-(-n // stride) - 1) * stride + k - n, 0)
            for n, k in zip(x.shape[1:3], (kh, kw), strict=True)
        ]
        pads = [(t // 2, t - t // 2) for t in total]
        x = np.pad(x, [(0, 0), *pads, (0, 0)], constant_values=pad)
    windows = np.lib.stride_tricks.sliding_window_view(x, (kh, kw), (1, 2))
    return np.einsum("nyxcij,ijco->nyxo", windows[:, ::stride, ::stride], w)


def abc_bases(w, count):
    shifts = np.linspace(-1, 1, count) if count > 1 else [0.0]
    bases = [sgn(w - w.mean() + u * w.std()) for u in shifts]
    matrix = np.stack([b.ravel() for b in bases], 1)
    return bases, np.linalg.lstsq(matrix, w.ravel(), rcond=None)[0]


@pytest.mark.parametrize(("m", "n"), [(1, 1), (3, 2), (2, 5), (5, 5)])
@pytest.mark.parametrize(
    "config", [{"padding": "valid"}, {"padding": "same", "strides": 2, "pad_values": 1.0}]
)
def test_abc_conv_is_the_sum_of_the_binary_convolutions(m, n, config, rng):
    layer = layers.ABCConv2D(6, 3, weight_bases=m, activation_bases=n, **config)
    x = rng.normal(0, 1, (2, 7, 6, 4)).astype(np.float32)
    layer.build(x.shape)
    layer.input_quantizer.shifts.assign(rng.normal(0, 0.5, n))
    layer.input_quantizer.scales.assign(rng.uniform(0.2, 1, n))
    quantizer = layer.input_quantizer
    shifts, scales = (np.asarray(v, np.float64) for v in (quantizer.shifts, quantizer.scales))
    bases, alpha = abc_bases(np.asarray(layer.kernel, np.float64), m)
    pad = None
    want = 0
    for h_shift, beta in zip(shifts, scales, strict=True):
        h = 2.0 * (x + h_shift >= 0.5) - 1
        if config["padding"] == "same":
            # A padded value is a quantized one: each branch has its share of it.
            pad = config["pad_values"] / scales.sum()
        for base, a in zip(bases, alpha, strict=True):
            want = want + a * beta * convolve(h, base, config.get("strides", 1), pad)
    np.testing.assert_allclose(layer(x), want, rtol=1e-4, atol=1e-4)
    assert layer.kernel_quantizer.precision == m and layer.input_quantizer.precision == n


def test_abc_conv_gradients(rng):
    layer = layers.ABCConv2D(5, 3, padding="same", weight_bases=3, activation_bases=2)
    x = tf.constant(rng.normal(0, 1, (2, 5, 5, 3)).astype(np.float32))
    layer.build(x.shape)
    sources = [
        x,
        *(getattr(v, "value", v) if keras_version() == 3 else v for v in layer.trainable_weights),
    ]
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
    by_name = dict(
        zip(
            ["x", *(v.name.split("/")[-1].split(":")[0] for v in layer.trainable_weights)],
            tape.gradient(y, sources, output_gradients=tf.ones_like(y)),
            strict=True,
        )
    )
    assert set(by_name) == {"x", "kernel", "bias", "shifts", "scales"}
    q_x, q_w = (tf.constant(t) for t in layer._operands(x, layer.kernel, False))
    with tf.GradientTape() as tape:
        tape.watch([q_x, q_w])
        y = tf.nn.conv2d(q_x, q_w, 1, "SAME")
    at_x, at_w = (g.numpy() for g in tape.gradient(y, [q_x, q_w]))
    _, alpha = abc_bases(np.asarray(layer.kernel, np.float64), 3)
    np.testing.assert_allclose(by_name["kernel"], at_w * alpha.sum(), rtol=1e-4, atol=1e-4)
    masks = [(x.numpy() + v >= 0) & (x.numpy() + v <= 1) for v in (-0.5, 0.5)]
    np.testing.assert_allclose(by_name["x"], at_x * 0.5 * sum(masks), rtol=1e-4, atol=1e-5)
    wanted = [(at_x * 0.5 * mask).sum() for mask in masks]
    np.testing.assert_allclose(by_name["shifts"], wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("scope", ["sample", "tensor"])
def test_horq_conv_is_the_sum_of_the_binary_convolutions(scope, rng):
    layer = layers.HORQConv2D(4, 3, padding="same", order=3, scope=scope)
    x = rng.normal(0, [[[[1.0]]], [[[3.0]]]], (2, 6, 5, 3)).astype(np.float32)
    got = layer(x).numpy()
    w = np.asarray(layer.kernel, np.float64)
    axes = (1, 2, 3) if scope == "sample" else (0, 1, 2, 3)
    residual, want = x.astype(np.float64), 0
    for _ in range(3):
        beta = np.abs(residual).mean(axes, keepdims=True)
        binary = convolve(sgn(residual), sgn(w), pad=0.0)
        want = want + beta * np.abs(w).mean((0, 1, 2)) * binary
        residual = residual - beta * sgn(residual)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    assert layer.input_quantizer.precision == 3


@pytest.mark.parametrize("config", [{"padding": "same", "strides": 2}, {"padding": "valid"}])
def test_horq_conv_with_a_beta_per_position(config, rng):
    layer = layers.HORQConv2D(4, 3, order=2, scope="position", **config)
    x = rng.normal(0, 1, (2, 7, 5, 3)).astype(np.float32)
    got = layer(x).numpy()
    w = np.asarray(layer.kernel, np.float64)
    box, stride = np.full((3, 3, 1, 1), 1 / 9), config.get("strides", 1)
    pad = 0.0 if config["padding"] == "same" else None
    residual, want = x.astype(np.float64), 0
    for _ in range(2):
        size = np.abs(residual).mean(-1, keepdims=True)
        binary = convolve(sgn(residual), np.abs(w).mean((0, 1, 2)) * sgn(w), stride, pad)
        want = want + convolve(size, box, stride, pad) * binary
        residual = residual - convolve(size, box, 1, 0.0) * sgn(residual)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_horq_conv_per_position_is_exact_for_one_magnitude(rng):
    # |x| is one number: the first order is the input itself, inside the border.
    layer = layers.HORQConv2D(4, 3, order=2, scope="position")
    x = (0.7 * sgn(rng.normal(0, 1, (2, 9, 9, 3)))).astype(np.float32)
    got = layer(x).numpy()[:, 1:-1, 1:-1]
    _, kernel = layer._operands(x, layer.kernel, False)
    want = tf.nn.conv2d(x, kernel, 1, "VALID").numpy()[:, 1:-1, 1:-1]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_horq_conv_gradient_per_position(rng):
    layer = layers.HORQConv2D(2, 3, padding="same", order=2, scope="position")
    x = tf.constant(rng.normal(0, 1.2, (1, 5, 5, 2)).astype(np.float32))
    layer(x)
    g = rng.normal(0, 1, (1, 5, 5, 2)).astype(np.float32)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
    got = tape.gradient(y, x, output_gradients=tf.constant(g))
    _, kernel = layer._operands(x, layer.kernel, False)
    residual, want = x.numpy(), 0
    box = np.full((3, 3, 1, 1), 1 / 9)
    for signs, scales in layer.binarizations(x):
        at_signs = tf.nn.conv2d_transpose(g * scales, kernel, x.shape, 1, "SAME").numpy()
        want = want + at_signs * (np.abs(residual) <= 1)
        size = np.abs(residual).mean(-1, keepdims=True)
        residual = residual - convolve(size, box, 1, 0.0) * signs.numpy()
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def network():
    return keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            layers.ABCConv2D(4, 3, padding="same", weight_bases=5, activation_bases=2),
            keras.layers.BatchNormalization(),
            layers.HORQConv2D(4, 3, padding="same", order=3),
            layers.HORQConv2D(4, 3, 2, padding="same", scope="position", dilation_rate=1),
            keras.layers.Flatten(),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_trained_model_saves_and_loads(suffix, tmp_path, rng):
    model = network()
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    x = rng.normal(0, 1, (16, 6, 6, 3)).astype(np.float32)
    model.fit(x, rng.integers(0, 3, 16), epochs=1, verbose=0)
    want = model.predict(x, verbose=0)
    model.save(tmp_path / f"model{suffix}")
    loaded = keras.models.load_model(tmp_path / f"model{suffix}")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), want)
    first = next(layer for layer in loaded.layers if isinstance(layer, layers.ABCConv2D))
    assert (first.kernel_quantizer.bits, first.input_quantizer.bits) == (5, 2)
    scopes = [layer.scope for layer in loaded.layers if isinstance(layer, layers.HORQConv2D)]
    assert scopes == [None, "position"]
    assert np.abs(np.asarray(first.input_quantizer.shifts)).max() != 0.5  # they were trained


def test_mixed_precision(rng):
    x = rng.normal(0, 1, (2, 6, 6, 4)).astype(np.float32)
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        for make in (layers.ABCConv2D, lambda *a: layers.HORQConv2D(*a, scope="position")):
            assert make(3, 3)(x).dtype == tf.float16
    finally:
        keras.mixed_precision.set_global_policy("float32")


def test_bad_arguments():
    with pytest.raises(ValueError, match="scope must be one of"):
        layers.HORQConv2D(3, 3, scope="patch")
    with pytest.raises(ValueError, match="bits must be a whole number in 1..8, got 9"):
        layers.HORQConv2D(3, 3, order=9)
    with pytest.raises(ValueError, match="abc_weights: bits must be"):
        layers.ABCConv2D(3, 3, weight_bases=0)
    for config in ({"groups": 2}, {"input_quantizer": "ste_sign"}):
        with pytest.raises(ValueError, match="'position' takes the input quantizer 'horq'"):
            layers.HORQConv2D(4, 3, scope="position", **config)


def test_catalogue_names():
    assert layers.get("abc_conv") is layers.ABCConv2D
    assert layers.get("horq_conv") is layers.HORQConv2D
