"""Kernels on uniform grids in TFLite's own integers."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.lite.python import schema_py_generated as schema

import kerasq
import kerasq.layers as ql
from kerasq.export.deploy import deploy, packed_layers
from kerasq.export.describe import LayerSpec
from kerasq.export.native import grid_of
from kerasq.export.operators import ConvAttributes
from kerasq.export.packed import NativeLayer, OutputTransform, pack
from kerasq.keras import keras
from kerasq.quantizers import get
from kerasq.representations import Affine
from tests.export.models import layer_net, randomize
from tests.export.test_deploy import same

CONV, DEPTHWISE, DENSE = "conv", "depthwise", "dense"
KINDS = (CONV, DEPTHWISE, DENSE)
SHAPE = (6, 5, 4)


def bits(name, count):
    return {"class_name": name, "config": {"bits": count}}


def spec_of(kind, affine):
    """A layer of that kernel, without bias."""
    geometry, channels = None, affine.shape[-1]
    if kind != DENSE:
        groups = affine.shape[2] if kind == DEPTHWISE else 1
        channels *= groups
        geometry = ConvAttributes((3, 2), channels, padding="same", groups=groups)
    bias = np.zeros(channels, np.float32)
    return LayerSpec("layer", "some", affine, geometry, channels, bias, None)


def kernel_shape(kind, channels=7):
    return {CONV: (3, 2, 4, channels), DEPTHWISE: (3, 2, 4, 2), DENSE: (4, channels)}[kind]


def channels_of(kind):
    return 8 if kind == DEPTHWISE else 7


def axes_of(kind):
    return (-2, -1) if kind == DEPTHWISE else (-1,)


def packed(kind, affine, scale=None):
    spec = spec_of(kind, affine)
    return pack(spec, None, OutputTransform(scale, spec.bias, "linear"))


def reference(kind, x, kernel):
    if kind == DENSE:
        return x @ kernel
    if kind == CONV:
        return tf.nn.conv2d(x, kernel, 1, "SAME").numpy()
    return tf.nn.depthwise_conv2d(x, kernel, [1, 1, 1, 1], "SAME").numpy()


def file_of(layer, shape=SHAPE):
    inputs = keras.Input(shape)
    return kerasq.export.tflite.convert_deployed(keras.Model(inputs, layer(inputs)))


def stored_kernel(content):
    """The constant that the file's DEQUANTIZE reads: type, codes, scales, zero points."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    (graph,) = model.subgraphs
    codes = model.operatorCodes
    (operator,) = [
        o
        for o in graph.operators
        if codes[o.opcodeIndex].builtinCode == schema.BuiltinOperator.DEQUANTIZE
    ]
    tensor = graph.tensors[operator.inputs[0]]
    data = np.asarray(model.buffers[tensor.buffer].data, np.uint8)
    if tensor.type == schema.TensorType.INT4:
        data = np.stack([data & 15, data >> 4], axis=-1).reshape(-1)
        values = ((data ^ 8).astype(np.int8) - 8)[: np.prod(tensor.shape)]
    else:
        assert tensor.type == schema.TensorType.INT8
        values = data.view(np.int8)
    grid = tensor.quantization
    return tensor.type, values.reshape(tensor.shape), grid.scale, grid.zeroPoint


def as_stored(kind, kernel):
    order = {DENSE: (1, 0), CONV: (3, 0, 1, 2)}.get(kind)
    return kernel.reshape(1, *kernel.shape[:2], -1) if order is None else kernel.transpose(order)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_file_stores_the_codes_of_the_representation(rng, kind, per_channel):
    codes = rng.integers(0, 256, kernel_shape(kind))
    scale = 0.01 + rng.random(channels_of(kind)) if per_channel else 0.3
    axes = axes_of(kind) if per_channel else ()
    affine = Affine.from_codes(codes, 8, scale, 128, axes)
    layer = packed(kind, affine)
    assert isinstance(layer, NativeLayer)
    content = file_of(layer)
    _, stored, scales, zeros = stored_kernel(content)
    np.testing.assert_array_equal(stored, as_stored(kind, codes - 128))
    np.testing.assert_array_equal(scales, affine.scale)
    assert not np.any(zeros)
    x = rng.standard_normal((3, *SHAPE)).astype(np.float32)
    for runtime in ("ai_edge_litert", "tf.lite"):
        y = kerasq.Interpreter(model_content=content, runtime=runtime).predict(x)
        same(y, reference(kind, x, affine.decode()), 1e-6)
    (operator,) = [o for o in kerasq.inspect(content).operators if o.weights]
    assert operator.nbytes == layer.nbytes
    assert operator.weights == affine.codes().size
    found = kerasq.inspect(content)
    assert sum(row["bytes"] for row in found.rows()) == found.total_bytes == len(content)


