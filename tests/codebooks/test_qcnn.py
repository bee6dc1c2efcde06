"""Bias correction, and layers with fewer samples than inputs."""

from __future__ import annotations

import numpy as np
import pytest

from kerasq.codebooks import QCNN, ErrorCorrection, KernelLayout, Moments, compress
from kerasq.codebooks.qcnn import subspace_kmeans
from kerasq.keras import keras

layers = keras.layers


def samples(rng, count, size):
    """Correlated, not negative and far from centred, as after a ReLU."""
    mixing = rng.normal(size=(size, size)) / np.sqrt(size)
    return np.maximum(rng.normal(size=(count, size)) @ mixing + 0.5, 0).astype("float32")


def moments_of(x, t, parts=3):
    moments = Moments(x.shape[1], t.shape[1])
    for rows, targets in zip(np.array_split(x, parts), np.array_split(t, parts), strict=True):
        moments.update(rows, targets)
    return moments


def objective(x, t, weights, bias=0.0):
    return float(np.square(t - x @ weights - bias, dtype=np.float64).sum())


@pytest.mark.parametrize("count", [30, 200])
def test_centred_moments_are_those_of_centred_data(count, rng):
    x = samples(rng, count, 60)
    t = x @ rng.normal(size=(60, 7)).astype("float32") + 3
    centred = moments_of(x, t).centred()
    want = moments_of(x - x.mean(0), t - t.mean(0))
    assert (centred.samples is None) == (count > 60)
    for field in ("gram", "cross", "energy"):
        np.testing.assert_allclose(
            getattr(centred, field), getattr(want, field), rtol=2e-4, atol=2e-3
        )


def test_the_best_bias_takes_the_mean_error_away(rng):
    x = samples(rng, 300, 20)
    weights = rng.normal(size=(20, 5)).astype("float32")
    t, other = x @ weights, weights + 0.1 * rng.normal(size=(20, 5))
    moments = moments_of(x, t)
    bias = moments.mean_error(other)
    np.testing.assert_allclose(bias, (t - x @ other).mean(0), rtol=1e-5)
    assert objective(x, t, other, bias) == pytest.approx(moments.centred().error(other), rel=1e-4)
    assert objective(x, t, other, bias) < objective(x, t, other)


def dense_network(size, **kwargs):
    inputs = keras.Input((size,))
    return keras.Model(inputs, layers.Dense(24, name="dense", **kwargs)(inputs))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("count", [40, 400])
def test_bias_correction_never_raises_the_objective(count, seed):
    rng = np.random.default_rng(seed)
    model, x = dense_network(64, bias_initializer="ones"), samples(rng, count, 64)
    kernel, bias = model.layers[-1].get_weights()
    solved = {}
    for corrects in (False, True):
        small = compress(model, x, QCNN(4, 8, bias_correction=corrects), verbose=False)
        layer = small.get_layer("dense")
        solved[corrects] = np.array(layer.kernel), np.array(layer.bias)
    np.testing.assert_array_equal(solved[False][1], bias)
    t = x @ kernel
    weights, moved = solved[True]
    with_bias = objective(x, t, weights, moved - bias)
    assert with_bias <= objective(x, t, weights)
    assert with_bias <= objective(x, t, solved[False][0])


def test_error_of_the_report_is_that_of_the_responses(rng):
    model, x = dense_network(32), samples(rng, 300, 32)
    reports = []
    method = QCNN(4, 8, prior=0.0)
    small = compress(model, x, method, verbose=False, callback=reports.append)
    t = model.predict(x, verbose=0)
    error = float(np.square(t - small.predict(x, verbose=0)).sum() / np.square(t).sum())
    assert reports[0].solution.error_after == pytest.approx(error, rel=1e-3)
    assert reports[0].solution.error_after < reports[0].solution.error_before


