"""Every quantizer of the registry against its oracle, and the properties all must have."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from kerasq import quantizers
from kerasq.keras import keras
from tests.quantizers.oracles import METHODS

# A method that changes only the gradients has no values to store.
STORED = [n for n, entry in quantizers.catalogue().items() if entry.target != "gradients"]
CASES = [(name, config) for name in STORED for config in METHODS[name].variants]
SHAPES = {
    "dense": (20, 7),
    "conv": (3, 3, 5, 6),
    "depthwise": (3, 3, 6, 2),
    "ragged": (1, 1, 13, 9),
}
IDS = [f"{name}-{'-'.join(f'{k}={v}' for k, v in config.items())}" for name, config in CASES]
each_case = pytest.mark.parametrize(("name", "config"), CASES, ids=IDS)
# Every variant as a convolution; a method's first variant in the other shapes too.
SHAPED = [
    pytest.param(name, config, shape, id=f"{label}-{kind}")
    for label, (name, config) in zip(IDS, CASES, strict=True)
    for kind, shape in SHAPES.items()
    if kind == "conv" or config == METHODS[name].variants[0]
]
each_shape = pytest.mark.parametrize(("name", "config", "shape"), SHAPED)


def make(name, config, x=None):
    """Return a quantizer; with the state of its method for ``x``, where it has one."""
    q = quantizers.get({"class_name": name, "config": config})
    state = METHODS[name].state
    if x is not None and state is not None:
        q.build(x.shape)
        q.built = True
        variables = variables_of(q)
        for key, value in state(x, config).items():
            variables[key].assign(np.asarray(value, np.float32))
    return q


def variables_of(q):
    return {v.name.split("/")[-1].split(":")[0]: v for v in q.weights}


def value_and_gradient(q, x, g):
    """Return the value, its gradient, and those of the trained parameters by name."""
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = q(x)
    trained = {k: v for k, v in variables_of(q).items() if v.trainable}
    sources = {
        k: getattr(v, "value", v) if keras.__version__ >= "3" else v for k, v in trained.items()
    }
    at_x, at_state = tape.gradient(y, [x, sources], output_gradients=tf.constant(g))
    return y.numpy(), at_x.numpy(), {k: v.numpy() for k, v in at_state.items()}


@each_shape
def test_value_and_gradient_follow_the_formula(name, config, shape, rng):
    x = rng.normal(0, 0.8, shape).astype(np.float32)
    g = rng.normal(0, 1, shape).astype(np.float32)
    q = make(name, config, x)
    state = {key: np.asarray(v, np.float64) for key, v in variables_of(q).items()}
    method = METHODS[name]
    want, want_gradient, want_trained = method.oracle(
        x.astype(np.float64), g.astype(np.float64), state, **config
    )
    got, gradient, trained = value_and_gradient(q, x, g)
    tolerance = method.gradient_tolerance
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(gradient, want_gradient, rtol=tolerance, atol=0.1 * tolerance)
    assert set(trained) == set(want_trained)
    for key, want_of_key in want_trained.items():
        np.testing.assert_allclose(
            trained[key], want_of_key, rtol=10 * tolerance, atol=10 * tolerance, err_msg=key
        )


@each_shape
def test_represent_is_exact(name, config, shape, rng):
    for scale in (1e-3, 30.0, 0.8):
        x = rng.normal(0, scale, shape).astype(np.float32)
        q = make(name, config, x)
        stored = q.represent(x)
        # As integers: not even the sign of a zero differs.
        np.testing.assert_array_equal(stored.decode().view(np.uint32), q(x).numpy().view(np.uint32))
    graph_value = tf.function(q)(tf.constant(x)).numpy()
    np.testing.assert_array_equal(stored.decode(), graph_value)
    assert type(stored).__name__ in quantizers.catalogue()[name].representation


@each_case
def test_number_of_levels_and_stored_bits(name, config, rng):
    shape, levels = (3, 3, 64, 8), METHODS[name].levels
    x = rng.normal(0, 0.8, shape).astype(np.float32)
    q = make(name, config, x)
    y = q(x).numpy()
    axes = tuple(a % 4 for a in q.channel_axes)
    groups = y.reshape(-1, int(np.prod([shape[a] for a in axes], dtype=int)))
    most = 2**q.precision if levels is None else levels(config)
    assert max(len(np.unique(group)) for group in groups.T) <= most
    low, high = quantizers.catalogue()[name].bits
    assert low <= q.precision <= high
    # What is stored for each element; beside it stand scales or codewords, which all share.
    stored = 8 * q.represent(x).packed.nbytes / x.size
    in_a_row = len(groups) if axes else 8
    padding = -(-in_a_row // 8) * 8 / in_a_row  # each row begins in a byte of its own
    assert q.precision <= stored < q.precision * padding + 0.2


@each_case
def test_monotone(name, config, rng):
    # Along the first axis, which no scale is kept for: channels differ, each is monotone.
    x = np.sort(rng.normal(0, 0.8, (500, 1, 2, 2)).astype(np.float32), axis=0)
    if METHODS[name].monotone(config):
        assert np.all(np.diff(make(name, config, x)(x).numpy(), axis=0) >= 0)


@each_case
def test_symmetric_and_idempotent(name, config, rng):
    method, x = METHODS[name], rng.normal(0, 0.8, (3, 3, 5, 6)).astype(np.float32)
    q = make(name, config, x)
    y = q(x).numpy()
    if method.symmetric(config):
        np.testing.assert_allclose(q(-x).numpy(), -y, atol=1e-6)
    assert np.allclose(q(y).numpy(), y, atol=1e-6) == method.idempotent(config)


@each_case
def test_scale_equivariance(name, config, rng):
    x = rng.normal(0, 0.8, (3, 3, 5, 6)).astype(np.float32)
    q = make(name, config)
    if METHODS[name].equivariant(config):
        np.testing.assert_allclose(q(4 * x).numpy(), 4 * q(x).numpy(), rtol=1e-6)


@each_case
def test_degenerate_tensors(name, config):
    for value in (0.0, 0.3, -0.3):
        q, x = make(name, config), np.full((3, 3, 2, 4), value, np.float32)
        y, gradient, trained = value_and_gradient(q, x, np.ones_like(x))
        assert np.isfinite(y).all() and np.isfinite(gradient).all()
        assert all(np.isfinite(v).all() for v in trained.values())
        np.testing.assert_array_equal(q.represent(x).decode(), y)
        if value == 0.0 and METHODS[name].zero(config):
            assert not y.any()
    single = make(name, config)(np.full((1, 1, 1, 1), 0.7, np.float32)).numpy()
    assert np.isfinite(single).all()


@each_case
def test_represent_refuses_nan_and_infinity(name, config):
    q = make(name, config)
    for bad in (np.nan, np.inf, -np.inf):
        x = np.zeros((2, 3, 2, 2), np.float32)
        x[0, 0, 0, 1] = bad
        with pytest.raises(ValueError, match="1 NaN or infinite"):
            q.represent(x)


@each_case
def test_arithmetic_is_float32_under_mixed_precision(name, config, rng):
    x = rng.normal(0, 0.8, (20, 6, 2)).astype(np.float16)
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        half = make(name, config, x)(x)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert half.dtype == tf.float16
    full = make(name, config, x)(x.astype(np.float32)).numpy()
    np.testing.assert_array_equal(half.numpy(), full.astype(np.float16))


@each_case
def test_levels_are_what_activations_become(name, config, rng):
    x = rng.normal(0, 2, (500, 10)).astype(np.float32)
    q = make(name, {**config, "target": "activations"} if takes_activations(name) else config, x)
    levels = q.levels()
    if levels is None:
        return
    assert np.all(np.diff(levels) > 0) and levels.dtype == np.float32
    outputs = np.unique(q(x).numpy())
    assert set(outputs) <= set(levels)
    if not getattr(q, "per_feature", False):
        np.testing.assert_array_equal(q.represent(levels).decode(), q(levels).numpy())


def takes_activations(name):
    return quantizers.catalogue()[name].target in ("activations", "both")


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


@pytest.mark.parametrize("name", STORED)
def test_every_row_has_an_oracle(name):
    assert name in METHODS
