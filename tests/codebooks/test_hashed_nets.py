"""HashedNets: the hashed layer, its start and its training."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from kerasq.codebooks import HashedNets, Site, compress
from kerasq.keras import keras, keras_version
from kerasq.layers import HashedDense
from kerasq.layers.hashed import hashes

layers = keras.layers


def network():
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            layers.Conv2D(4, 3, activation="relu", name="conv"),
            layers.Flatten(),
            layers.Dense(32, activation="relu", name="hidden"),
            layers.Dense(3, name="logits"),
        ],
        name="net",
    )


@pytest.fixture
def data(rng):
    x = rng.normal(size=(512, 6, 6, 3)).astype("float32")
    return x, np.digitize(x[:, :3].mean((1, 2, 3)), [-0.06, 0.06]).astype("int64")


def built(units, inputs, **settings):
    layer = HashedDense(units, **settings)
    layer.build((None, inputs))
    return layer


def kernel_of(layer):
    return np.array(tf.convert_to_tensor(layer.kernel))


def value_of(variable):
    return variable.value if keras_version() == 3 else variable


def test_hashes_of_the_published_code():
    buckets, signs = hashes((4, 3), 16, 2)
    want = [[4, 11, 13, 13], [3, 14, 3, 1], [6, 10, 14, 12]]
    np.testing.assert_array_equal(buckets.T, want)
    want = [[-1, -1, 1, -1], [-1, -1, -1, -1], [1, -1, 1, 1]]
    np.testing.assert_array_equal(signs.T, want)


@pytest.mark.parametrize("hash_bias", [False, True])
def test_gradient_is_that_of_finite_differences(hash_bias, rng):
    layer = built(5, 7, ratio=0.3, hash_bias=hash_bias, activation="tanh")
    x = rng.normal(size=(4, 7)).astype("float32")
    variables = list(layer.trainable_weights)
    assert len(variables) == 2
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(x) ** 2)
    gradients = tape.gradient(loss, [value_of(v) for v in variables])
    buckets, signs = layer._buckets, layer._signs

    def forward(values, bias):  # in float64, by the formula
        kernel = signs * values[buckets]
        if hash_bias:
            where, sign = layer._bias_hashes
            bias = (sign * bias[where])[0]
        return float((np.tanh(x @ kernel + bias) ** 2).sum())

    start = [np.array(tf.convert_to_tensor(v)).astype(np.float64) for v in variables]
    assert forward(*start) == pytest.approx(float(loss), rel=1e-5)
    for which, gradient in enumerate(gradients):
        gradient = np.array(tf.convert_to_tensor(gradient))
        for n in range(len(gradient)):
            ends = []
            for step in (1e-6, -1e-6):
                moved = [part.copy() for part in start]
                moved[which][n] += step
                ends.append(forward(*moved))
            assert gradient[n] == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-3, abs=1e-4)


def test_scattered_gradient_of_the_formula(rng):
    layer = built(6, 9, ratio=0.2)
    upstream = rng.normal(size=(9, 6)).astype("float32")
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer.kernel * upstream)
    got = tf.convert_to_tensor(tape.gradient(loss, value_of(layer.values)))
    want = np.zeros(layer.values.shape)
    np.add.at(want, layer._buckets, layer._signs * upstream)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_one_to_one_hashes_are_a_dense_layer(rng, monkeypatch):
    monkeypatch.setattr(
        "kerasq.layers.hashed.hash_buckets",
        lambda shape, buckets, *_: np.arange(buckets, dtype=np.int32)[::-1].reshape(shape),
    )
    monkeypatch.setattr(
        "kerasq.layers.hashed.hash_signs", lambda shape, *_: np.ones(shape, np.float32)
    )
    layer, dense = built(5, 7, ratio=1.0), layers.Dense(5)
    dense.build((None, 7))
    values = rng.normal(size=35).astype("float32")
    layer.values.assign(values)
    dense.set_weights([values[::-1].reshape(7, 5), np.zeros(5)])
    x = rng.normal(size=(4, 7)).astype("float32")
    np.testing.assert_allclose(layer(x), dense(x), rtol=1e-6)


@pytest.mark.parametrize("ratio", [0.5, 0.125, 1 / 64])
def test_mean_load_of_a_bucket(ratio):
    layer = built(200, 320, ratio=ratio)
    loads = np.bincount(layer._buckets.ravel(), minlength=layer.values.shape[0])
    assert loads.mean() == pytest.approx(1 / ratio, rel=1e-3)
    assert loads.var() == pytest.approx(1 / ratio, rel=0.2)  # as of random draws
    assert abs(layer._signs.mean()) < 0.02


def test_start_of_an_untrained_layer():
    layer = built(100, 64, ratio=0.25)
    values = np.array(tf.convert_to_tensor(layer.values))
    assert values.shape == (1600,)
    assert 0.12 < np.abs(values).max() <= 0.125


def test_shipped_kernel_is_the_one_computed():
    layer = built(30, 40, ratio=0.1, seed=7)
    kernel = layer.hashed_kernel()
    np.testing.assert_array_equal(kernel.decode(), layer.kernel)
    assert kernel.values.nbytes == 4 * 120


def test_halves_are_computed_as_they_are_shipped(rng):
    layer = built(30, 40, ratio=0.1, value_dtype="float16")
    shipped = layer.hashed_kernel()
    np.testing.assert_array_equal(shipped.decode(), kernel_of(layer))
    assert shipped.values.nbytes == 2 * 120
    assert np.abs(shipped.values - np.array(tf.convert_to_tensor(layer.values))).max() > 0
    upstream = rng.normal(size=(40, 30)).astype("float32")
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer.kernel * upstream)
    got = tf.convert_to_tensor(tape.gradient(loss, value_of(layer.values)))
    want = np.zeros(120)
    np.add.at(want, layer._buckets, layer._signs * upstream)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)  # rounding passes it on


def test_unknown_type_of_values_is_refused():
    with pytest.raises(ValueError, match="value_dtype is one of"):
        HashedDense(3, value_dtype="int8")
    with pytest.raises(ValueError, match="value_dtype is one of"):
        HashedNets(value_dtype="int8")


def test_values_are_the_least_squares_fit(rng):
    kernel = rng.normal(size=(8, 6)).astype("float32")
    layer = layers.Dense(6, name="d")
    layer.build((None, 8))
    layer.set_weights([kernel, rng.normal(size=6).astype("float32")])
    method = HashedNets(0.25, hash_bias=True, steps=0)
    settings = method.plan([layer])["d"]
    weights = method.solve(Site(layer, kernel, settings, None), rng).weights
    twin = built(6, 8, ratio=0.25, hash_bias=True)
    matrix = np.zeros((48, 12))
    matrix[np.arange(48), twin._buckets.ravel()] = twin._signs.ravel()
    want = np.linalg.lstsq(matrix, kernel.ravel(), rcond=None)[0]
    np.testing.assert_allclose(weights["values"], want, atol=1e-6)
    where, signs = twin._bias_hashes
    matrix = np.zeros((6, 2))
    matrix[np.arange(6), where[0]] = signs[0]
    want = np.linalg.lstsq(matrix, np.array(layer.bias), rcond=None)[0]
    np.testing.assert_allclose(weights["hashed_bias"], want, atol=1e-6)


@pytest.mark.parametrize("from_scratch", [False, True])
@pytest.mark.parametrize("labelled", [False, True])
def test_training_lowers_the_loss(labelled, from_scratch, data, tmp_path):
    model, (x, y) = network(), data
    given = (x, y) if labelled else x
    settings = {"ratio": 0.25, "from_scratch": from_scratch}
    plain = compress(model, None, HashedNets(steps=0, **settings), verbose=False)
    method = HashedNets(steps=100, learning_rate=1e-2, **settings)
    small = compress(model, given, method, verbose=False)
    want = tf.one_hot(y, 3) if labelled else tf.nn.softmax(model(x))

    def loss(network):
        return -float(tf.reduce_mean(tf.reduce_sum(want * tf.nn.log_softmax(network(x)), -1)))

    assert loss(small) < loss(plain)
    assert type(small.get_layer("conv")) is layers.Conv2D
    assert small.get_layer("hidden").values.shape[0] == 16 * 4 * 32 // 4
    small.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), small.predict(x, verbose=0))


def test_from_scratch_starts_uniform():
    method = HashedNets(0.5, from_scratch=True, steps=0)
    small = compress(network(), None, method, verbose=False)
    layer = small.get_layer("hidden")
    for variable in (layer.values, layer.bias):
        values = np.array(tf.convert_to_tensor(variable))
        assert 0.1 < np.abs(values).max() <= 0.125


def test_resumes(data, tmp_path, monkeypatch):
    from kerasq.codebooks import finetuning

    model, method = network(), HashedNets(steps=25, hash_bias=True)
    whole = compress(model, data, method, verbose=False)
    save = finetuning.Checkpoint.save_stage

    def stop(self, name, arrays):
        save(self, name, arrays)
        raise KeyboardInterrupt

    monkeypatch.setattr(finetuning, "_SAVE_EVERY", 10)
    monkeypatch.setattr(finetuning.Checkpoint, "save_stage", stop)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            compress(model, data, method, tmp_path, verbose=False)
    monkeypatch.undo()
    small = compress(model, data, method, tmp_path, verbose=False)
    for a, b in zip(whole.get_weights(), small.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", ["keras", "h5", "weights"])
@pytest.mark.parametrize("hash_bias", [False, True])
def test_layer_is_saved(kind, hash_bias, tmp_path, rng):
    def model():
        x = inputs = keras.Input((4, 9))
        x = HashedDense(7, ratio=0.3, seed=5, hash_bias=hash_bias, activation="relu", name="a")(x)
        return keras.Model(inputs, HashedDense(3, use_bias=False, name="b")(x))

    first = model()
    x = rng.normal(size=(2, 4, 9)).astype("float32")
    if kind == "weights":
        first.save_weights(tmp_path / "m.weights.h5")
        other = model()
        other.load_weights(tmp_path / "m.weights.h5")
    else:
        first.save(tmp_path / f"m.{kind}")
        other = keras.models.load_model(tmp_path / f"m.{kind}")
    np.testing.assert_array_equal(other.predict(x, verbose=0), first.predict(x, verbose=0))
    assert first.get_layer("a").get_config() == other.get_layer("a").get_config()


def test_mixed_precision_computes_in_float16(rng):
    layer = HashedDense(4, hash_bias=True, dtype="mixed_float16")
    x = rng.normal(size=(2, 6)).astype("float32")
    assert layer(x).dtype == tf.float16
    assert layer.hashed_kernel().decode().dtype == np.float32


def test_bad_settings(data):
    for method in (lambda: HashedNets(0.0), lambda: HashedNets(1.5)):
        with pytest.raises(ValueError, match="ratio is above 0"):
            method()
    with pytest.raises(ValueError, match="'bad': ratio is above 0"):
        HashedDense(3, ratio=2.0, name="bad")
    with pytest.raises(ValueError, match="'bad': seed"):
        HashedDense(3, seed=-1, name="bad")
    with pytest.raises(ValueError, match="hash_seed"):
        HashedNets(hash_seed=-1)
    with pytest.raises(AttributeError, match="'early'"):
        _ = HashedDense(3, name="early").kernel
    with pytest.raises(ValueError, match=r"'hiden'.*'conv', 'hidden', 'logits'"):
        compress(network(), data, HashedNets(layers={"hiden": False}), verbose=False)


def test_network_without_dense_layers():
    model = keras.Sequential([keras.Input((6, 6, 3)), layers.Conv2D(4, 3)])
    with pytest.raises(ValueError, match="dense layers, and there is none"):
        compress(model, None, HashedNets(steps=0), verbose=False)


def test_page_of_a_run(tmp_path):
    compress(network(), None, HashedNets(steps=0), verbose=False, report=tmp_path / "report.html")
    assert "1/8 of the weights" in (tmp_path / "report.html").read_text()


def test_single_layers_stay_float():
    method = HashedNets(layers={"logits": False}, steps=0)
    small = compress(network(), None, method, verbose=False)
    assert type(small.get_layer("logits")) is layers.Dense
