"""PACT, LSQ, QIL, DSQ and NICE: worked numbers, first values, schedules and training."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

import kerasq
from kerasq import quantizers
from kerasq.keras import keras
from kerasq.layers import QuantDense
from kerasq.quantizers.dsq import dsq_soft
from kerasq.quantizers.lsq import lsq
from kerasq.quantizers.nice import nice_activation_clamp, nice_bias, nice_weight_clamp
from kerasq.quantizers.qil import qil_transform
from tests.quantizers.oracles import G_STAR, GX_STAR, W_STAR, X_STAR

WEIGHTS, ACTIVATIONS = "weights", "activations"


def make(name, shape=(8,), target=WEIGHTS, state=None, **config):
    """Return a built quantizer whose variables hold ``state``."""
    if name != "pact":
        config["target"] = target
    q = quantizers.get({"class_name": name, "config": config})
    q.build(shape)
    q.built = True
    for key, value in (state or {}).items():
        getattr(q, key).assign(value)
    return q


def read(variable):
    return np.asarray(tf.convert_to_tensor(variable))


def raw(variable):
    """Return TensorFlow's variable, which a tape knows."""
    return variable.value if keras.__version__ >= "3" else variable


def run(q, x, g, names=(), training=False):
    """Return the value, the gradient at x, and those at the variables named."""
    x = tf.constant(x)
    sources = [raw(getattr(q, name)) for name in names]
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = q(x, training=training)
    at_x, *at_names = tape.gradient(y, [x, *sources], output_gradients=tf.constant(g))
    return y.numpy(), at_x.numpy(), [float(v) for v in at_names]


# --- PACT


@pytest.mark.parametrize(
    ("alpha", "bits", "want", "mask", "at_alpha"),
    [
        (1.0, 2, np.array([0, 0, 1, 2, 2, 3, 3, 3]) / 3, [0, 1, 1, 1, 1, 0, 0, 0], 21),
        (2.0, 3, np.array([0, 0, 1, 2, 3, 4, 7, 7]) * 2 / 7, [0, 1, 1, 1, 1, 1, 0, 0], 15),
    ],
)
def test_pact(alpha, bits, want, mask, at_alpha):
    for q in (
        make("pact", bits=bits, alpha=alpha),
        make("pact", bits=bits, state={"alpha": alpha}),
    ):
        y, gradient, trained = run(q, X_STAR, GX_STAR, ["alpha"])
        np.testing.assert_allclose(y, want, rtol=1e-6)
        np.testing.assert_array_equal(gradient, GX_STAR * mask)
        assert trained == [at_alpha]


def test_pact_ties_belong_to_alpha():
    _, gradient, (at_alpha,) = run(
        make("pact", alpha=1.0), np.array([0.0, 1.0], "f4"), np.ones(2, "f4"), ["alpha"]
    )
    np.testing.assert_array_equal(gradient, [0, 0])
    assert at_alpha == 1.0


def test_pact_with_a_large_alpha_and_many_bits_is_the_relu():
    y = make("pact", bits=8, alpha=7.0)(X_STAR).numpy()
    np.testing.assert_allclose(y, np.maximum(X_STAR, 0), atol=7 / 255 / 2)


def test_pact_recovers_from_a_negative_alpha():
    y, _, (at_alpha,) = run(make("pact", state={"alpha": -1.0}), X_STAR, GX_STAR, ["alpha"])
    assert np.isfinite(y).all() and np.isclose(y.max(), 1e-3)
    assert at_alpha == GX_STAR[1:].sum()


def test_pact_penalty():
    model = keras.Sequential(
        [
            keras.layers.Input((3,)),
            QuantDense(2, input_quantizer=quantizers.PACT(alpha=3.0, alpha_decay=0.5)),
        ]
    )
    np.testing.assert_allclose([float(v) for v in model.losses], [4.5], rtol=1e-6)
    assert make("pact").losses == []