def test_whole_numbers_are_exact(rng):
    """A scale that is a power of two: all sums are exact, in any order."""
    affine = Affine.from_codes(rng.integers(0, 256, (3, 2, 4, 7)), 8, 0.25, 128)
    x = rng.integers(-50, 50, (3, *SHAPE)).astype(np.float32)
    y = kerasq.Interpreter(model_content=file_of(packed(CONV, affine))).predict(x)
    np.testing.assert_array_equal(y, reference(CONV, x, affine.decode()))


@pytest.mark.parametrize("zero_point", [100, 3.5])
def test_grids_around_any_zero_point(rng, zero_point):
    """A whole one is TFLite's own; halves become whole in doubled codes of up to 7 bits."""
    width = 8 if zero_point == 100 else 3
    affine = Affine.from_codes(rng.integers(0, 2**width, (4, 7)), width, 0.3, zero_point)
    layer = packed(DENSE, affine)
    assert isinstance(layer, NativeLayer)
    content = file_of(layer)
    kind, stored, scales, zeros = stored_kernel(content)
    assert kind == (schema.TensorType.INT4 if width == 3 else schema.TensorType.INT8)
    values = (scales * (stored - zeros).astype(np.float32)).astype(np.float32)
    np.testing.assert_array_equal(values.T, affine.decode())
    x = rng.standard_normal((3, *SHAPE)).astype(np.float32)
    y = kerasq.Interpreter(model_content=content).predict(x)
    same(y, reference(DENSE, x, affine.decode()), 1e-6)


def test_four_bits_of_a_dense_layer_are_int4(rng):
    affine = Affine.from_codes(rng.integers(0, 16, (4, 7)), 4, rng.random(7) + 0.1, 8, (-1,))
    layer = packed(DENSE, affine)
    content = file_of(layer)
    kind, stored, scales, _ = stored_kernel(content)
    assert kind == schema.TensorType.INT4
    np.testing.assert_array_equal(stored.T, affine.codes().astype(int) - 8)
    np.testing.assert_array_equal(scales, affine.scale)
    (operator,) = [o for o in kerasq.inspect(content).operators if o.weights]
    assert operator.name == "FULLY_CONNECTED"
    assert operator.nbytes == layer.nbytes == 14 + 7 * 12 + 7 * 4
    x = rng.standard_normal((3, *SHAPE)).astype(np.float32)
    for runtime in ("ai_edge_litert", "tf.lite"):
        y = kerasq.Interpreter(model_content=content, runtime=runtime).predict(x)
        same(y, reference(DENSE, x, affine.decode()), 1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [2, 4, 8])
