"""Binary layers in a row pass bits: which do, and that the bits are those of Keras."""

import itertools
import sys

import numpy as np
import pytest
import tensorflow as tf

import kerasq
import kerasq.layers as ql
from kerasq.export.deploy import deploy, packed_layers
from kerasq.export.inspection import inspect
from kerasq.export.packed import BitPool
from kerasq.export.tflite import convert_deployed
from kerasq.export.thresholds import sum_thresholds
from kerasq.keras import keras
from kerasq.runtime import stock
from tests.export.models import randomize

SIGNS = {"input_quantizer": "ste_sign", "kernel_quantizer": "ste_sign", "use_bias": False}


def conv(filters, name, **kwargs):
    return ql.QuantConv2D(filters, 3, name=name, **SIGNS | {"padding": "same"} | kwargs)


def net(*layers, shape=(9, 8, 6)):
    """Two binary layers, "first" and "last", with layers between them."""
    inputs = x = keras.Input(shape)
    for layer in (conv(40, "first"), *layers, conv(5, "last")):
        x = layer(x)
    return randomize(keras.Model(inputs, x))


def images(model, count=6, seed=0):
    shape = (count, *model.inputs[0].shape[1:])
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def chained(deployed):
    """Names of the layers whose output is bits."""
    return [p.name for p in packed_layers(deployed) if tf.as_dtype(p.output.dtype) == tf.int32]


def pooling(**kwargs):
    return keras.layers.MaxPooling2D(name="pool", **kwargs)


def slopes(values):
    return {"alpha_initializer": keras.initializers.Constant(values), "shared_axes": [1, 2]}


def normalization():
    return keras.layers.BatchNormalization()


BETWEEN = {
    "nothing": lambda: (),
    "normalization": lambda: (normalization(),),
    "relu between normalizations": lambda: (
        normalization(),
        keras.layers.ReLU(max_value=6.0),
        normalization(),
    ),
    "prelu": lambda: (normalization(), keras.layers.PReLU(**slopes(0.25)), normalization()),
    "rprelu": lambda: (ql.RPReLU(), normalization()),
    "leaky relu": lambda: (keras.layers.LeakyReLU(0.3), normalization()),
    "dropout": lambda: (keras.layers.Dropout(0.5), normalization()),
    "pooling": lambda: (pooling(), normalization()),
    "pooling behind normalization": lambda: (normalization(), pooling(pool_size=3, strides=1)),
    "pooling, same": lambda: (
        normalization(),
        pooling(pool_size=3, strides=2, padding="same"),
        normalization(),
    ),
    "two poolings": lambda: (
        pooling(pool_size=2, strides=1),
        normalization(),
        keras.layers.MaxPooling2D((1, 2), name="pool2"),
    ),
}


@pytest.mark.parametrize("pad_values", [0.0, 1.0])
@pytest.mark.parametrize("between", BETWEEN)
def test_the_bits_are_those_of_keras(between, pad_values):
    model = net(*BETWEEN[between]())
    if pad_values:
        model = randomize(_padded_with_ones(BETWEEN[between]()))
    deployed = deploy(model)
    assert chained(deployed) == ["first"]
    x = images(model)
    interpreter = kerasq.Interpreter(model_content=convert_deployed(deployed), num_threads=2)
    desired = model.predict(x, verbose=0)
    np.testing.assert_array_equal(deployed.predict(x, verbose=0), desired)
    np.testing.assert_array_equal(interpreter.predict(x), desired)


def _padded_with_ones(layers):
    inputs = x = keras.Input((9, 8, 6))
    first = conv(40, "first", pad_values=1.0)
    for layer in (first, *layers, conv(5, "last", pad_values=1.0)):
        x = layer(x)
    return keras.Model(inputs, x)


def unchained(model, monkeypatch):
    """The file of a model whose layers pass floats."""
    monkeypatch.setattr(sys.modules["kerasq.export.deploy"], "link", lambda *_: None)
    return kerasq.convert(model)


