"""QCNN's settings of layers, and bad input to `compress`."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from kerasq.codebooks import QCNN, compress
from kerasq.keras import keras, keras_version

layers = keras.layers


def network(**first):
    return keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            layers.Conv2D(**{"filters": 8, "kernel_size": 3, "name": "conv", **first}),
            layers.Flatten(),
            layers.Dense(10, name="dense"),
            layers.Dense(4, name="logits"),
        ],
        name="net",
    )


def shapes(method):
    small = compress(network(), None, method, verbose=False)
    return {
        layer.name: tuple(layer.codewords.shape) if hasattr(layer, "codewords") else None
        for layer in small.layers
        if layer.weights
    }


def method(*args, **kwargs):
    return QCNN(*args, error_correction=False, **kwargs)


def test_settings_by_dict_function_and_kind():
    assert shapes(method(2, 4)) == {
        "conv": (2, 4, 2),
        "dense": (64, 4, 2),
        "logits": (5, 4, 2),
    }
    assert shapes(method(8, 4, dense=(4, 2), layers={"logits": (1, 3)})) == {
        "conv": (1, 4, 3),  # three input channels
        "dense": (32, 2, 4),
        "logits": (10, 3, 1),
    }
    assert shapes(method(2, 4, dense=False)) == {"conv": (2, 4, 2), "dense": None, "logits": None}

    def rule(layer):
        return None if layer.name == "dense" else False

    assert shapes(method(2, 4, layers=rule)) == {"conv": None, "dense": (64, 4, 2), "logits": None}


def test_too_many_codewords_are_cut_with_a_warning_but_not_if_asked_for():
    with pytest.warns(
        UserWarning, match="'logits' has only 4 sub-vectors.*takes 4 codewords, not 8"
    ):
        assert shapes(method(2, 8))["logits"] == (5, 4, 2)
    with pytest.raises(
        ValueError, match="'logits' has only 4 sub-vectors.*8 codewords are too many"
    ):
        shapes(method(2, 4, layers={"logits": (2, 8)}))


def test_config_round_trip():
    one = QCNN(4, 32, sweeps=2, prior=0.5, dense=(2, 16), layers={"logits": False})
    assert QCNN(**one.get_config()).get_config() == one.get_config()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"codewords": 257}, "1 to 256"),
        ({"subvector": 0}, "at least 1"),
        ({"dense": (2, 300)}, "1 to 256"),
        ({"sweeps": 0}, "sweeps"),
        ({"positions": 0}, "positions"),
        ({"prior": -1.0}, "prior"),
        ({"codebook_dtype": "int8"}, "codebook_dtype"),
    ],
)
def test_method_out_of_range(kwargs, message):
    with pytest.raises(ValueError, match=message):
        QCNN(**kwargs)


def test_unknown_layer_is_named():
    with pytest.raises(ValueError, match=r"'cnov'.*'conv', 'dense', 'logits'"):
        shapes(method(2, 4, layers={"cnov": False}))


DATA = np.ones((8, 6, 6, 3), "float32")


def run(model, data=DATA, method=QCNN(2, 4)):  # noqa: B008 - it has no state
    return compress(model, data, method, verbose=False)


def test_unbuilt_model():
    with pytest.raises(ValueError, match="before it is built"):
        run(keras.Sequential([layers.Dense(3)], name="net"))


def test_subclassed_model():
    class Own(keras.Model):
        def call(self, x):
            return x

    model = Own()
    model(DATA)
    with pytest.raises(TypeError, match="subclassed"):
        run(model)


def test_model_of_the_other_keras():
    if keras_version() == 2:
        import keras as other
    else:
        import tf_keras as other
    model = other.Sequential([other.Input((4,)), other.layers.Dense(3)])
    with pytest.raises(TypeError, match="TF_USE_LEGACY_KERAS"):
        run(model)


def test_no_model_at_all():
    with pytest.raises(TypeError, match="pass a Keras model"):
        run("model.keras")


def test_method_of_another_kind():
    with pytest.raises(TypeError, match="QCNN"):
        compress(network(), DATA, 3, verbose=False)
    with pytest.raises(ValueError, match="did you mean 'qcnn'"):
        compress(network(), DATA, "qcn", verbose=False)


def test_nothing_to_compress():
    model = keras.Sequential([keras.Input((6, 6, 3)), layers.Flatten()], name="flat")
    with pytest.raises(ValueError, match="'flat' has no Conv2D or Dense"):
        run(model)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (None, ValueError, "error_correction=False"),
        (np.ones((8, 5, 6, 3), "float32"), ValueError, r"\(None, 6, 6, 3\).*\(8, 5, 6, 3\)"),
        (np.ones((8, 6, 3), "float32"), ValueError, r"\(None, 6, 6, 3\).*\(8, 6, 3\)"),
        (DATA[:0], ValueError, "at least one"),
        (np.full_like(DATA, np.nan), ValueError, "NaN"),
        (3, TypeError, "int"),
        ({"wrong": DATA}, ValueError, "lacks the inputs"),
    ],
)
def test_bad_data(data, error, message):
    with pytest.raises(error, match=message):
        run(network(), data)


def test_endless_and_empty_datasets():
    dataset = tf.data.Dataset.from_tensor_slices(DATA).batch(4)
    with pytest.raises(ValueError, match="endless"):
        run(network(), dataset.repeat())
    with pytest.raises(ValueError, match="no batch"):
        run(network(), dataset.take(0))


def test_nan_weights_name_the_layer():
    model = network()
    kernel, bias = model.get_layer("dense").get_weights()
    kernel[3, 4] = np.nan
    model.get_layer("dense").set_weights([kernel, bias])
    with pytest.raises(ValueError, match="'dense' has 1 NaN"):
        run(model)


def test_activations_that_overflow_name_the_layer():
    model = network()
    kernel, bias = model.get_layer("conv").get_weights()
    model.get_layer("conv").set_weights([np.full_like(kernel, 1e38), bias])
    with pytest.raises(ValueError, match="'dense'.*NaN"):
        run(model, method=QCNN(2, 4, layers={"conv": False}))


def test_weights_too_large_for_float16():
    model = network()
    kernel, bias = model.get_layer("conv").get_weights()
    model.get_layer("conv").set_weights([kernel * 1e6, bias])
    with pytest.raises(ValueError, match="'conv'.*codebook_dtype=\"float32\""):
        run(model)


def test_layers_of_one_name():
    body = keras.Sequential([keras.Input((6, 6, 3)), layers.Conv2D(3, 1, name="same")])
    x = inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(3, 1, name="same")(body(x))
    with pytest.raises(ValueError, match=r"several layers are named \['same'\]"):
        run(keras.Model(inputs, x))


def test_channels_first_are_refused():
    x = inputs = keras.Input((3, 6, 6))
    x = layers.Conv2D(4, 3, data_format="channels_first", name="first")(x)
    with pytest.raises(ValueError, match="'first'.*channels_last"):
        run(keras.Model(inputs, x), DATA.transpose(0, 3, 1, 2))


def test_dead_inputs_and_constant_activations(rng):
    """Singular Gram matrices: a channel that is always zero, another that never changes."""
    data = rng.normal(size=(40, 6, 6, 3)).astype("float32")
    data[..., 0], data[..., 1] = 0, 1
    small = run(network(), data)
    assert all(np.isfinite(w).all() for w in small.get_weights())
    silent = run(network(), 0 * data)
    assert all(np.isfinite(w).all() for w in silent.get_weights())
