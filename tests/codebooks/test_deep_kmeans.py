"""DeepKMeans: the regularizer and its relaxation, merged rows, training."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from kerasq.codebooks import DeepKMeans, Site, compress, kmeans
from kerasq.codebooks.row_clusters import (
    cluster_rows,
    hard_scatter,
    kernel_rows,
    leading_basis,
    relaxed_scatter,
    rows_of,
)
from kerasq.keras import keras
from kerasq.layers import CodebookConv2D, CodebookDense

layers = keras.layers
QUICK = {"codewords": 6, "learning_rate": 0.02, "batch_size": 64}


def network():
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(8, (2, 3), use_bias=False, name="wide"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(),
            layers.Conv2D(8, 3, activation="relu", name="conv"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(5, name="dense"),
        ],
        name="net",
    )


@pytest.fixture
def data(rng):
    x = rng.normal(size=(256, 8, 8, 3)).astype("float32")
    return x, (5 * (x.mean((1, 2, 3)) > 0)).astype("int64") % 5


def kernel_of(layer):
    return np.array(tf.convert_to_tensor(layer.kernel))


def example():
    """The rows of the worked example, (24, 3), and k-means from its first two."""
    j, n = np.ogrid[:3, :24]
    rows = np.sin(0.8 * n + 1.1 * j + 0.17 * j * n).T
    return rows, kmeans(rows, rows[:2])


def indicator(members, clusters):
    one_hot = np.eye(clusters)[members]
    return one_hot / np.sqrt(one_hot.sum(0))


def scatter(rows, basis):
    return float(relaxed_scatter(tf.constant(rows), tf.constant(basis)))


def test_trace_of_the_indicator_is_the_error_of_kmeans():
    rows, found = example()
    error = ((rows - found.centroids[found.assignments]) ** 2).sum()
    assert error == pytest.approx(23.063999, abs=1e-6)
    assert scatter(rows, indicator(found.assignments, 2)) == pytest.approx(error, abs=1e-9)
    hard = hard_scatter(tf.constant(rows), tf.constant(found.assignments, tf.int32), 2)
    assert float(hard) == pytest.approx(error, abs=1e-9)


def test_relaxed_optimum_is_that_of_the_trailing_singular_values():
    rows, found = example()
    basis = leading_basis(rows, 2)
    np.testing.assert_allclose(basis.T @ basis, np.eye(2), atol=1e-12)
    least = scatter(rows, basis)
    assert least == pytest.approx(3.970998, abs=1e-6)
    assert least == pytest.approx(np.linalg.svd(rows)[1][2] ** 2)
    assert least <= scatter(rows, indicator(found.assignments, 2))


@pytest.mark.parametrize("clusters", [3, 4])
def test_relaxation_is_zero_for_as_many_clusters_as_weights_in_a_row(clusters):
    rows, _ = example()
    basis = leading_basis(rows, clusters)
    assert scatter(rows, basis) == pytest.approx(0, abs=1e-12)
    gradient = rows - basis @ (basis.T @ rows)
    np.testing.assert_allclose(gradient, 0, atol=1e-12)
    found = kmeans(rows, rows[:clusters])
    error = ((rows - found.centroids[found.assignments]) ** 2).sum()
    assert error == pytest.approx({3: 15.34, 4: 10.24}[clusters], abs=0.01)


def test_alternating_steps_never_raise_the_bracket():
    rows, _ = example()
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((24, 2)))[0]
    values = [scatter(rows, basis)]
    for _ in range(4):
        basis = leading_basis(rows, 2)
        values.append(scatter(rows, basis))
        rows = rows - 0.2 * (rows - basis @ (basis.T @ rows))
        values.append(scatter(rows, basis))
    np.testing.assert_allclose(values[:5], [33.621, 3.971, 2.541, 2.541, 1.627], atol=1e-3)
    assert all(b <= a + 1e-12 for a, b in zip(values, values[1:], strict=False))


def test_gradients_are_those_of_the_formula():
    rows, found = example()
    w, basis = tf.constant(rows), leading_basis(rows, 2)
    members = tf.constant(found.assignments, tf.int32)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(w)
        relaxed = relaxed_scatter(w, tf.constant(basis)) / 2
        hard = hard_scatter(w, members, 2) / 2
    want = rows - basis @ (basis.T @ rows)
    np.testing.assert_allclose(tape.gradient(relaxed, w), want, atol=1e-12)
    means = np.stack([rows[found.assignments == k].mean(0) for k in range(2)])
    want = rows - means[found.assignments]
    np.testing.assert_allclose(tape.gradient(hard, w), want, atol=1e-12)
    free = indicator(found.assignments, 2)
    np.testing.assert_allclose(want, rows - free @ (free.T @ rows), atol=1e-12)


@pytest.mark.parametrize(("shape", "length"), [((2, 3, 4, 5), 3), ((2, 3, 4, 5), 6), ((7, 4), 1)])
def test_rows_of_a_kernel(shape, length, rng):
    layer = layers.Dense(shape[-1]) if len(shape) == 2 else layers.Conv2D(shape[-1], shape[:2])
    layer.build((None, *(8,) * (len(shape) - 2), shape[-2]))
    layer.kernel.assign(rng.normal(size=shape).astype("float32"))
    kernel = kernel_of(layer).reshape(-1, length, *shape[-2:]) if len(shape) == 4 else None
    rows = kernel_rows(layer, length)
    np.testing.assert_array_equal(rows_of(layer, length), rows.astype(np.float32))
    if kernel is not None:  # (rows of a slice, length, Cin, Ct)
        want = kernel.transpose(2, 0, 3, 1).reshape(-1, length)
        np.testing.assert_array_equal(rows, want)


def test_merged_rows_are_those_nearest_to_the_mean(rng):
    rows = rng.normal(size=(40, 3))
    centroids, members = cluster_rows(rows, 5, 12, 50, np.random.default_rng(0))
    distances = ((rows - rows.mean(0)) ** 2).sum(1)
    merged = members == 0
    assert merged.sum() == 12
    assert distances[merged].max() <= distances[~merged].min()
    np.testing.assert_allclose(centroids[0], rows[merged].mean(0))
    assert set(members[~merged]) == {1, 2, 3, 4}


def test_without_training_rows_become_the_centroids_of_kmeans(rng, tmp_path):
    model = network()
    small = compress(model, None, DeepKMeans(codewords=6, steps=0), verbose=False)
    layer = small.get_layer("wide")
    assert type(layer) is CodebookConv2D
    assert tuple(layer.codewords.shape) == (1, 6, 3)
    assert type(small.get_layer("dense")) is layers.Dense
    rows, shared = kernel_rows(model.get_layer("wide"), 3), kernel_rows(layer, 3)
    assert len(np.unique(shared, axis=0)) == 6
    for row in np.unique(shared, axis=0):
        mean = rows[(shared == row).all(1)].mean(0)
        np.testing.assert_allclose(row, mean, atol=1e-6)
    x = rng.normal(size=(5, 8, 8, 3)).astype("float32")
    small.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), small.predict(x, verbose=0))


def test_settings_of_single_layers():
    method = DeepKMeans(
        {"conv": 10},
        merge={"conv": 0.5},
        vectors="kernel",
        dense=4,
        steps=0,
        layers={"wide": False},
    )
    small = compress(network(), None, method, verbose=False)
    assert type(small.get_layer("wide")) is layers.Conv2D
    conv, dense = small.get_layer("conv"), small.get_layer("dense")
    assert tuple(conv.codewords.shape) == (1, 10, 9)
    counts = np.bincount(np.array(tf.convert_to_tensor(conv.assignments)).ravel())
    assert counts[0] == 32
    assert type(dense) is CodebookDense
    assert len(np.unique(kernel_of(dense))) == 4


@pytest.mark.parametrize("labelled", [True, False])
def test_training_brings_the_rows_together(labelled, data):
    model, (x, y) = network(), data
    given = (x, y) if labelled else x
    before = [np.array(w) for w in model.get_weights()]
    errors = {}
    for steps in (0, 120):
        found = []
        method = DeepKMeans(steps=steps, strength=2.0, refresh=20, **QUICK)
        compress(model, given, method, verbose=False, callback=found.append)
        errors[steps] = [report.solution.error_after for report in found]
    assert all(a < 0.1 * b for a, b in zip(errors[120], errors[0], strict=True)), errors
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("relaxed", [False, True])
def test_training_resumes(relaxed, data, tmp_path, monkeypatch):
    from kerasq.codebooks import finetuning

    model = network()
    settings = {**QUICK, "codewords": 5} if relaxed else {**QUICK, "merge": 0.3}
    vectors = "kernel" if relaxed else "row"
    method = DeepKMeans(steps=25, refresh=7, relaxed=relaxed, vectors=vectors, **settings)
    whole = compress(model, data, method, verbose=False)
    save = finetuning.Checkpoint.save_stage

    def stop(self, name, arrays):
        save(self, name, arrays)
        raise KeyboardInterrupt

    monkeypatch.setattr(finetuning, "_SAVE_EVERY", 10)
    monkeypatch.setattr(finetuning.Checkpoint, "save_stage", stop)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            compress(model, data, method, tmp_path, verbose=False)
    monkeypatch.undo()
    small = compress(model, data, method, tmp_path, verbose=False)
    for a, b in zip(whole.get_weights(), small.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_assignments_of_many_codewords_are_wide(rng):
    layer = layers.Conv2D(20, 3, name="many")
    layer.build((None, 8, 8, 10))
    method = DeepKMeans(codewords=300, steps=0)
    settings = method.plan([layer])["many"]
    solution = method.solve(Site(layer, kernel_of(layer), settings, None), rng)
    assert solution.weights["assignments"].dtype == np.uint16
    assert solution.error_after < 0.05


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"codewords": 0}, "codewords must be 1"),
        ({"codewords": {"conv": 70000}}, "codewords must be 1"),
        ({"merge": 1.0}, "merge is 0 to below 1"),
        ({"vectors": "column"}, "vectors is one of"),
        ({"strength": -1.0}, "strength"),
        ({"refresh": 0}, "refresh must be at least 1"),
        ({"codebook_dtype": "int8"}, "codebook_dtype"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        DeepKMeans(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"codewords": {"cnov": 4}}, r"codewords=.*'cnov'.*'wide', 'conv'"),
        ({"relaxed": True, "codewords": 4}, "'wide'.*at most 3, not 4"),
        ({"codewords": 1, "merge": 0.5}, "'wide': merge takes one codeword"),
    ],
)
def test_settings_that_do_not_fit_name_the_layer(settings, message):
    with pytest.raises(ValueError, match=message):
        compress(network(), None, DeepKMeans(steps=0, **settings), verbose=False)


def test_small_layers_take_fewer_codewords():
    with pytest.warns(UserWarning, match="'wide' has only 48 vectors, 24 of them.*takes 25"):
        small = compress(network(), None, DeepKMeans(merge=0.5, steps=0), verbose=False)
    assert small.get_layer("wide").codewords.shape[1] == 25
