"""QCNN's rules for the first layer, the classifier and depthwise layers, and grouped layers."""

from __future__ import annotations

import numpy as np
import pytest

import kerasq
from kerasq.codebooks import QCNN, compress
from kerasq.keras import keras

layers = keras.layers


def network():
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(8, 3, activation="relu", name="first"),
            layers.Conv2D(8, 3, activation="relu", name="second"),
            layers.Flatten(),
            layers.Dense(24, activation="relu", name="hidden"),
            layers.Dense(20, name="logits"),
        ]
    )


def settings(method):
    plan = method.plan([layer for layer in network().layers if hasattr(layer, "kernel")])
    return {name: (one.subvector, one.codewords) for name, one in plan.items()}


def test_rules_for_the_first_layer_and_the_classifier():
    plain = {"first": (3, 8), "second": (4, 8), "hidden": (4, 8), "logits": (4, 8)}
    assert settings(QCNN(4, 8)) == plain
    assert settings(QCNN(4, 8, classifier=(1, 16))) == {**plain, "logits": (1, 16)}
    assert settings(QCNN(4, 8, first=(1, 4), dense=(2, 2))) == {
        "first": (1, 4),
        "second": (4, 8),
        "hidden": (2, 2),
        "logits": (2, 2),
    }
    both = settings(QCNN(4, 8, first=False, classifier=False))
    assert both == {"second": (4, 8), "hidden": (4, 8)}
    single = QCNN(4, 8, classifier=False, layers={"logits": (2, 4), "first": (2, 4)}, first=False)
    assert settings(single) == {**plain, "first": (2, 4), "logits": (2, 4)}


def test_a_rule_cuts_codewords_with_a_warning():
    with pytest.warns(UserWarning, match="'logits' has only 20 sub-vectors"):
        assert settings(QCNN(4, 8, classifier=(1, 64)))["logits"] == (1, 20)


@pytest.mark.parametrize("rule", ["first", "classifier", "depthwise"])
def test_rule_out_of_range(rule):
    with pytest.raises(ValueError, match=f"{rule}.*1 to 256"):
        QCNN(**{rule: (1, 300)})


def test_config_holds_the_rules():
    one = QCNN(first=False, classifier=(1, 16), depthwise=(1, 8), bias_correction=False, ratio=9.0)
    assert QCNN(**one.get_config()).get_config() == one.get_config()


def grouped(groups, **kwargs):
    x = inputs = keras.Input((6, 6, 8))
    x = layers.Conv2D(16, 3, groups=groups, activation="relu", name="grouped", **kwargs)(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(5, name="logits")(x))


def exported_agrees(small, x):
    interpreter = kerasq.Interpreter(model_content=kerasq.convert(small))
    want = small.predict(x, verbose=0)
    np.testing.assert_allclose(interpreter.predict(x), want, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("groups", [2, 4])
def test_grouped_convolutions_are_corrected_and_exported(groups, rng):
    model = grouped(groups)
    x = rng.normal(size=(60, 6, 6, 8)).astype("float32")
    reports = []
    small = compress(model, x, QCNN(2, 16, dense=False), verbose=False, callback=reports.append)
    assert reports[0].solution.error_after < reports[0].solution.error_before
    assert small.get_layer("grouped").groups == groups
    exported_agrees(small, x[:4])


@pytest.mark.parametrize("multiplier", [1, 2])
def test_depthwise_layers_become_grouped_ones_of_the_same_function(multiplier, rng):
    x = inputs = keras.Input((7, 7, 4))
    options = {"strides": 2, "padding": "same", "activation": "relu"}
    x = layers.DepthwiseConv2D(3, depth_multiplier=multiplier, name="depthwise", **options)(x)
    x = layers.Conv2D(6, 1, name="point")(x)
    model = keras.Model(inputs, layers.GlobalAveragePooling2D()(x))
    bias = rng.normal(size=4 * multiplier).astype("float32")
    kernel = model.get_layer("depthwise").get_weights()[0]
    model.get_layer("depthwise").set_weights([kernel, bias])
    data = rng.normal(size=(40, 7, 7, 4)).astype("float32")
    method = QCNN(4, 6, depthwise=(1, kernel.size), codebook_dtype="float32")
    small = compress(model, data, method, verbose=False)  # as many codewords as weights
    layer = small.get_layer("depthwise")
    assert layer.groups == 4
    middle = [keras.Model(m.inputs, m.get_layer("depthwise").output) for m in (model, small)]
    got, want = (m.predict(data, verbose=0) for m in reversed(middle))
    np.testing.assert_allclose(got, want, atol=1e-3)
    exported_agrees(small, data[:4])
    left = compress(model, data, QCNN(4, 6), verbose=False)
    assert type(left.get_layer("depthwise")) is layers.DepthwiseConv2D
    named = compress(
        model, data, QCNN(4, 6, depthwise=(1, 8), layers={"depthwise": False}), verbose=False
    )
    assert not hasattr(named.get_layer("depthwise"), "codewords")
