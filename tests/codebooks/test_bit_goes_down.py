"""And the bit goes down: the solver, the sizes, and whole networks."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kerasq.codebooks import BitGoesDown, Moments, Site, compress, finetuning, kmeans
from kerasq.codebooks.blocks import clamp_codewords, decoded, vectors_of
from kerasq.codebooks.checkpoint import Checkpoint
from kerasq.codebooks.em import pooled_gram, weighted_kmeans, whitening
from kerasq.keras import keras
from kerasq.layers import CodebookConv2D

layers = keras.layers
PHI = (
    "7258.362121 3130.654543 2819.178425 2704.458033 2684.046781 2662.736948 2652.180322 "
    "2621.147953 2578.226148 2535.535064"
)
QUICK = {"conv": 9, "codewords": 8, "classifier": 8, "layer_steps": 6, "steps": 6, "batch_size": 16}


class Example:
    """A convolution of 24 outputs and 2 inputs, in closed form."""

    def __init__(self):
        o, i, a, b = np.ogrid[:24, :2, :3, :3]
        kernel = np.sin(0.9 * o + 1.1 * a + 0.7 * b + 1.7 * i + 0.13 * o * i + 0.05 * a * b * o)
        self.kernel = kernel.transpose(2, 3, 1, 0)
        n, c, y, x = np.ogrid[:2, :2, :6, :6]
        maps = np.cos(0.8 * y + 0.5 * x + 1.3 * c + 0.9 * n + 0.07 * y * x + 0.2 * c * x)
        maps = np.pad(np.maximum(0, maps), [(0, 0), (0, 0), (1, 1), (1, 1)]).transpose(0, 2, 3, 1)
        patches = [maps[:, i : i + 6, j : j + 6] for i in range(3) for j in range(3)]
        self.rows = np.stack(patches, 3).reshape(72, 18)
        self.vectors = vectors_of(self.kernel, 9)
        self.metric = pooled_gram(self.rows.T @ self.rows, 9, 9)
        self.start = self.vectors[[0, 12, 25, 38]]

    def phi(self, found):
        change = self.vectors - found.centroids[found.assignments]
        return np.einsum("ni,ij,nj", change, self.metric, change)

    def output_error(self, found):
        kernel = found.centroids[found.assignments].reshape(2, 24, 9)
        kernel = kernel.transpose(2, 0, 1).reshape(18, 24)
        return ((self.rows @ (self.kernel.reshape(18, 24) - kernel)) ** 2).sum()


@pytest.fixture(scope="module")
def example():
    return Example()


def test_worked_example(example):
    assert example.vectors.shape == (48, 9)
    found = weighted_kmeans(example.vectors, example.metric, example.start)
    assert " ".join(f"{phi:.6f}" for phi in found.history[:10]) == PHI
    assert found.history[10:] == pytest.approx([found.history[9]])  # converged
    assert f"{example.phi(found):.6f}" == "2535.535064"
    plain = kmeans(example.vectors, example.start)
    assert f"{example.phi(plain):.6f}" == "3007.531076"
    weight_errors = [
        ((example.vectors - c.centroids[c.assignments]) ** 2).sum() for c in (found, plain)
    ]
    assert [f"{error:.6f}" for error in weight_errors] == ["72.936712", "70.241796"]
    errors = [f"{example.output_error(c):.6f}" for c in (found, plain)]
    assert errors == ["1481.434973", "1575.740252"]


def test_phi_never_rises(example, rng):
    vectors = rng.normal(size=(400, 9))
    found = weighted_kmeans(vectors, example.metric, 40, 30, "reference", rng)
    assert len(found.history) > 6
    assert (np.diff(found.history) <= 1e-9 * found.history[0]).all()
    assert len(np.unique(found.assignments)) == 40


def test_identity_metric_is_plain_kmeans(example):
    weighted = weighted_kmeans(example.vectors, np.eye(9), example.start)
    plain = kmeans(example.vectors, example.start)
    np.testing.assert_array_equal(weighted.assignments, plain.assignments)
    np.testing.assert_allclose(weighted.centroids, plain.centroids, atol=1e-12)


def test_whitened_distances_are_those_of_the_metric(example, rng):
    factor = whitening(example.metric)
    v = rng.normal(size=(50, 9))
    want = np.einsum("ni,ij,nj->n", v, example.metric, v)
    np.testing.assert_allclose(((v @ factor) ** 2).sum(1), want, rtol=1e-9)


@pytest.mark.parametrize("policy", ["reference", "paper"])
@pytest.mark.parametrize("rank", [9, 4])
def test_codewords_are_means_of_their_members(policy, rank, rng):
    vectors = rng.normal(size=(200, 9))
    samples = rng.normal(size=(rank, 9))
    found = weighted_kmeans(vectors, samples.T @ samples, 6, 200, policy, rng)
    for k in range(6):
        mean = vectors[found.assignments == k].mean(0)
        np.testing.assert_allclose(found.centroids[k], mean, atol=1e-9)


def test_paper_policy_splits_the_largest_cluster(rng):
    vectors = rng.normal(size=(300, 4))
    start = np.repeat(vectors[:1], 8, axis=0)  # seven of eight are empty
    found = weighted_kmeans(vectors, np.eye(4), start, 50, "paper", rng)
    assert len(np.unique(found.assignments)) == 8


def test_paper_policy_ends_where_vectors_are_too_few(rng):
    vectors = np.repeat(rng.normal(size=(3, 4)), 10, axis=0)
    found = weighted_kmeans(vectors, np.eye(4), 8, 50, "paper", rng)
    assert found.history[-1] == pytest.approx(0, abs=1e-3)


def test_constant_and_dead_inputs_still_tell_weights_apart(rng):
    vectors = rng.normal(size=(60, 4))
    for metric in (np.zeros((4, 4)), np.ones((4, 4))):
        found = weighted_kmeans(vectors, metric, 60, 100, "reference", rng)
        np.testing.assert_allclose(found.centroids[found.assignments], vectors, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 3, 4, 5), (1, 1, 8, 3), (8, 6)])
def test_one_codeword_for_each_vector_is_lossless(shape, rng):
    kernel = rng.normal(size=shape).astype("float32")
    d = 18 if shape[0] == 3 else 4
    vectors = vectors_of(kernel, d)
    assignments = np.arange(len(vectors)).reshape(-1, shape[-1])
    back = decoded(vectors.astype("float32"), assignments, shape)
    np.testing.assert_array_equal(back, kernel)
    # block j of output c is made of consecutive weights of the row (channel, row, column)
    row = np.moveaxis(kernel, -1, 0)
    row = np.moveaxis(row, -1, 1).reshape(shape[-1], -1)
    np.testing.assert_array_equal(vectors[1 * shape[-1] + 2], row[2, d : 2 * d])


def test_pooled_gram_is_that_of_the_unrolled_blocks(rng):
    patches = rng.normal(size=(20, 9, 4))  # samples, positions, channels
    flat = patches.reshape(20, 36)
    blocks = patches.transpose(0, 2, 1).reshape(-1, 18)
    np.testing.assert_allclose(pooled_gram(flat.T @ flat, 9, 18), blocks.T @ blocks)


def test_clamps():
    assert [clamp_codewords(256, 512, rule) for rule in ("paper", "pqf", "bgd")] == [128, 128, 64]
    assert [clamp_codewords(256, 700, rule) for rule in ("paper", "pqf", "bgd")] == [175, 128, 128]
    assert [clamp_codewords(64, 5000, rule) for rule in ("paper", "pqf", "bgd")] == [64] * 3
    assert [clamp_codewords(8, 3, rule) for rule in ("paper", "pqf", "bgd")] == [1, 1, 1]


def resnet_kernels(depth):
    """Yield (name, kernel shape) of a ResNet-18 or 50 for ImageNet, HWIO."""
    blocks, expansion = ([2, 2, 2, 2], 1) if depth == 18 else ([3, 4, 6, 3], 4)
    yield "conv1", (7, 7, 3, 64)
    channels = 64
    for stage, count in enumerate(blocks):
        width = 64 << stage
        for block in range(count):
            out = width * expansion
            if depth == 18:
                shapes = [(3, 3, channels, width), (3, 3, width, width)]
            else:
                shapes = [(1, 1, channels, width), (3, 3, width, width), (1, 1, width, out)]
            if block == 0 and channels != out:
                shapes.append((1, 1, channels, out))
            for i, shape in enumerate(shapes):
                yield f"layer{stage}.{block}.{i}", shape
            channels = out
    yield "fc", (channels, 1000)


class Shape:
    """A layer, as far as a plan looks at it."""

    def __init__(self, name, shape):
        self.name, self.kernel = name, np.empty(shape, "float32")
        if len(shape) == 4:
            self.kernel_size = shape[:2]


def size(depth, clamp, large):
    """MiB as the paper counts: log2 K bits an index, conv1, BatchNormalization and bias float."""
    method = BitGoesDown(
        conv=18 if large else 9,
        pointwise=8 if large and depth == 50 else 4,
        classifier=2048 if depth == 18 else 1024,
        clamp=clamp,
    )
    shapes = dict(resnet_kernels(depth))
    plan = method.plan([Shape(name, shape) for name, shape in shapes.items()])
    total = 4 * 1000  # the classifier's bias
    for name, shape in shapes.items():
        total += 4 * 2 * shape[-1] if len(shape) == 4 else 0  # gamma and beta
        if name not in plan:
            total += 4 * math.prod(shape)
            continue
        d, k = plan[name].subvector, plan[name].codewords
        total += math.prod(shape) // d * math.log2(k) / 8 + 2 * k * d
    floats = sum(math.prod(s) + (2 * s[-1] if len(s) == 4 else 0) for s in shapes.values()) + 1000
    return total / 2**20, 4 * floats / 2**20


@pytest.mark.parametrize(
    ("depth", "large", "mib", "ratio"),
    [(18, False, 1.541, 28.9), (18, True, 1.029, 43.3), (50, False, 5.091, 19.2)]
    + [(50, True, 3.184, 30.6)],
)
def test_published_sizes(depth, large, mib, ratio):
    small, full = size(depth, "bgd", large)
    assert f"{small:.3f}" == f"{mib:.3f}"
    assert round(full / small, 1) == ratio
    assert f"{full:.2f}" == ("44.59" if depth == 18 else "97.49")


@pytest.mark.parametrize("clamp", ["paper", "pqf"])
def test_sizes_by_the_other_clamps(clamp):
    assert f"{size(50, clamp, False)[0]:.3f} {size(50, clamp, True)[0]:.3f}" == "5.092 3.185"


def network(softmax=True):
    keras.utils.set_random_seed(7)
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="first")(x)
    x = short = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Conv2D(16, 3, padding="same", groups=2, name="grouped")(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Dropout(0.0)(x)
    x = layers.Conv2D(8, 1, name="point")(x)
    x = layers.GlobalAveragePooling2D()(layers.Add()([x, short]))
    outputs = layers.Dense(6, activation="softmax" if softmax else None, name="classes")(x)
    return keras.Model(inputs, outputs, name="net")


@pytest.fixture
def data(rng):
    return rng.normal(size=(48, 8, 8, 3)).astype("float32")


def test_plan_of_a_network():
    model = network()
    found = [layer for layer in model.layers if hasattr(layer, "kernel")]
    plan = BitGoesDown(conv=18, codewords=16, classifier=64).plan(found)
    assert {name: (s.subvector, s.codewords) for name, s in plan.items()} == {
        "grouped": (18, 8),
        "point": (4, 8),
        "classes": (4, 2),
    }
    choices = {"first": True, "point": (2, 30), "classes": False}
    plan = BitGoesDown(codewords=16, layers=choices).plan(found)
    assert {name: (s.subvector, s.codewords) for name, s in plan.items()} == {
        "first": (9, 4),
        "grouped": (9, 16),
        "point": (2, 30),
    }
    chosen = BitGoesDown(layers=lambda layer: layer.name == "point").plan(found)
    assert list(chosen) == ["point"]


def test_whole_network(data, tmp_path):
    model = network()
    before = [np.array(w) for w in model.get_weights()]
    reports = []
    small = compress(
        model, data, BitGoesDown(**QUICK), verbose=False, callback=lambda r: reports.append(r)
    )
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert [report.name for report in reports] == ["grouped", "point", "classes"]
    assert all(0 < report.solution.error_after < 1 for report in reports)
    assert type(small.get_layer("first")) is layers.Conv2D
    conv = small.get_layer("grouped")
    assert isinstance(conv, CodebookConv2D)
    assert (conv.order, conv.shared, conv.gradient) == ("channel", True, "mean")
    assert (conv.codebook_dtype, conv.subvector) == ("float16", 9)
    # moving averages learned in the end
    norms = [
        [layer for layer in m.layers if isinstance(layer, layers.BatchNormalization)][0]
        for m in (model, small)
    ]
    assert np.abs(np.asarray(norms[0].moving_mean) - np.asarray(norms[1].moving_mean)).max() > 0
    path = tmp_path / "small.keras"
    small.save(path)
    again = keras.models.load_model(path)
    np.testing.assert_array_equal(small.predict(data, verbose=0), again.predict(data, verbose=0))


def test_weights_of_one_index_are_equal_after_training(data):
    small = compress(network(), data, BitGoesDown(**QUICK), verbose=False)
    for name, d in (("grouped", 9), ("point", 4)):
        layer = small.get_layer(name)
        vectors = vectors_of(np.asarray(layer.kernel), d)
        assignments = np.asarray(layer.assignments).ravel()
        for k in np.unique(assignments):
            assert len(np.unique(vectors[assignments == k], axis=0)) == 1


def test_metric_of_a_grouped_layer_pools_its_groups(rng):
    """`solve` sees the groups' inputs as so many more samples."""
    model = network()
    method = BitGoesDown(codewords=4, layer_steps=0, steps=0, codebook_dtype="float32")
    layer = model.get_layer("grouped")
    kernel = np.asarray(layer.kernel)
    rows = [rng.normal(size=(100, 36)).astype("float32") for _ in range(2)]
    moments = [Moments(36, 8) for _ in rows]
    for sums, x, w in zip(moments, rows, np.split(kernel.reshape(36, 16), 2, 1), strict=True):
        sums.update(x, x @ w)
    settings = method.plan([model.get_layer("first"), layer])["grouped"]
    solution = method.solve(Site(layer, kernel, settings, moments), np.random.default_rng(1))
    blocks = np.concatenate(
        [x.reshape(100, 9, 4).transpose(0, 2, 1).reshape(-1, 9) for x in rows]
    ).astype(np.float64)
    found = weighted_kmeans(
        vectors_of(kernel, 9), blocks.T @ blocks, 4, 100, rng=np.random.default_rng(1)
    )
    np.testing.assert_allclose(solution.weights["codewords"], found.centroids, atol=1e-5)
    kernel_hat = decoded(
        solution.weights["codewords"], solution.weights["assignments"], kernel.shape
    )
    error = energy = 0.0
    for x, w, v in zip(
        rows,
        np.split(kernel.reshape(36, 16), 2, 1),
        np.split(kernel_hat.reshape(36, 16), 2, 1),
        strict=True,
    ):
        error += ((x @ (w - v)) ** 2).sum()
        energy += ((x @ w) ** 2).sum()
    assert solution.error_after == pytest.approx(error / energy, rel=1e-3)


