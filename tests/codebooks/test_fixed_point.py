"""FixedPoint: the worked numbers of both papers, networks, and export."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

import kerasq
from kerasq.codebooks import FixedPoint, compress
from kerasq.codebooks.fixed_point import (
    FixedPointQuantizer,
    better_step,
    fixed_point_codes,
    l2_step,
    max_step,
)
from kerasq.keras import keras
from kerasq.layers import QuantConv2D, QuantDense

layers = keras.layers


def network():
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            layers.Conv2D(8, 3, use_bias=False, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(5, name="dense"),
        ],
        name="net",
    )


@pytest.fixture
def data(rng):
    x = rng.normal(size=(256, 6, 6, 3)).astype("float32")
    return x, (x.mean((1, 2, 3)) > 0).astype("int64")


def kernel_of(layer):
    return np.array(tf.convert_to_tensor(layer.kernel))


def quantized(layer):
    return np.array(layer.kernel_quantizer(kernel_of(layer)))


def test_worked_product_of_vanhoucke():
    w, a = np.float32([0.31, -0.92, 0.05, 0.77]), np.array([0.2, 0.9, 0.55, 1])
    codes = FixedPointQuantizer("max").represent(w).codes().astype(int) - 127
    np.testing.assert_array_equal(codes, [43, -127, 7, 106])
    activations = np.round(255 * a).astype(int)
    np.testing.assert_array_equal(activations, [51, 230, 140, 255])
    total = codes @ activations
    assert total == 993
    scale = 127 / np.abs(w).max()
    assert total / (255 * scale) == pytest.approx(0.028209, abs=1e-6)
    assert w @ a == pytest.approx(0.0315, abs=1e-6)


def test_error_bound_of_8_bits(rng):
    """Half a step for each factor, and their product."""
    for _ in range(20):
        w, a = rng.normal(size=50).astype("float32"), rng.uniform(size=50)
        got = FixedPointQuantizer("max").represent(w).decode() @ (np.round(255 * a) / 255)
        step = np.abs(w).max() / 127
        bound = 0.5 * (np.abs(w).sum() / 255 + a.sum() * step) + len(w) * step / 255 / 4
        assert abs(got - w @ a) <= bound


@pytest.mark.parametrize(
    ("levels", "step", "first", "last"),
    [
        (3, 0.380160, 0.757125, 0.230409),
        (7, 0.177276, 0.091760, 0.091076),
        (15, 0.079434, 0.014829, 0.012863),
    ],
)
def test_worked_steps_of_least_squares(levels, step, first, last):
    i = np.arange(1, 31)
    x = tf.constant(0.5 * np.sin(1.7 * i) + 0.1 * np.cos(5 * i))

    def error(size):
        return float(tf.reduce_sum((x - size * fixed_point_codes(x, size, levels)) ** 2))

    assert error(max_step(x, levels)) == pytest.approx(first, abs=1e-6)
    found = l2_step(x, levels)
    assert float(found) == pytest.approx(step, abs=1e-6)
    assert error(found) == pytest.approx(last, abs=1e-6)
    assert float(better_step(x, found, levels)) == float(found)


@pytest.mark.parametrize("levels", [3, 5, 31, 255])
def test_alternation_is_monotone(levels, rng):
    x = tf.constant(rng.normal(size=400))
    size, errors = max_step(x, levels), []
    for _ in range(30):
        codes = fixed_point_codes(x, size, levels)
        errors.append(float(tf.reduce_sum((x - size * codes) ** 2)))
        size = better_step(x, size, levels)
        errors.append(float(tf.reduce_sum((x - size * codes) ** 2)))
    assert all(b <= a * (1 + 1e-12) for a, b in zip(errors, errors[1:], strict=False))


@pytest.mark.parametrize("kind", ["max", "l2"])
@pytest.mark.parametrize("levels", [3, 9, 127, 255])
def test_represented_is_what_was_computed(kind, levels, rng):
    w = rng.normal(size=(3, 3, 4, 5)).astype("float32")
    q = FixedPointQuantizer(kind, levels)
    q.build(w.shape)
    for _ in range(2):  # with the step of the weights at hand, then with one that is set
        eager, graph = q(w), tf.function(q)(tf.constant(w))
        decoded = q.represent(w).decode()
        np.testing.assert_array_equal(decoded, eager)
        np.testing.assert_array_equal(decoded, graph)
        q.fit(0.7 * w)
    assert len(np.unique(decoded)) <= levels
    assert q.represent(w).bits == {3: 2, 9: 4, 127: 7, 255: 8}[levels]


def test_gradient_goes_straight_through(rng):
    w = tf.constant(rng.normal(size=(6, 4)).astype("float32"))
    q = FixedPointQuantizer("l2", 3)
    upstream = rng.normal(size=(6, 4)).astype("float32")
    with tf.GradientTape() as tape:
        tape.watch(w)
        loss = tf.reduce_sum(q(w) * upstream)
    np.testing.assert_array_equal(tape.gradient(loss, w), upstream)


def test_step_is_kept_from_the_first_call_in_training(rng):
    w = rng.normal(size=(6, 4)).astype("float32")
    q = FixedPointQuantizer("max", 7)
    q(w)
    assert float(q.step) == 0
    q(w, training=True)
    q(9 * w, training=True)
    assert float(q.step) == pytest.approx(np.abs(w).max() / 3)


@pytest.mark.parametrize("kind", ["max", "l2"])
def test_zeros_stay_zeros(kind):
    q = FixedPointQuantizer(kind, 7)
    np.testing.assert_array_equal(q.represent(np.zeros((3, 2))).decode(), 0)


@pytest.mark.parametrize("settings", [{}, {"kind": "l2", "levels": {"dense": 3, "conv": 15}}])
def test_network_computes_with_the_grid(settings, data, tmp_path):
    model, (x, _) = network(), data
    small = compress(model, None, FixedPoint(**settings), verbose=False)
    assert type(small.get_layer("conv")) is QuantConv2D
    assert type(small.get_layer("dense")) is QuantDense
    for name in ("conv", "dense"):
        layer = model.get_layer(name)
        kernel = kernel_of(layer)
        np.testing.assert_array_equal(kernel_of(small.get_layer(name)), kernel)
        want = FixedPointQuantizer(small.get_layer(name).kernel_quantizer.kind).represent(kernel)
        if not settings:
            np.testing.assert_array_equal(quantized(small.get_layer(name)), want.decode())
        layer.set_weights([quantized(small.get_layer(name)), *layer.get_weights()[1:]])
    got = small.predict(x, verbose=0)
    np.testing.assert_allclose(got, model.predict(x, verbose=0), rtol=1e-5, atol=1e-5)
    small.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), got)


def test_8_bits_are_close_and_l2_is_closer_than_max():
    def errors(**settings):
        found = []
        method = FixedPoint(**settings)
        compress(network(), None, method, verbose=False, callback=found.append)
        return [report.solution.error_after for report in found]

    assert max(errors()) < 1e-4
    pairs = zip(errors(kind="l2", levels=7), errors(levels=7), strict=True)
    assert all(a < b for a, b in pairs)


@pytest.mark.parametrize("labelled", [True, False])
def test_retraining_lowers_the_loss_and_resumes(labelled, data, tmp_path, monkeypatch):
    model, (x, y) = network(), data
    method = FixedPoint("l2", 3, steps=60, learning_rate=1e-2, batch_size=64)
    given = (x, y) if labelled else x
    whole = compress(model, given, method, verbose=False)
    plain = compress(model, None, FixedPoint("l2", 3), verbose=False)
    step = float(plain.get_layer("dense").kernel_quantizer.step)
    assert float(whole.get_layer("dense").kernel_quantizer.step) == step

    def loss(network):
        answer = tf.nn.log_softmax(network(x))
        if labelled:
            return -float(tf.reduce_mean(tf.gather(answer, y, batch_dims=1)))
        want = tf.nn.log_softmax(model(x))
        return float(tf.reduce_mean(tf.reduce_sum(tf.exp(want) * (want - answer), -1)))

    assert loss(whole) < loss(plain)
    interrupt_after_save(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        compress(model, given, method, tmp_path, verbose=False)
    monkeypatch.undo()
    small = compress(model, given, method, tmp_path, verbose=False)
    for a, b in zip(whole.get_weights(), small.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def interrupt_after_save(monkeypatch):
    """Stop a run after the first state of training is on disk: at step 20."""
    from kerasq.codebooks import finetuning

    save = finetuning.Checkpoint.save_stage

    def stop(self, name, arrays):
        save(self, name, arrays)
        raise KeyboardInterrupt

    monkeypatch.setattr(finetuning, "_SAVE_EVERY", 20)
    monkeypatch.setattr(finetuning.Checkpoint, "save_stage", stop)


def test_export_stores_a_byte_a_weight(data):
    small = compress(network(), None, FixedPoint(), verbose=False)
    x = data[0][:16]
    interpreter = kerasq.Interpreter(model_content=kerasq.convert(small))
    got, want = interpreter.predict(x), small.predict(x, verbose=0)
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("levels", [2, 1, 257, {"dense": 4}])
def test_levels_out_of_range(levels):
    with pytest.raises(ValueError, match="levels must be odd, 3 to 255"):
        FixedPoint(levels=levels)


def test_other_bad_settings(data):
    with pytest.raises(ValueError, match="kind must be one of"):
        FixedPoint("min")
    with pytest.raises(ValueError, match=r"levels=.*'dens'.*'conv', 'dense'"):
        compress(network(), None, FixedPoint(levels={"dens": 3}), verbose=False)
    with pytest.raises(ValueError, match="data"):
        compress(network(), None, FixedPoint(steps=5), verbose=False)


def test_page_of_a_run(tmp_path):
    compress(network(), None, FixedPoint(), verbose=False, report=tmp_path / "report.html")
    assert "M=255 max" in (tmp_path / "report.html").read_text()


def test_single_layers_stay_float():
    small = compress(network(), None, FixedPoint(layers={"dense": False}), verbose=False)
    assert type(small.get_layer("dense")) is layers.Dense


def test_h5_round_trip(tmp_path, data):
    small = compress(network(), None, FixedPoint("l2", 5), verbose=False)
    small.save(tmp_path / "m.h5")
    loaded = keras.models.load_model(tmp_path / "m.h5")
    x = data[0]
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), small.predict(x, verbose=0))
