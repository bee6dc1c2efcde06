"""CodebookConv2D and CodebookDense: decoding, gradients, round trips."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from kerasq.keras import keras, keras_version
from kerasq.layers import CodebookConv2D, CodebookDense

CONVS = {
    "plain": ({"subvector": 4}, 8),
    "d does not divide": ({"subvector": 3, "padding": "same"}, 8),
    "stride": ({"subvector": 4, "strides": 2, "padding": "same"}, 8),
    "dilation": ({"subvector": 2, "dilation_rate": 2}, 4),
    "groups": ({"subvector": 2, "groups": 2, "padding": "same"}, 8),
    "no bias, shared codebook": ({"subvector": 4, "use_bias": False, "shared": True}, 8),
}


def decoded(layer) -> np.ndarray:
    """The kernel by the formula, element by element."""
    codewords, assignments = (
        np.array(tf.convert_to_tensor(v)) for v in (layer.codewords, layer.assignments)
    )
    codewords = codewords.astype(layer.codebook_dtype).astype(np.float32)
    *taps, channels, outputs = layer.kernel_shape
    kernel = np.zeros((*taps, channels, outputs), np.float32)
    for at in np.ndindex(*kernel.shape):
        *p, channel, c = at
        m, j = divmod(channel, layer.subvector)
        kernel[at] = codewords[m % len(codewords), assignments[(*p, m, c)], j]
    return kernel


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", CONVS)
def test_convolution_is_that_of_the_decoded_kernel(name, dtype, rng):
    kwargs, channels = CONVS[name]
    layer = CodebookConv2D(6, 3, codewords=5, codebook_dtype=dtype, **kwargs)
    x = rng.normal(size=(2, 9, 9, channels)).astype("float32")
    got = np.array(layer(x))
    kernel = decoded(layer)
    np.testing.assert_array_equal(layer.kernel, kernel)
    np.testing.assert_array_equal(layer.codebook().decode(), kernel)
    assert layer.codebook().codewords.dtype == dtype
    parts = zip(np.split(x, layer.groups, -1), np.split(kernel, layer.groups, -1), strict=True)
    want = tf.concat(
        [
            tf.nn.conv2d(a, k, layer.strides, layer.padding.upper(), dilations=layer.dilation_rate)
            for a, k in parts
        ],
        -1,
    )
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 10), (2, 5, 10)])
def test_dense_is_that_of_the_decoded_kernel(shape, rng):
    layer = CodebookDense(7, subvector=4, codewords=3, activation="relu")
    x = rng.normal(size=shape).astype("float32")
    want = np.maximum(x @ decoded_after(layer, x), 0)
    np.testing.assert_allclose(layer(x), want, rtol=1e-5, atol=1e-6)


def decoded_after(layer, x):
    layer(x)
    return decoded(layer)


@pytest.mark.parametrize("gradient", ["sum", "mean"])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_gradient_is_the_sum_or_mean_over_the_members(gradient, shared, dtype, rng):
    layer = CodebookDense(
        12, subvector=4, codewords=3, gradient=gradient, shared=shared, codebook_dtype=dtype
    )
    layer.build((None, 10))
    upstream = rng.normal(size=(10, 12)).astype("float32")
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer.kernel * upstream)
    variable = layer.trainable_weights[0]
    got = tape.gradient(loss, getattr(variable, "value", variable) if _keras3() else variable)
    assignments = np.array(tf.convert_to_tensor(layer.assignments))
    want = np.zeros(layer.codewords.shape)
    members = np.zeros(layer.codewords.shape[:2])
    padded = np.concatenate([upstream, np.zeros((2, 12))])
    for m in range(3):
        for c in range(12):
            book = 0 if shared else m
            want[book, assignments[m, c]] += padded[4 * m : 4 * m + 4, c]
            members[book, assignments[m, c]] += 1
    if gradient == "mean":
        want /= np.maximum(members, 1)[:, :, None]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def _keras3() -> bool:
    return keras_version() == 3


def network() -> keras.Model:
    x = inputs = keras.Input((8, 8, 4), name="images")
    x = CodebookConv2D(8, 3, subvector=3, codewords=5, codebook_dtype="float16", name="a")(x)
    x = CodebookConv2D(8, 3, subvector=2, codewords=5, groups=2, gradient="mean", name="b")(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))
    return keras.Model(inputs, CodebookDense(3, subvector=4, codewords=2, name="c")(x))


@pytest.mark.parametrize("kind", ["keras", "h5", "weights", "saved_model"])
def test_round_trip_gives_identical_outputs(kind, tmp_path, rng):
    model = network()
    x = rng.normal(size=(3, 8, 8, 4)).astype("float32")
    want = model.predict(x, verbose=0)
    if kind == "weights":
        model.save_weights(tmp_path / "m.weights.h5")
        other = network()
        other.load_weights(tmp_path / "m.weights.h5")
    elif kind == "saved_model" and _keras3():
        model.export(tmp_path / "m", verbose=False)
        loaded = tf.saved_model.load(tmp_path / "m")
        np.testing.assert_allclose(loaded.serve(x), want, rtol=1e-6, atol=1e-6)
        return
    else:
        suffix = "" if kind == "saved_model" else f".{kind}"
        model.save(tmp_path / f"m{suffix}")
        other = keras.models.load_model(tmp_path / f"m{suffix}")
    np.testing.assert_array_equal(other.predict(x, verbose=0), want)
    for mine, theirs in zip(model.layers[1:3], other.layers[1:3], strict=True):
        assert mine.get_config() == theirs.get_config()


def test_fit_trains_codewords_and_leaves_assignments(rng):
    model = network()
    model.compile(keras.optimizers.Adam(0.01), "mse")
    x = rng.normal(size=(32, 8, 8, 4)).astype("float32")
    y = rng.normal(size=(32, 3)).astype("float32")
    before = {layer.name: [np.array(w) for w in layer.get_weights()] for layer in model.layers[1:3]}
    start = model.evaluate(x, y, verbose=0)
    model.fit(x, y, epochs=5, batch_size=16, verbose=0)
    assert model.evaluate(x, y, verbose=0) < start
    for layer in model.layers[1:3]:
        for variable, old in zip(layer.weights, before[layer.name], strict=True):
            same = np.array_equal(tf.convert_to_tensor(variable), old)
            assert same == ("assignments" in variable.name), variable.name


def test_mixed_precision_computes_in_float16(rng):
    layer = CodebookDense(4, subvector=2, codewords=3, dtype="mixed_float16")
    x = rng.normal(size=(2, 6)).astype("float32")
    assert layer(x).dtype == tf.float16
    assert layer.codebook().decode().dtype == np.float32


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"codewords": 65537}, "'bad'.*1 to 65536"),
        ({"codewords": 0}, "'bad'.*1 to 65536"),
        ({"subvector": 0}, "'bad'.*at least 1"),
        ({"codebook_dtype": "int8"}, "'bad'.*codebook_dtype"),
        ({"gradient": "max"}, "'bad'.*gradient"),
    ],
)
def test_settings_out_of_range(kwargs, message):
    with pytest.raises(ValueError, match=message):
        CodebookConv2D(4, 3, name="bad", **kwargs)


def test_kernel_before_build():
    with pytest.raises(AttributeError, match="'early'"):
        _ = CodebookDense(4, name="early").kernel


def test_load_refuses_other_weights(tmp_path):
    first = keras.Sequential([keras.Input((4,)), CodebookDense(3, use_bias=False, name="x")])
    first.save_weights(tmp_path / "m.weights.h5")
    other = keras.Sequential([keras.Input((4,)), CodebookDense(3, name="x")])
    with pytest.raises(ValueError, match="'x'"):
        other.load_weights(tmp_path / "m.weights.h5")