def test_the_file_without_chaining_has_the_same_outputs(monkeypatch):
    """Scales and biases too: the thresholds on the sums are those of the float arithmetic."""
    inputs = x = keras.Input((9, 8, 6))
    for i in range(3):
        x = conv(33, f"c{i}", kernel_quantizer="bwn", use_bias=True, strides=1 + i % 2)(x)
        x = normalization()(x)
    model = randomize(keras.Model(inputs, conv(5, "last")(x)))
    x = images(model, 32)
    bits = kerasq.convert(model)
    floats = unchained(model, monkeypatch)
    assert len(bits) < len(floats)
    outputs = [kerasq.Interpreter(model_content=c).predict(x) for c in (bits, floats)]
    np.testing.assert_array_equal(*outputs)


def test_negative_and_zero_gamma_give_thresholds_of_their_own():
    model = net(normalization())
    gamma = model.layers[2].get_weights()[0]
    assert gamma[0] == 0 and np.any(gamma < 0) and np.any(gamma > 0)
    first = packed_layers(deploy(model))[0]
    thresholds, direction = first.constants[-2:]
    assert abs(int(thresholds[0])) >= np.iinfo(np.int32).max
    np.testing.assert_array_equal(direction[1:] < 0, gamma[1:] < 0)


def test_thresholds_are_exact_for_every_sum(rng):
    largest, channels = 300, 50
    scale = rng.standard_normal(channels).astype(np.float32)
    scale[:3] = 0.0
    offset = (rng.standard_normal(channels) * 99).astype(np.float32)

    def reached(sums):
        return scale * sums + offset >= np.float32(0.25)

    thresholds, direction = sum_thresholds(reached, channels, largest)
    sums = np.arange(-largest, largest + 1)[:, None]
    actual = direction.astype(np.int64) * sums >= thresholds
    np.testing.assert_array_equal(actual, reached(sums.astype(np.float32)))


def three_layers():
    """Convolutions of negative and zero gamma, pooling, a classifier, and floats at both ends."""
    inputs = x = keras.Input((10, 10, 3))
    for i in range(3):
        x = conv(32 + i * 16, f"c{i}", pad_values=float(i % 2))(x)
        if i % 2 == 0:
            x = keras.layers.MaxPooling2D(name=f"p{i}")(x)
        x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Flatten()(x)
    x = ql.QuantDense(30, name="d0", **SIGNS)(x)
    x = keras.layers.BatchNormalization()(x)
    x = ql.QuantDense(10, name="d1", **SIGNS)(x)
    return randomize(keras.Model(inputs, keras.layers.BatchNormalization()(x)))


def test_a_whole_network():
    model = three_layers()
    deployed = deploy(model)
    assert chained(deployed) == ["c0", "c1", "c2", "d0"]
    content = convert_deployed(deployed)
    x = images(model, 24)
    desired = model.predict(x, verbose=0)
    for threads, runtime in itertools.product((1, 3), stock.RUNTIMES):
        interpreter = kerasq.Interpreter(
            model_content=content, num_threads=threads, runtime=runtime
        )
        actual = interpreter.predict(x)
        np.testing.assert_array_equal(actual.argmax(-1), desired.argmax(-1))
        np.testing.assert_allclose(actual, desired, atol=1e-4 * np.abs(desired).max())
    names = [operator.name for operator in inspect(content).operators]
    assert names.count("KerasqBitpackMaxPool2D") == 2
    assert "MAX_POOL_2D" not in names


def test_pooled_floats_are_packed_first():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(40, 3, name="float")(inputs)
    x = keras.layers.BatchNormalization()(x)
    x = pooling()(x)
    x = keras.layers.BatchNormalization()(x)
    model = randomize(keras.Model(inputs, conv(7, "last")(x)))
    deployed = deploy(model)
    assert isinstance(deployed.get_layer("pool"), BitPool)
    content = convert_deployed(deployed)
    names = [operator.name for operator in inspect(content).operators if operator.is_custom]
    assert names == ["KerasqBitpack", "KerasqBitpackMaxPool2D", "KerasqBitplaneConv2D"]
    x = images(model)
    y = kerasq.Interpreter(model_content=content).predict(x)
    # XNNPACK's float convolution is not TensorFlow's: a sign in a thousand may differ.
    differing = np.mean(y != model.predict(x, verbose=0))
    assert differing < 0.01
    np.testing.assert_array_equal(deployed.predict(x, verbose=0), model.predict(x, verbose=0))