@pytest.mark.parametrize("fraction", [0.0, 0.5])
def test_a_zero_point_of_its_own_for_each_channel(rng, kind, width, fraction):
    """TFLite has them where they are whole; in the codebook operator one grid is for all."""
    channels = channels_of(kind)
    zeros = rng.integers(0, 2**width - 1, channels) + fraction
    scale = rng.random(channels) + 0.1
    codes = rng.integers(0, 2**width, kernel_shape(kind))
    affine = Affine.from_codes(codes, width, scale, zeros, axes_of(kind))
    layer = packed(kind, affine)
    native = not fraction and (width == 8 or (width, kind) == (4, DENSE))
    assert isinstance(layer, NativeLayer) == native
    x = rng.standard_normal((3, *SHAPE)).astype(np.float32)
    for runtime in ("ai_edge_litert", "tf.lite"):
        y = kerasq.Interpreter(model_content=file_of(layer), runtime=runtime).predict(x)
        same(y, reference(kind, x, affine.decode()), 1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_normalizations_with_negative_and_zero_scales(rng, kind):
    codes = rng.integers(1, 256, kernel_shape(kind))
    affine = Affine.from_codes(codes, 8, 0.1, 128)
    scale = rng.standard_normal(channels_of(kind)).astype(np.float32)
    scale[1], scale[2] = 0.0, -1.0
    layer = packed(kind, affine, scale)
    assert isinstance(layer, NativeLayer)
    x = rng.standard_normal((3, *SHAPE)).astype(np.float32)
    y = kerasq.Interpreter(model_content=file_of(layer)).predict(x)
    same(y, reference(kind, x, affine.decode()) * scale, 1e-6)
    lowest = Affine.from_codes(np.zeros_like(codes), 8, 0.1, 128)  # -128 has no negative in int8
    assert not isinstance(packed(kind, lowest, scale), NativeLayer)
    y = kerasq.Interpreter(model_content=file_of(packed(kind, lowest, scale))).predict(x)
    same(y, reference(kind, x, lowest.decode()) * scale, 1e-6)


@pytest.mark.parametrize(
    ("kind", "width", "native"),
    [
        (CONV, 4, False),
        (CONV, 5, True),
        (CONV, 7, True),
        (CONV, 8, False),  # halves from -127.5 to 127.5
        (DEPTHWISE, 4, False),
        (DEPTHWISE, 6, True),
        (DENSE, 2, False),
        (DENSE, 3, True),
        (DENSE, 4, False),  # halves from -7.5 to 7.5
        (DENSE, 8, False),
    ],
)
def test_dorefa_by_the_operator_that_fits(rng, kind, width, native):
    affine = get(bits("dorefa_weights", width)).represent(
        rng.standard_normal(kernel_shape(kind)).astype(np.float32)
    )
    layer = packed(kind, affine)
    assert isinstance(layer, NativeLayer) == native
    x = rng.standard_normal((3, *SHAPE)).astype(np.float32)
    same(layer(tf.constant(x)).numpy(), reference(kind, x, affine.decode()), 1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("per_channel", [False, True])
def test_outliers_have_codewords_of_their_own(rng, kind, per_channel):
    shape = kernel_shape(kind)
    axes = axes_of(kind) if per_channel else ()
    scale = rng.random(channels_of(kind)) + 0.1 if per_channel else 0.3
    index = np.sort(rng.choice(np.prod(shape), 9, replace=False))
    values = rng.standard_normal(9).astype(np.float32) * 10
    codes = rng.integers(0, 8, shape)
    affine = Affine.from_codes(codes, 3, scale, 4, axes, outliers=(index, values))
    layer = packed(kind, affine)
    assert not isinstance(layer, NativeLayer)
    x = rng.standard_normal((3, *SHAPE)).astype(np.float32)
    y = kerasq.Interpreter(model_content=file_of(layer)).predict(x)
    same(y, reference(kind, x, affine.decode()), 1e-6)


def test_more_outliers_than_a_byte_can_tell_apart(rng):
    index = np.arange(300)
    affine = Affine.from_codes(
        np.zeros((1, 400), int), 3, 1.0, 4, outliers=(index, rng.standard_normal(300))
    )
    layer = packed(DENSE, affine)
    assert not isinstance(layer, NativeLayer)
    x = rng.standard_normal((5, 1)).astype(np.float32)
    y = kerasq.Interpreter(model_content=file_of(layer, (1,))).predict(x)
    same(y, reference(DENSE, x, affine.decode()), 1e-6)


def test_a_normalization_before_low_bit_inputs_stays_with_a_kernel_of_more_bits(rng):
    model = keras.Sequential(
        [
            keras.Input(SHAPE),
            keras.layers.BatchNormalization(),
            ql.QuantConv2D(
                6,
                3,
                kernel_quantizer=bits("dorefa_weights", 6),
                input_quantizer=bits("dorefa_activations", 2),
            ),
        ]
    )
    randomize(model)
    x = rng.standard_normal((3, *SHAPE)).astype(np.float32)
    y = kerasq.Interpreter(model_content=kerasq.convert(model)).predict(x)
    same(y, model.predict(x, verbose=0))


def chain(weight_bits, activation_bits):
    """Two convolutions, a depthwise one and two dense layers between activation quantizers."""
    pair = {
        "kernel_quantizer": bits("dorefa_weights", weight_bits),
        "input_quantizer": bits("dorefa_activations", activation_bits),
    }
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((14, 14, 3)),
            ql.QuantConv2D(8, 3, name="c1", **pair),
            layers.BatchNormalization(),
            layers.ReLU(),
            ql.QuantConv2D(12, 3, padding="same", strides=2, name="c2", **pair),
            layers.BatchNormalization(),
            layers.MaxPooling2D(2),
            ql.QuantDepthwiseConv2D(2, name="dw", **pair),
            layers.Flatten(),
            ql.QuantDense(10, name="d1", activation="relu", **pair),
            layers.Dropout(0.5),
            ql.QuantDense(6, name="d2", **pair),
        ]
    )


