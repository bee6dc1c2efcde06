"""Whole networks through `compress`."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tensorflow as tf

from kerasq.codebooks import QCNN, Moments, compress
from kerasq.keras import keras, keras_version, register
from kerasq.layers import CodebookConv2D, CodebookDense

layers = keras.layers
SMALL = {"subvector": 2, "codewords": 4, "positions": None}


@register
class Doubled(layers.Layer):
    """A custom layer, to be passed through."""

    def build(self, input_shape):
        self.factor = self.add_weight(name="factor", shape=(), initializer="ones")
        self.built = True

    def call(self, x):
        return x * (1 + self.factor)


@register
class OwnConv(layers.Conv2D):
    """A custom subclass, to be passed through."""


def residual():
    x = inputs = keras.Input((10, 10, 3))
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="first")(x)
    x = layers.BatchNormalization(name="norm")(x)
    x = short = layers.ReLU()(x)
    x = layers.ZeroPadding2D(1)(x)
    x = layers.Conv2D(8, 3, strides=2, name="strided")(x)
    x = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    short = layers.Conv2D(8, 1, strides=2, name="short")(short)
    x = layers.Add()([Doubled(name="doubled")(x), short])
    x = layers.Conv2D(8, 3, dilation_rate=2, padding="same", activation="relu", name="wide")(x)
    x = layers.Concatenate()([x, short])
    x = OwnConv(6, 1, name="own")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(5, name="logits")(x))


def sequential():
    return keras.Sequential(
        [
            keras.Input((6, 6, 4)),
            layers.Conv2D(6, 3, activation="relu", name="a"),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(8, activation="relu", name="b"),
            layers.Dense(5, name="c"),
        ]
    )


def nested():
    body = keras.Sequential(
        [
            keras.Input((6, 6, 4)),
            layers.Conv2D(6, 3, activation="relu", name="a"),
            layers.GlobalAveragePooling2D(),
        ],
        name="body",
    )
    x = inputs = keras.Input((6, 6, 4))
    return keras.Model(inputs, layers.Dense(5, name="c")(body(x)))


def shared():
    x = inputs = keras.Input((6, 6, 4))
    conv = layers.Conv2D(4, 3, padding="same", name="twice")
    return keras.Model(inputs, layers.Flatten()(conv(layers.ReLU()(conv(x)))))


def two_inputs():
    a, b = keras.Input((6, 6, 4), name="a"), keras.Input((3, 4), name="b")
    x = layers.Flatten()(layers.Conv2D(4, 3, name="conv")(a))
    y = layers.Flatten()(layers.Dense(6, name="steps")(b))
    return keras.Model([a, b], layers.Dense(5, name="out")(layers.Concatenate()([x, y])))


MODELS = {f.__name__: f for f in (residual, sequential, nested)}


def images(model, rng, count=64):
    return rng.normal(size=(count, *model.inputs[0].shape[1:])).astype("float32")


def relative(model, small, x):
    want, got = model.predict(x, verbose=0), small.predict(x, verbose=0)
    return ((want - got) ** 2).sum() / ((want - want.mean(0)) ** 2).sum()


def codebook_layers(model):
    found = []
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            found += codebook_layers(layer)
        elif isinstance(layer, CodebookConv2D | CodebookDense):
            found.append(layer)
    return found


@pytest.mark.parametrize("name", MODELS)
def test_error_correction_beats_kmeans_on_any_graph(name, rng):
    model = MODELS[name]()
    x = images(model, rng, 128)
    before = [np.array(w) for w in model.get_weights()]
    plain = compress(model, None, QCNN(error_correction=False, **SMALL), verbose=False)
    small = compress(model, x, QCNN(sweeps=6, **SMALL), verbose=False)
    assert relative(model, small, x) < relative(model, plain, x)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    plains = {type(layer) for layer in flat(small)}
    assert not plains & {layers.Conv2D, layers.Dense}
    for layer in codebook_layers(small):
        assert layer.codebook_dtype == "float16"
        values = np.array(tf.convert_to_tensor(layer.codewords))
        np.testing.assert_array_equal(values, values.astype(np.float16).astype(np.float32))


def flat(model):
    parts = ([x, *flat(x)] if isinstance(x, keras.Model) else [x] for x in model.layers)
    return list(itertools.chain.from_iterable(parts))


def test_operations_and_lambdas_between_layers(rng):
    factor = 2.0
    x = inputs = keras.Input((8, 8, 4))
    x = layers.Conv2D(4, 3, name="a")(x)[:, ::2, ::2, :]
    x = layers.Lambda(lambda t: t * factor + np.float32(1), name="affine")(x) - 1.0
    x = tf.nn.relu(x) if keras_version() == 2 else keras.ops.relu(x)
    model = keras.Model(inputs, layers.Conv2D(4, 2, name="b")(x))
    data = images(model, rng)
    with pytest.warns(UserWarning, match="sub-vectors"):
        small = compress(model, data, QCNN(1, 40, codebook_dtype="float32"), verbose=False)
    np.testing.assert_allclose(
        small.predict(data, verbose=0), model.predict(data, verbose=0), rtol=1e-3, atol=1e-4
    )


def test_activations_beyond_memory_are_kept_in_files(rng, monkeypatch):
    model = residual()
    x = images(model, rng)
    want = compress(model, x, QCNN(**SMALL), verbose=False).get_weights()
    monkeypatch.setattr("kerasq.codebooks.activations._MEMORY", 0)
    got = compress(model, x, QCNN(**SMALL), verbose=False).get_weights()
    for a, b in zip(want, got, strict=True):
        np.testing.assert_array_equal(a, b)


def test_layer_called_twice_is_one_layer(rng):
    model = shared()
    x = images(model, rng)
    small = compress(model, x, QCNN(**SMALL), verbose=False)
    (layer,) = codebook_layers(small)
    model.get_layer("twice").set_weights([layer.kernel, np.array(layer.bias)])
    np.testing.assert_allclose(
        small.predict(x, verbose=0), model.predict(x, verbose=0), rtol=1e-4, atol=1e-5
    )


def test_enough_codewords_reproduce_the_network(rng):
    """Every layer's inputs, targets and geometry are right only if nothing is lost."""
    model = residual()
    model.get_layer("doubled").factor.assign(0.5)
    x = images(model, rng)
    method = QCNN(1, 256, codebook_dtype="float32", positions=None)
    with pytest.warns(UserWarning, match="sub-vectors"):
        small = compress(model, x, method, verbose=False)
    np.testing.assert_allclose(
        small.predict(x, verbose=0), model.predict(x, verbose=0), rtol=1e-3, atol=1e-3
    )


