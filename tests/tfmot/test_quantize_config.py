"""Our quantizers inside TFMOT: annotate, apply, train, save, load."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from kerasq import quantizers
from kerasq.keras import keras, keras_version
from tests.layers.learned import LearnedScale

if keras_version() == 2:
    import tensorflow_model_optimization as tfmot

    import kerasq.tfmot as ours

    annotate = tfmot.quantization.keras.quantize_annotate_layer

WEIGHTS = [n for n, e in quantizers.catalogue().items() if e.target in ("weights", "both")]
ACTIVATIONS = [n for n, e in quantizers.catalogue().items() if e.target in ("activations", "both")]
# What a network is made of: the methods that learn, and the plain ones.
STATELESS = ("bwn", "dorefa_activations", "dorefa_weights", "ste_sign", "twn")
STACKED = [n for n, e in quantizers.catalogue().items() if e.learnable or n in STATELESS]
keras2 = pytest.mark.keras2


def network():
    """Several methods of the catalogue; then one instance with variables, given to every layer."""
    config, L = ours.QuantizeConfig, keras.layers
    stack = [keras.Input((10, 10, 3))]
    for name in STACKED:
        used = config(name if name in WEIGHTS else "twn", name if name in ACTIVATIONS else None)
        stack.append(annotate(L.Conv2D(4, 3, padding="same"), used))
        stack.append(L.BatchNormalization())
    q = LearnedScale()
    stack += [
        annotate(L.DepthwiseConv2D(3), config(q, q)),
        annotate(L.SeparableConv2D(4, 3, activation="gelu"), config(q, q)),
        annotate(L.BatchNormalization(), config(None, q)),
        annotate(L.Conv2DTranspose(3, 2, activation="sigmoid"), config(q, q)),
        L.Reshape((-1, 3)),
        annotate(L.Conv1D(4, 3, activation="elu"), config(q, q)),
        annotate(L.Conv1D(4, 3), config(quantizers.BWN(gradient="exact"), "ste_sign")),
        annotate(L.LayerNormalization(), config(activation=q)),
        L.Flatten(),
        annotate(L.Dense(3, activation="softmax"), config(q, q)),
    ]
    return keras.Sequential(stack)


@pytest.fixture(scope="module")
def trained():
    keras.backend.clear_session()  # layers are named as in a program of their own
    keras.utils.set_random_seed(1)
    rng = np.random.default_rng(2)
    annotated = network()
    model = ours.quantize_apply(annotated)
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    x = rng.normal(0, 1, (32, 10, 10, 3)).astype(np.float32)
    model.fit(x, rng.integers(0, 3, 32), epochs=2, verbose=0)
    want = model.predict(x, verbose=0)
    assert np.isfinite(want).all() and want.std(axis=0).any()
    return annotated, model, x, want


@keras2
@pytest.mark.parametrize(
    "target", ["model.keras", "model.h5", pytest.param("model", marks=pytest.mark.slow)]
)
def test_saved_model_predicts_the_same_and_trains(trained, tmp_path, target):
    _, model, x, want = trained
    model.save(tmp_path / target)
    with ours.quantize_scope():
        loaded = keras.models.load_model(tmp_path / target)
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), want)
    if target == "model.keras":
        loaded.fit(x, np.zeros(32), verbose=0)
        assert not np.array_equal(loaded.predict(x, verbose=0), want)


@keras2
def test_weights_only(trained, tmp_path):
    annotated, model, x, want = trained
    model.save_weights(tmp_path / "model.weights.h5")
    other = ours.quantize_apply(annotated)
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(other.predict(x, verbose=0), want)


@keras2
def test_tfmots_own_quantizers_survive_too(tmp_path, rng):
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            keras.layers.Conv2D(3, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(2),
        ]
    )
    model = tfmot.quantization.keras.quantize_model(model)
    model.compile("sgd", "mse")
    x = rng.normal(0, 1, (16, 6, 6, 2)).astype(np.float32)
    model.fit(x, np.zeros((16, 2)), verbose=0)
    model.save(tmp_path / "model.keras")
    with ours.quantize_scope():
        loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))


KINDS = ("Dense", "Conv1D", "Conv2D", "DepthwiseConv2D", "SeparableConv2D", "Conv2DTranspose")


def quantized_kernel(name, variable, kind):
    """Return what a quantizer makes of a layer's kernel, the outputs in its last axis."""
    q, kernel = quantizers.for_use(quantizers.get(name), "weights"), np.array(variable)
    if "depthwise" in variable.name:
        return quantizers.clone_for_depthwise(q).represent(kernel).decode()
    if kind == "Conv2DTranspose":  # it has them before the inputs
        return q.represent(kernel.swapaxes(-1, -2)).decode().swapaxes(-1, -2)
    return q.represent(kernel).decode()


