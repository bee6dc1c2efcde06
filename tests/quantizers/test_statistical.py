"""QNN, INQ, SAWB, WRPN, Balanced Quantization and HWGQ: worked numbers and what is theirs alone."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from kerasq import quantizers
from tests.quantizers.oracles import G_STAR, GX_STAR, W_STAR, X_STAR


def run(name, config, x, g):
    q = quantizers.get({"class_name": name, "config": config})
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = q(x)
    return y.numpy(), tape.gradient(y, x, output_gradients=tf.constant(g)).numpy()


AP2 = {0.3: 0.25, 0.75: 1, 1.4: 1, 1.42: 2, 3: 4, -5: -4, 0.05: 0.0625, 6: 8, -0.0: 0}


@pytest.mark.parametrize("compiled", [False, True])
def test_ap2(compiled):
    ap2 = tf.function(quantizers.ap2, jit_compile=True) if compiled else quantizers.ap2
    got = ap2(tf.constant(list(AP2), tf.float32)).numpy()
    np.testing.assert_array_equal(got, np.array(list(AP2.values()), np.float32))
    assert not np.signbit(got[-1])
    assert np.isnan(ap2(tf.constant([np.nan])).numpy()).all()


def test_ap2_is_exact_on_both_sides_of_every_threshold(rng):
    below = np.float32(np.sqrt(2))  # the nearest float32 is below the root
    powers = np.ldexp(np.float32(1), np.arange(-126, 126))
    for mantissa, want in ((1.0, 1), (below, 1), (np.nextafter(below, np.float32(2)), 2)):
        got = quantizers.ap2(tf.constant(np.float32(mantissa) * powers)).numpy()
        np.testing.assert_array_equal(got, want * powers)
    x = rng.integers(0x00800000, 0x7F000000, 100_000).astype(np.int32).view(np.float32)
    want = np.exp2(np.round(np.log2(x.astype(np.float64))))
    np.testing.assert_array_equal(quantizers.ap2(tf.constant(x)).numpy(), want)


QNN_LINEAR = {
    2: [0.5, -0.5, 0.5, 0, 0, -1, 0.5, 0],
    4: [0.75, -0.5, 0.25, -0.125, 0, -1, 0.625, -0.25],
}


@pytest.mark.parametrize("bits", QNN_LINEAR)
def test_qnn_linear(bits):
    y, got = run("qnn_linear", {"bits": bits}, W_STAR, G_STAR)
    np.testing.assert_array_equal(y, np.array(QNN_LINEAR[bits], np.float32))
    inside = np.clip(W_STAR, -1, 1 - 2.0 ** (1 - bits)) == W_STAR
    np.testing.assert_array_equal(got, G_STAR * inside)


def test_qnn_linear_normalized_by_the_largest_weight():
    y, got = run("qnn_linear", {"bits": 2, "normalize": True}, W_STAR, G_STAR)
    np.testing.assert_allclose(y, 0.6 * np.array([1, -1, 0, 0, 0, -2, 1, 0]), atol=1e-6)
    np.testing.assert_array_equal(got, G_STAR)
    as_activations = {"bits": 2, "normalize": True, "target": "activations"}
    y, _ = run("qnn_linear", as_activations, W_STAR, G_STAR)
    np.testing.assert_array_equal(y, np.array(QNN_LINEAR[2], np.float32))


@pytest.mark.parametrize("name", ["qnn_linear", "qnn_log"])
def test_qnn_latent_weights_stay_where_gradients_pass(name):
    q = quantizers.get({"class_name": name, "config": {"bits": 2}})
    latent = tf.constant([-3.0, -1.0, 0.4, 0.9, 3.0])
    kept = q.kernel_constraint()(latent).numpy()
    high = 0.5 if name == "qnn_linear" else 1.0
    np.testing.assert_array_equal(kept, np.clip(latent.numpy(), -1, high))
    _, got = run(name, {"bits": 2}, kept, np.ones(5, "f4"))
    np.testing.assert_array_equal(got, np.ones(5))
    config = q.kernel_constraint().get_config()
    assert type(q.kernel_constraint())(**config).get_config() == config


def test_qnn_of_one_bit_is_bnn_and_a_normalized_one_is_free():
    one, free = quantizers.QNNLinear(1), quantizers.QNNLinear(4, normalize=True)
    np.testing.assert_array_equal(one(W_STAR).numpy(), np.where(W_STAR >= 0, 1, -1))
    assert isinstance(one.kernel_constraint(), quantizers.LatentClip)
    assert free.kernel_constraint() is None and free.fixed_grid() is None


@pytest.mark.parametrize(
    ("bits", "want"),
    [
        (4, [1, -0.5, 0.25, -0.125, 0.0625, -1, 0.5, -0.25]),
        (3, [1, -0.5, 0.25, 0, 0, -1, 0.5, -0.25]),
        (2, [1, 0, 0, 0, 0, -1, 0, 0]),
    ],
)
def test_qnn_log(bits, want):
    y, got = run("qnn_log", {"bits": bits}, W_STAR, G_STAR)
    np.testing.assert_array_equal(y, np.array(want, np.float32))
    np.testing.assert_array_equal(got, G_STAR * (np.abs(W_STAR) <= 1))


@pytest.mark.parametrize("bits", range(2, 9))
def test_qnn_log_spends_one_code_on_zero(bits):
    exponents = np.arange(-(2 ** (bits - 1)) + 2, 1)
    powers = np.ldexp(np.float32(1), exponents)
    q = quantizers.QNNLog(bits)
    np.testing.assert_array_equal(q(np.append(powers, 5)).numpy(), np.append(powers, 1))
    below = np.float32(powers[0] / 1.5)  # under 2^(least - 1/2)
    assert not q(np.array([below, -below, 0, np.nan], np.float32)).numpy().any()
    stored = q.represent(np.append(-powers, [0, *powers]).astype("f4"))
    assert stored.codewords.shape[1] == 2**bits - 1 and stored.bits == bits
    assert q.levels() is None if bits > 4 else len(q.levels()) == 2**bits - 1


def test_qnn_log_refuses_a_limit_whose_powers_are_not_normal_numbers():
    with pytest.raises(ValueError, match="limit"):
        quantizers.QNNLog(8, limit=0.5)
    assert quantizers.QNNLog(8, limit=2.0)(np.float32([3])).numpy() == 2


POWERS_OF_TWO = {
    5: [1, -0.5, 0.25, -0.125, 0.0625, -1, 0.5, -0.25],
    4: [1, -0.5, 0.25, -0.125, 0, -1, 0.5, -0.25],
    3: [1, -0.5, 0.5, 0, 0, -1, 0.5, 0],
    2: [1, -1, 0, 0, 0, -1, 1, 0],
}


@pytest.mark.parametrize("bits", POWERS_OF_TWO)
def test_powers_of_two(bits):
    y, got = run("powers_of_two", {"bits": bits}, W_STAR, G_STAR)
    np.testing.assert_array_equal(y, np.array(POWERS_OF_TWO[bits], np.float32))
    np.testing.assert_array_equal(got, G_STAR)


def test_powers_of_two_boundaries():
    # b = 3, max 1.2: levels 1/2 and 1, thresholds 1/4 and 3/4, the lower ends included.
    w = np.array([1.2, 0.75, 0.25, 0, 0], np.float32)
    w[3:] = np.nextafter(w[1:3], np.float32(0))
    np.testing.assert_array_equal(quantizers.PowersOfTwo(3)(w).numpy(), [1, 1, 0.5, 0.5, 0])


@pytest.mark.parametrize("bits", range(2, 9))
def test_powers_of_two_count_their_levels(bits, rng):
    w = rng.normal(0, 1, 64).astype(np.float32)
    stored = quantizers.PowersOfTwo(bits).represent(w)
    assert stored.codewords.shape[1] == 2 ** (bits - 1) + 1 and stored.bits == bits


def test_powers_of_two_with_levels_that_were_fixed_before():
    frozen = quantizers.powers_of_two(tf.constant(W_STAR), 3, tf.constant(5.0)).numpy()
    np.testing.assert_array_equal(frozen, [0, 0, 0, 0, 0, -2, 0, 0])  # levels 2 and 4
    tiny = np.array([1e-38, 2e-38, -1e-40, 0], np.float32)
    assert np.isfinite(quantizers.PowersOfTwo(8)(tiny).numpy()).all()


SAWB = {
    2: (0.8889983, [0.888998, -0.296333, 0.296333, -0.296333, 0.296333, -0.888998, 0.888998]),
    3: (1.2374666, [0.883905, -0.530343, 0.176781, -0.176781, 0.176781, -1.237467, 0.530343]),
    4: (1.5449996, [0.721, -0.515, 0.309, -0.103, 0.103, -1.133, 0.515]),
}


@pytest.mark.parametrize("bits", SAWB)
@pytest.mark.parametrize("gradient", ["clip", "identity"])
def test_sawb(bits, gradient):
    alpha, want = SAWB[bits]
    config = {"bits": bits, "gradient": gradient, "cap": False}
    y, got = run("sawb", config, W_STAR, G_STAR)
    np.testing.assert_allclose(y[:7], want, atol=1e-6)
    np.testing.assert_allclose(y[7], y[3], atol=1e-6)
    inside = np.abs(W_STAR) <= alpha
    np.testing.assert_array_equal(got, G_STAR * (inside if gradient == "clip" else 1))


def test_sawb_alpha_is_at_most_the_largest_weight():
    for bits in (3, 4):
        y, got = run("sawb", {"bits": bits}, W_STAR, G_STAR)
        np.testing.assert_allclose(y.min(), -1.2, rtol=1e-6)
        np.testing.assert_array_equal(got, G_STAR)
    few = np.array([1, 0, 0, 0], np.float32)  # 3.12 / 2 - 2.064 / 4 is above 1
    np.testing.assert_allclose(quantizers.SAWB(2)(few).numpy()[0], 1, rtol=1e-6)


def test_sawb_of_a_gaussian(rng):
    w = rng.normal(0, 1, 200_000).astype(np.float32)
    y = quantizers.SAWB(2)(w).numpy()
    np.testing.assert_allclose(y.max(), 3.12 - 2.064 * 0.797885, rtol=5e-3)


@pytest.mark.parametrize("bits", [2, 4, 7, 8])
def test_sawb_with_zero_has_an_odd_number_of_levels(bits, rng):
    w = np.append(rng.normal(0, 1, 5000), np.zeros(1)).astype(np.float32)
    q = quantizers.SAWB(bits, zero=True)
    y = q(np.append(w, np.linspace(-9, 9, 3000)).astype(np.float32)).numpy()
    assert y[5000] == 0 and len(np.unique(y)) == 2**bits - 1


def test_sawb_zeros_of_a_channel_and_bits_without_coefficients(rng):
    w = rng.normal(0, 1, (3, 3, 4, 2)).astype(np.float32)
    w[..., 1] = 0
    for zero in (False, True):
        q = quantizers.SAWB(4, zero, channel_axes=(-1,))
        y, stored = q(w).numpy(), q.represent(w)
        assert not y[..., 1].any() and y[..., 0].any()
        np.testing.assert_array_equal(stored.decode().view(np.uint32), y.view(np.uint32))
        assert len(stored.zero_point) == 1
    with pytest.raises(ValueError, match="bits"):
        quantizers.SAWB(6)
    with pytest.raises(ValueError, match="bits"):
        quantizers.SAWB(3, zero=True)


def test_wrpn():
    y, got = run("wrpn", {"bits": 3}, W_STAR, G_STAR)
    np.testing.assert_allclose(y, np.array([2, -2, 1, 0, 0, -3, 2, -1]) / 3, rtol=1e-6)
    np.testing.assert_array_equal(got, G_STAR * (np.abs(W_STAR) <= 1))
    y, _ = run("wrpn", {"bits": 2}, W_STAR, G_STAR)
    np.testing.assert_array_equal(y, [1, 0, 0, 0, 0, -1, 1, 0])
    y, got = run("wrpn", {"bits": 2, "target": "activations"}, X_STAR, GX_STAR)
    np.testing.assert_allclose(y, np.array([0, 0, 1, 2, 2, 3, 3, 3]) / 3, rtol=1e-6)
    np.testing.assert_array_equal(got, GX_STAR * [0, 1, 1, 1, 1, 0, 0, 0])


def test_wrpn_weights_of_one_bit_are_bwn(rng):
    w = rng.normal(0, 1, (3, 3, 4, 6)).astype(np.float32)
    q, bwn = quantizers.WRPN(1), quantizers.BWN()
    np.testing.assert_array_equal(q(w).numpy(), bwn(w).numpy())
    np.testing.assert_array_equal(q.represent(w).decode(), bwn(w).numpy())
    assert q.kernel_constraint() is not None and quantizers.WRPN(2).kernel_constraint() is None
    assert quantizers.clone_for_depthwise(q).channel_axes == (-2, -1)
    with pytest.raises(ValueError, match="only 1-bit weights"):
        quantizers.WRPN(2, channel_axes=(-1,))
    activations = quantizers.WRPN(1, target="activations")
    np.testing.assert_array_equal(activations(X_STAR).numpy(), [0, 0, 0, 0, 1, 1, 1, 1])


@pytest.mark.parametrize("method", ["median", "mean"])
def test_balanced(method):
    y, got = run("balanced", {"bits": 2, "method": method}, W_STAR, G_STAR)
    bins = np.array([3, 0, 2, 1, 2, 0, 3, 1])
    np.testing.assert_allclose(y, 1.2 * (2 * bins / 3 - 1), atol=1e-6)
    np.testing.assert_array_equal(got, G_STAR)
    y, _ = run("balanced", {"method": method, "scale": "mean", "factor": 2}, W_STAR, G_STAR)
    np.testing.assert_allclose(y, 0.9375 * (2 * bins / 3 - 1), atol=1e-6)


@pytest.mark.parametrize("bits", range(1, 9))
def test_balanced_counts_differ_by_one_and_order_is_kept(bits, rng):
    for size in (1, 5, 256, 997):
        w = rng.permutation(size).astype(np.float32) - size / 3
        q = quantizers.Balanced(bits)
        codes = q.represent(w).codes()
        counts = np.bincount(codes, minlength=2**bits)
        assert counts.max() - counts.min() <= 1
        assert np.all(np.diff(codes[np.argsort(w)].astype(int)) >= 0)
        np.testing.assert_array_equal(q.represent(w**3).codes(), codes)


@pytest.mark.parametrize("method", ["median", "mean"])
def test_balanced_keeps_equal_weights_together(method, rng):
    w = rng.integers(-3, 4, 500).astype(np.float32) / 10
    y = quantizers.Balanced(3, method=method)(w).numpy()
    for value in np.unique(w):
        assert len(np.unique(y[w == value])) == 1
    for value in (0.7, -0.7, 0):
        constant = np.full(9, value, np.float32)
        got = quantizers.Balanced(3, method=method)(constant).numpy()
        np.testing.assert_allclose(got, constant, rtol=1e-6)


HWGQ_MASKS = {
    "vanilla": [0, 1, 1, 1, 1, 1, 1, 1],
    "clipped": [0, 1, 1, 1, 1, 1, 0, 0],
    "log_tailed": [0, 1, 1, 1, 1, 1, 0.530223, 0.156593],
}


@pytest.mark.parametrize("gradient", HWGQ_MASKS)
def test_hwgq(gradient):
    y, got = run("hwgq", {"gradient": gradient}, X_STAR, GX_STAR)
    want = [0, 0.538, 0.538, 0.538, 0.538, 1.076, 1.614, 1.614]
    np.testing.assert_allclose(y, want, rtol=1e-6)
    np.testing.assert_allclose(got, GX_STAR * HWGQ_MASKS[gradient], rtol=5e-6)


def test_hwgq_two_levels():
    y, _ = run("hwgq", {"uniform": False, "positive_levels": 2}, X_STAR, GX_STAR)
    np.testing.assert_array_equal(y, np.float32([0, *[0.453] * 4, *[1.51] * 3]))
    with pytest.raises(ValueError, match="positive_levels"):
        quantizers.HWGQ(bits=3, uniform=False, positive_levels=2)


@pytest.mark.parametrize("bits", range(1, 5))
@pytest.mark.parametrize("uniform", [True, False])
def test_hwgq_first_threshold_is_zero_and_levels_are_near_the_optimum(bits, uniform, rng):
    q = quantizers.HWGQ(bits, uniform=uniform)
    levels = q.levels()
    assert len(levels) == 2**bits and levels[0] == 0
    edge = np.array([-1e-30, 0, 1e-30, 1e30, np.nan], np.float32)
    np.testing.assert_array_equal(q(edge).numpy(), levels[[0, 0, 1, -1, 0]])
    x = np.abs(rng.normal(0, 1, 400_000)).astype(np.float32)

    def error(positive):
        middles = (positive[1:] + positive[:-1]) / 2
        return np.mean((positive[np.searchsorted(middles, x)] - x) ** 2)

    for factor in (0.95, 1.05):
        assert error(levels[1:]) < error(factor * levels[1:])


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("qnn_linear", {"bits": 4}),
        ("qnn_log", {"bits": 4}),
        ("powers_of_two", {"bits": 5}),
        ("sawb", {"bits": 4}),
        ("wrpn", {"bits": 4}),
        ("balanced", {"bits": 3}),
        ("balanced", {"bits": 3, "method": "mean"}),
        ("hwgq", {"bits": 3}),
        ("hwgq", {"bits": 3, "uniform": False}),
    ],
)
def test_compiled_by_xla(name, config, rng):
    q = quantizers.get({"class_name": name, "config": config})
    x = tf.constant(rng.normal(0, 0.8, (3, 3, 5, 6)), tf.float32)

    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = q(x)
        return y, tape.gradient(y, x)

    for got, want in zip(tf.function(step, jit_compile=True)(x), step(x), strict=True):
        np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=1e-6)


@pytest.mark.parametrize("name", ["qnn_linear", "qnn_log", "wrpn", "hwgq"])
def test_activations_of_an_unknown_batch(name, rng):
    for config in ({}, {"uniform": False}) if name == "hwgq" else ({},):
        config = {**config, "target": "activations"}
        q = quantizers.get({"class_name": name, "config": config})
        x = rng.normal(0, 0.8, (5, 4)).astype(np.float32)
        unknown = tf.function(q, input_signature=[tf.TensorSpec([None, 4])])
        np.testing.assert_array_equal(unknown(x).numpy(), q(x).numpy())
