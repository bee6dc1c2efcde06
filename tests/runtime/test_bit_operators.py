"""Operators that pass bits: the kernels against the TensorFlow bodies, and damaged files."""

import re

import numpy as np
import pytest
from tensorflow.lite.python import schema_py_generated as schema

import kerasq
from kerasq.export import operators
from kerasq.keras import keras
from kerasq.runtime import stock
from tests.runtime import models
from tests.runtime.models import Operator
from tests.runtime.test_malformed import element_type, option, run, shape
from tests.runtime.test_operators import CONVOLUTIONS

pytestmark = pytest.mark.once

GEOMETRIES = {name: geometry for name, geometry in CONVOLUTIONS.items() if "relu" not in name}


def signs(rng, *size):
    return rng.choice([-1, 1], size)


def packs(rng, channels):
    """A random KerasqBitpack."""
    constants = [
        rng.standard_normal(channels).astype(np.float32),
        signs(rng, channels).astype(np.float32),
    ]
    return Operator(operators.bitpack(channels), constants)


def convolves(rng, channels_in, channels_out, pad_value=0, bits_in=True, bits_out=True, **geometry):
    """A random KerasqBitplaneConv2D of bits."""
    geometry = operators.ConvAttributes((3, 3), channels_out, **{"padding": "same"} | geometry)
    bits = 9 * channels_in // geometry.groups
    return Operator(
        operators.bitplane_conv2d(
            geometry, 1, 1, pad_value, channels_in if bits_in else 0, bits_out
        ),
        constants_of(rng, channels_in, channels_out, bits, bits_in, bits_out),
    )


def multiplies(rng, channels_in, channels_out, bits_in=True, bits_out=True):
    """A random KerasqBitplaneDense of bits."""
    return Operator(
        operators.bitplane_dense(
            channels_out, 1, 1, bits_in=channels_in if bits_in else 0, bits_out=bits_out
        ),
        constants_of(rng, channels_in, channels_out, channels_in, bits_in, bits_out),
    )