@keras2
@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("kind", KINDS)
def test_layer_computes_with_the_quantized_kernel(name, kind, rng):
    size = {"Dense": (5,), "Conv1D": (8, 5)}.get(kind, (8, 8, 5))
    arguments = {"Dense": (4,), "DepthwiseConv2D": (3,)}.get(kind, (4, 3))

    def make():
        return getattr(keras.layers, kind)(*arguments)

    inputs = keras.Input(size)
    plain = keras.layers.Activation("linear")(inputs)
    wrapped = annotate(make(), ours.QuantizeConfig(name))
    model = ours.quantize_apply(keras.Model(inputs, wrapped(plain)))
    x = rng.normal(0, 1, (3, *size)).astype(np.float32)
    kernels = [w for w in model.layers[-1].weights if w.name.endswith("kernel:0")]
    assert len(kernels) == (2 if kind == "SeparableConv2D" else 1)
    reference = make()
    reference(x)
    quantized = [quantized_kernel(name, kernel, kind) for kernel in kernels]
    reference.set_weights([*quantized, np.zeros(reference.bias.shape)])
    # TFMOT quantizes the layer before an annotated one to 8 bits.
    before = keras.Model(model.inputs, model.layers[-2].output)
    before(x, training=True)  # its range
    want = reference(before(x))
    np.testing.assert_allclose(model(x), want, rtol=1e-5, atol=1e-5)


@keras2
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_is_quantized(name, rng):
    inputs = keras.Input((5,))
    dense = keras.layers.Dense(40)
    wrapped = annotate(dense, ours.QuantizeConfig(activation=name))
    model = ours.quantize_apply(keras.Model(inputs, wrapped(inputs)))
    before = keras.Model(model.inputs, model.layers[-2].output)
    x = rng.normal(size=(9, 5)).astype(np.float32)
    before(x, training=True)  # the range of TFMOT's quantizer of the inputs
    q = quantizers.for_use(quantizers.get(name), "activations")
    kernel = next(w for w in model.layers[-1].weights if "kernel" in w.name)
    np.testing.assert_allclose(model(x), q(before(x) @ kernel), rtol=1e-5, atol=1e-6)


def state_of(model):
    """The variables of the test quantizers, by name."""
    names = ("step", "shift", "average")
    return {w.name: w for w in model.weights if w.name.split("/")[-1].split(":")[0] in names}


