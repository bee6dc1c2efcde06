"""Deep Compression: pruning, weight sharing, centroids that are trained."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from kerasq.codebooks import DeepCompression, compress, get
from kerasq.codebooks.deep_compression import INITIALIZATIONS, shared_values
from kerasq.keras import keras
from kerasq.layers import CodebookDense
from kerasq.representations import Codebook

QUICK = {"prune_steps": 8, "prune_updates": 4, "retrain_steps": 4, "finetune_steps": 6}
AT_ONCE = {"prune_steps": 0, "retrain_steps": 0, "finetune_steps": 0}
SETTINGS = {"sparsity": 0.75, "conv_bits": 4, "dense_bits": 3, "batch_size": 16}


def network():
    return keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            keras.layers.Conv2D(6, 3, activation="relu", name="conv"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Flatten(),
            keras.layers.Dense(12, activation="relu", name="dense"),
            keras.layers.Dense(4, name="logits"),
        ]
    )


def data(rng, count=64):
    return rng.normal(size=(count, 8, 8, 2)).astype(np.float32), rng.integers(0, 4, count)


def run(model, data, checkpoint_dir=None, callback=None, **settings):
    method = DeepCompression(**{**SETTINGS, **settings})
    return compress(model, data, method, checkpoint_dir, verbose=False, callback=callback)


def kernels(model):
    return {x.name: x.codebook().decode() for x in model.layers if hasattr(x, "codebook")}


def test_weight_sharing_ratio_of_the_paper():
    """Section 3.2: 16 weights in 4 clusters of 32 bits are 3.2 times smaller."""
    book = Codebook.from_assignments(np.zeros((1, 4, 1), np.float32), np.zeros((4, 4), int), (4, 4))
    assert 16 * 4 / book.nbytes == 3.2


@pytest.mark.parametrize("initialization", INITIALIZATIONS)
def test_error_of_weight_sharing_never_rises(rng, initialization):
    values = rng.laplace(size=500)
    centroids, history = shared_values(values, 15, initialization, 50, rng)
    assert len(centroids) == 15
    assert (np.diff(history) <= 1e-9 * history[0]).all()


def test_linear_initialization_keeps_centroids_for_large_weights(rng):
    """Section 3.2: which is why it wins after fine-tuning."""
    values = rng.laplace(size=2000) ** 3
    largest = {
        name: np.abs(shared_values(values, 8, name, 1, rng)[0]).max() for name in INITIALIZATIONS
    }
    assert largest["linear"] > 0.9 * np.abs(values).max() > largest["density"]


def test_few_values_are_kept_as_they_are():
    centroids, _ = shared_values(np.array([3.0, -1.0, 3.0]), 7, "linear", 5, None)
    assert centroids.tolist() == [-1.0, 3.0]


def test_centroid_gradient_is_the_sum():
    """Section 3.6, T-DC-2, with the zero before the three centroids."""
    weights = np.array([[0.9, -0.2, 0.45], [0.42, 1.02, -0.31]])
    centroids = np.array([0.0, -0.25, 0.4, 1.0])
    codes = 1 + np.abs(weights[..., None] - centroids[1:]).argmin(-1)
    layer = CodebookDense(2, subvector=1, codewords=4, shared=True, fixed_zero=True, use_bias=False)
    layer.build((None, 3))
    layer.set_codebook(centroids[None, :, None], codes.T)
    x = tf.constant([[1.0, 2, -1], [0.5, -1, 3]])
    with tf.GradientTape() as tape:
        loss = 0.5 * tf.reduce_sum((layer(x) - tf.constant([[1.0, 0], [0, 2]])) ** 2)
    gradient = tape.gradient(loss, layer.trainable_variables)[0]
    assert np.ravel(gradient) == pytest.approx([0, -17.05, 7.625, 8.925], abs=1e-5)


def test_compresses_and_zeros_stay_zero(rng):
    """T-DC-6: as many zeros as asked for, after the centroids have been trained too."""
    model, solutions = network(), {}
    before = [np.copy(w) for w in model.get_weights()]
    small = run(
        model, data(rng), callback=lambda report: solutions.update({report.name: report}), **QUICK
    )
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    for name, kernel in kernels(small).items():
        layer = small.get_layer(name)
        codes = np.asarray(tf.convert_to_tensor(layer.assignments))
        assert (codes == 0).sum() == round(0.75 * codes.size)
        assert (kernel[codes.reshape(kernel.shape) == 0] == 0).all()
        assert layer.codewords_per_codebook == (16 if name == "conv" else 8)
        solved = solutions[name].solution.weights["codewords"]
        trained = np.asarray(tf.convert_to_tensor(layer.codewords))
        assert trained[0, 0, 0] == 0
        assert not np.array_equal(solved.ravel()[1:], trained.ravel()[1:])


def test_shared_weights_are_nearest_centroids(rng):
    model = network()
    small = run(model, None, sparsity=0.5, codebook_dtype="float32", **AT_ONCE)
    kernel = np.asarray(model.get_layer("dense").kernel)
    layer = small.get_layer("dense")
    codes = np.asarray(tf.convert_to_tensor(layer.assignments))
    book = np.asarray(tf.convert_to_tensor(layer.codewords)).ravel()
    left = codes > 0
    assert np.abs(kernel[left]).min() >= np.abs(kernel[~left]).max()
    assert np.array_equal(codes[left], 1 + np.abs(kernel[left][:, None] - book[1:]).argmin(-1))


def test_one_call_without_labels_distils(rng):
    small = run(network(), data(rng)[0], **QUICK)
    assert all((kernel == 0).mean() >= 0.75 for kernel in kernels(small).values())


def test_settings_of_single_layers(rng):
    model = network()
    small = run(
        model, None, sparsity={"dense": 0.9}, layers={"conv": 2, "logits": False}, **AT_ONCE
    )
    assert not hasattr(small.get_layer("logits"), "codebook")
    decoded = kernels(small)
    assert (decoded["dense"] == 0).mean() == pytest.approx(0.9, abs=1e-3)
    assert (decoded["conv"] != 0).all() and small.get_layer("conv").codewords_per_codebook == 4


def test_quality_prunes_below_its_threshold():
    model = network()
    small = run(model, None, quality=0.8, **AT_ONCE)
    for name, kernel in kernels(small).items():
        weights = np.asarray(model.get_layer(name).kernel)
        assert np.array_equal(kernel != 0, np.abs(weights) >= 0.8 * weights.std(dtype=np.float64))


def test_a_layer_of_few_weights_takes_fewer_codewords():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5, name="a")])
    small = run(model, None, sparsity=0.5, dense_bits=8, **AT_ONCE)
    layer = small.get_layer("a")
    assert layer.codewords_per_codebook == 11
    kernel = np.asarray(model.get_layer("a").kernel)
    kept = layer.codebook().decode() != 0
    assert np.allclose(layer.codebook().decode()[kept], kernel[kept], rtol=1e-3)


def test_a_kernel_of_zeros_is_no_error():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5, name="a")])
    model.get_layer("a").kernel.assign(np.zeros((4, 5), np.float32))
    assert not run(model, None, **AT_ONCE).get_layer("a").codebook().decode().any()


def test_interrupted_runs_end_the_same(rng, tmp_path, monkeypatch):
    """Taken up again in the middle of pruning, with the masks of the moment."""
    from kerasq.codebooks import finetuning

    monkeypatch.setattr(finetuning, "_SAVE_EVERY", 3)
    model, images = network(), data(rng)
    whole = run(model, images, **QUICK).get_weights()
    original = finetuning._State.save

    def stop_after_six(self, checkpoint, step):
        original(self, checkpoint, step)
        if step == 6:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(finetuning._State, "save", stop_after_six)
        run(model, images, tmp_path, **QUICK)
    resumed = run(model, images, tmp_path, **QUICK).get_weights()
    for a, b in zip(whole, resumed, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


def test_is_in_the_catalogue_by_its_name():
    assert isinstance(get("deep_compression"), DeepCompression)
    assert DeepCompression(**DeepCompression(0.5).get_config()).sparsity == 0.5


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sparsity": 1.0}, "sparsity is 0 to below 1"),
        ({"sparsity": {"a": -0.1}}, "sparsity is 0 to below 1"),
        ({"quality": -1}, "quality must not be negative"),
        ({"conv_bits": 0}, "bits are 1 to 16"),
        ({"layers": {"a": True}}, "bits are 1 to 16"),
        ({"initialization": "kmeans"}, "initialization is one of"),
        ({"prune_steps": -1}, "prune_steps must be at least 0"),
        ({"optimizer": "lamb"}, "optimizer is one of"),
    ],
)
def test_bad_settings_are_named(settings, words):
    with pytest.raises(ValueError, match=words):
        DeepCompression(**settings)


def test_unknown_layers_are_named():
    with pytest.raises(ValueError, match=r"sparsity=.*names \['dens'\].*'dense'"):
        run(network(), None, sparsity={"dens": 0.5}, **AT_ONCE)
    with pytest.raises(ValueError, match="layer 'conv': quality 9 prunes all"):
        run(network(), None, quality=9, **AT_ONCE)