@pytest.mark.parametrize(("weight_bits", "activation_bits"), [(5, 4), (7, 8)])
def test_integer_arithmetic_between_activation_quantizers(rng, weight_bits, activation_bits):
    model = randomize(chain(weight_bits, activation_bits))
    x = rng.random((40, 14, 14, 3)).astype(np.float32)
    expected = model.predict(x, verbose=0)
    content = kerasq.convert(model, integer=True)
    deployed = deploy(model, integer=True)
    assert [p.integer for p in packed_layers(deployed)] == [True] * 4 + [False]
    names = [o.name for o in kerasq.inspect(content).operators]
    assert names.count("QUANTIZE") == 1  # the chain is not left before its end
    assert names.count("DEQUANTIZE") == 2  # its end, and the last kernel
    stated = deployed.predict(x, verbose=0)
    for runtime in ("ai_edge_litert", "tf.lite"):
        y = kerasq.Interpreter(model_content=content, runtime=runtime).predict(x)
        same(y, stated, 1e-6)  # what the operators state is what the runtime computes
        # A step of an activation here and there, by the rounded bias.
        assert np.abs(y - expected).mean() < 0.02 * np.abs(expected).max()
    exact = kerasq.Interpreter(model_content=kerasq.convert(model)).predict(x)
    same(exact, expected, 1e-5 if activation_bits == 4 else 5e-3)


def test_integers_without_a_bias_are_those_of_keras(rng):
    """Then nothing is rounded but the sums, as in Keras."""
    pair = {
        "kernel_quantizer": bits("dorefa_weights", 7),
        "input_quantizer": bits("dorefa_activations", 5),
        "use_bias": False,
    }
    model = keras.Sequential(
        [
            keras.Input((9, 9, 4)),
            ql.QuantConv2D(8, 3, padding="same", **pair),
            ql.QuantConv2D(8, 3, **pair),
            ql.QuantConv2D(5, 3, **pair),
        ]
    )
    x = rng.random((20, 9, 9, 4)).astype(np.float32)
    y = kerasq.Interpreter(model_content=kerasq.convert(model, integer=True)).predict(x)
    same(y, model.predict(x, verbose=0), 1e-5)


def test_integers_with_biases_on_the_grid_are_those_of_keras(rng):
    """A bias of whole units is in the file as Keras adds it."""
    pair = {
        "kernel_quantizer": bits("calibrate_max", 7),
        "input_quantizer": bits("wrpn", 5),
        "bias_bits": 16,
    }
    model = keras.Sequential(
        [
            keras.Input((9, 9, 4)),
            ql.QuantConv2D(8, 3, padding="same", **pair),
            ql.QuantDepthwiseConv2D(3, **pair),
            ql.QuantConv2D(5, 3, **pair),
        ]
    )
    for layer in model.layers:
        layer.bias.assign(rng.normal(0, 0.3, layer.bias.shape))
    x = rng.random((20, 9, 9, 4)).astype(np.float32)
    want = model.predict(x, verbose=0)
    for integer in (True, False):
        content = kerasq.convert(model, integer=integer)
        same(kerasq.Interpreter(model_content=content).predict(x), want, 1e-5)


