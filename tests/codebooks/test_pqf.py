"""Permute, quantize, and fine-tune."""

from __future__ import annotations

import numpy as np
import pytest

from kerasq.codebooks import PQF, FineTuner, compress, finetuning, kmeans
from kerasq.codebooks.blocks import vectors_of
from kerasq.codebooks.channels import channel_groups
from kerasq.codebooks.checkpoint import Checkpoint
from kerasq.codebooks.cloning import clone_with_replacements
from kerasq.codebooks.permutation import Consumer, Spread, best_order, greedy_order, local_search
from kerasq.codebooks.pqf import annealed_kmeans
from kerasq.codebooks.program import Program
from kerasq.keras import keras

layers = keras.layers
QUICK = {"codewords": 8, "classifier": 8, "swaps": 300, "iterations": 20, "batch_size": 16}


@pytest.fixture(scope="module")
def weights():
    """The worked example: 64 outputs of 16 inputs, of falling size."""
    return np.random.default_rng(0).standard_normal((64, 16)) * np.geomspace(2, 0.1, 16)


def determinant(weights, order):
    return np.linalg.det(np.cov(weights[:, order].reshape(-1, 4).T))


def error(weights, order):
    """Mean squared error of k-means, K = 16, from given rows."""
    vectors = weights[:, order].reshape(-1, 4)
    start = vectors[np.random.default_rng(1).choice(256, 16, replace=False)]
    found = kmeans(vectors, start, 300)
    return ((vectors - found.centroids[found.assignments]) ** 2).mean()


def test_worked_example(weights):
    identity = np.arange(16)
    consumer = Consumer(weights.T, 4, 16)
    greedy = greedy_order(consumer.slices, 4)
    order, history = local_search([consumer], greedy, 2000, np.random.default_rng(0))
    assert f"{determinant(weights, identity):.4f}" == "0.0913"
    assert f"{determinant(weights, greedy):.4f}" == "0.1064"
    assert 0.00160 < determinant(weights, order) < 0.00175  # varies with the swaps
    assert f"{error(weights, identity):.4f}" == "0.1739"
    assert f"{error(weights, greedy):.4f}" == "0.1724"
    assert error(weights, order) == pytest.approx(0.0769, rel=0.1)
    assert Spread(consumer, order).determinant == pytest.approx(determinant(weights, order))
    assert history == sorted(history, reverse=True)


@pytest.mark.parametrize(("taps", "subvector"), [(1, 4), (9, 18), (9, 27)])
def test_search_never_raises_the_spread(taps, subvector, rng):
    side = int(np.sqrt(taps))
    scale = np.geomspace(2, 0.1, 12)[:, None]
    consumers = [
        Consumer(rng.normal(size=(side, side, 12, n)) * rng.permutation(scale), subvector, 16)
        for n in (20, 30)
    ]
    order, history = local_search(consumers, np.arange(12), 400, rng)
    assert (np.diff(history) < 0).all() and len(history) > 5
    assert sorted(order) == list(range(12))
    fresh = sum(Spread(consumer, order).value for consumer in consumers)
    assert history[-1] == pytest.approx(fresh, rel=1e-9)  # sums were updated right


def test_spread_is_the_determinant_of_the_blocks(rng):
    kernel = rng.normal(size=(3, 3, 6, 40))
    spread = Spread(Consumer(kernel, 18, 16), np.arange(6))
    want = np.linalg.det(np.cov(vectors_of(kernel, 18).T))
    assert spread.determinant == pytest.approx(want, rel=1e-9)
    size = kernel.size * 16 ** (-2 / 18)
    assert spread.value == pytest.approx(size * want ** (1 / 18), rel=1e-9)


def test_whole_blocks_may_change_places(weights, rng):
    order = rng.permutation(16).reshape(4, 4)
    moved = determinant(weights, order[rng.permutation(4)].ravel())
    assert moved == pytest.approx(determinant(weights, order.ravel()), rel=1e-9)
    buckets = order.copy()
    buckets[:, 0] = buckets[[1, 0, 2, 3], 0]  # one bucket alone
    assert determinant(weights, buckets.ravel()) != pytest.approx(
        determinant(weights, order.ravel()), rel=1e-3
    )


def test_an_order_no_better_is_not_taken(rng):
    consumer = Consumer(np.zeros((8, 5)), 4, 2)
    assert list(best_order([consumer], 50, rng)) == list(range(8))