def test_other_layers_are_passed_through(rng, capsys):
    model = residual()
    small = compress(model, images(model, rng), QCNN(**SMALL))
    for name in ("norm", "doubled", "own", "depthwise"):
        mine, theirs = model.get_layer(name), small.get_layer(name)
        assert type(mine) is type(theirs)
        for a, b in zip(mine.get_weights(), theirs.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
    printed = capsys.readouterr().out
    assert "left in float: depthwise (DepthwiseConv2D), own (OwnConv)" in printed
    assert "[5/5] logits: d=2 K=4, error" in printed


class Recorder(QCNN):
    """Keeps what it was given."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.seen = []

    def solve(self, site, rng):
        self.seen.append((site.kernel, site.moments))
        return super().solve(site, rng)


def test_inputs_are_those_of_the_compressed_prefix_and_targets_of_the_float_network(rng):
    model = residual()
    x = images(model, rng, 20)
    method = Recorder(**SMALL)
    small = compress(model, x, method, batch_size=7, verbose=False)
    names = [layer.name for layer in model.layers if type(layer) is layers.Conv2D]
    assert len(method.seen) == len(names) + 1
    for name, (_, (moments,)) in zip(names, method.seen, strict=False):
        rows, targets = [], []
        for network, store in ((small, rows), (model, targets)):
            inputs = keras.Model(network.inputs, network.get_layer(name).input)
            store.append(patches(model.get_layer(name), inputs.predict(x, verbose=0)))
        kernel = np.array(model.get_layer(name).kernel).reshape(rows[0].shape[1], -1)
        want = Moments(*kernel.shape)
        want.update(rows[0], targets[0] @ kernel)
        assert moments.count == want.count
        for field in ("gram", "cross", "energy", "input_sum", "target_sum"):
            np.testing.assert_allclose(
                getattr(moments, field), getattr(want, field), rtol=1e-3, atol=1e-2, err_msg=name
            )


def patches(layer, x):
    found = tf.image.extract_patches(
        x,
        [1, *layer.kernel_size, 1],
        [1, *layer.strides, 1],
        [1, *layer.dilation_rate, 1],
        layer.padding.upper(),
    ).numpy()
    return found.reshape(-1, found.shape[-1])


def test_sequential_inputs_beat_float_inputs(rng):
    """Three layers on: correcting what the layers before have done is better than not to know."""
    x = inputs = keras.Input((32,))
    for i in range(4):
        x = layers.Dense(64, activation="relu", name=f"d{i}")(x)
    model = keras.Model(inputs, x)
    data = rng.normal(size=(2000, 32)).astype("float32")
    method = QCNN(4, 8, sweeps=6)
    small = compress(model, data, method, verbose=False)
    separate = compress(model, None, QCNN(4, 8, error_correction=False), verbose=False)
    for i in range(4):
        single = compress(
            model,
            data,
            QCNN(4, 8, sweeps=6, layers=lambda y, n=f"d{i}": y.name == n or False),
            verbose=False,
        ).get_layer(f"d{i}")
        separate.get_layer(f"d{i}").set_weights(single.get_weights())
    fresh = rng.normal(size=(1000, 32)).astype("float32")
    assert relative(model, small, fresh) < relative(model, separate, fresh)


def test_grouped_convolution_shares_codebooks(rng):
    x = inputs = keras.Input((6, 6, 8))
    x = layers.Conv2D(12, 3, groups=2, name="grouped")(x)
    model = keras.Model(inputs, layers.Flatten()(x))
    data = images(model, rng)
    small = compress(model, data, QCNN(3, 6, positions=None), verbose=False)
    layer = small.get_layer("grouped")
    assert tuple(layer.codewords.shape) == (2, 6, 3)  # 4 channels in a group: 3 + 1
    assert tuple(layer.assignments.shape) == (3, 3, 2, 12)
    plain = compress(model, None, QCNN(3, 6, error_correction=False), verbose=False)
    assert relative(model, small, data) < relative(model, plain, data)


def test_data_of_every_kind_gives_the_same(rng):
    model = sequential()
    x = images(model, rng)
    y = np.zeros(len(x))
    sequence_base = keras.utils.Sequence if keras_version() == 2 else keras.utils.PyDataset

    class Batches(sequence_base):
        def __len__(self):
            return 4

        def __getitem__(self, i):
            return x[16 * i : 16 * i + 16], y[16 * i : 16 * i + 16]

    forms = [
        x,
        (x, y),
        tf.constant(x),
        tf.data.Dataset.from_tensor_slices((x, y)).batch(10),
        tf.data.Dataset.from_tensor_slices(x).batch(10),
        Batches(),
    ]
    results = [compress(model, form, QCNN(**SMALL), verbose=False).get_weights() for form in forms]
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_several_inputs(rng):
    model = two_inputs()
    a = rng.normal(size=(40, 6, 6, 4)).astype("float32")
    b = rng.normal(size=(40, 3, 4)).astype("float32")
    forms = [
        [a, b],
        {"a": a, "b": b},
        tf.data.Dataset.from_tensor_slices({"a": a, "b": b}).batch(9),
    ]
    results = [compress(model, form, QCNN(**SMALL), verbose=False) for form in forms]
    assert len(codebook_layers(results[0])) == 3
    for other in results[1:]:
        for x, y in zip(results[0].get_weights(), other.get_weights(), strict=True):
            np.testing.assert_array_equal(x, y)


def test_result_trains_and_saves(tmp_path, rng):
    model = residual()
    model.get_layer("norm").trainable = False  # its statistics are not those of the data
    x = images(model, rng)
    small = compress(model, x, QCNN(**SMALL), verbose=False)
    assert not small.get_layer("norm").trainable
    y = model.predict(x, verbose=0)
    small.compile(keras.optimizers.Adam(1e-3), "mse")
    before = small.evaluate(x, y, verbose=0)
    small.fit(x, y, epochs=8, verbose=0)
    assert small.evaluate(x, y, verbose=0) < before
    small.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), small.predict(x, verbose=0))
