"""Fine-tuning of codewords: it helps, it never harms, and it keeps to its time."""

from __future__ import annotations

import time

import numpy as np
import pytest

from kerasq.benchmark import cifar
from kerasq.codebooks import QCNN, compress
from kerasq.keras import keras

pytestmark = pytest.mark.once


def _networks(rng: np.random.Generator):
    layers = [
        keras.layers.Input((8, 8, 3)),
        keras.layers.Conv2D(8, 3, padding="same", activation="relu"),
        keras.layers.BatchNormalization(),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(5),
    ]
    teacher = keras.Sequential(layers)
    teacher.layers[-1].set_weights([rng.normal(size=(8, 5)) * 4, np.zeros(5)])
    return teacher, compress(teacher, None, QCNN(1, 4, error_correction=False), verbose=False)


def test_distillation_is_the_divergence_of_softened_outputs(rng):
    teacher, student = rng.normal(size=(2, 6, 4)).astype(np.float32)

    def softmax(logits: np.ndarray) -> np.ndarray:
        exponentials = np.exp(logits / cifar.TEMPERATURE)
        return exponentials / exponentials.sum(-1, keepdims=True)

    target, answer = softmax(teacher), softmax(student)
    expected = (target * np.log(target / answer)).sum(-1) * cifar.TEMPERATURE**2
    np.testing.assert_allclose(cifar.distillation(teacher, student), expected, atol=1e-5)
    np.testing.assert_allclose(cifar.distillation(teacher, teacher), 0, atol=1e-6)


def test_fine_tuning_brings_the_model_nearer_to_its_teacher(rng):
    teacher, small = _networks(rng)
    first = small.layers[0]
    assignments = np.array(first.assignments)
    first.set_codebook(0.5 * np.array(first.codewords), assignments)
    x = rng.normal(size=(640, 8, 8, 3)).astype(np.float32)
    done = cifar.fine_tune(small, teacher, x, minutes=2, epochs=8, batch=32, learning_rate=0.01)
    assert done.loss_after < 0.75 * done.loss_before
    held = x[np.random.default_rng(0).permutation(len(x))[: len(x) // 5]]
    measured = cifar.held_out_loss(small, teacher, held)()
    assert measured == pytest.approx(done.loss_after, rel=1e-5)
    np.testing.assert_array_equal(np.array(first.assignments), assignments)


def test_fine_tuning_keeps_what_it_had_if_it_finds_nothing_better(rng):
    teacher, small = _networks(rng)
    before = small.get_weights()
    x = rng.normal(size=(320, 8, 8, 3)).astype(np.float32)
    done = cifar.fine_tune(small, teacher, x, minutes=2, epochs=1, batch=32, learning_rate=100.0)
    assert done.loss_after == done.loss_before
    for kept, original in zip(small.get_weights(), before, strict=True):
        np.testing.assert_array_equal(kept, original)


def test_fine_tuning_ends_in_time(rng):
    teacher, small = _networks(rng)
    x = rng.normal(size=(320, 8, 8, 3)).astype(np.float32)
    start = time.perf_counter()
    done = cifar.fine_tune(small, teacher, x, minutes=0.1, epochs=10**6, batch=32)
    assert time.perf_counter() - start < 60  # a million epochs would take hours
    assert done.steps > 0


@pytest.mark.parametrize(("minutes", "images"), [(0, 100), (1, 10)])
def test_refuses_no_time_and_no_images(rng, minutes, images):
    x = np.zeros((images, 8, 8, 3), np.float32)
    with pytest.raises(ValueError, match="fine-tuning needs"):
        cifar.fine_tune(None, None, x, minutes=minutes, batch=32)


def test_augmented_images_are_flips_and_shifts_on_black(rng):
    image = np.arange(48, dtype=np.float32).reshape(4, 4, 3)
    batch = next(cifar.augmented(image[None].repeat(64, 0), 64, seed=1, shift=1))
    framed = np.full((6, 6, 3), image.min(axis=(0, 1)), np.float32)
    framed[1:5, 1:5] = image
    crops = [framed[i : i + 4, j : j + 4] for i in range(3) for j in range(3)]
    possible = {crop.tobytes() for c in crops for crop in (c, np.ascontiguousarray(c[:, ::-1]))}
    found = {one.tobytes() for one in batch}
    assert found <= possible
    assert len(found) > 9


def test_the_order_and_the_changes_follow_the_seed(rng):
    x = rng.normal(size=(32, 6, 6, 3)).astype(np.float32)

    def first(seed: int) -> np.ndarray:
        return next(cifar.augmented(x, 16, seed))

    np.testing.assert_array_equal(first(3), first(3))
    assert not np.array_equal(first(3), first(4))
