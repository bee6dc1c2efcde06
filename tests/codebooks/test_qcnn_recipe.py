"""Convolutions, fine-tuning of the dense layers, dense layers."""

from __future__ import annotations

import numpy as np
import pytest

from kerasq.codebooks import QCNN, Stage, compress, compress_in_stages
from kerasq.keras import keras

layers = keras.layers
METHOD = {"subvector": 4, "codewords": 4, "first": (1, 4), "dense": (1, 16), "classifier": (1, 4)}


def network():
    return keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.Conv2D(8, 3, activation="relu", name="a"),
            layers.Conv2D(8, 3, strides=2, activation="relu", name="b"),
            layers.Flatten(),
            layers.Dense(16, activation="relu", name="c"),
            layers.Dense(4, name="d"),
        ]
    )


@pytest.fixture(scope="module")
def task():
    """Four directions of a ramp, with noise, and a network that tells them."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(-1, 1, 8)[:, None] * np.ones((1, 8))
    y = rng.integers(0, 4, 1500)
    maps = np.stack([np.rot90(ramp, k) for k in y])
    x = maps[..., None] + rng.normal(size=(1500, 8, 8, 2)) * 1.5
    x = x.astype("float32")
    model = network()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss)
    model.fit(x, y, epochs=6, verbose=0)
    return model, x, y


def divergence(model, small, x):
    """Mean KL of the answers from the float network's."""
    logs = []
    for network in (model, small):
        logits = network.predict(x, verbose=0).astype("float64")
        logs.append(logits - np.log(np.exp(logits).sum(1, keepdims=True)))
    return float((np.exp(logs[0]) * (logs[0] - logs[1])).sum(1).mean())


def test_dense_layers_are_tuned_to_the_compressed_convolutions(task):
    model, x, y = task
    stage = Stage("dense", 150, 3e-3, optimizer="adam", batch_size=64)
    small = compress_in_stages(model, (x, y), QCNN(**METHOD), stage, verbose=False)
    at_once = compress(model, x, QCNN(**METHOD), verbose=False)
    for name in ("a", "b"):
        for mine, theirs in zip(
            small.get_layer(name).get_weights(), at_once.get_layer(name).get_weights(), strict=True
        ):
            np.testing.assert_array_equal(mine, theirs)
    assert small.get_layer("c").codewords_per_codebook == 16
    assert small.get_layer("d").codewords_per_codebook == 4
    assert divergence(model, small, x) < 0.9 * divergence(model, at_once, x)


def test_an_interrupted_run_goes_on(task, tmp_path, monkeypatch):
    model, x, y = task
    stage = Stage("dense", 20, 1e-3, loss="labels")
    arguments = (model, (x[:300], y[:300]), QCNN(**METHOD), stage)
    whole = compress_in_stages(*arguments, verbose=False).get_weights()

    def stop(report):
        if report.name == "c":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compress_in_stages(*arguments, tmp_path, verbose=False, callback=stop)
    seen = []
    again = compress_in_stages(*arguments, tmp_path, verbose=False, callback=seen.append)
    assert [bool(report.seconds) for report in seen] == [False, False, False, True]
    for a, b in zip(whole, again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_budget_is_that_of_the_whole_network(task):
    model, x, y = task
    stage = Stage("dense", 2, 1e-3)
    small = compress_in_stages(model, x, QCNN(ratio=6.0), stage, verbose=False)
    books = [layer.codebook() for layer in small.layers if hasattr(layer, "codebook")]
    assert len(books) == 4
    weights = sum(int(np.prod(book.shape)) for book in books)
    assert sum(book.nbytes for book in books) <= weights * 4 / 6


def test_only_for_networks_with_both_kinds():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(3)(inputs))
    with pytest.raises(ValueError, match="not both convolutions and dense layers"):
        compress_in_stages(model, np.ones((5, 4), "float32"), QCNN(2, 2), Stage("dense", 2, 1e-3))