def test_convolutions_correct_their_bias_and_layers_without_one_do_not_get_one(rng):
    x = inputs = keras.Input((6, 6, 4))
    x = layers.Conv2D(8, 3, groups=2, activation="relu", name="with")(x)
    x = layers.Conv2D(6, 3, use_bias=False, name="without")(x)
    model = keras.Model(inputs, layers.GlobalAveragePooling2D()(x))
    data = rng.random((80, 6, 6, 4)).astype("float32")
    small = compress(model, data, QCNN(2, 4), verbose=False)
    assert small.get_layer("without").bias is None
    linear = keras.Model(model.inputs, model.get_layer("with").output)
    assert np.abs(np.array(small.get_layer("with").bias)).max() > 0
    plain = compress(model, data, QCNN(2, 4, bias_correction=False), verbose=False)
    errors = []
    for other in (small, plain):
        found = keras.Model(other.inputs, other.get_layer("with").output)
        difference = found.predict(data, verbose=0) - linear.predict(data, verbose=0)
        errors.append((difference**2).sum())
    assert errors[0] < errors[1]


@pytest.mark.parametrize("prior", [0.0, 0.1, 1.0])
@pytest.mark.parametrize(("shape", "d"), [((120, 30), 4), ((700, 20), 3), ((3, 3, 20, 16), 4)])
def test_from_samples_as_from_the_gram_matrix(shape, d, prior, rng):
    """Fewer samples than inputs: the same half-steps, without G."""
    kernel = rng.normal(size=shape)
    layout = KernelLayout(shape, d)
    size = layout.positions * layout.channels
    x = samples(rng, size // 3, size).astype(np.float64)
    kept = moments_of(x, x @ kernel.reshape(size, -1))
    summed = moments_of(x, x @ kernel.reshape(size, -1))
    assert kept.samples is not None
    assert summed.gram is not None
    assert summed.samples is None
    start = subspace_kmeans(kernel, layout, 6, 10, rng)
    solved = []
    for moments in (kept, summed):
        correction = ErrorCorrection(
            layout, kernel, [moments], *start, prior=prior, proximal=1e-4, dtype=np.float64
        )
        correction.run(3, tolerance=0)
        solved.append(correction)
    np.testing.assert_allclose(solved[0].history, solved[1].history, rtol=1e-6)
    np.testing.assert_array_equal(solved[0].assignments, solved[1].assignments)
    np.testing.assert_allclose(solved[0].codewords, solved[1].codewords, atol=1e-5)
    assert kept.samples is not None  # G was never made


def test_sums_begin_when_there_are_as_many_samples_as_inputs(rng):
    x = samples(rng, 40, 16)
    t = x @ rng.normal(size=(16, 3)).astype("float32")
    moments = Moments(16, 3)
    for at in range(0, 40, 5):
        moments.update(x[at : at + 5], t[at : at + 5])
        assert (moments.samples is not None) == (at + 5 < 16)
    np.testing.assert_allclose(moments.gram, x.T @ x, rtol=1e-5)
    np.testing.assert_allclose(moments.cross, x.T @ t, rtol=1e-4, atol=1e-4)
    assert moments.finite
    moments.update(np.full((1, 16), np.nan, np.float32), t[:1])
    assert not moments.finite


def test_a_layer_of_25088_inputs_takes_no_gram_matrix(rng):
    """Its Gram matrix would have 5 GB; memory is that of the kernel and the samples."""
    size, outputs, count = 25088, 16, 24
    kernel = rng.normal(size=(size, outputs)).astype("float32")
    x = np.maximum(rng.normal(size=(count, size)), 0).astype("float32")
    moments = moments_of(x, x @ kernel)
    layout = KernelLayout(kernel.shape, 8)
    start = subspace_kmeans(kernel, layout, 4, 3, rng)
    correction = ErrorCorrection(layout, kernel, [moments.centred()], *start, prior=1.0)
    before = correction.objective
    correction.sweep()
    assert correction.objective < before
    assert moments.samples is not None


def test_a_codebook_system_that_rounding_made_indefinite_is_still_solved(rng):
    """Without a prior, and with two samples, the normal equations are singular."""
    kernel = rng.normal(size=(3, 3, 4, 8)).astype("float32")
    layout = KernelLayout(kernel.shape, 4)
    x = samples(rng, 2, 36)
    moments = moments_of(x, x @ kernel.reshape(36, -1), 1)
    start = subspace_kmeans(kernel, layout, 6, 10, rng)
    correction = ErrorCorrection(layout, kernel, [moments], *start, prior=0.0, proximal=0.0)
    before = correction.objective
    assert correction.run(2) < before
    assert np.isfinite(correction.codewords).all()
