"""Every method of the catalogues: trained for a moment, exported, and run in the stock runtime."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

import kerasq
import kerasq.layers as ql
from kerasq.benchmark.methods import (
    FLOAT,
    agreement,
    compile_for_training,
    methods,
    parts,
    resnet20,
    small_network,
)
from kerasq.keras import keras, keras_version

TRAIN, TEST = 640, 500
BLOCKS = [name for name, entry in ql.catalogue().items() if entry.role == "block"]
# Keras 2 in the quick run, both in the whole one; blocks are large.
TRAINED = [
    pytest.param(name, marks=pytest.mark.slow if name in BLOCKS or keras_version() == 3 else ())
    for name in [FLOAT, *methods()]
]


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    return data.images[..., None].astype(np.float32) / 16, data.target.astype(np.int64)


@pytest.fixture(scope="module")
def trained(digits):
    """Networks by method, trained once for all tests of this module."""
    networks = {}

    def get(name):
        if name not in networks:
            networks.clear()
            keras.utils.set_random_seed(0)
            model = small_network(name, (8, 8, 1), filters=(8, 16, 16))
            compile_for_training(model, 5e-3)
            x, y = digits
            history = model.fit(x[:TRAIN], y[:TRAIN], batch_size=32, epochs=2, verbose=0)
            networks[name] = model, history.history["loss"]
        return networks[name]

    return get


@pytest.mark.parametrize("name", TRAINED)
def test_trains_and_predicts_the_same_in_the_file(name, digits, trained):
    model, losses = trained(name)
    assert np.all(np.isfinite(losses)) and losses[1] < losses[0]
    images = digits[0][-TEST:]
    runtime = kerasq.Interpreter(model_content=kerasq.convert(model))
    expected = model.predict(images, batch_size=100, verbose=0)
    got = runtime.predict(images)
    assert agreement(model, runtime, images) == 100.0
    # A value on a rounding boundary may fall to the other side in a sum of another order.
    close = np.isclose(got, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    assert close.mean() > 0.98


@pytest.mark.slow
@pytest.mark.parametrize("name", methods())
def test_a_method_has_a_resnet(name):
    assert parts(name).block_convolutions in (0, 1, 2)
    model = resnet20(name)
    assert model.output_shape == (None, 10)
    assert {layer.name for layer in model.layers} >= {"stem", "s3b2_conv1", "logits"}
