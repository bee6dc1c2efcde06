"""Training of codewords: gradients, optimizers, distillation, re-assignment, statistics."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from kerasq.codebooks import (
    QCNN,
    CodebookSettings,
    Distiller,
    compress,
    reassign,
    reestimate_batch_normalization,
)
from kerasq.keras import keras
from kerasq.layers import CodebookConv2D, CodebookDense

layers = keras.layers


def loss_of(layer, x):
    y = tf.cast(layer(x), tf.float64)
    weights = tf.reshape(tf.cast(tf.range(tf.size(y)), tf.float64), y.shape)
    return tf.reduce_sum(y * tf.sin(weights))


def gradient_of(layer, x):
    with tf.GradientTape() as tape:
        loss = loss_of(layer, x)
    return tape.gradient(loss, layer.trainable_variables[0]).numpy()


SETTINGS = [
    {},
    {"shared": True},
    {"shared": True, "order": "channel"},
    {"shared": True, "subvector": 1, "fixed_zero": True},
]


def conv_or_dense(kind, **settings):
    if kind == "conv":
        layer, shape = CodebookConv2D(6, 3, strides=2, groups=2, **settings), (4, 7, 7, 6)
    else:
        layer, shape = CodebookDense(6, **settings), (4, 7)
    x = tf.random.stateless_normal(shape, (1, 2))
    layer.build(x.shape)
    return layer, x


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("kind", ["conv", "dense"])
def test_the_gradient_by_sum_is_the_derivative(kind, settings):
    layer, x = conv_or_dense(kind, **{"subvector": 2, "codewords": 3, **settings})
    gradient = gradient_of(layer, x)
    codewords = layer.codewords.numpy()
    numeric = np.zeros_like(codewords)
    for place in np.ndindex(codewords.shape):
        sides = []
        for sign in (1, -1):
            moved = codewords.copy()
            moved[place] += sign * 0.5  # the loss is linear in the codewords
            layer.codewords.assign(moved)
            sides.append(float(loss_of(layer, x)))
        numeric[place] = sides[0] - sides[1]
    np.testing.assert_allclose(gradient, numeric, atol=2e-4 * np.abs(numeric).max())
    if layer.fixed_zero:
        assert not gradient[:, 0].any() and gradient[:, 1:].any()


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("kind", ["conv", "dense"])
def test_the_mean_is_the_sum_over_the_members(kind, settings):
    settings = {"subvector": 2, "codewords": 3, **settings}
    summing, x = conv_or_dense(kind, **settings)
    meaning, _ = conv_or_dense(kind, gradient="mean", **settings)
    assignments = summing.assignments.numpy()
    meaning.set_codebook(summing.codewords.numpy(), assignments)
    books, size, _ = summing.codewords.shape
    members = np.zeros((books, size))
    if books == 1:
        members[0] = np.bincount(assignments.ravel(), minlength=size)
    else:
        for m in range(books):
            members[m] = np.bincount(assignments[..., m, :].ravel(), minlength=size)
    want = gradient_of(summing, x) / np.maximum(members, 1)[..., None]
    np.testing.assert_allclose(gradient_of(meaning, x), want, rtol=1e-4, atol=1e-6)


def network():
    keras.utils.set_random_seed(3)
    inputs = keras.Input((6, 6, 4))
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="conv")(inputs)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.Flatten()(x)
    return keras.Model(inputs, layers.Dense(5, name="logits")(x), name="net")


def data(count=96):
    rng = np.random.default_rng(9)
    return rng.normal(size=(count, 6, 6, 4)).astype("float32"), rng.integers(0, 5, count)


def small_network():
    model = network()
    return model, compress(model, None, QCNN(2, 4, error_correction=False), verbose=False)


def codebook_layers(model):
    return [x for x in model.layers if isinstance(x, CodebookConv2D | CodebookDense)]


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.SGD(0.05, 0.9),
        lambda: keras.optimizers.Adam(0.01),
        lambda: keras.optimizers.RMSprop(0.005),
    ],
    ids=["sgd", "adam", "rmsprop"],
)
def test_any_optimizer_trains_codewords_and_leaves_assignments(optimizer):
    _, small = small_network()
    before = [(x.codewords.numpy(), x.assignments.numpy()) for x in codebook_layers(small)]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    small.compile(optimizer(), loss)
    x, y = data()
    history = small.fit(x, y, batch_size=32, epochs=6, verbose=0).history["loss"]
    assert history[-1] < 0.8 * history[0]
    for layer, (codewords, assignments) in zip(codebook_layers(small), before, strict=True):
        assert not np.array_equal(layer.codewords.numpy(), codewords)
        np.testing.assert_array_equal(layer.assignments.numpy(), assignments)
        np.testing.assert_array_equal(layer.codebook().decode(), layer.kernel.numpy())


@pytest.mark.parametrize("order", ["position", "channel"])
@pytest.mark.parametrize("subvector", [2, 3])
def test_reassigned_sub_vectors_have_their_nearest_codewords(order, subvector, rng):
    model = network()
    settings = CodebookSettings(subvector, 4, "float32", order, shared=order == "channel")
    replaced = {name: model.get_layer(name) for name in ("conv", "logits")}
    inputs = keras.Input((6, 6, 4))
    x = inputs
    for layer in model.layers[1:]:
        if layer.name in replaced:
            x = settings.replacement(layer)(x)
        else:
            x = layer.__class__.from_config(layer.get_config())(x)
    small = keras.Model(inputs, x)
    changed = reassign(small, model)
    assert set(changed) == {"conv", "logits"} and all(0 < share < 1 for share in changed.values())
    for layer in codebook_layers(small):
        kernel = np.asarray(model.get_layer(layer.name).kernel)
        error = ((layer.kernel.numpy() - kernel) ** 2).sum()
        best = layer.assignments.numpy()
        for _ in range(60):  # no other assignment is better
            place = tuple(rng.integers(0, size) for size in best.shape)
            other = best.copy()
            other[place] = (other[place] + rng.integers(1, 4)) % 4
            layer.assignments.assign(other)
            assert ((layer.kernel.numpy() - kernel) ** 2).sum() >= error - 1e-6
        layer.assignments.assign(best)
    assert set(reassign(small, model).values()) == {0.0}


def test_reassignment_keeps_pruned_weights(rng):
    model = network()
    kernel = np.asarray(model.get_layer("logits").kernel)
    settings = CodebookSettings(1, 4, shared=True, fixed_zero=True)
    layer = settings.replacement(model.get_layer("logits"))
    inputs = keras.Input((kernel.shape[0],))
    small = keras.Model(inputs, layer(inputs))
    pruned = rng.random(kernel.shape) < 0.5
    layer.set_codebook([[[0.0], [-0.1], [0.02], [0.2]]], np.where(pruned, 0, 2))
    reassign(small, model)
    decoded, values = layer.kernel.numpy(), np.array([-0.1, 0.02, 0.2], np.float16)
    np.testing.assert_array_equal(decoded == 0, pruned)
    nearest = values[np.abs(kernel[..., None] - values.astype("f4")).argmin(-1)]
    np.testing.assert_array_equal(decoded[~pruned], nearest[~pruned].astype("f4"))


def test_reassignment_refuses_another_original():
    model, small = small_network()
    with pytest.raises(ValueError, match="'net.*no CodebookConv2D"):
        reassign(model, model)
    other = keras.Sequential([keras.Input((3,)), layers.Dense(5, name="logits")])
    with pytest.raises(ValueError, match="no layer 'conv' with a kernel"):
        reassign(small, other)


def test_statistics_of_normalizations_are_means_over_the_batches():
    model = network()
    x, _ = data(100)
    norm = model.get_layer("norm")
    norm.set_weights([np.full(8, 1.5), np.full(8, 0.5), np.full(8, 9.0), np.full(8, 9.0)])
    momentum = norm.momentum
    reestimate_batch_normalization(model, x, batch_size=25)
    responses = keras.Model(model.inputs, model.get_layer("conv").output).predict(x, verbose=0)
    parts = responses.reshape(4, 25 * 36, 8).astype(np.float64)
    means, count = parts.mean(1), 25 * 36
    variances = parts.var(1)
    np.testing.assert_allclose(np.asarray(norm.moving_mean), means.mean(0), rtol=1e-4, atol=1e-5)
    # Keras's fused normalization averages variances with n - 1 in Keras 2, n in Keras 3.
    ratio = np.asarray(norm.moving_variance) / variances.mean(0)
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-4)
    assert 1 - 1e-4 < ratio[0] < count / (count - 1) + 1e-4
    assert norm.momentum == momentum
    np.testing.assert_array_equal(np.asarray(norm.gamma), 1.5)


class Logits:
    """Networks whose outputs are fixed logits, for the worked numbers."""

    student, teacher = np.array([[1, 2, -1, 0.5]]), np.array([[2, 1.5, -0.5, 0]])

    def __init__(self, temperature, alpha=1.0):
        models = []
        for logits in (self.student, self.teacher):
            inputs = keras.Input((1,))
            model = keras.Model(inputs, layers.Dense(4, use_bias=False)(inputs))
            model.set_weights([logits])
            models.append(model)
        self.distiller = Distiller(*models, temperature, alpha)
        self.kernel = models[0].trainable_variables[0]

    def loss_and_gradient(self, label=None):
        x = tf.ones((1, 1))
        y = None if label is None else tf.constant([label])
        with tf.GradientTape() as tape:
            loss = self.distiller.compute_loss(x, y, self.distiller(x, training=True))
        return float(loss), tape.gradient(loss, self.kernel).numpy()[0]


@pytest.mark.parametrize(
    ("temperature", "loss"), [(1, 0.261571), (4, 0.231223), (20, 0.215278), (100, 0.211814)]
)
def test_distillation_loss_of_the_worked_example(temperature, loss):
    # In float32, a divergence of 2e-5 times 100².
    assert Logits(temperature).loss_and_gradient()[0] == pytest.approx(loss, rel=4e-3)


def test_distillation_gradient_of_the_worked_example():
    want = [-0.262475, 0.194046, -0.064937, 0.133366]
    np.testing.assert_allclose(Logits(4).loss_and_gradient()[1], want, atol=1e-5)
    z, v = Logits.student[0], Logits.teacher[0]
    limit = ((z - z.mean()) - (v - v.mean())) / 4
    np.testing.assert_allclose(limit, [-0.21875, 0.15625, -0.09375, 0.15625])
    np.testing.assert_allclose(Logits(1000).loss_and_gradient()[1], limit, atol=1e-3)
    half, label = Logits(4, alpha=0.5), 2
    softmax = np.exp(z) / np.exp(z).sum()
    mixed = 0.5 * np.array(want) + 0.5 * (softmax - np.eye(4)[label])
    np.testing.assert_allclose(half.loss_and_gradient(label)[1], mixed, atol=1e-5)


def test_a_student_that_equals_its_teacher_has_no_loss_and_no_gradient():
    model = network()
    twin = keras.models.clone_model(model)
    twin.set_weights(model.get_weights())
    distiller = Distiller(twin, model, temperature=3)
    x = tf.constant(data()[0])
    with tf.GradientTape() as tape:
        loss = distiller.compute_loss(x, None, distiller(x, training=False))
    assert abs(float(loss)) < 1e-5
    for gradient in tape.gradient(loss, twin.trainable_variables):
        np.testing.assert_allclose(gradient, 0, atol=1e-5)


@pytest.mark.parametrize("alpha", [1.0, 0.7])
def test_fit_distils_a_compressed_network(alpha):
    model, small = small_network()
    teacher = model.get_weights()
    before = [x.assignments.numpy() for x in codebook_layers(small)]
    distiller = Distiller(small, model, temperature=2, alpha=alpha)
    distiller.compile(keras.optimizers.Adam(0.005), metrics=[] if alpha == 1 else ["accuracy"])
    x, y = data()
    given = (x,) if alpha == 1 else (x, y)
    history = distiller.fit(*given, batch_size=32, epochs=8, verbose=0).history
    assert history["loss"][-1] < 0.7 * history["loss"][0]
    assert ("accuracy" in history) == (alpha < 1)
    assert {v.shape for v in distiller.trainable_variables} == {
        v.shape for v in small.trainable_variables
    }
    for weight, kept in zip(model.get_weights(), teacher, strict=True):
        np.testing.assert_array_equal(weight, kept)
    for layer, assignments in zip(codebook_layers(small), before, strict=True):
        np.testing.assert_array_equal(layer.assignments.numpy(), assignments)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0}, "temperature"),
        ({"alpha": 1.5}, "alpha"),
    ],
)
def test_distiller_refuses_settings_out_of_range(settings, message):
    model, small = small_network()
    with pytest.raises(ValueError, match=message):
        Distiller(small, model, **settings)


def test_distiller_refuses_other_outputs_missing_labels_and_weights():
    model, small = small_network()
    other = keras.Sequential([keras.Input((3,)), layers.Dense(7)])
    with pytest.raises(ValueError, match="the same for both"):
        Distiller(small, other)
    distiller = Distiller(small, model, alpha=0.5)
    outputs = tf.zeros((2, 5))
    with pytest.raises(ValueError, match="looks at labels"):
        distiller.compute_loss(tf.zeros((2, 6, 6, 4)), None, outputs)
    with pytest.raises(ValueError, match="no weights of samples"):
        distiller.compute_loss(tf.zeros((2, 6, 6, 4)), None, outputs, tf.ones(2))
