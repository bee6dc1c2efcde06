"""Training that belongs to a method: what it does, and that it goes on where it stopped."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from kerasq.codebooks import FineTuner, Stage, finetuning, reestimate_batch_normalization
from kerasq.codebooks.checkpoint import Checkpoint
from kerasq.codebooks.cloning import clone_with_replacements
from kerasq.codebooks.finetuning import cross_entropy, divergence, log_probabilities
from kerasq.keras import keras
from kerasq.layers import CodebookConv2D, CodebookDense

layers = keras.layers


class Stop(Exception):
    """An interruption."""


def network(end="logits"):
    keras.utils.set_random_seed(5)
    body = [
        keras.Input((6, 6, 3)),
        layers.Conv2D(8, 3, name="conv"),
        layers.BatchNormalization(name="norm"),
        layers.ReLU(),
        layers.Flatten(),
        layers.Dense(5, activation="softmax" if end == "softmax" else None, name="dense"),
    ]
    return keras.Sequential(body + ([layers.Softmax()] if end == "layer" else []), name="net")


def student(end="logits", codebook=False):
    """The network with its weights shaken, or with untrained codewords."""
    if codebook:
        head, tail = (
            CodebookConv2D(8, 3, subvector=3, codewords=16, gradient="mean"),
            CodebookDense(5, subvector=4, codewords=16, activation="softmax"),
        )
        norm = [layers.BatchNormalization(), layers.ReLU(), layers.Flatten()]
        return keras.Sequential([keras.Input((6, 6, 3)), head, *norm, tail])
    model = clone_with_replacements(network(end), {})[0]
    rng = np.random.default_rng(3)
    for v in model.trainable_variables:
        v.assign(v + 0.1 * rng.normal(size=v.shape).astype("float32"))
    return model


@pytest.fixture
def inputs(rng):
    return [rng.normal(size=(50, 6, 6, 3)).astype("float32")]


@pytest.mark.parametrize("end", ["logits", "softmax", "layer"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_distillation_lowers_the_divergence(end, optimizer, inputs):
    teacher, model = network(end), student(end)
    rate = 0.05 if optimizer == "sgd" else 1e-3
    before = [np.array(w) for w in teacher.get_weights()]
    stage = Stage("a", 40, rate, batch_size=25, optimizer=optimizer)
    losses = FineTuner(teacher, inputs).run(model, stage)
    assert len(losses) == 40
    assert losses[-1] < 0.3 * losses[0]
    for a, b in zip(before, teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_networks_that_end_in_softmax_and_in_logits_train_alike(inputs):
    losses = [
        FineTuner(network(end), inputs).run(student(end), Stage("a", 10, 0.05, batch_size=25))
        for end in ("logits", "softmax", "layer")
    ]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)
    np.testing.assert_allclose(losses[2], losses[0], rtol=1e-3)


def test_a_softmax_at_the_end_of_a_model_in_the_model_is_seen(inputs):
    inner = network("softmax")
    outer = keras.Sequential([keras.Input((6, 6, 3)), inner])
    np.testing.assert_allclose(
        log_probabilities(outer, inputs[0]), np.log(inner(inputs[0])), atol=1e-5
    )


def test_codewords_learn_from_the_float_network(inputs):
    stage = Stage("a", 60, 0.1, batch_size=50, training=True)
    losses = FineTuner(network("softmax"), inputs).run(student(codebook=True), stage)
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("one_hot", [False, True])
def test_labels_are_learnt(one_hot, inputs, rng):
    labels = rng.integers(0, 5, 50)
    given = np.eye(5, dtype="float32")[labels] if one_hot else labels[:, None]
    stage = Stage("a", 60, 1e-2, batch_size=50, optimizer="adam", loss="labels", training=True)
    model = student()
    losses = FineTuner(network(), inputs, given).run(model, stage)
    assert losses[-1] < 0.1 * losses[0]
    want = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(labels, model(inputs[0]))
    got = cross_entropy(tf.constant(given), log_probabilities(model, inputs[0]))
    assert float(got) == pytest.approx(float(want), rel=1e-4)


def test_only_the_variables_given_change(inputs):
    model, before = student(), student()
    FineTuner(network(), inputs).run(model, Stage("a", 3, 0.1), [model.get_layer("dense").bias])
    changed = [
        name
        for name in ("conv", "norm", "dense")
        for a, b in zip(
            model.get_layer(name).get_weights(), before.get_layer(name).get_weights(), strict=True
        )
        if not np.array_equal(a, b)
    ]
    assert changed == ["dense"]
    assert not np.array_equal(*(np.array(m.get_layer("dense").bias) for m in (model, before)))


def test_statistics_move_in_training_only(inputs):
    for training in (False, True):
        model = student()
        mean = np.array(model.get_layer("norm").moving_mean)
        FineTuner(network(), inputs).run(model, Stage("a", 3, 0.01, training=training))
        moved = not np.array_equal(mean, np.array(model.get_layer("norm").moving_mean))
        assert moved == training


def test_weight_decay_and_momentum_are_those_of_the_formula(inputs):
    """``v ← 0.9 v − rate (g + decay w); w ← w + v``, here with g = the penalty's."""
    model = network()
    weight = model.get_layer("dense").bias
    weight.assign(np.arange(5, dtype="float32"))
    pull = tf.constant([1.0, 0, 0, 2, 0])

    def penalty():
        return tf.reduce_sum(pull * tf.convert_to_tensor(weight))

    w, v = np.arange(5.0), np.zeros(5)
    stage = Stage("a", 3, 0.1, weight_decay=0.5)
    for _ in range(3):
        v = 0.9 * v - 0.1 * (np.array(pull) + 0.5 * w)
        w = w + v
    # the teacher is the network itself, with the same bias: the divergence has no gradient
    FineTuner(model, inputs).run(model, stage, [weight], penalty)
    np.testing.assert_allclose(np.array(weight), w, atol=1e-3)


