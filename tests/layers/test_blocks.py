"""The residual blocks against numpy compositions, their starts, gradients and saving."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

import kerasq
from kerasq import layers
from kerasq.keras import keras
from kerasq.layers.fixup import fixup_gain
from kerasq.layers.group_net import BranchSum, SoftConnection

SMALL = {"input_quantizer": "ste_sign", "kernel_quantizer": "bwn"}


def conv(x, w, strides=1, pad=0.0):
    """TensorFlow's "SAME" convolution, float64, padded with a value."""
    kh, kw = w.shape[:2]
    pads = []
    for size, kernel in zip(x.shape[1:3], (kh, kw), strict=True):
        total = max((-(-size // strides) - 1) * strides + kernel - size, 0)
        pads.append((total // 2, total - total // 2))
    x = np.pad(x, [(0, 0), *pads, (0, 0)], constant_values=pad)
    height, width = ((x.shape[i] - k) // strides + 1 for i, k in ((1, kh), (2, kw)))
    y = np.zeros((len(x), height, width, w.shape[-1]))
    for i in range(kh):
        for j in range(kw):
            y += (
                x[:, i : i + height * strides : strides, j : j + width * strides : strides]
                @ w[i, j]
            )
    return y


def sgn(x):
    return np.where(x >= 0, 1.0, -1.0)


def scaled_sign(w, axes):
    return sgn(w) * np.abs(w).mean(axes, keepdims=True)


def norm(x, layer):
    """Inference of a BatchNormalization."""
    gamma, beta, mean, variance = (np.asarray(v, np.float64) for v in layer.get_weights())
    return gamma * (x - mean) / np.sqrt(variance + layer.epsilon) + beta


def pool(x):
    return x.reshape(len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2, -1).mean((2, 4))


def relu(x):
    return np.maximum(x, 0)


def randomize(block, rng):
    """Give every weight a value of its own, the averages too."""
    for variable in block.weights:
        shape = tuple(variable.shape)
        variable.assign(np.abs(rng.normal(0.5, 0.5, shape)) * sgn(rng.normal(0.4, 1, shape)))
    for layer in block._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_variance.assign(np.abs(layer.moving_variance.numpy()) + 0.1)


def images(rng, channels=4, size=6):
    return rng.normal(0, 1, (2, size, size, channels)).astype(np.float32)


# --- Bi-Real -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("filters", "strides"), [(4, 1), (6, 1), (6, 2)])
@pytest.mark.parametrize("pad", [0.0, 1.0])
def test_bireal(filters, strides, pad, rng):
    x = images(rng)
    block = layers.BiRealBlock(filters, strides=strides, pad_values=pad)
    block.build(x.shape)
    randomize(block, rng)
    w = block.conv.kernel.numpy().astype(np.float64)
    y = norm(conv(sgn(x), scaled_sign(w, (0, 1, 2)), strides, pad), block.batch_norm)
    shortcut = pool(x) if strides == 2 else x
    if (filters, strides) != (4, 1):
        kernel = block.shortcut[-2].kernel.numpy()
        shortcut = norm(conv(shortcut, kernel), block.shortcut[-1])
    assert len(block.shortcut) == {(4, 1): 0, (6, 1): 2, (6, 2): 3}[filters, strides]
    np.testing.assert_allclose(block(x), y + shortcut, rtol=1e-4, atol=1e-4)
    assert tuple(block.compute_output_shape((None, 6, 6, 4))) == (None, *y.shape[1:])


def test_bireal_defaults(rng):
    block = layers.BiRealBlock(5)
    block.build((None, 6, 6, 4))
    kernel = block.conv.kernel.numpy()
    assert (kernel >= 0).all()
    assert (kernel < 0.001).all()
    assert kernel.std() > 0
    assert block.conv.input_quantizer.method == "approx_sign"
    assert block.conv.kernel_quantizer.method == "magnitude_aware_sign"
    assert block.conv.kernel_regularizer is None
    block = layers.BiRealBlock(5, kernel_regularizer="l2", shortcut_regularizer="l2")
    block(images(rng))
    assert len(block.losses) == 2


def test_training_moves_the_averages(rng):
    block = layers.BiRealBlock(6, strides=2)
    x = images(rng)
    before = block(x, training=False).numpy()
    block(x, training=False)
    np.testing.assert_array_equal(block(x, training=False), before)
    block(x, training=True)
    assert np.abs(block(x, training=False).numpy() - before).max() > 1e-3


# --- Fixup ---------------------------------------------------------------------------------------


def test_fixup_worked_numbers():
    assert fixup_gain(8, 2) == pytest.approx(0.3535534)
    assert fixup_gain(9, 2) == pytest.approx(0.3333333)
    assert fixup_gain(16, 3) == pytest.approx(0.5)


@pytest.mark.parametrize(("m", "gain"), [(2, 1 / 4), (3, 1 / 2)])
def test_fixup_initialization(m, gain):
    block = layers.FixupBlock(64, num_blocks=16, branch_layers=m, shortcut="conv", strides=2)
    block.build((None, 8, 8, 32))
    *inner, last = [layer.kernel.numpy() for layer in block.convs]
    assert not last.any()
    for kernel in inner:
        fan_out = kernel.shape[0] * kernel.shape[1] * kernel.shape[3]
        assert kernel.std() == pytest.approx(gain * np.sqrt(2 / fan_out), rel=0.1)
    assert block.shortcut_layers[0].kernel.numpy().std() == pytest.approx(np.sqrt(2 / 64), rel=0.1)
    assert [float(v) for v in block.scalars] == [0.0] * (2 * m) + [1.0]


@pytest.mark.parametrize("m", [2, 3])
def test_fixup_is_an_identity_at_the_start(m, rng):
    x = images(rng, 8)
    block = layers.FixupBlock(8, num_blocks=4, branch_layers=m)
    np.testing.assert_array_equal(block(x), relu(x))
    block = layers.FixupBlock(8, num_blocks=4, branch_layers=m, kernel_quantizer="bwn")
    np.testing.assert_array_equal(block(x), relu(x))


def test_fixup_network_starts_with_the_loss_of_chance(rng):
    stack = [
        keras.layers.Input((6, 6, 4)),
        layers.FixupBlock(8, 2, num_blocks=2),
        layers.FixupBlock(8, num_blocks=2),
        keras.layers.GlobalAveragePooling2D(),
        layers.ScalarBias(),
        keras.layers.Dense(10, kernel_initializer="zeros"),
    ]
    logits = keras.Sequential(stack)(images(rng)).numpy()
    np.testing.assert_array_equal(logits, np.zeros((2, 10)))


@pytest.mark.parametrize("shortcut", ["subsample", "average_pool", "conv"])
@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("m", [2, 3])
def test_fixup(shortcut, strides, m, rng):
    x = images(rng)
    block = layers.FixupBlock(
        8, strides, num_blocks=4, branch_layers=m, shortcut=shortcut, kernel_quantizer="bwn"
    )
    block.build(x.shape)
    randomize(block, rng)
    before = [float(layer.value) for layer in block.biases_before]
    after = [float(layer.value) for layer in block.biases_after]
    w = [scaled_sign(layer.kernel.numpy().astype(float), (0, 1, 2)) for layer in block.convs]
    steps = [strides, 1] if m == 2 else [1, strides, 1]
    out = x.astype(np.float64)
    for i in range(m):
        out = conv(out + before[i], w[i], steps[i])
        if i < m - 1:
            out = relu(out + after[i])
    out = out * float(block.multiplier.value) + after[-1]
    other = x + before[0]
    if shortcut == "conv":
        other = conv(other, block.shortcut_layers[0].kernel.numpy(), strides)
    else:
        if strides == 2:
            other = other[:, ::2, ::2] if shortcut == "subsample" else pool(other)
        other = np.pad(other, [(0, 0)] * 3 + [(0, 4)])
    np.testing.assert_allclose(block(x), relu(out + other), rtol=1e-4, atol=1e-3)
    assert tuple(block.compute_output_shape((None, 6, 6, 4))) == (None, *out.shape[1:])


def test_fixup_scalars_learn(rng):
    block = layers.FixupBlock(4, num_blocks=4)
    x = images(rng)
    block.build(x.shape)
    randomize(block, rng)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(block(x, training=True) ** 2)
    gradients = tape.gradient(loss, block.trainable_weights)
    assert len(gradients) == 2 + 4 + 1
    assert all(np.any(gradient) for gradient in gradients)


@pytest.mark.parametrize("scale", [0.1, 0.25, 1.0])
def test_fixup_scalars_learn_slowly(scale, rng):
    x = images(rng)
    config = {"num_blocks": 4, "branch_layers": 3, "strides": 2}
    if scale != 1.0:  # the default
        config["gradient_scale"] = scale
    block = layers.FixupBlock(8, **config)
    block.build(x.shape)
    randomize(block, rng)
    scalars = {id(v) for v in block.scalars}
    before = [v.numpy() for v in block.trainable_weights]
    rule = keras.optimizers.SGD(1.0)
    rule.build(block.trainable_weights)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(block(x, training=True) ** 2)
    gradients = tape.gradient(loss, block.trainable_weights)
    plain = layers.FixupBlock.from_config({**block.get_config(), "gradient_scale": 1.0})
    plain.build(x.shape)
    plain.set_weights(block.get_weights())
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(plain(x, training=True) ** 2)
    wanted = tape.gradient(loss, plain.trainable_weights)
    rule.apply_gradients(zip(gradients, block.trainable_weights, strict=True))
    for variable, old, want in zip(block.trainable_weights, before, wanted, strict=True):
        rate = scale if id(variable) in scalars else 1.0
        np.testing.assert_allclose(variable.numpy(), old - rate * want.numpy(), rtol=1e-4)


@pytest.mark.parametrize("cls", [layers.ScalarBias, layers.ScalarMultiplier])
def test_scalar_layers_scale_their_gradient_only(cls, rng):
    x = tf.constant(rng.normal(0, 1, (4, 3)).astype(np.float32))
    for config, scale in (({}, 1.0), ({"gradient_scale": 0.5}, 0.5), ({"gradient_scale": 0}, 0)):
        layer = cls.from_config(cls(**config).get_config())
        layer.build(x.shape)
        layer.value.assign(0.7)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
        at_x, at_value = tape.gradient(y, [x, *layer.trainable_weights])
        adds = cls is layers.ScalarBias
        np.testing.assert_allclose(y, x + 0.7 if adds else x * 0.7, rtol=1e-6)
        np.testing.assert_allclose(at_x, np.full(x.shape, 1.0 if adds else 0.7), rtol=1e-6)
        want = scale * (x.shape[0] * x.shape[1] if adds else np.sum(x))
        np.testing.assert_allclose(at_value, want, rtol=1e-5)


# --- Group-Net -----------------------------------------------------------------------------------


def unit(x, layers_of_unit, strides=1, pad=1.0):
    """One binary convolution (or several, weighted), ReLU where there is one, BN."""
    kernels = [scaled_sign(c.kernel.numpy().astype(float), None) for c in layers_of_unit.convs]
    outputs = [conv(sgn(x), w, strides, 0.0 if w.shape[0] == 1 else pad) for w in kernels]
    out = outputs[0]
    if layers_of_unit.total is not None:
        scales = layers_of_unit.total.weights_of_branches.numpy()
        out = sum(scale * y for scale, y in zip(scales, outputs, strict=True))
    rectified = len(layers_of_unit.after) == 2
    return norm(relu(out) if rectified else out, layers_of_unit.after[-1])


def branch(block, i, x):
    residual = unit(x, block.downsample[i], block.strides) if block.downsample else x
    out = unit(x, block.first[i], block.strides) + residual
    return unit(out, block.second[i]) + out


@pytest.mark.parametrize(("filters", "strides"), [(4, 1), (6, 2)])
@pytest.mark.parametrize("decomposition", ["group", "layer"])
def test_group_net(filters, strides, decomposition, rng):
    x = images(rng)
    block = layers.GroupNetBlock(filters, strides, branches=3, decomposition=decomposition)
    block.build(x.shape)
    randomize(block, rng)
    if decomposition == "layer":
        want = branch(block, 0, x)
    else:
        scales = block.total.weights_of_branches.numpy()
        want = sum(scales[i] * branch(block, i, x) for i in range(3))
    np.testing.assert_allclose(block(x), want, rtol=1e-3, atol=1e-3)
    assert tuple(block.compute_output_shape((None, 6, 6, 4))) == (None, *want.shape[1:])


@pytest.mark.parametrize("gates", ["branch", "block"])
def test_group_net_soft_connections(gates, rng):
    tensors = [images(rng) for _ in range(3)]
    block = layers.GroupNetBlock(4, branches=2, gates=gates, return_branches=True)
    outputs = block(tensors)
    assert len(outputs) == 3
    assert len(block.soft_connections) == {"branch": 2, "block": 1}[gates]
    for gate in block.soft_connections:
        assert 0 <= float(gate.theta) < 1
    for i in range(2):
        c = 1 / (1 + np.exp(-float(block.soft_connections[i if gates == "branch" else 0].theta)))
        mixed = c * tensors[i + 1] + (1 - c) * tensors[0]
        np.testing.assert_allclose(outputs[i + 1], branch(block, i, mixed), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(outputs[0], (outputs[1] + outputs[2]) / 2, rtol=1e-4, atol=1e-4)
    assert [tuple(s) for s in block.compute_output_shape([(None, 6, 6, 4)] * 3)] == [
        (None, 6, 6, 4)
    ] * 3


def test_soft_connection_worked_numbers():
    gate = SoftConnection("zeros")
    mixed = gate([tf.constant([[1.0, 0.0]]), tf.constant([[0.4, 0.6]])])
    np.testing.assert_allclose(mixed, [[0.7, 0.3]], rtol=1e-6)


def test_group_net_of_equal_branches_is_one_branch(rng):
    x = images(rng)
    one = layers.GroupNetBlock(6, 2, branches=1)
    one.build(x.shape)
    randomize(one, rng)
    one.total.weights_of_branches.assign([1.0])
    many = layers.GroupNetBlock(6, 2, branches=4)
    many.build(x.shape)
    for i in range(4):
        for source, target in (
            (one.first[0], many.first[i]),
            (one.second[0], many.second[i]),
            (one.downsample[0], many.downsample[i]),
        ):
            target.set_weights(source.get_weights())
    np.testing.assert_allclose(many(x), one(x), rtol=1e-5, atol=1e-5)


def test_group_net_branches_start_apart(rng):
    for config in ({}, {"decomposition": "layer"}):
        block = layers.GroupNetBlock(4, branches=2, **config)
        block.build((None, 6, 6, 4))
        a, b = [v.numpy() for v in block.trainable_weights if tuple(v.shape) == (3, 3, 4, 4)][:2]
        assert not np.array_equal(a, b)


def test_branch_sum_without_learning():
    total = BranchSum(learned=False)
    np.testing.assert_allclose(total([tf.ones((1, 2)), 3 * tf.ones((1, 2))]), [[2.0, 2.0]])
    assert not total.trainable_weights


def test_group_net_gradients_reach_gates_and_scales(rng):
    block = layers.GroupNetBlock(4, branches=2)
    tensors = [images(rng) for _ in range(3)]
    block(tensors)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(block(tensors, training=True) ** 2)
    gradients = tape.gradient(loss, block.trainable_weights)
    for variable, gradient in zip(block.trainable_weights, gradients, strict=True):
        assert np.any(gradient), variable.name


# --- what all share ------------------------------------------------------------------------------


def network():
    inputs = keras.layers.Input((8, 8, 4))
    x = layers.BiRealBlock(6, strides=2, **SMALL)(inputs)
    x = layers.GroupNetBlock(6, branches=2, return_branches=True)(x)
    x = layers.GroupNetBlock(8, 2, branches=2, gates="block")(x)
    x = layers.GroupNetBlock(8, branches=2, decomposition="layer")(x)
    x = layers.FixupBlock(12, num_blocks=4, branch_layers=3, kernel_quantizer="bwn")(x)
    x = layers.ShiftBatchNormalization()(x)
    return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x)))


def expanded(model):
    """The same network with every block replaced by its graph."""
    x = inputs = keras.layers.Input(model.input_shape[1:])
    for layer in model.layers[1:]:
        x = layer.graph(x) if isinstance(layer, layers.Block) else layer(x)
    return keras.Model(inputs, x)


@pytest.fixture(scope="module")
def trained():
    keras.utils.set_random_seed(1)
    rng = np.random.default_rng(2)
    model = network()
    model.compile(keras.optimizers.Adam(0.01), keras.losses.MeanSquaredError())
    x = rng.normal(0, 1, (32, 8, 8, 4)).astype(np.float32)
    model.fit(x, rng.normal(0, 1, (32, 3)), epochs=2, verbose=0)
    return model, x, model.predict(x, verbose=0)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_saving(trained, tmp_path, suffix):
    model, x, want = trained
    model.save(tmp_path / f"model{suffix}")
    loaded = keras.models.load_model(tmp_path / f"model{suffix}")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), want)
    for layer, source in zip(loaded.layers, model.layers, strict=True):
        assert layer.get_config() == source.get_config()


def test_weights_only(trained, tmp_path):
    model, x, want = trained
    model.save_weights(tmp_path / "model.weights.h5")
    other = network()
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(other.predict(x, verbose=0), want)


def test_graph_replaces_the_block(trained):
    model, x, want = trained
    flat = expanded(model)
    np.testing.assert_array_equal(flat.predict(x, verbose=0), want)
    assert not any(isinstance(layer, layers.Block) for layer in flat.layers)
    names = [layer.name for layer in flat.layers]
    assert len(set(names)) == len(names)
    assert {id(v) for v in flat.weights} == {id(v) for v in model.weights}


def test_expanded_network_converts(trained):
    model, x, want = trained
    content = kerasq.convert(expanded(model))
    got = kerasq.Interpreter(model_content=content).predict(x[:4])
    np.testing.assert_allclose(got, want[:4], rtol=1e-2, atol=1e-2)


def test_float16(rng):
    x = images(rng, size=8)
    with_policy = [
        layers.BiRealBlock(6, strides=2, dtype="mixed_float16"),
        layers.GroupNetBlock(8, 2, branches=2, dtype="mixed_float16"),
        layers.FixupBlock(8, 2, num_blocks=2, dtype="mixed_float16"),
    ]
    for block in with_policy:
        y = block(x, training=True)
        assert y.dtype == tf.float16
        assert np.isfinite(y).all()
        copy = type(block).from_config({**block.get_config(), "dtype": "float32"})
        copy.build(x.shape)
        copy.set_weights(block.get_weights())
        np.testing.assert_allclose(block(x), copy(x), rtol=0.05, atol=0.05)


def test_frozen_block(rng):
    block = layers.BiRealBlock(6, trainable=False)
    x = images(rng)
    y = block(x, training=True)
    assert not block.trainable_weights
    np.testing.assert_array_equal(block(x, training=False), y)


@pytest.mark.parametrize(
    ("make", "shape", "message"),
    [
        (lambda: layers.BiRealBlock(4, strides=3), None, "strides"),
        (lambda: layers.BiRealBlock(4), (None, 8), "images"),
        (lambda: layers.FixupBlock(4, num_blocks=0), None, "num_blocks"),
        (lambda: layers.FixupBlock(6, num_blocks=2, branch_layers=3), None, "multiple of 4"),
        (lambda: layers.FixupBlock(4, num_blocks=2, branch_layers=4), None, "branch_layers"),
        (lambda: layers.FixupBlock(4, num_blocks=2, shortcut="max"), None, "shortcut"),
        (lambda: layers.FixupBlock(4, num_blocks=2, gradient_scale=2), None, "gradient_scale"),
        (lambda: layers.ScalarBias(-1), None, "gradient_scale"),
        (lambda: layers.FixupBlock(4, num_blocks=2), (None, 8, 8, 6), "shortcut='conv'"),
        (lambda: layers.GroupNetBlock(4, branches=0), None, "branches"),
        (lambda: layers.GroupNetBlock(4, gates="all"), None, "gates"),
        (lambda: layers.GroupNetBlock(4, branches=2), [(None, 8, 8, 4)] * 2, "3 tensors"),
        (
            lambda: layers.GroupNetBlock(4, decomposition="layer", return_branches=True),
            None,
            "no branches",
        ),
    ],
)
def test_bad_settings(make, shape, message):
    with pytest.raises(ValueError, match=message):
        make().build(shape)
