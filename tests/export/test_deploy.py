import numpy as np
import pytest

import kerasq
import kerasq.layers as ql
from kerasq.export.deploy import deploy, packed_layers
from kerasq.export.packed import FoldedLayer
from kerasq.keras import keras
from tests.export.models import binary_net, layer_net, randomize

CONV = {"padding": "same", "name": "layer"}
LAYERS = {
    "weights only": lambda: ql.QuantConv2D(5, 3, kernel_quantizer="bwn", **CONV),
    "ternary": lambda: ql.QuantConv2D(5, 3, kernel_quantizer="twn", **CONV),
    "strided, relu": lambda: ql.QuantConv2D(
        5, 3, (2, 1), kernel_quantizer="bwn", activation="relu", name="layer"
    ),
    "dilated": lambda: ql.QuantConv2D(
        5, 3, dilation_rate=2, kernel_quantizer="bwn", padding="valid", name="layer"
    ),
    "groups": lambda: ql.QuantConv2D(
        6, 3, groups=3, input_quantizer="ste_sign", kernel_quantizer="bwn", **CONV
    ),
    "pad with ones": lambda: ql.QuantConv2D(
        5, 3, kernel_quantizer="bwn", input_quantizer="ste_sign", pad_values=1.0, **CONV
    ),
    "codes of 4 bits, pad with ones": lambda: ql.QuantConv2D(
        5,
        3,
        pad_values=1.0,
        kernel_quantizer={"class_name": "dorefa_weights", "config": {"bits": 4}},
        **CONV,
    ),
    "depthwise codes": lambda: ql.QuantDepthwiseConv2D(
        3,
        depth_multiplier=2,
        kernel_quantizer={"class_name": "dorefa_weights", "config": {"bits": 3}},
        **CONV,
    ),
    "two by two planes": lambda: ql.QuantConv2D(
        5,
        3,
        kernel_quantizer={"class_name": "dorefa_weights", "config": {"bits": 2}},
        input_quantizer={"class_name": "dorefa_activations", "config": {"bits": 2}},
        **CONV,
    ),
    "eight bits": lambda: ql.QuantConv2D(
        5,
        3,
        kernel_quantizer={"class_name": "dorefa_weights", "config": {"bits": 8}},
        input_quantizer={"class_name": "dorefa_activations", "config": {"bits": 8}},
        **CONV,
    ),
    "scale map": lambda: ql.XnorConv2D(5, 3, use_k_map=True, activation="relu", **CONV),
    "another activation": lambda: ql.QuantConv2D(
        5, 3, kernel_quantizer="bwn", activation="tanh", **CONV
    ),
    "dense": lambda: ql.QuantDense(
        7, input_quantizer="ste_sign", kernel_quantizer="bwn", name="layer"
    ),
}
AFTER = {
    "nothing": lambda: (),
    "normalization": lambda: (keras.layers.BatchNormalization(),),
    "normalization, relu": lambda: (keras.layers.BatchNormalization(), keras.layers.ReLU()),
    "relu6": lambda: (keras.layers.ReLU(max_value=6.0),),
}


