"""ReActNet's RPReLU."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from kerasq.keras import keras, keras_version
from kerasq.layers import registry
from kerasq.layers.rprelu import RPReLU


def layer_with(shape, axis=-1, gamma=0.3, zeta=0.1, beta=0.25):
    layer = RPReLU(axis)
    layer.build(shape)
    layer.set_weights([np.full(shape[axis], v, np.float32) for v in (gamma, zeta, beta)])
    return layer


def formula(x, gamma, zeta, beta):
    return np.where(x > gamma, x - gamma + zeta, beta * (x - gamma) + zeta)


def test_worked_numbers():
    y = layer_with((None, 1))(np.array([[-0.8], [-0.1], [0.1], [0.5]], np.float32)).numpy()
    np.testing.assert_allclose(y[:, 0], [-0.175, 0.0, 0.05, 0.3], atol=1e-7)


def test_starts_as_prelu():
    y = RPReLU()(np.array([[-2.0, 0.0, 3.0]], np.float32))
    np.testing.assert_array_equal(y, [[-0.5, 0.0, 3.0]])
    np.testing.assert_array_equal(RPReLU(slope=0.5)(np.float32([[-2.0]])), [[-1.0]])


@pytest.mark.parametrize(
    ("shape", "axis"), [((4, 5), -1), ((2, 3, 4, 5), -1), ((2, 3, 4, 5), 1), ((2, 6, 1), 2)]
)
def test_value_and_gradients_are_the_derivatives(shape, axis, rng):
    layer = RPReLU(axis)
    layer.build((None, *shape[1:]))
    channels, x = shape[axis], rng.normal(0, 1, shape).astype(np.float32)
    values = [rng.normal(0, 0.5, channels).astype(np.float32) for _ in range(3)]
    layer.set_weights(values)
    along = [1] * len(shape)
    along[axis] = channels
    gamma, zeta, beta = (v.reshape(along) for v in values)
    g = rng.normal(0, 1, shape).astype(np.float32)
    with tf.GradientTape() as tape:
        inputs = tf.constant(x)
        tape.watch(inputs)
        y = layer(inputs)
    variables = [v.value if keras_version() == 3 else v for v in layer.trainable_variables]
    got = tape.gradient(y, [inputs, *variables], output_gradients=tf.constant(g))
    slope = np.where(x > gamma, 1, beta)
    axes = tuple(a for a in range(len(shape)) if a != axis % len(shape))
    want = [
        g * slope,
        -(g * slope).sum(axes),
        g.sum(axes),
        (g * np.minimum(x - gamma, 0)).sum(axes),
    ]
    np.testing.assert_allclose(y, formula(x, gamma, zeta, beta), atol=1e-6)
    for tensor, expected in zip(got, want, strict=True):
        np.testing.assert_allclose(tensor, expected, rtol=1e-5, atol=1e-5)


def test_gradient_at_the_corner_is_the_slope():
    layer, x = layer_with((None, 1), gamma=0.5), tf.constant([[0.5]])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
    assert tape.gradient(y, x).numpy() == 0.25


@pytest.mark.parametrize("jit", [False, True])
def test_trains_saves_and_loads(jit, rng, tmp_path):
    x = rng.normal(0, 1, (64, 4, 4, 3)).astype(np.float32)
    inputs = keras.Input((4, 4, 3))
    y = keras.layers.Dense(2)(keras.layers.Flatten()(RPReLU(name="act")(inputs)))
    model = keras.Model(inputs, y)
    model.compile("adam", "mse", jit_compile=jit)
    model.fit(x, x[:, 0, 0, :2], epochs=1, verbose=0)
    gamma, zeta, beta = model.get_layer("act").get_weights()
    assert np.any(gamma != 0) and np.any(zeta != 0) and np.any(beta != 0.25)
    model.save(tmp_path / "model.keras")
    copy = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(copy(x), model(x))


def test_config_and_registry():
    layer = RPReLU(1, slope=0.1, name="act")
    copy = keras.layers.deserialize(keras.layers.serialize(layer))
    assert (copy.axis, copy.slope, copy.name) == (1, 0.1, "act")
    assert registry.catalogue()["rprelu"].cls is RPReLU


def test_passes_masks_on():
    inputs = keras.Input((None, 2))
    masked = keras.layers.Masking()(inputs)
    model = keras.Model(inputs, keras.layers.LSTM(1)(RPReLU()(masked)))
    x = np.zeros((1, 4, 2), np.float32)
    x[0, :2] = 0.5
    np.testing.assert_allclose(model(x), model(x[:, :2]), rtol=1e-5)


@pytest.mark.parametrize(
    ("axis", "shape"), [(0, (2, 3)), (-2, (2, 3)), (3, (2, 3)), (-1, (2, None))]
)
def test_refuses_axes_without_channels(axis, shape):
    with pytest.raises(ValueError, match="must be one of channels"):
        RPReLU(axis).build(shape)


def test_keeps_half_precision(rng):
    x = rng.normal(0, 1, (3, 4)).astype(np.float16)
    assert RPReLU(dtype="mixed_float16")(x).dtype == tf.float16


@pytest.mark.parametrize("shape", [(4, 4, 3), (6,)])
def test_becomes_one_operator(shape, rng):
    inputs = keras.Input(shape)
    layer = RPReLU()
    model = keras.Model(inputs, layer(inputs))
    layer.set_weights([rng.normal(0, 0.5, shape[-1]) for _ in range(3)])
    interpreter = tf.lite.Interpreter(
        model_content=tf.lite.TFLiteConverter.from_keras_model(model).convert()
    )
    names = [op["op_name"] for op in interpreter._get_ops_details()]
    assert sorted(name for name in names if name != "DELEGATE") == ["ADD", "PRELU", "SUB"]
    x = rng.normal(0, 1, (1, *shape)).astype(np.float32)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    got = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(got, model(x), rtol=1e-6, atol=1e-6)
