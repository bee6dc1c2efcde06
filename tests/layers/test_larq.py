"""Our quantizers inside larq's layers."""

from __future__ import annotations

import numpy as np
import pytest

from kerasq import quantizers
from kerasq.keras import keras, keras_version
from tests.layers.learned import LearnedScale

pytestmark = pytest.mark.keras2
if keras_version() == 2:
    import larq

WEIGHTS = [n for n, e in quantizers.catalogue().items() if e.target in ("weights", "both")]
ACTIVATIONS = [n for n, e in quantizers.catalogue().items() if e.target in ("activations", "both")]
# What a network is made of: the methods that learn, and the plain ones.
STATELESS = ("bwn", "dorefa_activations", "dorefa_weights", "ste_sign", "twn")
STACKED = [n for n, e in quantizers.catalogue().items() if e.learnable or n in STATELESS]


def network(weights=str, activations=str):
    stack = [keras.Input((8, 8, 3))]
    for name in STACKED:
        stack.append(
            larq.layers.QuantConv2D(
                4,
                3,
                padding="same",
                pad_values=1.0,
                kernel_quantizer=weights(name) if name in WEIGHTS else None,
                input_quantizer=activations(name) if name in ACTIVATIONS else None,
            )
        )
        # Each method gets inputs that are not all cut off by the one before it.
        stack.append(keras.layers.BatchNormalization())
    stack += [larq.layers.QuantDepthwiseConv2D(2, depthwise_quantizer=weights("bwn"))]
    # One instance with variables, given to all of them.
    q = LearnedScale()
    stack += [
        larq.layers.QuantConv2D(4, 2, padding="same", input_quantizer=q, kernel_quantizer=q),
        larq.layers.QuantConv2DTranspose(5, 2, input_quantizer=q, kernel_quantizer=q),
        larq.layers.QuantDepthwiseConv2D(2, input_quantizer=q, depthwise_quantizer=q),
        larq.layers.QuantSeparableConv2D(
            4, 2, input_quantizer=q, depthwise_quantizer=q, pointwise_quantizer=q
        ),
        keras.layers.Reshape((-1, 4)),
        larq.layers.QuantConv1D(6, 2, input_quantizer=q, kernel_quantizer=q),
        larq.layers.QuantSeparableConv1D(4, 2, depthwise_quantizer=q, pointwise_quantizer=q),
        larq.layers.QuantDense(4, input_quantizer=q, kernel_quantizer=q),
        keras.layers.Flatten(),
        larq.layers.QuantDense(3, kernel_quantizer=weights("twn"), activation="softmax"),
    ]
    return keras.Sequential(stack)


@pytest.fixture(scope="module")
def trained():
    keras.utils.set_random_seed(1)
    rng = np.random.default_rng(2)
    model = network(quantizers.get, quantizers.get)
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    x = rng.normal(0, 1, (32, 8, 8, 3)).astype(np.float32)
    model.fit(x, rng.integers(0, 3, 32), epochs=2, verbose=0)
    want = model.predict(x, verbose=0)
    assert np.isfinite(want).all() and want.std(axis=0).any()
    return model, x, want


@pytest.mark.parametrize(
    "target", ["model.keras", "model.h5", pytest.param("model", marks=pytest.mark.slow)]
)
def test_saved_model_predicts_the_same(trained, tmp_path, target):
    model, x, want = trained
    model.save(tmp_path / target)
    loaded = keras.models.load_model(tmp_path / target)
    # Our layers of the same names do not take the place of larq's.
    assert [type(layer) for layer in loaded.layers] == [type(layer) for layer in model.layers]
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), want)
    if target == "model.keras":
        loaded.fit(x, np.zeros(32), verbose=0)
        assert not np.array_equal(loaded.predict(x, verbose=0), want)


def test_weights_only_and_names_make_the_same_network(trained, tmp_path):
    model, x, want = trained
    other = network()
    paths = [w.name for w in other.weights]
    assert len(paths) == len(set(paths))
    model.save_weights(tmp_path / "model.weights.h5")
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(other.predict(x, verbose=0), want)


