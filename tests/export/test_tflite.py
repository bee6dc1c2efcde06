import numpy as np
import pytest
from tensorflow.lite.python import schema_py_generated as schema

import kerasq
import kerasq.layers as ql
from kerasq.export.deploy import deploy, packed_layers
from kerasq.keras import keras
from tests.export.models import binary_net, layer_net, randomize
from tests.export.test_deploy import AFTER, LAYERS, same


@pytest.mark.parametrize("layer", LAYERS)
def test_an_exported_layer_predicts_what_keras_predicts(rng, layer):
    model = layer_net(LAYERS[layer](), after=AFTER["normalization, relu"]())
    x = rng.standard_normal((3, 9, 7, 6)).astype(np.float32)
    interpreter = kerasq.Interpreter(model_content=kerasq.convert(model))
    same(interpreter.predict(x), model.predict(x, verbose=0))


def test_a_whole_network_in_both_runtimes(rng):
    model = randomize(binary_net())
    x = rng.standard_normal((8, 10, 10, 8)).astype(np.float32)
    content = kerasq.convert(model)
    for runtime in ("ai_edge_litert", "tf.lite"):
        interpreter = kerasq.Interpreter(model_content=content, runtime=runtime)
        same(interpreter.predict(x), model.predict(x, verbose=0))


def test_binary_integers_are_exact_in_the_file(rng):
    layer = ql.QuantConv2D(
        70,
        3,
        padding="same",
        use_bias=False,
        input_quantizer="ste_sign",
        kernel_quantizer="ste_sign",
    )
    model = layer_net(layer, (9, 7, 130))
    x = rng.standard_normal((2, 9, 7, 130)).astype(np.float32)
    interpreter = kerasq.Interpreter(model_content=kerasq.convert(model))
    np.testing.assert_array_equal(interpreter.predict(x), model.predict(x, verbose=0))


def test_the_file_stores_just_the_packed_constants():
    """Every buffer is accounted for: none holds a float copy of a kernel."""
    model = randomize(binary_net())
    content = kerasq.convert(model)
    stored = sorted(
        bytes(np.asarray(buffer.data, np.uint8))
        for buffer in schema.ModelT.InitFromPackedBuf(content, 0).buffers
        if buffer.data is not None
    )
    constants = {c.tobytes() for layer in packed_layers(deploy(model)) for c in layer.constants}
    others = [data for data in stored if data not in constants]
    assert constants <= set(stored)
    kernels = [
        np.asarray(weight, np.float32) for weight in model.get_weights() if np.ndim(weight) > 1
    ]
    smallest = min(kernel.nbytes for kernel in kernels)
    assert sum(len(data) for data in others) < smallest
    floats = [np.sort(np.unique(np.abs(k))) for k in kernels]
    for data in stored:
        if len(data) % 4 == 0 and len(data) >= smallest:
            values = np.sort(np.unique(np.abs(np.frombuffer(data, np.float32))))
            assert not any(np.isin(f, values).any() for f in floats)


def test_bytes_add_up_to_the_file_and_weights_are_small(tmp_path):
    layer = ql.QuantConv2D(64, 3, kernel_quantizer="bwn", input_quantizer="ste_sign", name="conv")
    model = layer_net(layer, (8, 8, 64))
    path = tmp_path / "model.tflite"
    content = kerasq.convert(model, path)
    assert path.read_bytes() == content
    assert [p.name for p in tmp_path.iterdir()] == ["model.tflite"]
    found = kerasq.inspect(path)
    assert sum(row["bytes"] for row in found.rows()) == found.total_bytes == len(content)
    (operator,) = [o for o in found.operators if o.is_custom]
    assert operator.name == "KerasqBitplaneConv2D"
    assert "conv" in operator.layer
    assert operator.weights == 9 * 64 * 64
    assert operator.macs == 6 * 6 * operator.weights
    # A bit a weight; a scale and a bias an output channel; threshold, direction and levels of the
    # sign, whose scale is the same number as its direction and shares its buffer.
    assert operator.nbytes == 9 * 64 * 64 // 8 + 4 * 64 + 4 * 64 + 4 + 4 + 2
    assert found.weight_bytes == operator.nbytes


def test_summary_prints_every_byte(capsys):
    model = randomize(binary_net())
    found = kerasq.summary(model)
    printed = capsys.readouterr().out
    assert f"{found.total_bytes:,}" in printed
    assert "KerasqBitplane" in printed
    assert found.total_bytes == len(kerasq.convert(model))


def test_a_float_model_converts_too(rng):
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])
    x = rng.standard_normal((2, 6)).astype(np.float32)
    interpreter = kerasq.Interpreter(model_content=kerasq.convert(model))
    same(interpreter.predict(x), model.predict(x, verbose=0))


def test_inspect_refuses_what_is_no_tflite_file(tmp_path):
    with pytest.raises(ValueError, match="not a .tflite"):
        kerasq.inspect(b"PK\x03\x04 something else")
    with pytest.raises(FileNotFoundError):
        kerasq.inspect(tmp_path / "absent.tflite")
    content = kerasq.convert(keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)]))
    with pytest.raises(ValueError, match="damaged"):
        kerasq.inspect(content[:60])


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        kerasq.convert(keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)]), tmp_path / "m")
    assert list(tmp_path.iterdir()) == []
