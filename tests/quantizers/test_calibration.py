"""Max, percentile and KL calibration, and running data through a model."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

import kerasq
from kerasq.keras import keras
from kerasq.quantizers import (
    CalibrateKL,
    CalibrateMax,
    CalibratePercentile,
    Int8Gemmlowp,
    calibrate,
    kl_threshold,
)
from kerasq.quantizers.aciq import aciq_multiple
from kerasq.quantizers.histograms import (
    histogram,
    kl_divergences,
    quantile,
    squared_error_threshold,
    stretched,
)
from tests.quantizers.oracles import W_STAR, X_STAR
from tests.quantizers.oracles.calibrated import ACIQ, kl_bins, kl_of, least_error

ALL = (CalibrateMax, CalibratePercentile, CalibrateKL)
each = pytest.mark.parametrize("cls", ALL)


def test_max_worked_numbers():
    rep = CalibrateMax(channel_axes=()).represent(W_STAR)
    np.testing.assert_allclose(rep.scale, 0.00944882, rtol=1e-5)
    codes = rep.codes().astype(int) - 128
    np.testing.assert_array_equal(codes, [85, -53, 32, -11, 5, -127, 64, -21])


def test_scaled_max():
    q = CalibrateMax(factor=0.5, channel_axes=())
    np.testing.assert_allclose(np.abs(q(W_STAR)).max(), 0.6, rtol=1e-6)


def test_kl_worked_example():
    counts = [4, 3, 2, 1, 0, 1, 0, 1]
    want = [0.0923315, np.inf, 0.0344860, np.inf, 0.0201310]
    np.testing.assert_allclose(kl_divergences(counts, 4), want, atol=1e-7)
    assert int(kl_threshold(counts, 4, "keep")) == 8


@pytest.fixture(scope="module")
def samples():
    rng = np.random.default_rng(0)
    normal, laplace = np.abs(rng.normal(size=200000)), np.abs(rng.laplace(size=200000))
    return normal, laplace, np.append(np.abs(rng.normal(size=200000)), 40.0)


WORKED = [(0, 4.2675, 1847), (1, 10.4932, 1833), (2, 4.3945, 225)]


@pytest.mark.parametrize(("which", "threshold", "bins"), WORKED)
def test_kl_of_samples(samples, which, threshold, bins):
    x = samples[which]
    counts, _ = np.histogram(x, 2048, (0, x.max()))
    assert int(kl_threshold(counts, 128)) == bins
    q = CalibrateKL(signed=True, target="activations")
    q(x.astype(np.float32), training=True)
    np.testing.assert_allclose(float(q.threshold), threshold, atol=1e-4)


@pytest.mark.parametrize(("bits", "zero_bin"), [(3, "neighbor"), (5, "keep"), (6, "neighbor")])
def test_kl_search_agrees_with_the_loop(bits, zero_bin, rng):
    for _ in range(5):
        counts = rng.poisson(5 * np.exp(-np.arange(200) / 40)).astype(float)
        assert int(kl_threshold(counts, 2**bits, zero_bin)) == kl_bins(counts, 2**bits, zero_bin)


@pytest.mark.parametrize(("bits", "zero_bin"), [(3, "neighbor"), (4, "keep")])
def test_kl_smoothed_as_mxnets_agrees_with_the_loop(bits, zero_bin, rng):
    for scale in (5.0, 0.5):
        counts = rng.poisson(scale * np.exp(-np.arange(200) / 40)).astype(float)
        counts[:20] = 0  # a first level that may be empty
        want = [kl_of(counts, i, 2**bits, "mxnet") for i in range(2**bits, 201)]
        want = [np.inf if value is None else value for value in want]
        got = kl_divergences(counts, 2**bits, "mxnet")
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)
        best = int(kl_threshold(counts, 2**bits, zero_bin, "mxnet"))
        assert best == kl_bins(counts, 2**bits, zero_bin, "mxnet")


def test_kl_smoothing_gives_what_was_rejected_a_finite_divergence():
    counts = [4, 3, 2, 1, 0, 1, 0, 1]
    smoothed = kl_divergences(counts, 4, "mxnet").numpy()
    rejected = kl_divergences(counts, 4).numpy()
    assert np.isfinite(smoothed).all()
    finite = np.isfinite(rejected)
    np.testing.assert_allclose(smoothed[finite], rejected[finite], atol=1e-4)
    assert smoothed[~finite].min() > rejected[finite].max()
    # Half a value and less, of which a histogram that was stretched has some, is none.
    np.testing.assert_array_equal(
        kl_divergences([4, 3, 2, 1, 0.2, 1e-5, 0, 2], 4, "mxnet"),
        kl_divergences([4, 3, 2, 1, 0, 0, 0, 2], 4, "mxnet"),
    )
    assert np.isinf(kl_divergences([0, 0, 0, 0, 0, 0, 0, 2], 4, "mxnet").numpy()[:4]).all()
    assert int(kl_threshold(np.zeros(64), 8, "keep", "mxnet")) == 64


def test_kl_smoothed_as_mxnets_of_a_histogram_that_grew(rng):
    q = CalibrateKL(smoothing="mxnet", signed=True, target="activations")
    x = rng.laplace(0, 1, (6, 20000)).astype(np.float32) * np.linspace(0.7, 1, 6)[:, None]
    for batch in x.astype(np.float32):
        q(batch, training=True)
    counts, _ = np.histogram(np.abs(x), 2048, (0, np.abs(x).max()))
    want = np.abs(x).max() * int(kl_threshold(counts, 128, "neighbor", "mxnet")) / 2048
    np.testing.assert_allclose(float(q.threshold), want, rtol=0.1)


def test_kl_keeps_a_histogram_narrower_than_the_levels(rng):
    counts = np.zeros(2048)
    counts[:100] = rng.integers(1, 50, 100)
    assert int(kl_threshold(counts, 128)) >= 100
    assert int(kl_threshold(np.zeros(2048), 128)) == 2048
    with pytest.raises(ValueError, match="100 bins"):
        kl_threshold(counts[:100], 128)


@pytest.mark.parametrize(("bits", "signed"), [(2, True), (3, False), (5, True), (8, False)])
def test_least_squared_error_agrees_with_the_loop(bits, signed, rng):
    steps = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
    for counts in (rng.poisson(50 * np.exp(-np.arange(256) / 30)), np.eye(256)[255], np.zeros(256)):
        bins = int(squared_error_threshold(counts, steps))
        assert bins / 256 == least_error(counts, 1.0, bits, signed)


def test_least_squared_error_beats_other_thresholds(rng):
    x = rng.laplace(0, 1, 20000).astype(np.float32)

    def error(**config):
        return ((CalibratePercentile(bits=4, **config)(x).numpy() - x) ** 2).mean()

    others = [{"percentile": p} for p in (90, 99, 99.9, 100)]
    others += [{"rule": "aciq_gauss"}, {"rule": "aciq_laplace"}]
    assert error(rule="mse") < 1.001 * min(error(**config) for config in others)


ACIQ_WORKED = {  # as published, to three decimals
    "gauss": {2: 1.478, 3: 1.805, 4: 2.192, 8: 3.617},
    "laplace": {2: 2.332, 3: 3.045, 4: 4.004, 8: 8.653},
}


@pytest.mark.parametrize("distribution", ACIQ_WORKED)
def test_aciq_multiples(distribution):
    for bits, want in ACIQ_WORKED[distribution].items():
        got = aciq_multiple(distribution, bits)
        np.testing.assert_allclose(got, want, atol=5.1e-4)
        np.testing.assert_allclose(got, ACIQ[f"aciq_{distribution}"][bits], atol=2e-7)
    multiples = [aciq_multiple(distribution, bits) for bits in range(2, 10)]
    assert np.all(np.diff(multiples) > 0)


@pytest.mark.parametrize("distribution", ["gauss", "laplace"])
def test_aciq_of_weights_and_of_activations(distribution, rng):
    draw = rng.normal if distribution == "gauss" else rng.laplace
    x = draw(0, 0.5, (400, 500)).astype(np.float32)
    rule = f"aciq_{distribution}"
    weights = CalibratePercentile(bits=3, rule=rule)
    multiple = ACIQ_WORKED[distribution]
    np.testing.assert_allclose(np.abs(weights(x)).max(), multiple[3] * 0.5, rtol=0.01)
    x[:100] = 0  # zeros have no say
    np.testing.assert_allclose(np.abs(weights(x)).max(), multiple[3] * 0.5, rtol=0.01)
    signed = CalibratePercentile(bits=3, rule=rule, signed=True, target="activations")
    rectified = CalibratePercentile(bits=3, rule=rule, target="activations")
    for batch in np.split(x, 5):
        signed(batch, training=True)
        rectified(batch, training=True)
    np.testing.assert_allclose(float(signed.threshold), multiple[3] * 0.5, rtol=0.01)
    np.testing.assert_allclose(float(rectified.threshold), multiple[4] * 0.5, rtol=0.01)


def test_aciq_is_at_most_the_maximum():
    x = np.array([0.5, -0.5, 0.5, 0.0], np.float32)
    q = CalibratePercentile(rule="aciq_laplace")
    np.testing.assert_array_equal(q(x), x)
    q = CalibratePercentile(rule="aciq_laplace", target="activations")
    q(x, training=True)
    np.testing.assert_allclose(float(q.threshold), 0.5)


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("size", [1, 2, 77, 5000])
def test_quantile_is_numpys(size, fraction, rng):
    x = np.abs(rng.normal(0, 1, size)).astype(np.float32)
    far_apart = (x * 10.0 ** rng.integers(-30, 30, size)).astype(np.float32)
    many_equal = np.round(x, 1)
    for values in (x, far_apart, many_equal, np.zeros_like(x), np.full_like(x, 3.0)):
        got = quantile(tf.constant(values.reshape(1, -1, 1)), fraction)
        np.testing.assert_allclose(got, np.quantile(values, fraction), rtol=1e-6)


def test_histogram_is_numpys_and_stretches(rng):
    x = rng.exponential(1, 5000).astype(np.float32)
    peak = x.max()
    counts, _ = np.histogram(x, 2048, (0, peak))
    got = histogram(tf.constant(x), tf.constant(peak)).numpy()
    assert np.abs(got - counts).sum() <= 4  # values on an edge
    doubled = stretched(tf.constant(got), tf.constant(peak), tf.constant(2 * peak)).numpy()
    np.testing.assert_allclose(doubled[:1024], got.reshape(-1, 2).sum(1))
    assert not doubled[1024:].any()
    wider = stretched(tf.constant(got), tf.constant(peak), tf.constant(1.3 * peak)).numpy()
    np.testing.assert_allclose(wider.sum(), 5000)
    same = stretched(tf.constant(got), tf.constant(peak), tf.constant(peak)).numpy()
    np.testing.assert_array_equal(same, got)


def test_percentile_of_weights_and_of_activations(rng):
    x = np.abs(rng.normal(0, 1, (100, 500))).astype(np.float32)
    want = np.quantile(x, 0.99)
    weights = CalibratePercentile(percentile=99)
    np.testing.assert_allclose(np.abs(weights(x)).max(), want, rtol=1e-5)
    activations = CalibratePercentile(percentile=99, target="activations")
    for batch in np.split(x, 5):
        activations(batch, training=True)
    np.testing.assert_allclose(float(activations.threshold), want, atol=2 * x.max() / 2048)


def test_percentile_of_almost_only_zeros():
    x = np.zeros(1000, np.float32)
    x[0] = 3
    assert CalibratePercentile(percentile=50)(x).numpy()[0] == 3
    q = CalibratePercentile(percentile=50, target="activations")
    q(x, training=True)
    np.testing.assert_allclose(float(q.threshold), 3 / 2048)


@each
def test_state_moves_in_training_only(cls, rng):
    q = cls(target="activations", signed=True)
    x = rng.normal(0, 1, (64, 10)).astype(np.float32)
    assert q.levels() is None and q.fixed_grid() is None
    q(x)  # nothing seen: the range of the tensor at hand
    assert float(q.threshold) == 0
    q(x, training=True)
    first = float(q.threshold)
    assert 0 < first <= np.abs(x).max()
    q(x / 2, training=True)
    q(3 * x)
    assert float(q.threshold) <= first * 1.0001
    q(3 * x, training=True)
    assert float(q.threshold) > first
    q.trainable = False
    before = [w.numpy() for w in q.weights]
    q(9 * x, training=True)
    for variable, value in zip(q.weights, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


@each
def test_clipped_gradient_and_levels(cls):
    q = cls(bits=2, target="activations")
    q(X_STAR)
    q.threshold.assign(1.5)
    x = tf.constant(X_STAR)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = q(x)
    np.testing.assert_array_equal(tape.gradient(y, x), [0, 1, 1, 1, 1, 1, 0, 0])
    np.testing.assert_allclose(y, [0, 0, 0.5, 0.5, 1, 1, 1.5, 1.5], atol=1e-6)
    np.testing.assert_array_equal(q.levels(), np.unique(y))
    signed = cls(bits=3, signed=True, target="activations")
    signed(X_STAR, training=True)
    assert len(signed.levels()) == 7 and signed.levels()[3] == 0


VARIANTS = [
    *((cls, {}) for cls in ALL),
    *((CalibratePercentile, {"rule": rule}) for rule in ("mse", "aciq_gauss", "aciq_laplace")),
    (CalibrateKL, {"smoothing": "mxnet"}),
]


@pytest.mark.parametrize(("cls", "config"), VARIANTS)
@pytest.mark.parametrize("jit", [False, True])
def test_unknown_batch(cls, config, jit, rng):
    q, eager = cls(target="activations", **config), cls(target="activations", **config)
    x = rng.exponential(1, (50, 20)).astype(np.float32)
    q.build(x.shape)
    q.built = True

    @tf.function(jit_compile=jit, input_signature=[tf.TensorSpec([None, 20])])
    def step(x):
        return q(x, training=True)

    step(tf.constant(x))
    eager(x, training=True)
    np.testing.assert_allclose(float(q.threshold), float(eager.threshold), rtol=1e-3)


def test_what_is_not_finite_is_not_observed():
    q = CalibrateMax(target="activations")
    q(np.array([1, np.nan, np.inf, 2], np.float32), training=True)
    assert float(q.threshold) == 2


@pytest.mark.parametrize("bad", [{"bits": 1}, {"bits": 9}])
@each
def test_bad_bits(cls, bad):
    with pytest.raises(ValueError, match="bits"):
        cls(**bad)


def test_bad_arguments():
    with pytest.raises(ValueError, match="factor"):
        CalibrateMax(factor=0)
    with pytest.raises(ValueError, match="percentile"):
        CalibratePercentile(percentile=101)
    with pytest.raises(ValueError, match="zero_bin"):
        CalibrateKL(zero_bin="smooth")
    with pytest.raises(ValueError, match="smoothing"):
        CalibrateKL(smoothing="laplace")
    with pytest.raises(ValueError, match="rule"):
        CalibratePercentile(rule="aciq")


def network():
    """Return a model with quantizers, one of them in a nested model, BatchNorm and Dropout."""
    inner_input = keras.Input((8,))
    inner = kerasq.layers.QuantDense(4, input_quantizer="calibrate_kl")(inner_input)
    return keras.Sequential(
        [
            keras.Input((6,)),
            kerasq.layers.QuantDense(
                8, input_quantizer=CalibrateMax(signed=True), kernel_quantizer="calibrate_max"
            ),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
            keras.layers.ReLU(),
            keras.Model(inner_input, inner),
            kerasq.layers.QuantDense(2, input_quantizer=Int8Gemmlowp()),
        ]
    )


def quantizers_of(model):
    nested = model.layers[-2].layers[-1]
    return [layer.input_quantizer for layer in (model.layers[0], nested, model.layers[-1])]


class Batches(keras.utils.Sequence):
    """Four batches with labels."""

    def __init__(self, x):
        super().__init__()
        self.x = x

    def __len__(self):
        return 4

    def __getitem__(self, i):
        return self.x[10 * i : 10 * i + 10], np.zeros(10)


@pytest.mark.parametrize("kind", ["array", "dataset", "sequence"])
def test_calibrate_a_model(kind, rng):
    x = rng.normal(0, 1, (40, 6)).astype(np.float32)
    data = {
        "array": x,
        "dataset": tf.data.Dataset.from_tensor_slices((x, np.zeros(40))).batch(10),
        "sequence": Batches(x),
    }[kind]
    model = network()
    statistics = [w.numpy() for w in model.layers[1].weights]
    assert float(quantizers_of(model)[0].threshold) == 0
    calibrate(model, data)
    first, nested, last = quantizers_of(model)
    np.testing.assert_allclose(float(first.threshold), np.abs(x).max(), rtol=1e-6)
    assert float(nested.threshold) > 0 and float(last.seen) == 1
    for variable, value in zip(model.layers[1].weights, statistics, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    before = [w.numpy() for w in model.weights]
    model(100 * x, training=False)
    for variable, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_calibrate_as_many_steps_as_asked(rng):
    x = rng.normal(0, 1, (40, 6)).astype(np.float32)
    model = network()
    calibrate(model, tf.data.Dataset.from_tensor_slices(x).batch(10).repeat(), steps=2)
    threshold = float(quantizers_of(model)[0].threshold)
    np.testing.assert_allclose(threshold, np.abs(x[:20]).max(), rtol=1e-6)


def test_calibrate_refuses_what_it_cannot_use(rng):
    x = rng.normal(0, 1, (4, 6)).astype(np.float32)
    endless = tf.data.Dataset.from_tensor_slices(x).batch(2).repeat()
    with pytest.raises(ValueError, match="endless"):
        calibrate(network(), endless)
    with pytest.raises(ValueError, match="no batch"):
        calibrate(network(), x[:0])
    plain = keras.Sequential([keras.Input((6,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="no quantizer"):
        calibrate(plain, x)


@pytest.mark.keras2
def test_calibrate_larqs_layers(rng):
    import larq

    layer = larq.layers.QuantDense(3, input_quantizer=CalibrateMax(target="activations"))
    model = keras.Sequential([keras.Input((6,)), layer])
    x = np.abs(rng.normal(0, 1, (40, 6))).astype(np.float32)
    calibrate(model, x)
    np.testing.assert_allclose(float(layer.input_quantizer.threshold), x.max(), rtol=1e-6)


def test_state_is_saved_with_the_model(rng, tmp_path):
    x = rng.normal(0, 1, (40, 6)).astype(np.float32)
    model = network()
    calibrate(model, x)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(x), model(x))
    calibrate(loaded, 3 * x)
    assert float(quantizers_of(loaded)[0].threshold) > float(quantizers_of(model)[0].threshold)