@keras2
def test_one_instance_is_copied_trained_and_told_its_use(trained):
    _, model, _, _ = trained
    state = {n: w for n, w in state_of(model).items() if "_quantizer/" in n}
    places = {n.rsplit("/", 1)[0].removeprefix("quant_") for n in state}
    for place in (
        "depthwise_conv2d/depthwise_kernel_quantizer",
        "depthwise_conv2d/post_activation_quantizer",
        "separable_conv2d/depthwise_kernel_quantizer",
        "separable_conv2d/pointwise_kernel_quantizer",
        "separable_conv2d/pre_activation_quantizer",
        "separable_conv2d/post_activation_quantizer",
        "conv2d_transpose/kernel_quantizer",
        "conv2d_transpose/pre_activation_quantizer",
        "conv1d/output_quantizer",
        "layer_normalization/output_quantizer",
        "dense/kernel_quantizer",
        "dense/pre_activation_quantizer",
    ):
        assert place in places
    trainable = {id(w) for w in model.trainable_weights}
    for name, variable in state.items():
        assert (id(variable) in trainable) == ("average" not in name), name
        if "shift" in name:
            assert np.any(variable.numpy() != np.float32(0.1)), name
        elif any(name.startswith(f"quant_{place}") for place in places):
            assert variable.numpy() > 0, name
    for layer in model.layers:
        for _, _, found in getattr(layer, "_weight_vars", []):
            assert found["quantizer"].target == "weights"
        for activation in getattr(layer, "_quantize_activations", []):
            for key in ("_pre_activation_vars", "_post_activation_vars"):
                if hasattr(activation, key):
                    assert getattr(activation, key)["quantizer"].target == "activations"


WITHOUT_ACTIVATION = {
    "PReLU": lambda L: (L.PReLU(), 1),
    "LayerNormalization": lambda L: (L.LayerNormalization(), 1),
    "BatchNormalization": lambda L: (L.BatchNormalization(), 1),
    "ReLU": lambda L: (L.ReLU(), 1),
    "pooling": lambda L: (L.MaxPool1D(2), 1),
    "Add": lambda L: (L.Add(), 2),
    "Concatenate": lambda L: (L.Concatenate(), 2),
    "unknown to TFMOT": lambda L: (L.Dense(4, activation="elu"), 1),
    "a layer as activation": lambda L: (L.Dense(4, activation=L.LeakyReLU()), 1),
    "LSTM": lambda L: (L.LSTM(4, return_sequences=True), 1),
}


@keras2
@pytest.mark.parametrize("kind", WITHOUT_ACTIVATION)
def test_output_is_quantized_where_there_is_no_activation(kind, tmp_path, rng):
    layer, inputs = WITHOUT_ACTIVATION[kind](keras.layers)
    tensors = [keras.Input((6, 3)) for _ in range(inputs)]
    config = ours.QuantizeConfig(activation=LearnedScale())
    y = annotate(layer, config)(tensors if inputs > 1 else tensors[0])
    model = ours.quantize_apply(keras.Model(tensors, y))
    data = [rng.normal(0, 1, (2, 6, 3)).astype(np.float32) for _ in tensors]
    (quantizer,) = [v for v in model.layers[-1].trainable_weights if "step" in v.name]
    model(data, training=True)
    step = quantizer.numpy()
    assert step > 0
    average = next(w.numpy() for n, w in state_of(model).items() if "average" in n)
    values = np.unique(np.round((model(data).numpy() - 0.125 * average) / step, 3))
    assert set(values) <= {-2, -1, 0, 1}
    model.save(tmp_path / "m.keras")
    with ours.quantize_scope():
        loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(loaded(data), model(data))


@keras2
def test_nothing_to_quantize_passes_through(rng):
    inputs = keras.Input((6, 3))
    plain = keras.layers.Dense(4, activation="elu")
    pooled = annotate(keras.layers.MaxPool1D(2), ours.QuantizeConfig())(inputs)
    model = keras.Model(inputs, annotate(plain, ours.QuantizeConfig())(pooled))
    x = rng.normal(0, 1, (2, 6, 3)).astype(np.float32)
    quantized = ours.quantize_apply(model)
    # TFMOT quantizes what an annotated layer takes from the model's inputs to 8 bits.
    before = keras.Model(quantized.inputs, quantized.layers[1].output)
    before(x, training=True)  # its range
    np.testing.assert_allclose(quantized(x), model(before(x)), rtol=1e-6, atol=1e-6)