def test_pact_levels_before_it_is_built():
    np.testing.assert_array_equal(quantizers.PACT(2, alpha=3.0).levels(), [0, 1, 2, 3])


# --- LSQ


def test_lsq():
    q = make("lsq", bits=2, state={"step": 0.29})
    y, gradient, (at_step,) = run(q, W_STAR, G_STAR, ["step"])
    np.testing.assert_allclose(y, 0.29 * np.array([1, -2, 1, 0, 0, -2, 1, -1]), rtol=1e-6)
    np.testing.assert_array_equal(gradient, G_STAR * [0, 1, 0, 1, 1, 0, 0, 1])
    np.testing.assert_allclose(at_step, -0.5193577, rtol=1e-5)
    y = make("lsq", bits=4, state={"step": 0.29})(W_STAR).numpy()
    np.testing.assert_allclose(y, 0.29 * np.array([3, -2, 1, 0, 0, -4, 2, -1]), rtol=1e-6)


def test_lsq_step_gradient_of_each_weight():
    want = [1, -0.275862, 1, 0.344828, -0.172414, -2, 1, -0.310345]
    got = []
    for i in range(8):
        step = tf.constant(0.29)
        with tf.GradientTape() as tape:
            tape.watch(step)
            y = lsq(tf.constant(W_STAR), step, 2)
        got.append(float(tape.gradient(y, step, output_gradients=tf.one_hot(i, 8))))
    np.testing.assert_allclose(got, want, atol=2e-6)


def test_lsq_at_the_border_is_clipped():
    _, gradient, (at_step,) = run(
        make("lsq", (1,), bits=2, state={"step": 0.3}),
        np.array([0.3], "f4"),
        np.ones(1, "f4"),
        ["step"],
    )
    assert gradient == [0] and at_step == 1.0


@pytest.mark.parametrize(("bits", "step"), [(2, 0.9375), (4, 0.3543417)])
def test_lsq_first_step(bits, step):
    q = make("lsq", bits=bits)
    inference = q(W_STAR).numpy()
    assert read(q.step) == 0.0
    np.testing.assert_array_equal(q(W_STAR, training=True).numpy(), inference)
    np.testing.assert_allclose(read(q.step), step, rtol=1e-6)
    q(2 * W_STAR, training=True)
    np.testing.assert_allclose(read(q.step), step, rtol=1e-6)


def test_lsq_first_steps_per_filter(rng):
    w = rng.normal(0, 1, (3, 3, 4, 5)).astype(np.float32)
    w[..., 2] = 0.0
    q = make("lsq", w.shape, bits=4, channel_axes=[-1])
    q(w, training=True)
    want = 2 * np.abs(w).mean((0, 1, 2)) / np.sqrt(7)
    np.testing.assert_allclose(read(q.step), want, rtol=1e-5)
    assert not q(w).numpy()[..., 2].any()
    w[..., 2] = 0.3  # an all-zero filter gets its step when it has weights
    q(w, training=True)
    np.testing.assert_allclose(read(q.step)[2], 0.6 / np.sqrt(7), rtol=1e-5)
    np.testing.assert_allclose(np.delete(read(q.step), 2), np.delete(want, 2), rtol=1e-5)


@pytest.mark.parametrize(("count_batch", "count"), [(False, 4), (True, 8)])
def test_lsq_gradient_scale_of_activations(count_batch, count):
    q = make("lsq", (None, 4), ACTIVATIONS, {"step": 1.0}, bits=2, count_batch=count_batch)
    x = np.full((2, 4), 9.0, np.float32)
    _, _, (at_step,) = run(q, x, np.ones_like(x), ["step"])
    np.testing.assert_allclose(at_step, 8 * 3 / np.sqrt(count * 3), rtol=1e-6)


def test_lsq_signs():
    assert make("lsq").has_sign and not make("lsq", target=ACTIVATIONS).has_sign
    q = make("lsq", target=ACTIVATIONS, bits=2, signed=True, state={"step": 1.0})
    np.testing.assert_array_equal(q(np.array([-5, -1, 5], "f4")).numpy(), [-2, -1, 1])
    np.testing.assert_array_equal(q.levels(), [-2, -1, 0, 1])


