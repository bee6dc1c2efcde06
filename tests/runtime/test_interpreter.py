import importlib

import numpy as np
import pytest
import tensorflow as tf

import kerasq
from kerasq.keras import keras
from kerasq.runtime import stock
from tests.runtime import models

RUNTIMES = list(stock.RUNTIMES)


@pytest.fixture(scope="module")
def chain():
    """All four operators in a row, a file of them, and inputs."""
    rng = np.random.default_rng(5)
    model = models.sequential(
        (6, 7, 5),
        models.bitplane_conv(rng, 5, 7),
        models.codebook_conv(rng, 7, 6),
        models.bitplane_dense(rng, 6, 4),
        models.codebook_dense(rng, 4, 9),
    )
    return model, models.convert(model), rng.standard_normal((5, 6, 7, 5), dtype=np.float32)


def assert_close(actual, desired):
    np.testing.assert_allclose(actual, desired, atol=1e-4 * np.abs(desired).max())


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("num_threads", [1, 3])
def test_predicts_what_keras_predicts(chain, runtime, num_threads):
    model, content, x = chain
    interpreter = kerasq.Interpreter(
        model_content=content, num_threads=num_threads, runtime=runtime
    )
    assert interpreter.runtime == runtime
    y = interpreter.predict(x)
    assert_close(y, model.predict(x, verbose=0))
    for batch_size in (1, 2, 5, 8):
        np.testing.assert_array_equal(interpreter.predict(x, batch_size), y)
    assert interpreter.predict(x[:0]).shape == (0, 6, 7, 9)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_plain_interpreter_with_the_delegate(chain, runtime):
    model, content, x = chain
    make, load_delegate = stock.names(runtime)
    delegate = load_delegate(kerasq.runtime.library_path())
    plain = make(model_content=content, experimental_delegates=[delegate])
    for batch in (1, 4, 0, 2):
        plain.resize_tensor_input(plain.get_input_details()[0]["index"], (batch, 6, 7, 5))
        plain.allocate_tensors()
        plain.set_tensor(plain.get_input_details()[0]["index"], x[:batch])
        plain.invoke()
        y = plain.get_tensor(plain.get_output_details()[0]["index"])
        assert y.shape == (batch, 6, 7, 9)
        if batch:
            assert_close(y, model.predict(x[:batch], verbose=0))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_options_of_the_delegate_are_refused(runtime):
    _, load_delegate = stock.names(runtime)
    with pytest.raises(ValueError, match="no option 'speed'"):
        load_delegate(kerasq.runtime.library_path(), {"speed": "11"})


def test_without_the_delegate_the_stock_runtime_refuses(chain):
    # Proof that the other tests exercise the kernels, and no operator of the runtime's own.
    make, _ = stock.names("ai_edge_litert")
    plain = make(model_content=chain[1])
    with pytest.raises(RuntimeError, match="KerasqBitplaneConv2D"):
        plain.allocate_tensors()


def test_several_interpreters_at_once(chain):
    model, content, x = chain
    interpreters = [
        kerasq.Interpreter(model_content=content, num_threads=n, runtime=r)
        for n in (1, 2)
        for r in RUNTIMES
    ]
    desired = interpreters[0].predict(x)
    for batch_size in (2, 5):
        for interpreter in interpreters:
            np.testing.assert_array_equal(interpreter.predict(x, batch_size), desired)
    del interpreters[0]
    np.testing.assert_array_equal(interpreters[0].predict(x), desired)


def test_other_sizes_of_a_free_input(rng):
    model = models.sequential(
        (None, None, 4), models.codebook_conv(rng, 4, 3), models.bitplane_conv(rng, 3, 8)
    )
    interpreter = kerasq.Interpreter(model_content=models.convert(model))
    for shape in ((2, 5, 4, 4), (1, 9, 2, 4), (3, 5, 4, 4)):
        x = rng.standard_normal(shape).astype(np.float32)
        assert_close(interpreter.predict(x), model.predict(x, verbose=0))