def test_weighting_by_inputs_beats_plain_kmeans_on_responses(data, rng):
    """The channels that inputs are large in are kept, the others are given up."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((16,)), layers.Dense(64, name="a"), layers.Dense(3)])
    x = (rng.normal(size=(500, 16)) * np.tile([4, 1, 0.2, 0.05], 4)).astype("float32")
    method = BitGoesDown(codewords=16, layer_steps=0, steps=0)
    small = compress(model, x, method, verbose=False)
    kernel = np.asarray(model.get_layer("a").kernel)
    vectors = vectors_of(kernel, 4)
    plain = kmeans(vectors, 16)
    plain = plain.centroids.astype("float32")[plain.assignments].reshape(4, 64, 4)
    plain = plain.transpose(0, 2, 1).reshape(16, 64)
    errors = [
        ((x @ (kernel - hat)) ** 2).sum()
        for hat in (np.asarray(small.get_layer("a").kernel), plain)
    ]
    assert errors[0] < 0.5 * errors[1]


class Stop(Exception):
    """An interruption."""


@pytest.mark.parametrize("at", ["layer", "stage", "finish"])
def test_resumed_run_gives_the_same(at, data, tmp_path, monkeypatch):
    monkeypatch.setattr(finetuning, "_SAVE_EVERY", 2)
    model, method = network(), BitGoesDown(**QUICK)
    whole = compress(model, data, method, verbose=False)
    save_stage, save = Checkpoint.save_stage, Checkpoint.save

    def stop_in_stage(self, name, arrays):
        save_stage(self, name, arrays)
        wanted = "all codewords" if at == "finish" else "codewords of point"
        if at != "layer" and name == wanted and arrays["step"] == 4:
            raise Stop

    def stop_at_layer(self, index, solution):
        save(self, index, solution)
        if at == "layer" and index == 1:
            raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save_stage", stop_in_stage)
        patch.setattr(Checkpoint, "save", stop_at_layer)
        with pytest.raises(Stop):
            compress(model, data, method, tmp_path, verbose=False)
    resumed = compress(model, data, method, tmp_path, verbose=False)
    for a, b in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_training_after_layers_lowers_the_divergence(data):
    """A layer is trained in the network as it is then: what follows it is still float."""
    model = network(softmax=False)
    losses = {}

    class Watched(BitGoesDown):
        def after_layer(self, compressed, replacement, tuner):
            run = tuner.run

            def watch(model, stage, variables):
                losses[stage.name] = run(model, stage, variables)

            tuner.run = watch
            super().after_layer(compressed, replacement, tuner)
            del tuner.run

    steps = {**QUICK, "layer_steps": 30, "steps": 0, "batch_size": 48, "layer_rate": 0.2}
    compress(model, data, Watched(**steps), verbose=False)
    assert list(losses) == ["codewords of grouped", "codewords of point", "codewords of classes"]
    for name, values in losses.items():
        assert values[-1] < values[0], name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"conv": 12}, "conv is a multiple of 9"),
        ({"clamp": "none"}, "clamp is one of"),
        ({"policy": "none"}, "policy is one of"),
        ({"codewords": 0}, "codewords must be at least 1"),
        ({"classifier": 1 << 17}, "at most 65536"),
        ({"codebook_dtype": "int8"}, "codebook_dtype"),
        ({"positions": 0}, "positions"),
        ({"layer_steps": -1}, "layer_steps and steps"),
        ({"layers": {"nowhere": False}}, "nowhere.*can be compressed"),
        ({"layers": {"point": (5, 8)}}, "'point': blocks of 5 do not divide the 16 weights"),
        ({"layers": {"point": (4, 33)}}, "'point' has 32 blocks of 4.*got 33"),
    ],
)
def test_bad_settings(settings, message, data):
    with pytest.raises(ValueError, match=message):
        compress(network(), data, BitGoesDown(**settings), verbose=False)


def test_training_of_several_outputs_is_refused(data):
    model = network()
    two = keras.Model(model.inputs, [model.outputs[0], model.get_layer("point").output])
    with pytest.raises(ValueError, match="one output"):
        compress(two, data, BitGoesDown(**QUICK), verbose=False)
    still = BitGoesDown(**{**QUICK, "layer_steps": 0, "steps": 0})
    assert len(compress(two, data, still, verbose=False).outputs) == 2