def same(actual, expected, tolerance=1e-4):
    np.testing.assert_allclose(actual, expected, atol=tolerance * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("after", AFTER)
@pytest.mark.parametrize("layer", LAYERS)
def test_a_deployed_layer_predicts_what_the_trained_one_predicts(rng, layer, after):
    model = layer_net(LAYERS[layer](), after=AFTER[after]())
    x = rng.standard_normal((3, 9, 7, 6)).astype(np.float32)
    deployed = deploy(model)
    assert [p.name for p in packed_layers(deployed)] == ["layer"]
    same(deployed.predict(x, verbose=0), model.predict(x, verbose=0))


def test_binary_sums_are_the_same_integers(rng):
    model = layer_net(
        ql.QuantConv2D(
            7,
            3,
            padding="same",
            use_bias=False,
            input_quantizer="ste_sign",
            kernel_quantizer="ste_sign",
        )
    )
    x = rng.standard_normal((4, 9, 7, 6)).astype(np.float32)
    x[0, 0, 0] = 0.0  # sign(0) is +1
    y = deploy(model).predict(x, verbose=0)
    np.testing.assert_array_equal(y, model.predict(x, verbose=0))
    np.testing.assert_array_equal(y, np.round(y))


def test_normalization_before_a_sign_becomes_exact_thresholds(rng):
    """Every input float near a threshold falls to the side on which the trained model puts it."""
    model = keras.Sequential(
        [
            keras.Input((1, 1, 6)),
            keras.layers.BatchNormalization(name="bn"),
            ql.QuantConv2D(
                6, 1, input_quantizer="ste_sign", kernel_quantizer="ste_sign", use_bias=False
            ),
        ]
    )
    randomize(model)
    deployed = deploy(model)
    thresholds = packed_layers(deployed)[0].constants[3]
    direction = packed_layers(deployed)[0].constants[4]
    assert abs(thresholds[0, 0]) == np.finfo(np.float32).max  # gamma = 0: a constant
    assert set(direction) == {-1.0, 1.0}
    assert isinstance(deployed.get_layer("bn"), FoldedLayer)
    base = np.where(np.abs(thresholds[:, 0]) > 1e18, 0.0, thresholds[:, 0] * direction)
    x = np.concatenate(
        [
            np.nextafter(base, -np.inf, dtype=np.float32)[None],
            base[None],
            np.nextafter(base, np.inf, dtype=np.float32)[None],
            rng.standard_normal((50, 6)),
        ]
    )
    x = x.astype(np.float32).reshape(-1, 1, 1, 6)
    np.testing.assert_array_equal(deployed.predict(x, verbose=0), model.predict(x, verbose=0))


def test_a_whole_binary_network(rng):
    model = randomize(binary_net())
    deployed = deploy(model)
    assert [p.name for p in packed_layers(deployed)] == ["c1", "c2", "dw", "fc"]
    folded = [n for n in ("bn0", "bn1", "bn2", "bn3", "relu") if _is_identity(deployed, n)]
    # bn1 feeds the shortcut too, so that it folds into c1, not into c2's thresholds.
    assert folded == ["bn0", "bn1", "bn2", "bn3", "relu"]
    x = rng.standard_normal((8, 10, 10, 8)).astype(np.float32)
    same(deployed.predict(x, verbose=0), model.predict(x, verbose=0))


def _is_identity(model, name):
    return isinstance(model.get_layer(name), FoldedLayer)


def test_a_normalization_with_two_consumers_stays(rng):
    inputs = keras.Input((5, 5, 4))
    x = ql.QuantConv2D(4, 3, padding="same", kernel_quantizer="bwn", name="c")(inputs)
    y = keras.layers.BatchNormalization(name="bn")(x)
    model = randomize(keras.Model(inputs, keras.layers.Add()([x, y])))
    deployed = deploy(model)
    assert isinstance(deployed.get_layer("bn"), keras.layers.BatchNormalization)
    x = rng.standard_normal((2, 5, 5, 4)).astype(np.float32)
    same(deployed.predict(x, verbose=0), model.predict(x, verbose=0))


def test_nested_models_and_shared_layers(rng):
    inner = keras.Sequential(
        [keras.Input((6,)), ql.QuantDense(6, kernel_quantizer="bwn", name="inner_dense")],
        name="inner",
    )
    inputs = keras.Input((6,))
    shared = ql.QuantDense(6, input_quantizer="ste_sign", kernel_quantizer="bwn", name="shared")
    model = keras.Model(inputs, shared(inner(shared(inputs))))
    randomize(model)
    deployed = deploy(model)
    assert sorted(p.name for p in packed_layers(deployed)) == ["inner_dense", "shared"]
    x = rng.standard_normal((3, 6)).astype(np.float32)
    same(deployed.predict(x, verbose=0), model.predict(x, verbose=0))


def test_mixed_precision_models_deploy_to_float32(rng):
    policy = "mixed_float16"
    model = keras.Sequential(
        [
            keras.Input((9, 7, 6)),
            keras.layers.Conv2D(8, 3, dtype=policy),
            keras.layers.BatchNormalization(dtype=policy),
            ql.QuantConv2D(5, 3, kernel_quantizer="bwn", dtype=policy),
            keras.layers.ReLU(dtype=policy),
        ]
    )
    x = rng.standard_normal((2, 9, 7, 6)).astype(np.float32)
    deployed = deploy(model)
    assert {layer.compute_dtype for layer in deployed.layers} == {"float32"}
    same(deployed.predict(x, verbose=0), model.predict(x, verbose=0), 5e-3)


def test_operations_between_layers(rng):
    inputs = keras.Input((6,))
    x = ql.QuantDense(6, kernel_quantizer="bwn", name="dense")(inputs)
    model = keras.Model(inputs, keras.layers.Concatenate()([x * 2.0 + inputs, -x]))
    x = rng.standard_normal((3, 6)).astype(np.float32)
    same(deploy(model).predict(x, verbose=0), model.predict(x, verbose=0))


def test_the_trained_model_is_left_as_it_was(rng):
    model = randomize(binary_net())
    before = [w.copy() for w in model.get_weights()]
    deploy(model)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


class _Subclassed(keras.Model):
    def call(self, x):
        return x


def test_bad_models_get_one_clear_error():
    with pytest.raises(TypeError, match="pass a Keras model"):
        kerasq.convert("model.keras")
    with pytest.raises(TypeError, match="subclassed"):
        kerasq.convert(_Subclassed())
    with pytest.raises(ValueError, match="before it is built"):
        kerasq.convert(keras.Sequential([keras.layers.Dense(3)]))
    first = ql.QuantConv2D(4, 3, kernel_quantizer="bwn", data_format="channels_first", name="cf")
    with pytest.raises(ValueError, match="'cf'.*channels_last"):
        kerasq.convert(keras.Sequential([keras.Input((4, 8, 8)), first]))
    inside = keras.layers.TimeDistributed(ql.QuantDense(2, kernel_quantizer="bwn"), name="steps")
    with pytest.raises(ValueError, match="'steps' .TimeDistributed. has a kernel_quantizer"):
        kerasq.convert(keras.Sequential([keras.Input((4, 3)), inside]))
    codebook = ql.CodebookDense(4, name="lost")
    model = keras.Sequential([keras.Input((6,)), codebook])
    codebook.codewords.assign(np.full(codebook.codewords.shape, np.inf))
    with pytest.raises(ValueError, match="'lost'.*infinite"):
        kerasq.convert(model)
    broken = layer_net(ql.QuantDense(4, kernel_quantizer="bwn", name="nan"), (6,))
    broken.layers[-1].set_weights([np.full((6, 4), np.nan), np.zeros(4)])
    with pytest.raises(ValueError, match="'nan'.*24 weights"):
        kerasq.convert(broken)


def test_a_model_of_the_other_keras_is_named():
    import importlib

    other = importlib.import_module("keras" if kerasq.keras_version() == 2 else "tf_keras")
    model = other.Sequential([other.layers.Input((3,)), other.layers.Dense(2)])
    with pytest.raises(TypeError, match="TF_USE_LEGACY_KERAS"):
        kerasq.convert(model)
