"""Every quantizer of the registry against its oracle, and the properties all must have."""

from __future__ import annotations

import numpy as np
import oracles
import pytest
import tensorflow as tf

from kerasq import quantizers
from kerasq.keras import keras

CASES = [
    (name, config) for name in quantizers.catalogue() for config in oracles.VARIANTS.get(name, [{}])
]
SHAPES = {
    "dense": (20, 7),
    "conv": (3, 3, 5, 6),
    "depthwise": (3, 3, 6, 2),
    "ragged": (1, 1, 13, 9),
}
IDS = [f"{name}-{'-'.join(f'{k}={v}' for k, v in config.items())}" for name, config in CASES]
each_case = pytest.mark.parametrize(("name", "config"), CASES, ids=IDS)
each_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def make(name, config):
    return quantizers.get({"class_name": name, "config": config})


def value_and_gradient(q, x, g):
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = q(x)
    return y.numpy(), tape.gradient(y, x, output_gradients=tf.constant(g)).numpy()


@each_case
@each_shape
def test_value_and_gradient_follow_the_formula(name, config, shape, rng):
    x = rng.normal(0, 0.8, shape).astype(np.float32)
    g = rng.normal(0, 1, shape).astype(np.float32)
    want, want_gradient = oracles.ORACLES[name](
        x.astype(np.float64), g.astype(np.float64), **config
    )
    got, gradient = value_and_gradient(make(name, config), x, g)
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(gradient, want_gradient, rtol=1e-5, atol=1e-6)


@each_case
@each_shape
def test_represent_is_exact(name, config, shape, rng):
    q = make(name, config)
    for scale in (1e-3, 0.8, 30.0):
        x = rng.normal(0, scale, shape).astype(np.float32)
        stored = q.represent(x)
        # As integers: not even the sign of a zero differs.
        np.testing.assert_array_equal(stored.decode().view(np.uint32), q(x).numpy().view(np.uint32))
        graph_value = tf.function(q)(tf.constant(x)).numpy()
        np.testing.assert_array_equal(stored.decode(), graph_value)
    assert type(stored).__name__ in quantizers.catalogue()[name].representation


@each_case
def test_number_of_levels_and_stored_bits(name, config, rng):
    q, shape = make(name, config), (3, 3, 64, 6)
    x = rng.normal(0, 0.8, shape).astype(np.float32)
    y = q(x).numpy()
    axes = tuple(a % 4 for a in q.channel_axes)
    groups = y.reshape(-1, int(np.prod([shape[a] for a in axes], dtype=int)))
    assert max(len(np.unique(group)) for group in groups.T) <= 2**q.precision
    low, high = quantizers.catalogue()[name].bits
    assert low <= q.precision <= high
    if groups.shape[1] <= 6:
        assert q.precision <= q.represent(x).bits_per_weight < q.precision + 0.2


@each_case
def test_monotone(name, config, rng):
    # Along the first axis, which no scale is kept for: channels differ, each is monotone.
    x = np.sort(rng.normal(0, 0.8, (500, 1, 2, 2)).astype(np.float32), axis=0)
    assert np.all(np.diff(make(name, config)(x).numpy(), axis=0) >= 0)


@each_case
def test_symmetric_and_idempotent(name, config, rng):
    q, x = make(name, config), rng.normal(0, 0.8, (3, 3, 5, 6)).astype(np.float32)
    y = q(x).numpy()
    if quantizers.catalogue()[name].target != "activations":
        np.testing.assert_allclose(q(-x).numpy(), -y, atol=1e-6)
    if name == "dorefa_weights" and config["bits"] > 3:
        # tanh bends the grid.
        assert not np.allclose(q(y).numpy(), y)
    else:
        np.testing.assert_allclose(q(y).numpy(), y, atol=1e-6)


@pytest.mark.parametrize("name", ["bwn", "twn"])
def test_scale_equivariance(name, rng):
    q, x = quantizers.get(name), rng.normal(0, 0.8, (3, 3, 5, 6)).astype(np.float32)
    np.testing.assert_allclose(q(4 * x).numpy(), 4 * q(x).numpy(), rtol=1e-6)


@each_case
def test_degenerate_tensors(name, config):
    q = make(name, config)
    for value in (0.0, 0.3, -0.3):
        x = np.full((3, 3, 2, 4), value, np.float32)
        y, gradient = value_and_gradient(q, x, np.ones_like(x))
        assert np.isfinite(y).all() and np.isfinite(gradient).all()
        np.testing.assert_array_equal(q.represent(x).decode(), y)
        if value == 0.0 and name != "ste_sign":
            assert not y.any()
    single = q(np.full((1, 1, 1, 1), 0.7, np.float32)).numpy()
    assert np.isfinite(single).all()


@each_case
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_represent_refuses_nan_and_infinity(name, config, bad):
    x = np.zeros((2, 3, 2, 2), np.float32)
    x[0, 0, 0, 1] = bad
    with pytest.raises(ValueError, match="1 NaN or infinite"):
        make(name, config).represent(x)


@each_case
def test_arithmetic_is_float32_under_mixed_precision(name, config, rng):
    x = rng.normal(0, 0.8, (20, 6, 2)).astype(np.float16)
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        half = make(name, config)(x)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert half.dtype == tf.float16
    full = make(name, config)(x.astype(np.float32)).numpy()
    np.testing.assert_array_equal(half.numpy(), full.astype(np.float16))


@each_case
def test_levels_are_what_activations_become(name, config, rng):
    q = make(name, config)
    if quantizers.catalogue()[name].target == "weights" or q.precision > 3:
        assert q.levels() is None
        return
    levels = q.levels()
    outputs = np.unique(q(rng.normal(0, 2, 5000).astype(np.float32)).numpy())
    np.testing.assert_array_equal(levels, outputs)
    np.testing.assert_array_equal(q.represent(levels).decode(), levels)


@each_case
def test_config_round_trip(name, config, rng):
    q, x = make(name, config), rng.normal(0, 0.8, (3, 3, 5, 6)).astype(np.float32)
    copies = [
        quantizers.clone(q),
        quantizers.get(quantizers.serialize(q)),
        keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(q)),
    ]
    for copy in copies:
        assert copy is not q and type(copy) is type(q)
        np.testing.assert_array_equal(copy(x).numpy(), q(x).numpy())


@pytest.mark.parametrize("name", quantizers.catalogue())
def test_docstring_tells_formula_gradient_and_paper(name):
    entry = quantizers.catalogue()[name]
    for part in ("Forward: ", "Gradient", "Args:", "Paper: ", entry.arxiv, "Deviations: "):
        assert part in entry.cls.__doc__, part


@pytest.mark.parametrize("name", quantizers.catalogue())
def test_every_row_has_an_oracle(name):
    assert name in oracles.ORACLES