@keras2
def test_inputs_of_a_concatenation_stay_quantized(rng):
    inputs = keras.Input((6,))
    config = ours.QuantizeConfig(activation="ste_sign")
    parts = [annotate(keras.layers.LayerNormalization(), config)(inputs) for _ in range(2)]
    joined = annotate(keras.layers.Concatenate(), ours.QuantizeConfig())(parts)
    y = ours.quantize_apply(keras.Model(inputs, joined))(rng.normal(size=(3, 6)), training=True)
    assert set(np.unique(y)) == {-1.0, 1.0}


def nested_model():
    config, L, q = ours.QuantizeConfig, keras.layers, LearnedScale()
    inner = keras.Sequential(
        [
            keras.Input((5, 5, 4)),
            annotate(L.Conv2D(4, 3, activation="relu", name="conv"), config(q, q)),
        ],
        name="inner",
    )
    there = keras.Input((5, 5, 4))
    functional = keras.Model(there, L.ReLU()(inner(there)), name="functional")
    plain = keras.Sequential([keras.Input((3, 3, 4)), L.Conv2D(4, 3)], name="plain")
    return keras.Sequential(
        [
            keras.Input((7, 7, 3)),
            annotate(L.Conv2D(4, 3, activation="relu", name="stem"), config(q, q)),
            functional,
            plain,
            L.Flatten(),
            annotate(L.Dense(2), config(q)),
        ]
    )


def kernels_of(model):
    """The kernels in the order of the layers."""
    return [w.numpy() for w in model.weights if w.name.endswith("kernel:0")]


@keras2
@pytest.mark.parametrize("target", ["m.keras", "m.h5", "m", "m.weights.h5"])
def test_nested_models(target, tmp_path, rng):
    annotated = nested_model()
    model = ours.quantize_apply(annotated)
    inner = model.get_layer("functional").get_layer("inner")
    for outer, name in ((model, "quant_stem"), (inner, "quant_conv")):
        assert type(outer.get_layer(name)).__name__ == "QuantizeWrapperV2"
    assert all(
        np.array_equal(a, b) for a, b in zip(kernels_of(annotated), kernels_of(model), strict=True)
    )
    model.compile("sgd", "mse")
    x = rng.normal(0, 1, (8, 7, 7, 3)).astype(np.float32)
    model.fit(x, np.ones((8, 2)), verbose=0)
    want = model.predict(x, verbose=0)
    if "weights" in target:
        model.save_weights(tmp_path / target)
        loaded = ours.quantize_apply(annotated)
        loaded.load_weights(tmp_path / target)
    else:
        model.save(tmp_path / target)
        with ours.quantize_scope():
            loaded = keras.models.load_model(tmp_path / target)
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), want)


@keras2
def test_config_round_trip():
    config = ours.QuantizeConfig(
        {"class_name": "dorefa_weights", "config": {"bits": 3}}, "ste_sign"
    )
    copy = ours.QuantizeConfig.from_config(config.get_config())
    assert copy.get_config() == config.get_config()
    assert copy.weight.bits == 3


@keras2
def test_errors():
    with pytest.raises(ValueError, match="'empty' has no layer to quantize"):
        ours.quantize_apply(keras.Sequential([keras.Input((3,))], name="empty"))
    with pytest.raises(TypeError, match="cannot quantize a list"):
        ours.quantize_apply([])
    with pytest.raises(ValueError, match="did you mean 'twn'"):
        ours.QuantizeConfig("twnn")
    with pytest.raises(ValueError, match="quantizes weights, not activations"):
        ours.QuantizeConfig(activation="bwn")
    with pytest.raises(ValueError, match="'pool' .MaxPooling2D. has no kernel"):
        ours.QuantizeConfig("bwn").get_weights_and_quantizers(keras.layers.MaxPool2D(name="pool"))


def test_keras3_says_what_to_type():
    environment = {**os.environ, "TF_USE_LEGACY_KERAS": "0"}
    run = subprocess.run(
        [sys.executable, "-c", "import kerasq.tfmot"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode != 0
    assert "ImportError" in run.stderr and "TF_USE_LEGACY_KERAS=1" in run.stderr