@pytest.mark.parametrize("config", [{"target": WEIGHTS}, {"signed": True}])
def test_lsq_of_one_bit_has_no_sign(config):
    with pytest.raises(ValueError, match=r"lsq with a sign: bits must be .* 2..8"):
        quantizers.LSQ(1, **config)
    with pytest.raises(ValueError, match="lsq with a sign"):
        quantizers.LSQ(1).build((2, 2))
    assert QuantDense(2, input_quantizer=quantizers.LSQ(1)).input_quantizer.precision == 1


# --- QIL

QIL_STATE = {"center": 0.52, "distance": 0.36}


@pytest.mark.parametrize(
    ("gamma", "transformed", "codes"),
    [
        (
            1.0,
            [0.888889, -0.472222, 0.194444, 0, 0, -1, 0.611111, -0.055556],
            [3, -1, 1, 0, 0, -3, 2, 0],
        ),
        (
            2.0,
            [0.790123, -0.222994, 0.037809, 0, 0, -1, 0.373457, -0.003086],
            [2, -1, 0, 0, 0, -3, 1, 0],
        ),
    ],
)
def test_qil(gamma, transformed, codes):
    got = qil_transform(tf.constant(W_STAR), tf.constant(0.52), tf.constant(0.36), gamma)
    np.testing.assert_allclose(got, transformed, atol=1e-6)
    y = make("qil", bits=3, state={**QIL_STATE, "gamma": gamma})(W_STAR).numpy()
    np.testing.assert_allclose(y, np.array(codes) / 3, rtol=1e-6)
    np.testing.assert_array_equal(make("qil", bits=3, gamma=gamma, state=QIL_STATE)(W_STAR), y)


def test_qil_gradients():
    at_center = np.array([-1.388889, 1.388889, -1.388889, 0, 0, 0, -1.388889, 1.388889])
    at_distance = np.array([-1.080247, -0.077160, 0.848765, 0, 0, 0, -0.308642, -1.234568])
    q = make("qil", bits=3, state=QIL_STATE)
    _, gradient, trained = run(q, W_STAR, G_STAR, ["center", "distance"])
    np.testing.assert_allclose(gradient, G_STAR * np.abs(at_center), rtol=1e-5)
    np.testing.assert_allclose(trained, [G_STAR @ at_center, G_STAR @ at_distance], rtol=1e-4)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("gamma", [0.6, 1.0, 2.3])
def test_qil_transformer_gradients_are_its_derivatives(signed, gamma):
    values = [tf.constant(v) for v in (W_STAR, 0.52, 0.36, gamma)]
    with tf.GradientTape() as tape:
        tape.watch(values)
        y = qil_transform(*values, signed)
    got = tape.gradient(y, values, output_gradients=tf.constant(G_STAR))
    exact = [np.asarray(v, np.float64) for v in values]

    def total(x, c, d, gamma):
        m, sign = (np.abs(x), np.sign(x)) if signed else (x, 1.0)
        return G_STAR @ (np.clip(0.5 * (m - c) / d + 0.5, 0, 1) ** gamma * sign)

    for i, at in enumerate(got[1:], 1):
        moved = [[v + h * (j == i) for j, v in enumerate(exact)] for h in (1e-6, -1e-6)]
        np.testing.assert_allclose(at, (total(*moved[0]) - total(*moved[1])) / 2e-6, rtol=1e-3)
    for i, at in enumerate(got[0].numpy()):
        h = 1e-6 * np.eye(8)[i]
        numeric = (total(exact[0] + h, *exact[1:]) - total(exact[0] - h, *exact[1:])) / 2e-6
        np.testing.assert_allclose(at, numeric, rtol=1e-3, atol=1e-6)