def constants_of(rng, channels_in, channels_out, bits, bits_in, bits_out):
    planes, basis, bias, *quantizer, input_basis = models.bitplane_constants(
        rng, channels_in, channels_out, bits, 1
    )
    limits = np.iinfo(np.int32)
    thresholds = rng.integers(-bits // 3, bits // 3 + 1, channels_out).astype(np.int32)
    thresholds[:2] = [limits.min, limits.max][:channels_out]
    constants = [planes, *([] if bits_out else [basis, bias]), *([] if bits_in else quantizer)]
    ends = [thresholds, signs(rng, channels_out).astype(np.int8)] if bits_out else [input_basis]
    return [*constants, *ends]


def pools(rng, channels, window=(2, 2), strides=(2, 2), padding="valid"):
    """A random KerasqBitpackMaxPool2D."""
    words = -(-channels // 32)
    minimum = rng.integers(-(2**31), 2**31, words).astype(np.int32)
    return Operator(operators.bitpack_max_pool2d(channels, window, strides, padding), [minimum])


def assert_equal_to_body(model, x, **kwargs):
    content = models.convert(model)
    y = kerasq.Interpreter(model_content=content, **{"num_threads": 2} | kwargs).predict(x)
    np.testing.assert_array_equal(y, model.predict(x, verbose=0))


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("bits", [(True, True), (False, True), (True, False)])
def test_convolutions(rng, name, bits):
    bits_in, bits_out = bits
    for pad_value in (0, 1):
        layers = [packs(rng, 6)] if bits_in else []
        layers.append(convolves(rng, 6, 42, pad_value, bits_in, bits_out, **GEOMETRIES[name]))
        x = rng.standard_normal((2, 9, 10, 6)).astype(np.float32)
        model = models.sequential((9, 10, 6), *layers)
        if bits_out:
            assert_equal_to_body(model, x)
            continue
        y = kerasq.Interpreter(model_content=models.convert(model)).predict(x)
        np.testing.assert_allclose(y, model.predict(x, verbose=0), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("window", "strides", "padding"),
    [((2, 2), (2, 2), "valid"), ((3, 3), (2, 2), "same"), ((1, 4), (3, 1), "same")],
)
def test_max_pooling(rng, window, strides, padding):
    layers = packs(rng, 70), pools(rng, 70, window, strides, padding)
    x = rng.standard_normal((2, 9, 10, 70)).astype(np.float32)
    assert_equal_to_body(models.sequential((9, 10, 70), *layers), x)


@pytest.mark.parametrize("channels", [(1, 1), (7, 9), (33, 65), (128, 96)])
def test_any_number_of_channels(rng, channels):
    x = rng.standard_normal((3, 2, channels[0])).astype(np.float32)
    first = multiplies(rng, *channels, bits_in=False)
    last = multiplies(rng, channels[1], 5, bits_out=False)
    model = models.sequential((2, channels[0]), first, last)
    y = kerasq.Interpreter(model_content=models.convert(model)).predict(x)
    np.testing.assert_allclose(y, model.predict(x, verbose=0), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("runtime", list(stock.RUNTIMES))
def test_a_chain_in_every_runtime(rng, runtime):
    layers = (
        convolves(rng, 5, 64, bits_in=False),
        pools(rng, 64),
        convolves(rng, 64, 32, 1, strides=(2, 1)),
        keras.layers.Flatten(),
        multiplies(rng, 2 * 5 * 32, 7),
    )
    model = models.sequential((8, 10, 5), *layers)
    x = rng.standard_normal((4, 8, 10, 5)).astype(np.float32)
    for threads in (1, 3):
        assert_equal_to_body(model, x, num_threads=threads, runtime=runtime)


@pytest.fixture(scope="module")
def contents():
    rng = np.random.default_rng(7)
    layers = {
        "pack": packs(rng, 40),
        "pool": pools(rng, 40),
        "bits_out": convolves(rng, 40, 7, bits_in=False),
        "bits_in": convolves(rng, 40, 7, bits_out=False),
        "chain": convolves(rng, 40, 7),
    }
    inputs = {name: keras.Input((6, 6, 2), dtype="int32") for name in layers}
    inputs |= {name: keras.Input((6, 6, 40)) for name in ("pack", "bits_out")}
    return {
        name: models.convert(keras.Model(inputs[name], layer(inputs[name])))
        for name, layer in layers.items()
    }


DAMAGES = [
    ("pack", option(channels_out=41), "do not divide into 41 groups"),
    ("pack", option(channels_out=20), "it packs 20 channels, but its input has 40"),
    ("pack", shape(1, 40, 1), "thresholds has shape .40, 1., expected .1 or 40."),
    ("pool", option(groups=1), "it pools 40 channels in 1 groups"),
    ("pool", option(kernel_h=9), "feed a larger input"),
    ("pool", option(channels_out=70, groups=70), "its input has 2 words a pixel, but 70"),
    ("pool", shape(1, 1, 2), "minimum has shape .1, 2., expected .2."),
    ("pool", element_type(1, schema.TensorType.FLOAT32), "minimum has type float32"),
    ("bits_out", option(bits_out=None), "its output has type int32, expected float32"),
    ("bits_out", option(bits_out=2), "'bits_out' is 2"),
    ("bits_out", option(activation=1), "an output of bits has no activation"),
    ("bits_out", shape(5, 7, 1), "output_thresholds has shape .7, 1., expected .1 or 7."),
    ("bits_out", element_type(6, schema.TensorType.UINT8), "output_direction has type uint8"),
    ("bits_in", option(bits_in=None), "5 inputs, expected 8"),
    ("bits_in", option(bits_in=65), "its input has 2 words a pixel, but 65"),
    ("bits_in", option(bits_in=2**21), "'bits_in' is 2097152"),
    ("bits_in", option(input_planes=2), "input_basis has shape .1., expected .2 or 3."),
    ("chain", option(groups=3), "do not divide into 3 groups"),
    ("chain", option(kernel_h=2**20, kernel_w=2**20), "more than 2.30 elements"),
    ("chain", shape(2, 1, 7), "output_thresholds has shape"),
]


@pytest.mark.parametrize(("name", "damage", "message"), DAMAGES)
def test_damaged_file(contents, tmp_path, name, damage, message):
    file = models.File(contents[name])
    damage(file)
    (result,) = run(tmp_path, file.pack())
    assert result.startswith(("RuntimeError", "ValueError"))
    assert re.search(message, result), result