def test_operators_between_builtin_ones(rng):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.ReLU()(models.bitplane_conv(rng, 3, 6, input_planes=2, pad_value=0)(inputs))
    y = models.codebook_conv(rng, 6, 6)(x)
    x = keras.layers.Add()([x, y])
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, models.bitplane_dense(rng, 6, 10, input_planes=3)(x))
    interpreter = kerasq.Interpreter(model_content=models.convert(model))
    x = rng.standard_normal((7, 8, 8, 3)).astype(np.float32)
    assert_close(interpreter.predict(x, batch_size=3), model.predict(x, verbose=0))


class RowsAboveZero(keras.layers.Layer):
    """Keeps the rows whose first value is positive: the runtime learns how many when it runs."""

    def call(self, x):
        return tf.boolean_mask(x, x[:, 0, 0, 0] > 0)


def test_shapes_known_only_at_run_time(rng):
    model = models.sequential(
        (5, 5, 4), RowsAboveZero(), models.bitplane_conv(rng, 4, 7), models.codebook_conv(rng, 7, 3)
    )
    interpreter = kerasq.Interpreter(model_content=models.convert(model))
    (source,), (output,) = interpreter.get_input_details(), interpreter.get_output_details()
    for signs in ([1, -1, 1], [1, 1, 1, 1, 1], [-1, -1], [-1, 1]):
        x = rng.uniform(0.1, 1, (len(signs), 5, 5, 4)).astype(np.float32)
        x *= np.array(signs, np.float32)[:, None, None, None]
        interpreter.resize_tensor_input(source["index"], x.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(source["index"], x)
        interpreter.invoke()
        y = interpreter.get_tensor(output["index"])
        assert y.shape == (signs.count(1), 5, 5, 3)
        if len(y):  # the oracle takes no empty batch
            assert_close(y, model(x).numpy())


def test_half_precision_codewords(rng):
    layer = models.codebook_conv(rng, 5, 6)
    layer.constants[0] = layer.constants[0].astype(np.float16)
    model = models.sequential((6, 6, 5), layer)
    x = rng.standard_normal((3, 6, 6, 5)).astype(np.float32)
    interpreter = kerasq.Interpreter(model_content=models.convert(model))
    assert_close(interpreter.predict(x), model.predict(x, verbose=0))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_second_delegate_finds_nothing_to_do(chain, runtime):
    make, load_delegate = stock.names(runtime)
    delegates = [load_delegate(kerasq.runtime.library_path()) for _ in range(2)]
    plain = make(model_content=chain[1], experimental_delegates=delegates)
    plain.allocate_tensors()
    plain.invoke()


def test_several_inputs_and_outputs(rng):
    a, b = keras.Input((4,), name="a"), keras.Input((6,), name="b")
    left = models.bitplane_dense(rng, 4, 3)(a)
    right = models.codebook_dense(rng, 6, 2)(b)
    model = keras.Model([a, b], [left, right])
    interpreter = kerasq.Interpreter(model_content=models.convert(model))
    values = {
        name: rng.standard_normal((5, width)).astype(np.float32)
        for name, width in (("a", 4), ("b", 6))
    }
    desired = sorted(model.predict([values["a"], values["b"]], verbose=0), key=np.shape)
    order = [detail["shape"][-1] for detail in interpreter.get_input_details()]
    listed = interpreter.predict([values["a" if width == 4 else "b"] for width in order])
    for actual, value in zip(sorted(listed, key=np.shape), desired, strict=True):
        assert_close(actual, value)
    named = interpreter.predict(values)
    assert len(named) == 2
    for actual, value in zip(sorted(named.values(), key=np.shape), desired, strict=True):
        assert_close(actual, value)
    with pytest.raises(ValueError, match=r"expected inputs named \['a', 'b'\], received \['a'\]"):
        interpreter.predict({"a": values["a"]})
    with pytest.raises(ValueError, match="has 2 inputs .* received 1"):
        interpreter.predict(values["a"])
    with pytest.raises(ValueError, match="differ in their batch"):
        interpreter.predict({"a": values["a"], "b": values["b"][:2]})


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_quantized_inputs_and_outputs(rng, dtype):
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)])
    x = rng.uniform(-1, 1, (9, 6)).astype(np.float32)
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([row[None]] for row in x)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.as_dtype(dtype)
    with models.silent():
        content = converter.convert()
    interpreter = kerasq.Interpreter(model_content=content)
    y = interpreter.predict(x)
    assert y.dtype == np.float32
    assert np.abs(y - model.predict(x, verbose=0)).max() < 0.05
    scale, zero_point = interpreter.get_input_details()[0]["quantization"]
    codes = np.clip(np.rint(x / scale) + zero_point, *_limits(dtype)).astype(dtype)
    np.testing.assert_array_equal(interpreter.predict(codes), y)


