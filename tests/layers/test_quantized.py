"""The quantized layers against plain convolutions of quantized operands, and their saving."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tensorflow as tf

from kerasq import layers, quantizers
from kerasq.keras import keras, keras_version
from tests.layers.learned import LearnedScale

WEIGHTS = [n for n, e in quantizers.catalogue().items() if e.target in ("weights", "both")]
ACTIVATIONS = [n for n, e in quantizers.catalogue().items() if e.target in ("activations", "both")]
# What a network is made of, besides the test quantizer; test_citizenship.py has all that learn.
STACKED = ("bwn", "dorefa_activations", "dorefa_weights", "ste_sign", "twn")


def kernel_of(layer):
    return getattr(layer, layer._kernel_name)


def same_pads(size, kernel, stride, dilation):
    total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def convolution(x, w, strides, dilation, groups):
    """VALID convolution straight from its definition, float64."""
    kh, kw, cg, ct = w.shape
    height = (x.shape[1] - (kh - 1) * dilation - 1) // strides + 1
    width = (x.shape[2] - (kw - 1) * dilation - 1) // strides + 1
    y = np.zeros((len(x), height, width, ct))
    for i, j, c in itertools.product(range(kh), range(kw), range(ct)):
        group = c // (ct // groups)
        window = x[:, i * dilation :, j * dilation :, group * cg : (group + 1) * cg]
        window = window[:, : height * strides : strides, : width * strides : strides]
        y[..., c] += window @ w[i, j, :, c]
    return y


CONVOLUTIONS = [
    {"strides": 1, "padding": "same"},
    {"strides": 2, "padding": "same"},
    {"strides": 2, "padding": "same", "pad_values": 1.0},
    {"strides": 1, "padding": "same", "pad_values": 1.0, "dilation_rate": 2},
    {"strides": 1, "padding": "valid", "pad_values": 1.0},
    {"strides": 1, "padding": "same", "groups": 2, "pad_values": 1.0},
    {"strides": 1, "padding": "valid", "groups": 2, "use_bias": False, "activation": "relu"},
]


@pytest.mark.parametrize("config", CONVOLUTIONS)
@pytest.mark.parametrize("kernel_size", [3, (2, 3), 1])
def test_conv2d(config, kernel_size, rng):
    layer = layers.QuantConv2D(
        6,
        kernel_size,
        input_quantizer="ste_sign",
        kernel_quantizer="bwn",
        bias_initializer="random_normal",
        **config,
    )
    x = rng.normal(0, 1, (2, 8, 7, 4)).astype(np.float32)
    got = layer(x).numpy()
    stride, dilation = config["strides"], config.get("dilation_rate", 1)
    signs = np.where(x >= 0, 1.0, -1.0)
    if config["padding"] == "same":
        kh, kw = layer.kernel_size
        pads = [(0, 0), same_pads(8, kh, stride, dilation), same_pads(7, kw, stride, dilation)]
        signs = np.pad(signs, [*pads, (0, 0)], constant_values=config.get("pad_values", 0.0))
    w = quantizers.get("bwn").represent(layer.kernel).decode()
    want = convolution(signs, w.astype(np.float64), stride, dilation, config.get("groups", 1))
    if config.get("use_bias", True):
        want += np.asarray(layer.bias)
    want = np.maximum(want, 0) if "activation" in config else want
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    assert tuple(layer.compute_output_shape(x.shape)) == got.shape


@pytest.mark.parametrize("multiplier", [1, 2])
@pytest.mark.parametrize("pad_values", [0.0, 1.0])
def test_depthwise_has_a_scale_per_filter(multiplier, pad_values, rng):
    layer = layers.QuantDepthwiseConv2D(
        3,
        2,
        padding="same",
        depth_multiplier=multiplier,
        kernel_quantizer="bwn",
        input_quantizer="ste_sign",
        pad_values=pad_values,
    )
    x = rng.normal(0, 1, (2, 8, 7, 3)).astype(np.float32)
    got = layer(x).numpy()
    w = np.asarray(kernel_of(layer), np.float64)
    w = np.abs(w).mean((0, 1), keepdims=True) * np.where(w >= 0, 1, -1)
    pads = [(0, 0), same_pads(8, 3, 2, 1), same_pads(7, 3, 2, 1), (0, 0)]
    signs = np.pad(np.where(x >= 0, 1.0, -1.0), pads, constant_values=pad_values)
    want = convolution(signs, w.reshape(3, 3, 1, -1), 2, 1, 3)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    assert layer.kernel_quantizer.channel_axes == (-2, -1)


@pytest.mark.parametrize("shape", [(5, 6), (2, 3, 6)])
def test_dense(shape, rng):
    layer = layers.QuantDense(4, kernel_quantizer="twn", input_quantizer="ste_sign")
    x = rng.normal(0, 1, shape).astype(np.float32)
    got = layer(x).numpy()
    w = quantizers.get("twn").represent(layer.kernel).decode()
    np.testing.assert_allclose(got, np.where(x >= 0, 1, -1) @ w, rtol=1e-5, atol=1e-5)


BIASED = {
    "conv": (lambda config: layers.QuantConv2D(4, 3, **config), (2, 6, 6, 3)),
    "depthwise": (lambda config: layers.QuantDepthwiseConv2D(3, **config), (2, 6, 6, 4)),
    "dense": (lambda config: layers.QuantDense(4, **config), (5, 7)),
}
ON_GRIDS = {"input_quantizer": "nice", "kernel_quantizer": "nice", "bias_bits": 16}


@pytest.mark.parametrize("kernel_quantizer", ["nice", "calibrate_max"])
@pytest.mark.parametrize("kind", BIASED)
def test_bias_on_the_grid_of_the_products(kind, kernel_quantizer, rng):
    make, shape = BIASED[kind]
    layer = make({**ON_GRIDS, "kernel_quantizer": kernel_quantizer})
    x = rng.normal(0, 1, shape).astype(np.float32)
    layer(x, training=True)
    bias = rng.normal(0, 1, 4).astype(np.float32)
    layer.bias.assign(bias)
    kernel = layer.kernel_quantizer.represent(kernel_of(layer))
    step = float(layer.input_quantizer.clamp) / 15 * kernel.scale.astype(float)
    want = step * np.clip(np.round(bias / step), -32767, 32767)
    assert np.abs(want - bias).max() > 0
    np.testing.assert_allclose(layer.stored_bias(), want, rtol=1e-5)
    plain = make({**ON_GRIDS, "kernel_quantizer": kernel_quantizer, "bias_bits": None})
    plain.build(shape)
    plain.set_weights(layer.get_weights())
    plain.bias.assign(layer.stored_bias())
    for call in (lambda layer, x: layer(x), tf.function(lambda layer, x: layer(x))):
        np.testing.assert_allclose(call(layer, x), call(plain, x), rtol=1e-6, atol=1e-7)
    with tf.GradientTape() as tape:
        outputs = layer(x, training=True)
    at_bias = tape.gradient(outputs, layer.trainable_weights)[1]
    np.testing.assert_allclose(at_bias, np.full(4, np.prod(outputs.shape[:-1])), rtol=1e-6)


def test_bias_keeps_its_precision_in_nices_float_stage(rng):
    config = {"class_name": "nice", "config": {"stage": "float"}}
    layer = layers.QuantDense(
        4, input_quantizer=config, kernel_quantizer=config, bias_bits=8, bias_initializer="ones"
    )
    x = rng.normal(0, 1, (5, 7)).astype(np.float32)
    layer(x, training=True)
    layer.bias.assign([0.1234, 1e4, -1e4, 0.0])
    nothing = np.full((1, 7), -1.0, np.float32)  # rectified
    np.testing.assert_array_equal(layer(nothing)[0], layer.bias)
    for quantizer in (layer.input_quantizer, layer.kernel_quantizer):
        quantizer.set_stage("quantized")
    step = float(layer.input_quantizer.clamp) / 15 * float(layer.kernel_quantizer.clamp) / 7
    np.testing.assert_allclose(layer(nothing)[0, 1:], [127 * step, -127 * step, 0.0], rtol=1e-5)


def test_bias_on_a_grid_is_saved_and_trains_in_half_precision(rng, tmp_path):
    model = keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            layers.QuantConv2D(4, 3, **ON_GRIDS, dtype="mixed_float16"),
            keras.layers.Flatten(),
            layers.QuantDense(2, **ON_GRIDS),
        ]
    )
    model.compile("sgd", "mse")
    x = rng.normal(0, 1, (8, 6, 6, 3)).astype(np.float32)
    model.fit(x, rng.normal(0, 1, (8, 2)), epochs=2, verbose=0)
    assert np.any(model.layers[0].bias.numpy())
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert loaded.layers[0].bias_bits == 16
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))


@pytest.mark.parametrize(
    "config",
    [
        {"input_quantizer": None},
        {"kernel_quantizer": "bwn"},
        {"input_quantizer": "ste_sign"},
        {"kernel_quantizer": {"class_name": "wrpn", "config": {"bits": 1}}},
        {"input_quantizer": {"class_name": "hwgq", "config": {"uniform": False}}},
    ],
)
def test_bias_grid_needs_two_uniform_quantizers(config):
    with pytest.raises(ValueError, match="QuantDense 'd', bias: .* leave bias_bits out"):
        layers.QuantDense(2, **{**ON_GRIDS, **config}, name="d")


def test_bias_grid_refuses_what_it_cannot_hold():
    with pytest.raises(ValueError, match=r"bias: bits must be a whole number in 2\.\.24"):
        layers.QuantDense(2, **{**ON_GRIDS, "bias_bits": 32})
    layer = layers.QuantDense(2, **ON_GRIDS)
    layer.build((None, 3))
    with pytest.raises(ValueError, match="step of its inputs"):
        layer.stored_bias()


def test_dynamic_size_pads_as_a_static_one(rng):
    layer = layers.QuantConv2D(3, 3, 2, padding="same", pad_values=1.0, kernel_quantizer="bwn")
    x = rng.normal(0, 1, (2, 9, 8, 2)).astype(np.float32)
    inputs = keras.Input((None, None, 2))
    model = keras.Model(inputs, layer(inputs))
    np.testing.assert_allclose(model(x).numpy(), layer(x).numpy(), rtol=1e-6)


def network():
    """Each layer, several methods of weights and activations, and quantizers with variables."""
    stack = [keras.Input((8, 8, 3))]
    for name in [n for n in WEIGHTS if n in STACKED]:
        stack += [
            layers.QuantConv2D(4, 3, padding="same", kernel_quantizer=name, pad_values=1.0),
            keras.layers.BatchNormalization(),
        ]
    for name in [n for n in ACTIVATIONS if n in STACKED]:
        stack += [
            layers.QuantDepthwiseConv2D(
                3, padding="same", kernel_quantizer="bwn", input_quantizer=name
            ),
            keras.layers.BatchNormalization(),
        ]
    shared = LearnedScale()
    stack += [
        layers.XnorConv2D(4, 3, use_k_map=True, padding="same"),
        layers.QuantConv2D(4, 3, padding="same", groups=2, kernel_quantizer="bwn"),
        layers.QuantConv2D(4, 1, kernel_quantizer=shared, input_quantizer=shared),
        keras.layers.Flatten(),
        layers.QuantDense(8, kernel_quantizer=shared),
        layers.QuantDense(3, kernel_quantizer="twn", activation="softmax"),
    ]
    return keras.Sequential(stack)


@pytest.fixture(scope="module")
def trained():
    keras.utils.set_random_seed(1)
    rng = np.random.default_rng(2)
    model = network()
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    x = rng.normal(0, 1, (32, 8, 8, 3)).astype(np.float32)
    model.fit(x, rng.integers(0, 3, 32), epochs=2, verbose=0)
    want = model.predict(x, verbose=0)
    assert np.isfinite(want).all() and want.std(axis=0).any()
    return model, x, want


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_saved_model_predicts_the_same(trained, tmp_path, suffix):
    model, x, want = trained
    model.save(tmp_path / f"model{suffix}")
    loaded = keras.models.load_model(tmp_path / f"model{suffix}")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), want)
    # Saving what was loaded writes the same network.
    loaded.save(tmp_path / f"again{suffix}")
    again = keras.models.load_model(tmp_path / f"again{suffix}")
    np.testing.assert_array_equal(again.predict(x, verbose=0), want)


def test_weights_only(trained, tmp_path):
    model, x, want = trained
    model.save_weights(tmp_path / "model.weights.h5")
    other = network()
    assert not np.array_equal(other.predict(x, verbose=0), want)
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(other.predict(x, verbose=0), want)


def test_saved_model_format(trained, tmp_path):
    model, x, want = trained
    folder = str(tmp_path / "model")
    if keras_version() == 2:
        model.save(folder)
        loaded = keras.models.load_model(folder)
        got = loaded.predict(x, verbose=0)
        assert type(loaded.layers[0]) is layers.QuantConv2D
    else:
        model.export(folder, verbose=False)
        loaded = tf.saved_model.load(folder)
        got = loaded.serve(x).numpy()
    np.testing.assert_array_equal(got, want)


def test_represent_is_exact_after_training(trained):
    model, _, _ = trained
    checked = 0
    for layer in model.layers:
        q = getattr(layer, "kernel_quantizer", None)
        if q is None or isinstance(q, LearnedScale):
            continue
        _, in_the_layer = layer._operands(np.zeros((1, 1), np.float32), kernel_of(layer), False)
        np.testing.assert_array_equal(q.represent(kernel_of(layer)).decode(), in_the_layer)
        checked += 1
    assert checked >= len(STACKED) + 2


def test_latent_weights_stay_where_the_method_needs_them(trained):
    model, _, _ = trained
    for layer in model.layers:
        if getattr(layer, "kernel_quantizer", None) is not None:
            required = layer.kernel_quantizer.kernel_constraint()
            if required is not None:
                assert np.abs(np.asarray(kernel_of(layer))).max() <= 1.0


def test_constraint_can_be_chosen():
    default = layers.QuantConv2D(2, 3, kernel_quantizer="ste_sign")
    assert isinstance(default.kernel_constraint, quantizers.LatentClip)
    assert layers.QuantConv2D(2, 3, kernel_quantizer="twn").kernel_constraint is None
    free = layers.QuantConv2D(2, 3, kernel_quantizer="ste_sign", kernel_constraint=None)
    assert free.kernel_constraint is None
    assert layers.QuantConv2D.from_config(free.get_config()).kernel_constraint is None
    depthwise = layers.QuantDepthwiseConv2D(3, kernel_quantizer="ste_sign")
    assert isinstance(depthwise.depthwise_constraint, quantizers.LatentClip)
    copy = layers.QuantDepthwiseConv2D.from_config(depthwise.get_config())
    assert isinstance(copy.depthwise_constraint, quantizers.LatentClip)
    xnor = layers.XnorConv2D(2, 3)
    assert isinstance(xnor.kernel_constraint, quantizers.XnorConditioning)


def test_one_instance_given_to_two_layers_is_copied(rng):
    shared = LearnedScale()
    first, second = (layers.QuantDense(n, kernel_quantizer=shared) for n in (3, 4))
    x = rng.normal(0, 1, (2, 5)).astype(np.float32)
    first(x), second(x)
    assert not shared.built
    assert first.kernel_quantizer.step is not second.kernel_quantizer.step
    assert len(first.trainable_weights) == 4


def test_gradient_passes_through_both_quantizers(rng):
    layer = layers.QuantDense(3, kernel_quantizer="bwn", input_quantizer="ste_sign")
    x = tf.constant(rng.normal(0, 1.5, (4, 5)).astype(np.float32))
    layer(x)
    w = np.asarray(layer.kernel)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
    dx, dw = tape.gradient(y, [x, layer.trainable_weights[0]], output_gradients=tf.ones_like(y))
    alpha = np.abs(w).mean(0)
    want_x = (np.ones((4, 3)) * alpha) @ np.where(w >= 0, 1, -1).T * (np.abs(x) <= 1)
    np.testing.assert_allclose(dx, want_x, rtol=1e-4, atol=1e-6)
    upstream = np.where(x.numpy() >= 0, 1, -1).T @ np.ones((4, 3))
    np.testing.assert_allclose(dw, upstream * (1 / 5 + alpha), rtol=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: layers.QuantConv2D(3, 3, kernel_quantizer="bwn", input_quantizer="ste_sign"),
        lambda: layers.QuantDepthwiseConv2D(3, kernel_quantizer="bwn"),
        lambda: layers.XnorConv2D(3, 3, use_k_map=True),
        lambda: layers.QuantDense(3, kernel_quantizer="twn"),
    ],
)
def test_mixed_precision_quantizes_the_float32_kernel(make, rng):
    x = rng.normal(0, 1, (2, 6, 6, 4)).astype(np.float32)
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        layer = make()
        assert layer(x).dtype == tf.float16
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert tf.convert_to_tensor(kernel_of(layer)).dtype == tf.float32
    _, kernel = layer._operands(x, kernel_of(layer), False)
    want = layer.kernel_quantizer.represent(kernel_of(layer)).decode().astype(np.float16)
    np.testing.assert_array_equal(kernel, want)


K_INPUT = np.stack([np.arange(16) - 8.0, 1.0 - np.arange(16) % 3], -1).reshape(1, 4, 4, 2)


def test_k_map():
    layer = layers.XnorConv2D(1, 3, use_k_map=True)
    x = K_INPUT.astype(np.float32)
    layer(x)
    want = [[2.166667, 2.0], [1.833333, 2.0]]
    np.testing.assert_allclose(layer.k_map(x)[0, :, :, 0], want, rtol=1e-6)


def test_xnor_equals_the_real_convolution_of_constant_magnitudes(rng):
    layer = layers.XnorConv2D(4, 3, use_k_map=True)
    x = (0.7 * np.where(rng.normal(size=(2, 6, 6, 3)) >= 0, 1, -1)).astype(np.float32)
    layer(x)
    w = 0.2 * np.where(rng.normal(size=(3, 3, 3, 4)) >= 0, 1, -1)
    layer.set_weights([w.astype(np.float32), np.zeros(4, np.float32)])
    np.testing.assert_allclose(layer(x), convolution(x, w, 1, 1, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_k_map_scales_the_binary_convolution(padding, rng):
    x = rng.normal(0, 1, (2, 7, 7, 3)).astype(np.float32)
    config = {"strides": 2, "padding": padding, "use_bias": False}
    with_map = layers.XnorConv2D(4, 3, use_k_map=True, **config)
    plain = layers.XnorConv2D(4, 3, **config)
    with_map(x), plain(x)
    plain.set_weights(with_map.get_weights())
    np.testing.assert_allclose(with_map(x), plain(x) * with_map.k_map(x), rtol=1e-6)


@pytest.mark.parametrize("exact", [False, True])
def test_k_map_gradient(exact, rng):
    layer = layers.XnorConv2D(1, 1, use_k_map=True, exact_k_gradient=exact, use_bias=False)
    x = tf.constant(rng.normal(0, 0.5, (1, 3, 3, 2)).astype(np.float32))
    layer(x)
    layer.set_weights([np.array([[[[0.5], [-0.25]]]], np.float32)])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
    got = tape.gradient(y, x).numpy()
    signs, w = np.where(x.numpy() >= 0, 1, -1), 0.375 * np.array([1, -1])
    k = np.abs(x).mean(-1, keepdims=True)
    want = w * k * (np.abs(x) <= 1)
    if exact:
        want = want + (signs * w).sum(-1, keepdims=True) * signs / 2
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


BAD = {
    "unknown": (lambda: layers.QuantDense(2, kernel_quantizer="bwm"), "QuantDense 'quant_dense"),
    "weights as input": (
        lambda: layers.QuantConv2D(2, 3, input_quantizer="bwn", name="stem"),
        "QuantConv2D 'stem', input_quantizer: 'bwn' quantizes weights, not activations",
    ),
    "activations as kernel": (
        lambda: layers.QuantDense(2, kernel_quantizer="dorefa_activations"),
        "quantizes activations, not weights",
    ),
    "pad": (lambda: layers.QuantConv2D(2, 3, pad_values=-1.0), "pad_values must be 0.0 or 1.0"),
    "groups": (lambda: layers.XnorConv2D(2, 3, groups=2, use_k_map=True), "one group"),
}


@pytest.mark.parametrize("case", BAD)
def test_errors_name_the_layer(case):
    make, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        make()