def test_layers_whose_outputs_have_no_grid_stay_exact(rng):
    """A shortcut, another activation, the logits: no int8 scale is invented for them."""
    pair = {
        "kernel_quantizer": bits("dorefa_weights", 6),
        "input_quantizer": bits("dorefa_activations", 4),
        "padding": "same",
    }
    inputs = keras.Input(SHAPE)
    x = ql.QuantConv2D(4, 3, name="shortcut", **pair)(inputs)
    y = ql.QuantConv2D(4, 3, activation="tanh", name="tanh", **pair)(x)
    y = ql.QuantConv2D(4, 3, name="before_add", **pair)(y)
    model = randomize(keras.Model(inputs, keras.layers.Add()([x, y])))
    deployed = deploy(model, integer=True)
    assert not any(layer.integer for layer in packed_layers(deployed))
    x = rng.random((5, *SHAPE)).astype(np.float32)
    y = kerasq.Interpreter(model_content=kerasq.convert(model, integer=True)).predict(x)
    same(y, model.predict(x, verbose=0))


def test_grids_of_activations():
    grid = grid_of(get(bits("dorefa_activations", 4)))
    assert (grid.scale, grid.zero_point, grid.clips_below) == (np.float32(1 / 15), 112, False)
    grid = grid_of(get(bits("dorefa_activations", 8)))
    assert (grid.scale, grid.zero_point, grid.clips_below) == (np.float32(1 / 255), -128, True)
    assert grid_of(get(bits("dorefa_activations", 2))) is None  # sums of planes
    assert grid_of(get("ste_sign")) is None
    assert grid_of(None) is None


def test_a_layer_called_twice_stores_its_kernel_once(rng):
    shared = ql.QuantDense(6, kernel_quantizer=bits("dorefa_weights", 6), name="shared")
    inputs = keras.Input((6,))
    model = keras.Model(inputs, shared(shared(inputs)))
    randomize(model)
    content = kerasq.convert(model)
    names = [o.name for o in kerasq.inspect(content).operators]
    assert names == ["DEQUANTIZE", "FULLY_CONNECTED", "FULLY_CONNECTED"]
    x = rng.standard_normal((3, 6)).astype(np.float32)
    same(kerasq.Interpreter(model_content=content).predict(x), model.predict(x, verbose=0))


def test_constants_are_aligned_and_nothing_is_left_over(rng):
    layer = ql.QuantConv2D(16, 3, kernel_quantizer=bits("dorefa_weights", 6))
    content = kerasq.convert(layer_net(layer, (8, 8, 16)))
    assert b"KerasqNative" not in content
    model = schema.Model.GetRootAs(content, 0)
    used = {0} | {model.Metadata(i).Buffer() for i in range(model.MetadataLength())}
    graph = model.Subgraphs(0)
    used |= {graph.Tensors(i).Buffer() for i in range(graph.TensorsLength())}
    assert used == set(range(model.BuffersLength()))
    for index in range(model.BuffersLength()):
        data = model.Buffers(index).DataAsNumpy()
        if not isinstance(data, int) and data.size >= 16:
            start = np.frombuffer(content, np.uint8).ctypes.data
            assert (data.ctypes.data - start) % 16 == 0


def test_inputs_of_more_axes(rng):
    dense = ql.QuantDense(7, kernel_quantizer=bits("dorefa_weights", 5), name="layer")
    model = layer_net(dense, (5, 6))
    x = rng.standard_normal((3, 5, 6)).astype(np.float32)
    y = kerasq.Interpreter(model_content=kerasq.convert(model)).predict(x)
    same(y, model.predict(x, verbose=0))