def test_noise_helps_kmeans(weights):
    order = local_search(
        [Consumer(weights.T, 4, 16)], np.arange(16), 2000, np.random.default_rng(2)
    )
    vectors = weights[:, order[0]].reshape(-1, 4)

    def mse(start):
        found = kmeans(vectors, start, 300)
        return ((vectors - found.centroids[found.assignments]) ** 2).mean()

    plain, annealed = [], []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        plain.append(mse(vectors[rng.choice(256, 16, replace=False)]))
        annealed.append(mse(annealed_kmeans(vectors, 16, 300, rng)))
    assert np.mean(annealed) < 0.95 * np.mean(plain)
    assert np.mean(annealed) == pytest.approx(0.0671, rel=0.1)


def block(x, channels, name, stride=1):
    short = x
    x = layers.Conv2D(channels // 2, 1, use_bias=False, name=f"{name}_in")(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.DepthwiseConv2D(3, stride, padding="same", name=f"{name}_deep")(x)
    x = layers.Conv2D(channels // 2, 3, padding="same", activation="relu", name=f"{name}_mid")(x)
    x = layers.Conv2D(channels, 1, name=f"{name}_out")(x)
    x = layers.BatchNormalization()(x)
    if stride > 1:
        short = layers.Conv2D(channels, 1, stride, name=f"{name}_short")(short)
    return layers.ReLU()(layers.Add()([x, short]))


def residual():
    keras.utils.set_random_seed(2)
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(16, 3, padding="same", name="stem")(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = block(x, 16, "a")
    x = block(x, 32, "b", 2)
    x = block(x, 32, "c")
    x = layers.Dropout(0.1)(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, layers.Dense(5, name="logits")(x), name="net")
    return shaken(model)


@keras.utils.register_keras_serializable("test_pqf")
def doubled(x):
    """An activation that is not known."""
    return 2 * x


def unsafe():
    """Layers whose channels cannot be permuted, or only with care, in one network."""
    keras.utils.set_random_seed(2)
    x = inputs = keras.Input((8, 8, 4))
    twice = layers.Conv2D(8, 1, name="twice")
    relu = layers.ReLU()  # one object in places of different channels
    x = relu(layers.Conv2D(8, 3, padding="same", name="free")(x))
    x = twice(twice(x))
    x = layers.Conv2D(8, 3, padding="same", groups=2, name="grouped")(x)
    x = relu(layers.Conv2D(12, 1, name="to_concat")(x))
    y = layers.Conv2D(4, 1, name="other", activation=doubled)(x)
    x = layers.Concatenate()([x, y])
    x = layers.Conv2D(8, 1, name="gate_in")(x)
    gate = layers.GlobalAveragePooling2D()(x)
    gate = layers.Reshape((1, 1, 8))(layers.Dense(8, activation="sigmoid", name="gate")(gate))
    x = layers.Multiply()([x, gate])
    x = layers.MaxPooling2D()(layers.Conv2D(8, 1, name="flat", activation="gelu")(x))
    x = layers.Flatten()(x)
    x = layers.Dense(8, activation="relu", name="hidden")(x)
    inner = keras.Sequential([keras.Input((8,)), layers.Dense(12, name="nested")], name="inner")
    x = layers.LeakyReLU()(inner(x))
    return shaken(keras.Model(inputs, layers.Dense(5, name="logits")(x), name="net"))


def shaken(model):
    """The model with statistics, biases and scales that differ between channels."""
    rng = np.random.default_rng(6)
    for w in model.weights:
        if len(w.shape) == 1:
            w.assign(rng.uniform(0.5, 2.0, w.shape).astype("float32"))
    return model


MODELS = {f.__name__: f for f in (residual, unsafe)}


def names(group):
    return sorted(layer.name for layer in group.readers)


def test_groups_of_a_residual_network():
    groups = sorted(names(group) for group in channel_groups(Program(residual())))
    assert groups == [
        ["a_in", "b_in", "b_short"],  # the stream of the first stage
        ["a_mid"],
        ["a_out"],
        ["b_mid"],
        ["b_out"],
        ["c_in", "logits"],
        ["c_mid"],
        ["c_out"],
    ]


def test_groups_leave_what_is_not_safe():
    groups = sorted(names(group) for group in channel_groups(Program(unsafe())))
    # `twice` reads its own output, which the grouped convolution reads too
    assert groups == [["flat", "gate"], ["logits"], ["nested"]]


@pytest.mark.parametrize("name", MODELS)
def test_function_stays_under_any_permutation(name, rng):
    model = MODELS[name]()
    twin = clone_with_replacements(model, {})[0]
    for group in channel_groups(Program(twin)):
        variable, axis = group.weights[0]
        order = rng.permutation(variable.shape[axis])
        group.permute(order)
    x = rng.normal(size=(6, *model.inputs[0].shape[1:])).astype("float32")
    want, got = model.predict(x, verbose=0), twin.predict(x, verbose=0)
    assert np.abs(want - got).max() < 1e-5 * np.abs(want).max()
    changed = [
        not np.array_equal(a, b)
        for a, b in zip(model.get_weights(), twin.get_weights(), strict=True)
    ]
    assert sum(changed) > 8


def test_prepare_lowers_the_spread_and_keeps_the_function(rng):
    model = residual()
    for layer in model.layers:  # channels of different sizes
        if hasattr(layer, "kernel") and len(layer.kernel.shape) == 4:
            scale = np.geomspace(2, 0.2, layer.kernel.shape[-2])[:, None]
            layer.kernel.assign(np.asarray(layer.kernel) * scale)
    before = [np.array(w) for w in model.get_weights()]
    permuted = PQF(conv=18, **QUICK).prepare(model, FineTuner(model, None))
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    x = rng.normal(size=(6, 8, 8, 3)).astype("float32")
    np.testing.assert_allclose(
        model.predict(x, verbose=0), permuted.predict(x, verbose=0), rtol=1e-3, atol=1e-3
    )
    for name, d in (("a_out", 4), ("c_mid", 18)):
        spreads = []
        for net in (model, permuted):
            kernel = np.asarray(net.get_layer(name).kernel)
            spreads.append(Spread(Consumer(kernel, d, 8), np.arange(kernel.shape[-2])).value)
        assert spreads[1] < 0.95 * spreads[0]


@pytest.fixture
def data(rng):
    labels = rng.integers(0, 5, 48)
    images = rng.normal(size=(48, 8, 8, 3)).astype("float32")
    images += labels[:, None, None, None]
    return images, labels


def test_whole_network_without_data(tmp_path, rng):
    model = residual()
    reports = []
    small = compress(
        model, None, PQF(**QUICK, steps=0), verbose=False, callback=lambda r: reports.append(r)
    )
    assert [report.name for report in reports][:2] == ["a_in", "a_mid"]
    assert "stem" not in [report.name for report in reports]
    assert all(0 < report.solution.error_after < 1 for report in reports)
    layer = small.get_layer("c_mid")
    assert (layer.order, layer.shared, layer.gradient) == ("channel", True, "sum")
    x = rng.normal(size=(4, 8, 8, 3)).astype("float32")
    small.save(tmp_path / "small.keras")
    again = keras.models.load_model(tmp_path / "small.keras")
    np.testing.assert_array_equal(small.predict(x, verbose=0), again.predict(x, verbose=0))


@pytest.mark.parametrize("labelled", [True, False])
def test_fine_tuning_on_labels_or_against_the_float_network(labelled, data, monkeypatch):
    stages = []
    run = FineTuner.run

    def watched(self, model, stage, *args, **kwargs):
        losses = run(self, model, stage, *args, **kwargs)
        stages.append((stage, losses))
        return losses

    monkeypatch.setattr(FineTuner, "run", watched)
    method = PQF(**{**QUICK, "batch_size": 48}, steps=25, rate=5e-3)
    compress(residual(), data if labelled else data[0], method, verbose=False)
    ((stage, losses),) = stages
    assert stage.loss == ("labels" if labelled else "distillation")
    assert (stage.optimizer, stage.schedule, stage.final_rate) == ("adam", "cosine", 1e-6)
    assert np.mean(losses[-3:]) < 0.7 * np.mean(losses[:3])


class Stop(Exception):
    """An interruption."""


def without_dropout():
    keras.utils.set_random_seed(4)
    body = [layers.Conv2D(8, 3, name="a", activation="relu"), layers.BatchNormalization()]
    body += [layers.Conv2D(16, 1, name="b", activation="relu"), layers.GlobalMaxPooling2D()]
    return keras.Sequential([keras.Input((8, 8, 3)), *body, layers.Dense(5, name="c")], name="net")


@pytest.mark.parametrize("at", ["layer", "stage"])
def test_resumed_run_gives_the_same(at, data, tmp_path, monkeypatch):
    monkeypatch.setattr(finetuning, "_SAVE_EVERY", 2)
    model, method = without_dropout(), PQF(**QUICK, steps=6)
    whole = compress(model, data, method, verbose=False)
    save_stage = Checkpoint.save_stage

    def stop_in_stage(self, name, arrays):
        save_stage(self, name, arrays)
        if arrays["step"] == 4:
            raise Stop

    def stop_at_layer(report):
        if at == "layer":
            raise Stop

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(Checkpoint, "save_stage", stop_in_stage)
        compress(model, data, method, tmp_path, verbose=False, callback=stop_at_layer)
    resumed = compress(model, data, method, tmp_path, verbose=False)
    for a, b in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("settings", [{"swaps": -1}, {"polish": 0}, {"conv": 4}, {"clamp": "no"}])
def test_bad_settings(settings):
    with pytest.raises(ValueError, match=f"PQF.*{next(iter(settings))}"):
        PQF(**settings)
