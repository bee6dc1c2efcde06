"""Every method of the catalogue keeps the promises of `compress`."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import numpy as np
import pytest

import kerasq
from kerasq.codebooks import Method, catalogue, compress, get
from kerasq.keras import keras

layers = keras.layers

# Small constructor arguments of each method: seconds, not accuracy.
_TRAINED = {"layer_steps": 2, "steps": 3, "batch_size": 32}
SETTINGS = {
    "bit_goes_down": {**_TRAINED, "conv": 9, "codewords": 16, "classifier": 16, "iterations": 5},
    "deep_compression": {
        "sparsity": 0.6,
        "conv_bits": 4,
        "dense_bits": 3,
        "prune_steps": 3,
        "prune_updates": 2,
        "retrain_steps": 2,
        "finetune_steps": 3,
        "batch_size": 32,
    },
    "deep_kmeans": {"codewords": 16, "steps": 3, "refresh": 2, "batch_size": 32},
    "fixed_point": {"kind": "l2", "levels": 15, "steps": 3, "batch_size": 32},
    "hashed_nets": {"ratio": 0.125, "steps": 3, "batch_size": 32},
    "pqf": {
        "codewords": 16,
        "classifier": 16,
        "swaps": 20,
        "iterations": 5,
        "polish": 3,
        "steps": 3,
        "batch_size": 32,
    },
    "qcnn": {"subvector": 4, "codewords": 8, "sweeps": 2},
    "vector_quantization": {"kind": "residual", "subvector": 4, "codewords": 8},
}


def network():
    """3x3 and 1x1 convolutions, strides, a residual Add, BatchNormalization and Dense."""
    keras.utils.set_random_seed(7)
    x = inputs = keras.Input((12, 12, 3), name="images")
    x = layers.Conv2D(16, 3, padding="same", use_bias=False, name="stem")(x)
    x = layers.BatchNormalization(name="stem_norm")(x)
    x = short = layers.ReLU(name="stem_relu")(x)
    x = layers.Conv2D(32, 3, strides=2, padding="same", activation="relu", name="conv1")(x)
    x = layers.Conv2D(32, 3, padding="same", use_bias=False, name="conv2")(x)
    x = layers.BatchNormalization(name="norm")(x)
    short = layers.Conv2D(32, 1, strides=2, name="short")(short)
    x = layers.ReLU(name="relu")(layers.Add(name="add")([x, short]))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dense(32, activation="relu", name="hidden")(x)
    model = keras.Model(inputs, layers.Dense(10, name="logits")(x), name="small")
    rng = np.random.default_rng(7)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            shape = tuple(layer.gamma.shape)
            means = (rng.normal(size=shape) * 0.1 for _ in range(2))
            layer.set_weights([0.5 + rng.random(shape), *means, 0.5 + rng.random(shape)])
    return model


@functools.cache
def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(8)
    x = rng.normal(size=(128, 12, 12, 3)).astype("float32")
    return x, rng.integers(0, 10, 128)


def method_named(name: str) -> Method:
    if name not in SETTINGS:
        pytest.fail(
            f"method {name!r} of the catalogue has no small settings for its test: add its "
            "constructor's arguments to SETTINGS"
        )
    return catalogue()[name].cls(**SETTINGS[name])


@functools.cache
def compressed(name: str):
    """The float model, the compressed one, and the report."""
    model = network()
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        small = compress(model, data(), method_named(name), verbose=False, report=page)
        return model, small, page.read_text()


def same_weights(a, b) -> None:
    for left, right in zip(a.get_weights(), b.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)


def replacements(model, small):
    """Layers of the compressed model that are of another class than the float model's."""
    return [a for a in small.layers if type(a) is not type(model.get_layer(a.name))]


@pytest.fixture(params=catalogue())
def name(request):
    return request.param


def test_the_file_is_smaller(name):
    model, small, _ = compressed(name)
    assert replacements(model, small)
    stored, plain = (kerasq.inspect(kerasq.convert(m)) for m in (small, model))
    assert stored.total_bytes < plain.total_bytes
    assert sum(row["bytes"] for row in stored.rows()) == stored.total_bytes


def test_saving_and_loading_is_exact(name, tmp_path):
    small = compressed(name)[1]
    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    same_weights(small, loaded)
    x = data()[0][:20]
    np.testing.assert_array_equal(small(x).numpy(), loaded(x).numpy())


def test_fit_trains_codewords_and_keeps_assignments(name):
    model, small, _ = compressed(name)
    start = small.get_weights()
    changed = {layer.name: [np.array(w) for w in layer.get_weights()] for layer in small.layers}
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    small.compile(keras.optimizers.SGD(0.5), loss)
    x, y = data()
    small.fit(x[:32], y[:32], batch_size=32, epochs=1, verbose=0)
    try:
        for layer in replacements(model, small):
            was = dict(zip(map(id, layer.weights), changed[layer.name], strict=True))
            moved = {id(w) for w in layer.weights if not np.array_equal(np.array(w), was[id(w)])}
            kernel = [w for w in layer.trainable_weights if not is_bias(layer, w)]
            assert kernel and moved & {id(w) for w in kernel}, layer.name
            assert not moved & {id(w) for w in layer.non_trainable_weights}, layer.name
    finally:
        small.set_weights(start)


def is_bias(layer, weight) -> bool:
    return layer.bias is not None and weight is layer.bias


def test_the_configuration_rebuilds_the_method(name):
    method = method_named(name)
    config = method.get_config()
    again = catalogue()[name].cls(**config)
    assert again.get_config() == config
    for key, value in SETTINGS[name].items():
        assert config[key] == value
    sites = [x for x in network().layers if type(x) in (layers.Conv2D, layers.Dense)]
    assert again.plan(sites) == method.plan(sites)
    assert again.name == name and isinstance(get(name), type(method))


@pytest.mark.slow
def test_a_second_run_gives_the_same(name):
    small = compressed(name)[1]
    same_weights(small, compress(network(), data(), method_named(name), verbose=False))


@pytest.mark.slow
def test_an_interrupted_run_is_taken_up_again(name, tmp_path):
    def interrupt(report):
        raise KeyboardInterrupt

    model = network()
    with pytest.raises(KeyboardInterrupt):
        compress(model, data(), method_named(name), tmp_path, verbose=False, callback=interrupt)
    reports = []
    resumed = compress(
        model, data(), method_named(name), tmp_path, verbose=False, callback=reports.append
    )
    assert [report.seconds == 0 for report in reports] == [True] + [False] * (len(reports) - 1)
    same_weights(compressed(name)[1], resumed)


def test_the_model_given_is_not_changed(name):
    model, _, _ = compressed(name)
    same_weights(model, network())


def test_the_stock_runtime_computes_what_keras_does(name):
    small = compressed(name)[1]
    interpreter = kerasq.Interpreter(model_content=kerasq.convert(small))
    x = data()[0][:100]
    want, got = small.predict(x, verbose=0), interpreter.predict(x)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())
    np.testing.assert_array_equal(got.argmax(-1), want.argmax(-1))


@pytest.mark.slow
def test_the_report_tells_of_every_layer(name):
    model, small, text = compressed(name)
    for layer in replacements(model, small):
        assert f"<td>{layer.name}</td>" in text
    right = (model.predict(data()[0], verbose=0).argmax(-1) == data()[1]).mean()
    assert f"top-1 of the 128 samples given; float {100 * right:.2f} %" in text
    assert text.count("<svg") >= 2