def _limits(dtype):
    return np.iinfo(dtype).min, np.iinfo(dtype).max


def test_wrong_inputs_say_what_is_expected(chain):
    interpreter = kerasq.Interpreter(model_content=chain[1])
    for shape in ((2, 6, 7, 4), (6, 7, 5), (2, 7, 6, 5), ()):
        with pytest.raises(ValueError) as error:
            interpreter.predict(np.zeros(shape, np.float32))
        assert f"expected shape (batch, 6, 7, 5), received {shape}" in str(error.value)
    with pytest.raises(ValueError, match="expected float32 values, received complex128"):
        interpreter.predict(np.zeros((1, 6, 7, 5), complex))
    with pytest.raises(ValueError, match="batch_size is 0"):
        interpreter.predict(chain[2], batch_size=0)


def test_integers_and_doubles_are_converted(chain):
    interpreter = kerasq.Interpreter(model_content=chain[1])
    x = np.arange(210).reshape(1, 6, 7, 5) % 7 - 3
    np.testing.assert_array_equal(
        interpreter.predict(x.astype(np.float64)), interpreter.predict(x.astype(np.int32))
    )


def test_wrong_files(tmp_path, chain):
    with pytest.raises(FileNotFoundError, match="no model file .*missing.tflite"):
        kerasq.Interpreter(tmp_path / "missing.tflite")
    text = tmp_path / "text.tflite"
    text.write_text("this is not a model")
    with pytest.raises(ValueError, match=r"text.tflite is no .tflite model"):
        kerasq.Interpreter(text)
    with pytest.raises(ValueError, match="either model_path or model_content"):
        kerasq.Interpreter()
    with pytest.raises(ValueError, match="num_threads is 0"):
        kerasq.Interpreter(model_content=chain[1], num_threads=0)
    with pytest.raises((ValueError, RuntimeError)):
        kerasq.Interpreter(model_content=chain[1][:200])


def test_runtimes(monkeypatch, chain):
    with pytest.raises(ValueError, match="'onnx' is unknown: choose one of ai_edge_litert"):
        kerasq.Interpreter(model_content=chain[1], runtime="onnx")
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "ai_edge_litert" else found(name)
    )
    assert stock.resolve(None) == "tf.lite"
    with pytest.raises(ImportError, match="pip install ai-edge-litert"):
        stock.resolve("ai_edge_litert")


def test_methods_of_the_stock_interpreter(chain):
    interpreter = kerasq.Interpreter(model_content=chain[1])
    assert list(interpreter.get_signature_list())
    with pytest.raises(AttributeError):
        interpreter.no_such_method()


def test_constants_that_the_file_stores_without_their_zeros(rng):
    weights = np.zeros((64, 32), np.float32)
    weights[::16] = rng.standard_normal((4, 32))
    dense = keras.layers.Dense(32)
    model = models.sequential((64,), dense, models.bitplane_dense(rng, 32, 7))
    dense.set_weights([weights, np.zeros(32, np.float32)])
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.allow_custom_ops = True
    converter.optimizations = [tf.lite.Optimize.EXPERIMENTAL_SPARSITY]
    with models.silent():
        content = bytes(converter.convert())
    assert any(tensor.sparsity is not None for tensor in models.File(content).graph.tensors)
    x = rng.standard_normal((1, 64)).astype(np.float32)
    assert_close(kerasq.Interpreter(model_content=content).predict(x), model(x).numpy())