def two_readers():
    inputs = keras.Input((9, 8, 6))
    x = conv(40, "first")(inputs)
    return keras.Model(inputs, [conv(5, "last")(x), keras.layers.ReLU()(x)])


def as_an_output():
    inputs = keras.Input((9, 8, 6))
    x = conv(40, "first")(inputs)
    return keras.Model(inputs, [conv(5, "last")(x), x])


def called_twice():
    inputs = keras.Input((9, 8, 40))
    first = conv(40, "first")
    return keras.Model(inputs, conv(5, "last")(first(first(inputs))))


def with_features(filters):
    """A normalization that tells pixels apart, or channels that fill no words."""
    inputs = keras.Input((4, 4, 6))
    x = keras.layers.Flatten()(conv(filters, "first")(inputs))
    x = keras.layers.BatchNormalization()(x) if filters == 32 else x
    return keras.Model(inputs, ql.QuantDense(5, name="last", **SIGNS)(x))


def between(*layers, **kwargs):
    return lambda: net(*(layer() for layer in layers), **kwargs)


def two_planes(quantizer, **kwargs):
    options = {"input_quantizer": "ste_sign", "kernel_quantizer": "ste_sign"} | kwargs
    inputs = keras.Input((9, 8, 6))
    first = ql.QuantConv2D(32, 3, name="first", **options | {"kernel_quantizer": quantizer})
    return keras.Model(inputs, conv(5, "last")(first(inputs)))


UNCHAINED = {
    "two readers": two_readers,
    "an output of the model": as_an_output,
    "called twice": called_twice,
    "features": lambda: with_features(32),
    "channels that fill no words": lambda: with_features(20),
    "average pooling": between(lambda: keras.layers.AveragePooling2D(2)),
    "a falling prelu": between(lambda: keras.layers.PReLU(**slopes(-0.25))),
    "a prelu for each pixel": between(lambda: keras.layers.PReLU()),
    "another activation": between(lambda: keras.layers.Activation("swish")),
    "ternary weights": lambda: two_planes("twn"),
    "floats in": lambda: two_planes("ste_sign", input_quantizer=None),
    "an activation of its own": lambda: two_planes("ste_sign", activation="swish"),
}


@pytest.mark.parametrize("name", UNCHAINED)
def test_what_does_not_chain_stays_float(name):
    model = randomize(UNCHAINED[name]()) if name != "a falling prelu" else UNCHAINED[name]()
    deployed = deploy(model)
    assert chained(deployed) == []
    x = images(model, 3)
    expected, actual = model.predict(x, verbose=0), deployed.predict(x, verbose=0)
    for a, e in zip(tf.nest.flatten(actual), tf.nest.flatten(expected), strict=True):
        np.testing.assert_allclose(a, e, atol=1e-4 * max(1, np.abs(e).max()))


def test_the_summary_counts_every_byte(monkeypatch):
    model = three_layers()
    deployed = deploy(model)
    content = convert_deployed(deployed)
    inspection = inspect(content)
    assert sum(row["bytes"] for row in inspection.rows()) == len(content)
    packed = [operator for operator in inspection.operators if operator.is_custom]
    # Keras 3 numbers the scope of a layer that is called again.
    stored = {operator.layer.removesuffix("_1"): operator for operator in packed}
    for layer in packed_layers(deployed):
        operator = stored[layer.name]
        assert operator.weights == layer.kernel_elements
        # A constant that two layers have alike is stored once.
        assert operator.nbytes <= layer.nbytes
    assert inspection.macs == inspect(unchained(model, monkeypatch)).macs