def test_represent_is_what_the_layer_uses(trained):
    model, _, _ = trained
    for layer in model.layers:
        q = getattr(layer, "kernel_quantizer", None)
        if q is not None and not isinstance(q, LearnedScale):
            with larq.context.quantized_scope(True):
                used = keras.backend.get_value(layer.kernel + 0)
            np.testing.assert_array_equal(q.represent(layer.get_weights()[0]).decode(), used)


def test_each_layer_has_its_own_quantizer():
    q = quantizers.get("bwn")
    first, second = (larq.layers.QuantDense(2, kernel_quantizer=q) for _ in range(2))
    assert first.kernel_quantizer is not q
    assert first.kernel_quantizer is not second.kernel_quantizer


def test_depthwise_layers_have_a_scale_per_filter():
    for layer in (
        larq.layers.QuantDepthwiseConv2D(3, depthwise_quantizer="bwn"),
        larq.layers.QuantSeparableConv2D(4, 3, depthwise_quantizer="bwn"),
    ):
        assert layer.depthwise_quantizer.channel_axes == (-2, -1)


def test_larqs_own_names_stay_larqs():
    layer = larq.layers.QuantDense(2, kernel_quantizer="approx_sign")
    assert type(layer.kernel_quantizer) is larq.quantizers.ApproxSign


KERNELS = {
    "kernel_quantizer": "kernel",
    "depthwise_quantizer": "depthwise_kernel",
    "pointwise_quantizer": "pointwise_kernel",
}


def learned(model):
    """The test quantizers of a network, with where they are."""
    return [
        (layer, name, q)
        for layer in model.layers
        for name in ("input_quantizer", *KERNELS)
        if isinstance(q := getattr(layer, name, None), LearnedScale)
    ]


def test_each_quantizer_is_told_its_use_and_learns(trained):
    found = learned(trained[0])
    assert len(found) == 15
    for layer, name, q in found:
        assert q.target == ("activations" if name == "input_quantizer" else "weights")
        assert q.name == name
        # The initial value is the data's, the average moved: `training` reaches the quantizer.
        assert q.step > 0 and q.average > 0 and np.any(q.shift.numpy() != np.float32(0.1))
        assert all(any(w is v for w in layer.trainable_weights) for v in (q.step, q.shift))
        if name in KERNELS:
            assert q.shift.shape[0] == getattr(layer, KERNELS[name]).shape[-1]


def test_variables_exist_once_the_layer_is_built():
    layer = larq.layers.QuantConv2D(
        2, 3, kernel_quantizer=LearnedScale(), input_quantizer=LearnedScale()
    )
    layer.build((None, 8, 8, 5))
    assert len(layer.weights) == 8
    assert layer.input_quantizer.shift.shape == (5,)


def test_transposed_kernels_keep_a_scale_per_filter():
    layer = larq.layers.QuantConv2DTranspose(3, 2, kernel_quantizer="bwn")
    layer.build((None, 4, 4, 5))
    assert layer.kernel_quantizer.channel_axes == (-2,)
    copy = larq.layers.QuantConv2DTranspose.from_config(layer.get_config())
    assert copy.kernel_quantizer.channel_axes == (-2,)


def test_wrong_use_names_the_layer():
    with pytest.raises(ValueError, match="QuantDense 'head', kernel_quantizer: 'dorefa_act"):
        larq.layers.QuantDense(2, kernel_quantizer="dorefa_activations", name="head")


def test_summary_tells_the_bits(trained, capsys):
    larq.models.summary(trained[0])
    table = capsys.readouterr().out
    assert "1-bit" in table and "2-bit" in table


def test_summary_counts_the_learned_parameters_as_no_operands():
    q = LearnedScale()
    stack = [keras.Input((8,)), larq.layers.QuantDense(4, kernel_quantizer=q, input_quantizer=q)]
    profile = larq.models.ModelProfile(keras.Sequential(stack))
    assert profile.unique_param_bidtwidths == [2, 32] and profile.unique_op_precisions == [2]
    assert profile.weight_count(2) == 32 and profile.weight_count(32) == 4 + 4 + 8 + 4
    assert profile.op_count("mac") == 32
