"""ABC-Net, HORQ and LQ-Nets: worked numbers, invariants, and the learned basis."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from kerasq import quantizers
from kerasq.keras import keras_version
from tests.quantizers.oracles import G_STAR, GX_STAR, W_STAR, X_STAR


def make(name, **config):
    return quantizers.get({"class_name": name, "config": config})


def value_and_gradient(q, x, g):
    x = tf.constant(x, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = q(x)
    return y.numpy(), tape.gradient(y, x, output_gradients=tf.constant(g, tf.float32)).numpy()


def error(q, w):
    return float(((q(w).numpy().astype(np.float64) - w) ** 2).sum())


@pytest.mark.parametrize(("gradient", "factor"), [("paper", 0.866667), ("identity", 1.0)])
def test_abc_weights(gradient, factor):
    q = make("abc_weights", bits=3, gradient=gradient)
    y, got = value_and_gradient(q, W_STAR, G_STAR)
    want = [0.866667, -0.266667, 0.175, -0.266667, 0.175, -0.866667, 0.866667, -0.266667]
    np.testing.assert_allclose(y, want, atol=1e-6)
    np.testing.assert_allclose(got, factor * G_STAR, rtol=1e-5)
    np.testing.assert_allclose(error(q, W_STAR), 0.304583, atol=1e-6)
    stored = q.represent(W_STAR)
    np.testing.assert_allclose(stored.scales[:, 0], [0.345833, 0.220833, 0.3], atol=1e-6)
    signs = [
        [1, -1, -1, -1, -1, -1, 1, -1],
        [1, -1, 1, -1, 1, -1, 1, -1],
        [1, 1, 1, 1, 1, -1, 1, 1],
    ]
    np.testing.assert_array_equal(stored.signs(), signs)


def test_abc_weights_residual_is_orthogonal_to_the_bases_and_shrinks(rng):
    w = rng.normal(0.1, 0.5, (3, 3, 8, 4)).astype(np.float32)
    errors = []
    for bases in (1, 3, 5):  # the shifts of each are among the next one's
        q = make("abc_weights", bits=bases)
        residual = (w - q(w).numpy()).astype(np.float64)
        products = (q.represent(w).signs() * residual).sum((1, 2, 3, 4))
        np.testing.assert_allclose(products, 0, atol=1e-4)
        errors.append(error(q, w))
    assert errors[0] > errors[1] > errors[2]


def test_abc_weights_with_equal_bases():
    # No weight lies between the shifted thresholds: all bases are equal, the matrix singular.
    w = np.array([0.5, -0.5] * 4, np.float32)
    np.testing.assert_allclose(make("abc_weights", bits=2)(0.999 * w), 0.999 * w, rtol=1e-5)
    w = np.full((3, 3, 1, 2), 0.3, np.float32)
    for axes in ((), (-1,)):
        np.testing.assert_allclose(make("abc_weights", bits=5, channel_axes=axes)(w), w, rtol=1e-5)


ABC_SHIFTS = {
    -0.3: ([-1, -1, -1, -1, 1], [0, 0, 1, 1, 1]),
    0.0: ([-1, -1, -1, 1, 1], [0, 1, 1, 1, 0]),
    0.3: ([-1, 1, 1, 1, 1], [0, 1, 1, 1, 0]),
}


@pytest.mark.parametrize("shift", ABC_SHIFTS)
def test_abc_activations(shift):
    q = make("abc_activations", bits=1)
    x = np.array([-0.4, 0.2, 0.45, 0.6, 1.3], np.float32)
    assert q(x) is not None and float(tf.convert_to_tensor(q.shifts)[0]) == 0.0
    q.shifts.assign([shift])
    y, gradient = value_and_gradient(q, x, np.ones(5))
    np.testing.assert_array_equal(y, ABC_SHIFTS[shift][0])
    np.testing.assert_array_equal(gradient, ABC_SHIFTS[shift][1])


def test_abc_activations_start_and_train():
    q = make("abc_activations", bits=3)
    x, g = tf.constant([-0.4, 0.2, 0.45, 0.6, 1.3]), tf.constant([1.0, 2.0, 3.0, 4.0, 5.0])
    np.testing.assert_allclose(q(x), [-1, -1 / 3, -1 / 3, 1 / 3, 1], rtol=1e-6)
    np.testing.assert_array_equal(tf.convert_to_tensor(q.shifts), [-0.5, 0, 0.5])
    with tf.GradientTape() as tape:
        y = q(x)
    variables = [q.shifts, q.scales]
    if keras_version() == 3:
        variables = [variable.value for variable in variables]
    at_shifts, at_scales = tape.gradient(y, variables, output_gradients=g)
    np.testing.assert_allclose(at_shifts, np.array([4 + 5, 2 + 3 + 4, 1 + 2 + 3]) / 3, rtol=1e-6)
    np.testing.assert_allclose(at_scales, [-5, 3, 13], rtol=1e-6)


def test_abc_activations_levels():
    q = make("abc_activations", bits=4)
    np.testing.assert_allclose(q.levels(), [-1, -0.5, 0, 0.5, 1], rtol=1e-6)
    q.shifts.assign([0.1, 0.1, -0.2, 0.0])  # unsorted, two of them equal
    q.scales.assign([0.25, 0.5, 1.0, 2.0])
    x = np.linspace(-3, 3, 601, dtype=np.float32)
    np.testing.assert_array_equal(q.levels(), np.unique(q(x)))
    assert len(q.levels()) == 4
    q.scales.assign([0.25, -0.5, 1.0, 2.0])
    assert q.levels() is None


@pytest.mark.parametrize("scope", ["sample", "tensor"])
def test_horq(scope):
    q = make("horq", bits=2, scope=scope)
    y, gradient = value_and_gradient(q, W_STAR, G_STAR)
    want = np.array([0.775, -0.775, 0.1625, -0.1625, 0.1625, -0.775, 0.775, -0.1625])
    np.testing.assert_allclose(y, want, rtol=1e-6)
    np.testing.assert_allclose(error(make("horq", bits=1), W_STAR), 1.0746875, rtol=1e-6)
    np.testing.assert_allclose(error(q, W_STAR), 0.324375, rtol=1e-6)
    slope = 0.46875 * (np.abs(W_STAR) <= 1) + 0.30625
    np.testing.assert_allclose(gradient, G_STAR * slope, rtol=1e-6)
    with_scales = make("horq", bits=2, scope=scope, differentiate_scales=True)
    _, gradient = value_and_gradient(with_scales, W_STAR, G_STAR)
    np.testing.assert_allclose(gradient, G_STAR * (slope + 2 / 8), rtol=1e-6)


def test_horq_error_falls_by_n_beta_squared():
    betas = [0.46875, 0.30625, 0.15625, 0.101562, 0.057812]
    errors = [1.0746875, 0.324375, 0.1290625, 0.0465430, 0.0198047]
    stored = make("horq", bits=5).represent(W_STAR)
    np.testing.assert_allclose(stored.scales[:, 0], betas, atol=1e-6)
    got = [error(make("horq", bits=k), W_STAR) for k in range(1, 6)]
    np.testing.assert_allclose(got, errors, rtol=1e-5)


def test_horq_has_scales_per_sample(rng):
    x = rng.normal(0, [[[[1.0]]], [[[5.0]]], [[[0.0]]]], (3, 4, 4, 2)).astype(np.float32)
    g = rng.normal(0, 1, x.shape)
    sample, tensor = make("horq", differentiate_scales=True), make("horq", scope="tensor")
    got, gradient = value_and_gradient(sample, x, g)
    for i in range(3):
        alone = make("horq", scope="tensor", differentiate_scales=True)
        want, want_gradient = value_and_gradient(alone, x[i], g[i])
        np.testing.assert_allclose(got[i], want, rtol=1e-6)
        np.testing.assert_allclose(gradient[i], want_gradient, rtol=1e-6)
        stored = sample.represent(x[i : i + 1])
        np.testing.assert_array_equal(stored.decode(), sample(x[i : i + 1]))
        assert stored.scales.shape == (2, 1)
    assert not got[2].any() and np.abs(got - tensor(x).numpy()).max() > 0.1
    np.testing.assert_array_equal(sample.represent(x).decode(), got)


def test_horq_of_an_unknown_batch(rng):
    q = make("horq", bits=4, differentiate_scales=True)
    x = rng.normal(0, 1, (3, 5, 5, 2)).astype(np.float32)
    signature = [tf.TensorSpec([None, None, None, 2])]
    np.testing.assert_array_equal(tf.function(q, input_signature=signature)(x), q(x))


def lq(basis, shape=None, **config):
    q = make("lq_nets", bits=np.shape(basis)[-1], **config)
    q.build(shape or np.shape(basis)[:-1] or (8,))
    q.built = True
    q.basis.assign(basis)
    return q


def basis_of(q):
    return tf.convert_to_tensor(q.basis).numpy()


def test_lq_nets_weights_and_one_step():
    q = lq([0.3, 0.6], channel_axes=[])
    y, gradient = value_and_gradient(q, W_STAR, G_STAR)
    # 0.6 lies on a threshold and takes the lower level.
    np.testing.assert_allclose(y, [0.9, -0.3, 0.3, -0.3, 0.3, -0.9, 0.3, -0.3], rtol=1e-6)
    np.testing.assert_array_equal(gradient, G_STAR)
    np.testing.assert_allclose(error(q, W_STAR), 0.3425, rtol=1e-5)
    np.testing.assert_array_equal(basis_of(q), np.float32([0.3, 0.6]))  # inference moves nothing
    np.testing.assert_array_equal(q(W_STAR, training=True), y)  # the step still has the old basis
    np.testing.assert_allclose(basis_of(q), [0.305417, 0.604583], atol=1e-6)


def step_of_qem(q, w):
    """Put the least-squares basis in: from v, .9 v + .1 v* tells it."""
    old = basis_of(q)
    q(w, training=True)
    q.basis.assign(old + 10 * (basis_of(q) - old))


def test_lq_nets_alternation_ends_in_a_fixed_point():
    q = lq([0.3, 0.6], channel_axes=[])
    step_of_qem(q, W_STAR)
    np.testing.assert_allclose(basis_of(q), [0.354167, 0.645833], atol=3e-6)
    np.testing.assert_allclose(error(q, W_STAR), 0.3220833, atol=1e-6)
    for _ in range(2):
        step_of_qem(q, W_STAR)
        np.testing.assert_allclose(q.represent(W_STAR).decode(), q(W_STAR))
        levels = np.unique(np.abs(q(W_STAR).numpy()))
        np.testing.assert_allclose(levels, [0.2916667, 1.0], atol=1e-5)


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_lq_nets_error_falls_under_alternation(bits, rng):
    w = rng.normal(0, 0.7, (3, 3, 8, 5)).astype(np.float32)
    q = make("lq_nets", bits=bits)
    errors = [error(q, w)]
    for _ in range(6):
        step_of_qem(q, w)
        errors.append(error(q, w))
    assert np.all(np.diff(errors) <= 1e-4) and errors[-1] < 0.5 * errors[0]
    if bits == 1:
        np.testing.assert_allclose(basis_of(q)[:, 0], np.abs(w).mean((0, 1, 2)), rtol=1e-4)


def test_lq_nets_initial_basis():
    activations = make("lq_nets", bits=2, target="activations")
    np.testing.assert_allclose(activations.levels(), 0.449667 * np.arange(4), atol=1e-6)
    weights = make("lq_nets", bits=2)
    weights(np.zeros((3, 3, 16, 64), np.float32))
    want = np.broadcast_to([0.0198726, 0.0397453], (64, 2))
    np.testing.assert_allclose(basis_of(weights), want, atol=1e-7)


def test_lq_nets_activations():
    q = lq([1.0, 2.0], target="activations")
    y, gradient = value_and_gradient(q, X_STAR, GX_STAR)
    np.testing.assert_array_equal(y, [0, 0, 0, 0, 1, 1, 2, 3])  # 0.5 and 2.5 are thresholds
    np.testing.assert_array_equal(gradient, GX_STAR * (X_STAR <= 3))
    np.testing.assert_array_equal(q.levels(), [0, 1, 2, 3])
    # Codes 00, 10, 01 and 11 of the positive values: least squares by hand.
    q(X_STAR, training=True)
    codes = np.array([[0, 0, 0, 0, 1, 1, 0, 1], [0, 0, 0, 0, 0, 0, 1, 1]], float)
    v = np.linalg.solve(codes @ codes.T + 1e-4 * np.eye(2), codes @ X_STAR + 1e-4 * np.arange(1, 3))
    np.testing.assert_allclose(basis_of(q), [0.9 + 0.1 * v[0], 1.8 + 0.1 * v[1]], rtol=1e-5)


def test_lq_nets_basis_survives_a_batch_without_activations():
    q = lq([1.0, 2.0], target="activations")
    q(np.zeros((4, 5), np.float32), training=True)
    np.testing.assert_allclose(basis_of(q), [1, 2], rtol=1e-6)


def test_lq_nets_unsorted_and_negative_basis(rng):
    x = rng.normal(0, 1, (200, 2)).astype(np.float32)
    q = lq([[0.8, -0.3, 0.1], [0.2, 0.2, 0.2]], shape=(200, 2))
    y = q(x).numpy()
    np.testing.assert_array_equal(q.represent(x).decode(), y)
    for c, basis in enumerate(basis_of(q)):
        levels = np.array([[-1, -1, -1], [-1, -1, 1], [-1, 1, -1], [-1, 1, 1]]) @ basis
        nearest = np.abs(x[:, c, None] - np.append(levels, -levels)).min(1)
        np.testing.assert_allclose(np.abs(x[:, c] - y[:, c]), nearest, atol=1e-6)


def test_lq_nets_filter_of_zeros_is_zero(rng):
    w = rng.normal(0, 1, (3, 3, 2, 4)).astype(np.float32)
    w[..., 1] = 0
    q = make("lq_nets", bits=2)
    for _ in range(3):
        y = q(w, training=True).numpy()
        assert not y[..., 1].any() and y[..., [0, 2, 3]].all()
    assert np.isfinite(basis_of(q)).all()
    np.testing.assert_array_equal(q.represent(w).decode(), q(w))


def test_lq_nets_has_one_basis_for_activations():
    q = make("lq_nets", target="activations", channel_axes=[-1])
    assert (
        q.channel_axes == ()
        and quantizers.for_use(make("lq_nets"), "activations").levels() is not None
    )
    assert make("lq_nets").levels() is None


STATEFUL = [
    ("abc_weights", {"bits": 4, "channel_axes": [-1]}),
    ("abc_activations", {"bits": 4}),
    ("horq", {"bits": 4}),
    ("lq_nets", {"bits": 3}),
    ("lq_nets", {"bits": 3, "target": "activations"}),
]


@pytest.mark.parametrize(("name", "config"), STATEFUL)
def test_training_step_is_the_same_in_graph_and_xla(name, config, rng):
    x = tf.constant(rng.normal(0, 0.8, (3, 3, 6, 2)).astype(np.float32))
    results = []
    for wrap in (lambda f: f, tf.function, lambda f: tf.function(f, jit_compile=True)):
        q = make(name, **config)
        q(x)
        step = wrap(lambda x, q=q: q(x, training=True))
        for _ in range(3):
            y = step(x)
        results.append([y.numpy(), *(tf.convert_to_tensor(v).numpy() for v in q.weights)])
    for other in results[1:]:
        for got, want in zip(other, results[0], strict=True):
            np.testing.assert_allclose(got, want, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("abc_weights", {"bits": 0}, "abc_weights: bits must be a whole number in 1..8"),
        ("abc_weights", {"gradient": "exact"}, "abc_weights: gradient must be one of"),
        ("abc_activations", {"bits": 9}, "abc_activations: bits must be a whole number in 1..8"),
        ("horq", {"bits": 2.5}, "horq: bits must be a whole number in 1..8"),
        ("horq", {"scope": "batch"}, "horq: scope must be one of"),
        ("lq_nets", {"bits": 5}, "lq_nets: bits must be a whole number in 1..4"),
        ("lq_nets", {"target": "gradients"}, "lq_nets: target must be one of"),
    ],
)
def test_bad_arguments(name, config, message):
    with pytest.raises(ValueError, match=message):
        make(name, **config)