def test_qil_activations():
    q = make("qil", target=ACTIVATIONS, bits=2, state={"center": 1.0, "distance": 0.95})
    y = q(X_STAR).numpy()
    np.testing.assert_allclose(y, np.array([0, 0, 0, 1, 1, 2, 3, 3]) / 3, rtol=1e-6)
    assert not hasattr(q, "gamma")


@pytest.mark.parametrize("target", [WEIGHTS, ACTIVATIONS])
def test_qil_first_interval_covers_everything(target):
    q = make("qil", target=target, bits=3)
    assert q.levels() is None
    inference = q(W_STAR).numpy()
    assert read(q.center) == read(q.distance) == 0.0
    np.testing.assert_array_equal(q(W_STAR, training=True).numpy(), inference)
    assert read(q.center) == read(q.distance) == np.float32(0.6)
    if target == WEIGHTS:
        np.testing.assert_allclose(inference, np.round(W_STAR / 1.2 * 3) / 3, rtol=1e-6)


def test_qil_keeps_zero_where_the_interval_reaches_below_it():
    q = make("qil", bits=3, state={"center": 0.1, "distance": 0.5})
    y = q(np.array([-1e-6, 0.0, 1e-6], np.float32)).numpy()
    np.testing.assert_allclose(y, [-1 / 3, 0, 1 / 3], rtol=1e-6)


def test_qil_one_bit_weights():
    y, gradient, _ = run(make("qil", bits=1), W_STAR, G_STAR)
    np.testing.assert_allclose(y, 0.46875 * np.where(W_STAR >= 0, 1, -1), rtol=1e-6)
    np.testing.assert_array_equal(gradient, G_STAR)


def test_qil_trains_gamma_of_two_bits_only():
    trained = {bits: make("qil", bits=bits).gamma.trainable for bits in (2, 3, 8)}
    assert trained == {2: True, 3: False, 8: False}
    assert make("qil", bits=5, trainable_gamma=True).gamma.trainable
    assert not make("qil", bits=2, trainable_gamma=False).gamma.trainable


def test_qil_distance_below_zero_is_estimated_anew():
    q = make("qil", bits=3, state={"center": 0.3, "distance": -0.1})
    assert np.isfinite(q(W_STAR, training=True).numpy()).all()
    np.testing.assert_array_equal([read(q.center), read(q.distance)], np.float32([0.3, 0.6]))


# --- DSQ

DSQ_STATE = {"lower": -1.0, "upper": 1.0, "alpha": 0.2}


def test_dsq():
    q = make("dsq", bits=2, state=DSQ_STATE)
    y, gradient, _ = run(q, W_STAR, np.ones(8, "f4"))
    np.testing.assert_allclose(y, np.array([3, -1, 1, -1, 1, -3, 1, -1]) / 3, rtol=1e-6)
    want = [1.138820, 1.029949, 0.586672, 1.234267, 1.336637, 0, 1.309044, 0.914782]
    np.testing.assert_allclose(gradient, want, rtol=1e-5)
    soft = dsq_soft(*(tf.constant(v) for v in (W_STAR, -1.0, 1.0, 0.2)), bits=2)
    want = [0.838827, -0.458333, 0.315346, -0.132561, 0.068048, -1, 0.576561, -0.240754]
    np.testing.assert_allclose(soft, want, rtol=1e-5)


def test_dsq_soft_value_is_continuous_at_the_borders():
    borders = np.array([-1, -1 / 3, 1 / 3, 1], np.float32)
    for x in (borders, np.nextafter(borders, -2), np.nextafter(borders, 2)):
        soft = dsq_soft(*(tf.constant(v) for v in (x, -1.0, 1.0, 0.2)), bits=2)
        np.testing.assert_allclose(soft, borders, atol=1e-6)


