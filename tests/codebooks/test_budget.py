"""(d, K) of all layers for a number of bytes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import kerasq
from kerasq.codebooks import QCNN, KernelLayout, compress
from kerasq.codebooks.budget import (
    Candidate,
    allocate,
    candidates,
    codebook_bytes,
    input_energies,
)
from kerasq.keras import keras

layers = keras.layers


def network():
    x = inputs = keras.Input((8, 8, 4))
    x = layers.Conv2D(16, 3, activation="relu", name="a")(x)
    x = layers.Conv2D(24, 3, groups=2, activation="relu", name="b")(x)
    x = layers.Flatten()(x)
    x = layers.Dense(40, activation="relu", name="c")(x)
    return keras.Model(inputs, layers.Dense(10, name="d")(x))


def random_options(rng, count, choices=7):
    return [
        [
            Candidate(1, k, int(rng.integers(1, 50)), float(rng.random()))
            for k in range(1, choices + 1)
        ]
        for _ in range(count)
    ]


def test_allocation_is_the_best_there_is(rng):
    options = random_options(rng, 4)
    for budget in (30, 40, 70, 120, 500):
        found = allocate(options, budget)
        fitting = [
            sum(c.error for c in choice)
            for choice in itertools.product(*options)
            if sum(c.nbytes for c in choice) <= budget
        ]
        assert sum(c.nbytes for c in found) <= budget
        assert sum(c.error for c in found) == pytest.approx(min(fitting))


def test_more_bytes_never_give_a_larger_error(rng, monkeypatch):
    monkeypatch.setattr("kerasq.codebooks.budget._POINTS", 50)  # thinned out
    options = random_options(rng, 12)
    errors = []
    for budget in range(100, 700, 7):
        found = allocate(options, budget)
        assert sum(c.nbytes for c in found) <= budget
        errors.append(sum(c.error for c in found))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.6 * errors[0]


def test_too_few_bytes():
    with pytest.raises(ValueError, match="take 9 bytes at the least, the budget is 8"):
        allocate([[Candidate(1, 2, 5, 0.1)], [Candidate(1, 2, 4, 0.1)]], 8)
    with pytest.raises(ValueError, match="at the least"):
        QCNN(ratio=1000).plan(compressible(network()))


def compressible(model):
    return [layer for layer in model.layers if hasattr(layer, "kernel")]


def kernel_bytes(small):
    return sum(layer.codebook().nbytes for layer in small.layers if hasattr(layer, "codebook"))


@pytest.mark.parametrize("budget", [{"bits_per_weight": 4.0}, {"ratio": 12.0}])
def test_networks_keep_to_their_budget(budget, rng):
    model = network()
    x = rng.normal(size=(50, 8, 8, 4)).astype("float32")
    method = QCNN(sweeps=2, classifier=(1, 4), **budget)
    small = compress(model, x, method, verbose=False)
    weights = sum(int(np.prod(layer.kernel.shape)) for layer in compressible(model))
    allowed = weights * (4 if "ratio" not in budget else 32 / 12) / 8
    assert 0.9 * allowed < kernel_bytes(small) <= allowed
    assert small.get_layer("d").codewords_per_codebook == 4
    again = compress(model, x, QCNN(sweeps=2, classifier=(1, 4), **budget), verbose=False)
    for a, b in zip(small.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_bytes_are_those_of_the_file(dtype, rng):
    small = compress(
        network(),
        None,
        QCNN(3, 10, error_correction=False, codebook_dtype=dtype),
        verbose=False,
    )
    stored = kerasq.summary(small).weight_bytes
    expected = 0
    for layer in small.layers:
        if hasattr(layer, "codebook"):
            layout = KernelLayout(layer.kernel_shape, layer.subvector, getattr(layer, "groups", 1))
            nbytes = codebook_bytes(layout, 10, dtype)
            assert nbytes == layer.codebook().nbytes
            expected += nbytes
    assert stored == expected + 8  # a scale of one and a bias of zero, which all layers share


def test_a_layer_that_hears_more_is_given_more(rng):
    """Where the inputs are large, errors count: the energies decide within a layer too."""
    kernel = rng.normal(size=(8, 64)).astype("float32")
    even = candidates(kernel, 1, "float16", np.ones(8), [(4, 8)])
    silent = candidates(kernel, 1, "float16", np.array([1, 0, 0, 0, 1, 0, 0, 0]), [(4, 8)])
    assert silent[0].error < 0.1 * even[0].error
    assert silent[0].nbytes == even[0].nbytes


def test_energies_are_mean_squares_of_the_inputs(rng):
    model = network()
    x = rng.normal(size=(30, 8, 8, 4)).astype("float32")
    energies = input_energies(model, compressible(model), [x])
    np.testing.assert_allclose(energies["a"], (x**2).mean((0, 1, 2)), rtol=1e-5)
    inner = keras.Model(model.inputs, model.get_layer("a").output).predict(x, verbose=0)
    want = (inner**2).reshape(-1, 2, 8).mean((0, 1))
    np.testing.assert_allclose(energies["b"], want, rtol=1e-4)


def test_two_budgets_are_one_too_many():
    with pytest.raises(ValueError, match="pass one"):
        QCNN(ratio=8, bits_per_weight=4)
    with pytest.raises(ValueError, match="ratio must be above 0"):
        QCNN(ratio=0)


def test_weights_that_are_not_finite_are_named():
    model = network()
    kernel, bias = model.get_layer("c").get_weights()
    kernel[0, 0] = np.nan
    model.get_layer("c").set_weights([kernel, bias])
    with pytest.raises(ValueError, match="'c' has 1 NaN"):
        compress(model, None, QCNN(ratio=8, error_correction=False), verbose=False)