def test_schedules():
    def rates(**settings):
        stage = Stage("a", 6, 1.0, **settings)
        return [stage.rate(step) for step in range(6)]

    assert rates() == [1.0] * 6
    assert rates(schedule="steps") == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    cosine = rates(schedule="cosine", final_rate=0.2)
    assert cosine[0] == 1 and cosine[3] == pytest.approx(0.6)
    assert cosine == sorted(cosine, reverse=True) and cosine[-1] > 0.2
    assert Stage("a", 6, 1.0, schedule="cosine").rate(6) == pytest.approx(0)


def test_temperature_scales_the_gradient_back(rng):
    """T² KL of softened outputs tends to that of the logits' squares: of the same size."""
    a, b = (tf.constant(rng.normal(size=(8, 5)), tf.float32) for _ in range(2))
    for t in (50.0, 100.0):
        soft = [tf.nn.log_softmax(z / t) for z in (a, b)]
        d = a - b
        limit = tf.reduce_mean(tf.math.reduce_variance(d, -1)) / 2
        assert float(divergence(*soft)) * t**2 == pytest.approx(float(limit), rel=0.05)
    assert float(divergence(soft[0], soft[0])) == 0


def test_each_epoch_takes_each_sample_once_and_batches_repeat():
    inputs = [np.arange(12, dtype="float32")[:, None]]
    tuner = FineTuner(None, inputs, labels=np.arange(12), seed=4)
    batches = tuner._batches(Stage("a", 8, 0.1, batch_size=3), 0)
    drawn = [next(batches) for _ in range(8)]
    for epoch in (drawn[:4], drawn[4:]):
        assert sorted(np.concatenate([b[1] for b in epoch])) == list(range(12))
    assert not np.array_equal(drawn[0][1], drawn[4][1])
    for x, y in drawn:
        np.testing.assert_array_equal(x[0][:, 0], y)
    later = tuner._batches(Stage("a", 8, 0.1, batch_size=3), 5)
    np.testing.assert_array_equal(next(later)[1], drawn[5][1])


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("end", ["logits", "softmax"])
def test_resumed_stage_gives_the_same_bits(optimizer, end, inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(finetuning, "_SAVE_EVERY", 5)

    def augment(batch, rng):
        return [batch[0] + rng.normal(0, 0.1, batch[0].shape).astype("float32")]

    def run(checkpoint, after_step=None):
        model = student(end)
        stage = Stage(
            "a", 14, 0.01, 20, optimizer, weight_decay=1e-3, schedule="cosine", training=True
        )
        tuner = FineTuner(network(end), inputs, checkpoint=checkpoint, augment=augment, seed=2)
        losses = tuner.run(model, stage, after_step=after_step)
        return losses, model.get_weights()

    def stop(step):
        if step == 8:
            raise Stop

    losses, weights = run(None)
    with pytest.raises(Stop):
        run(Checkpoint(tmp_path, {}), stop)
    steps = []
    resumed_losses, resumed = run(Checkpoint(tmp_path, {}), steps.append)
    assert steps == list(range(5, 14))  # from the last step that was saved
    assert resumed_losses == losses
    for a, b in zip(weights, resumed, strict=True):
        np.testing.assert_array_equal(a, b)
    finished_losses, finished = run(Checkpoint(tmp_path, {}), stop)  # nothing left to do
    assert finished_losses == losses
    for a, b in zip(weights, finished, strict=True):
        np.testing.assert_array_equal(a, b)


def test_divergence_of_training_is_one_clear_error(inputs):
    with pytest.raises(ValueError, match="loss is .* lower the learning rate"):
        FineTuner(network(), inputs).run(student(), Stage("a", 50, 1e12))


def test_what_cannot_be_trained_is_refused(inputs):
    with pytest.raises(ValueError, match="pass data"):
        FineTuner(network(), None).run(student(), Stage("a", 1, 0.1))
    with pytest.raises(ValueError, match="labels"):
        FineTuner(network(), inputs).run(student(), Stage("a", 1, 0.1, loss="labels"))
    one = keras.Sequential([keras.Input((4,)), layers.Dense(1, activation="sigmoid")])
    with pytest.raises(ValueError, match="two classes or more"):
        FineTuner(one, [np.zeros((4, 4), "float32")]).run(one, Stage("a", 1, 0.1))


def test_reestimated_statistics_are_those_of_the_data(inputs):
    model = network()
    reestimate_batch_normalization(model, inputs, batch_size=25)
    before = model.layers[0](inputs[0])
    norm = model.get_layer("norm")
    mean, variance = np.mean(before, (0, 1, 2)), np.var(before, (0, 1, 2))
    np.testing.assert_allclose(np.array(norm.moving_mean), mean, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(np.array(norm.moving_variance), variance, rtol=0.05)
    assert math.isclose(norm.momentum, 0.99)