def test_dsq_limits_of_alpha():
    x = np.array([-1 / 3, 1 / 3])[:, None] + np.array([-0.25, 0.25]) * 2 / 3  # between borders
    x = x.ravel().astype(np.float32)
    straight = make("dsq", bits=2, state={**DSQ_STATE, "alpha": 0.999})
    np.testing.assert_allclose(run(straight, x, np.ones(4, "f4"))[1], 1.0, atol=1e-2)
    for alpha, want, near in ((0.999, x, 1e-3), (0.001, straight(x), 0.02)):
        soft = dsq_soft(*(tf.constant(v) for v in (x, -1.0, 1.0, alpha)), bits=2)
        np.testing.assert_allclose(soft, want, atol=near)


def test_dsq_soft_gradients_are_derivatives():
    state = [tf.constant(v) for v in (-0.7, 0.9, 0.3)]
    q = make("dsq", bits=3, state=dict(zip(DSQ_STATE, state, strict=True)))
    _, at_x, trained = run(q, W_STAR, G_STAR, ["lower", "upper", "alpha"])
    values = [tf.constant(W_STAR), *state]
    with tf.GradientTape() as tape:  # the soft value, with floor held constant, by autodiff
        tape.watch(values)
        y = dsq_soft(*values, bits=3)
    want_x, *want = tape.gradient(y, values, output_gradients=tf.constant(G_STAR))
    np.testing.assert_allclose(at_x, want_x, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(trained, want, rtol=1e-4)


@pytest.mark.parametrize("target", [WEIGHTS, ACTIVATIONS])
def test_dsq_first_bounds(target):
    q = make("dsq", target=target, bits=2)
    assert q.levels() is None
    inference = q(W_STAR).numpy()
    assert read(q.lower) == read(q.upper) == 0.0
    np.testing.assert_array_equal(q(W_STAR, training=True).numpy(), inference)
    np.testing.assert_array_equal([read(q.lower), read(q.upper)], np.float32([-1.2, 0.8]))
    q(3 * W_STAR, training=True)
    np.testing.assert_array_equal([read(q.lower), read(q.upper)], np.float32([-1.2, 0.8]))


def test_dsq_bounds_may_follow_the_data():
    q = make("dsq", target=ACTIVATIONS, bits=2, ema=0.1)
    assert not q.lower.trainable and not q.upper.trainable and q.alpha.trainable
    q(W_STAR, training=True)
    q(2 * W_STAR, training=True)
    q(9 * W_STAR)
    np.testing.assert_allclose([read(q.lower), read(q.upper)], [-1.32, 0.88], rtol=1e-6)
    assert make("dsq", bits=2, ema=0.1).lower.trainable  # weights: learned


def test_dsq_keeps_alpha_in_its_range():
    q = make("dsq", state={**DSQ_STATE, "alpha": 1.5})
    assert np.isfinite(run(q, W_STAR, G_STAR)[1]).all()
    q(W_STAR, training=True)
    assert read(q.alpha) == np.float32(0.999)


def test_dsq_keeps_a_constant():
    x = np.full((2, 3), -0.3, np.float32)
    for training in (False, True):
        np.testing.assert_array_equal(make("dsq", x.shape)(x, training=training), x)


# --- NICE


def test_nice_weights():
    np.testing.assert_allclose(nice_weight_clamp(tf.constant(W_STAR)), 2.2228197, rtol=1e-6)
    q = make("nice", bits=4)
    q(W_STAR, training=True)
    np.testing.assert_allclose(read(q.clamp), 2.2228197, rtol=1e-6)
    np.testing.assert_allclose(np.diff(np.unique(q(W_STAR)))[-1], 0.3175457, rtol=1e-5)
    q(3 * W_STAR, training=True)  # it stays
    np.testing.assert_allclose(read(q.clamp), 2.2228197, rtol=1e-6)
    y, gradient, _ = run(make("nice", bits=4, state={"clamp": 1.47}), W_STAR, G_STAR)
    np.testing.assert_allclose(y, [0.84, -0.42, 0.21, 0, 0, -1.26, 0.63, -0.21], rtol=1e-5)
    np.testing.assert_array_equal(gradient, G_STAR)


def test_nice_noise(rng):
    w = rng.normal(0, 1, (40, 100)).astype(np.float32)
    q = make("nice", w.shape, stage="noisy", bits=3, state={"clamp": 2.0})
    hard = q(w).numpy()
    noisy = q(w, training=True).numpy()
    share = np.mean(noisy != hard)
    assert abs(share - 0.05) < 0.012  # 3.5 standard deviations
    changed = noisy != hard
    clipped = np.clip(w, -2, 2)
    assert np.abs(noisy - clipped)[changed].max() <= 1 / 3 * 1.0001  # half of 2 / 3
    assert np.abs(noisy).max() <= 2.0


def test_nice_pure_noise_and_none(rng):
    w = rng.uniform(-1, 1, (100, 100)).astype(np.float32)
    pure = make("nice", w.shape, stage="noisy", bits=3, probability=1.0, state={"clamp": 2.0})
    noise = pure(w, training=True).numpy() - w
    np.testing.assert_allclose(noise.mean(), 0, atol=0.01)
    np.testing.assert_allclose(noise.std(), 2 / 3 / np.sqrt(12), rtol=0.02)
    assert np.any(noise != pure(w, training=True).numpy() - w)
    gradient = run(pure, w, w, training=True)[1]
    np.testing.assert_array_equal(gradient, w)
    none = make("nice", w.shape, stage="noisy", bits=3, probability=0.0, state={"clamp": 2.0})
    np.testing.assert_array_equal(none(w, training=True), pure(w))


@pytest.mark.parametrize("target", [WEIGHTS, ACTIVATIONS])
def test_nice_stages(target):
    q = make("nice", target=target, bits=3, state={"clamp": 1.0})
    hard = q(W_STAR).numpy()
    np.testing.assert_array_equal(q(W_STAR, training=True), hard)
    q.set_stage("float")
    want = W_STAR if target == WEIGHTS else np.clip(W_STAR, 0, 1)
    for training in (False, True):
        np.testing.assert_array_equal(q(W_STAR, training=training), want)
    assert q.levels() is None
    with pytest.raises(ValueError, match=r"nice: in the float stage .* set_stage\('quantized'\)"):
        q.represent(W_STAR)
    q.set_stage("noisy")
    np.testing.assert_array_equal(q(W_STAR), hard)
    np.testing.assert_array_equal(q.represent(W_STAR).decode(), hard)
    with pytest.raises(ValueError, match="nice: stage must be one of"):
        q.set_stage("loud")


def test_nice_stage_changes_inside_of_a_traced_function():
    q = make("nice", stage="float", bits=3, state={"clamp": 1.0})
    traced = tf.function(lambda w: q(w, training=True))
    np.testing.assert_array_equal(traced(tf.constant(W_STAR)), W_STAR)
    q.set_stage("quantized")
    np.testing.assert_array_equal(traced(tf.constant(W_STAR)), q(W_STAR))


def test_nice_activations():
    config = {"target": ACTIVATIONS, "bits": 2, "state": {"clamp": 1.0}}
    y, gradient, (at_clamp,) = run(make("nice", **config), X_STAR, GX_STAR, ["clamp"])
    np.testing.assert_allclose(y, np.array([0, 0, 1, 2, 2, 3, 3, 3]) / 3, rtol=1e-6)
    np.testing.assert_array_equal(gradient, GX_STAR * [0, 1, 1, 1, 1, 0, 0, 0])
    assert at_clamp == 21
    _, _, (at_clamp,) = run(make("nice", residual=True, **config), X_STAR, GX_STAR, ["clamp"])
    scaled = 3 * X_STAR[1:5]
    residual = GX_STAR[1:5] @ (np.round(scaled) - scaled) / 3
    np.testing.assert_allclose(at_clamp, 21 + residual, rtol=1e-5)


def test_nice_clamp_of_activations_is_gathered_before_training():
    q = make("nice", target=ACTIVATIONS, bits=4)
    first, second = X_STAR, 2 * X_STAR
    of_first = X_STAR.mean() + 5 * X_STAR.std(ddof=1)
    np.testing.assert_allclose(nice_activation_clamp(tf.constant(X_STAR)), of_first, rtol=1e-6)
    with quantizers.base.observing():
        q(first)
        q(second)
    np.testing.assert_allclose(read(q.clamp), 1.1 * of_first, rtol=1e-5)
    q(second, training=True)
    q(second)
    np.testing.assert_allclose(read(q.clamp), 1.1 * of_first, rtol=1e-5)


def test_nice_biases():
    bias = tf.constant([0.31, -0.31, 7e3, -7e3, 0.0])
    for step in ([0.2], [0.2, 0.02, 0.2, 0.002, 0.2]):
        wide = np.broadcast_to(step, 5)
        with tf.GradientTape() as tape:
            tape.watch(bias)
            q = nice_bias(bias, tf.constant(step, tf.float32))
        codes = np.clip(np.round(bias.numpy() / wide), -32767, 32767)
        np.testing.assert_allclose(q, codes * wide, rtol=1e-6)
        np.testing.assert_array_equal(tape.gradient(q, bias), np.ones(5))
    np.testing.assert_array_equal(nice_bias(bias, tf.zeros([1])), bias)
    np.testing.assert_allclose(nice_bias(bias, tf.constant([0.5]), 2), [0.5, -0.5, 0.5, -0.5, 0])


@pytest.mark.parametrize("target", [WEIGHTS, ACTIVATIONS])
def test_nice_has_no_step_in_the_float_stage(target):
    q = make("nice", target=target, bits=3, state={"clamp": 0.7})
    np.testing.assert_allclose(
        q.grid_step(W_STAR), 0.7 / (3 if target == WEIGHTS else 7), rtol=1e-6
    )
    q.set_stage("float")
    assert float(q.grid_step(W_STAR)) == 0


def test_nice_negative_clamp_is_its_magnitude():
    q = make("nice", target=ACTIVATIONS, bits=2, state={"clamp": -1.0})
    y, _, (at_clamp,) = run(q, X_STAR, GX_STAR, ["clamp"])
    assert y.max() == 1.0 and at_clamp == -21
    np.testing.assert_allclose(q.levels(), np.arange(4) / 3, rtol=1e-6)


# --- all of them

CASES = [
    *[(name, WEIGHTS) for name in ("lsq", "qil", "dsq", "nice")],
    *[(name, ACTIVATIONS) for name in ("pact", "lsq", "qil", "dsq", "nice")],
]


@pytest.mark.parametrize(("name", "target"), CASES)
def test_the_first_step_trains_every_parameter(name, target, rng):
    x = tf.constant(rng.normal(0.5, 0.5, (16, 6)).astype(np.float32))
    q = make(name, x.shape, target, bits=2)
    if name == "pact":
        q.alpha.assign(1.0)
    if name == "nice" and target == ACTIVATIONS:
        q.clamp.assign(1.0)

    @tf.function(jit_compile=True)
    def step(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(q(x, training=True) ** 3)
        sources = [raw(v) for v in q.trainable_weights]
        return tape.gradient(loss, sources)

    gradients = step(x)
    assert len(gradients) == len(q.trainable_weights)
    assert all(np.isfinite(g.numpy()) and g.numpy() != 0 for g in gradients)
    stored = q.represent(x)
    np.testing.assert_array_equal(stored.decode().view("u4"), q(x).numpy().view("u4"))


@pytest.mark.parametrize(("name", "target"), CASES)
@pytest.mark.parametrize("bits", [2, 4])
def test_levels_after_the_first_step(name, target, bits, rng):
    if target == WEIGHTS:
        assert make(name, target=target, bits=bits).levels() is None
        return
    x = rng.normal(0.5, 1, (1000, 6)).astype(np.float32)
    q = make(name, x.shape, target, bits=bits)
    q(x, training=True)
    levels, outputs = q.levels(), np.unique(q(4 * x).numpy())
    assert levels.dtype == np.float32 and np.all(np.diff(levels) > 0)
    np.testing.assert_array_equal(outputs, levels)
    assert make(name, x.shape, target, bits=8).levels() is None


@pytest.mark.parametrize(("name", "target"), CASES)
def test_empty_batches_and_zeros_tell_nothing(name, target):
    q = make(name, (8, 6), target)
    before = [read(v) for v in q.weights]
    for x in (np.zeros((0, 6), np.float32), np.zeros((8, 6), np.float32)):
        assert not q(x, training=True).numpy().any()
        np.testing.assert_array_equal([read(v) for v in q.weights], before)


@pytest.mark.parametrize(("name", "target"), CASES)
def test_training_moves_the_parameters_and_a_file_keeps_them(name, target, tmp_path, rng):
    use = "kernel_quantizer" if target == WEIGHTS else "input_quantizer"
    x = rng.normal(0.5, 1, (32, 6)).astype(np.float32)
    model = keras.Sequential(
        [keras.layers.Input((6,)), QuantDense(3, **{use: {"class_name": name, "config": {}}})]
    )
    model.compile(keras.optimizers.SGD(0.005), "mse")
    labels = rng.normal(0, 1, (32, 3))
    model.fit(x, labels, epochs=1, batch_size=16, verbose=0)
    q = getattr(model.layers[-1], use)
    first = [read(v) for v in q.trainable_weights]
    model.fit(x, labels, epochs=2, batch_size=16, verbose=0)
    still = [np.array_equal(read(v), a) for v, a in zip(q.trainable_weights, first, strict=True)]
    # Nothing reaches a clamp that is far above the data.
    assert not any(still) or (name, target) in (("pact", ACTIVATIONS), ("nice", ACTIVATIONS))
    model.save(tmp_path / "model.keras")
    copy = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(copy.predict(x, verbose=0), model.predict(x, verbose=0))
    if target == WEIGHTS:
        kernel = read(model.layers[-1].kernel)
        np.testing.assert_array_equal(q.represent(kernel).decode(), q(kernel))


@pytest.mark.parametrize("name", ["pact", "lsq", "qil", "dsq", "nice"])
def test_calibration_sets_what_is_unset(name, rng):
    x = rng.normal(0.5, 1, (32, 6)).astype(np.float32)
    model = keras.Sequential([keras.layers.Input((6,)), QuantDense(3, input_quantizer=name)])
    q = model.layers[-1].input_quantizer
    assert (q.levels() is None) == (name != "pact")
    kerasq.quantizers.calibrate(model, x)
    assert len(q.levels()) == 16


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("pact", {"bits": 9}, "pact: bits must be"),
        ("pact", {"alpha": 0.0}, "pact: alpha must be a number"),
        ("pact", {"alpha_decay": -1.0}, "pact: alpha_decay must be a number"),
        ("lsq", {"bits": 0}, "lsq: bits must be"),
        ("qil", {"bits": 9}, "qil: bits must be"),
        ("qil", {"gamma": 0.0}, "qil: gamma must be"),
        ("qil", {"channel_axes": [-1]}, "qil has one scale"),
        ("dsq", {"bits": 0}, "dsq: bits must be"),
        ("dsq", {"alpha": 1.0}, "dsq: alpha must be a number in"),
        ("dsq", {"ema": 2.0}, "dsq: ema must be a number in"),
        ("nice", {"bits": 1, "target": "weights"}, "nice: bits must be"),
        ("nice", {"stage": "loud"}, "nice: stage must be one of"),
        ("nice", {"probability": 1.5}, "nice: probability must be a number in"),
    ],
)
def test_bad_arguments(name, config, message):
    with pytest.raises(ValueError, match=message):
        quantizers.get({"class_name": name, "config": config})
