"""Masks by magnitude, and the schedule they follow."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from kerasq.codebooks import FineTuner, Stage
from kerasq.codebooks.pruning import Pruner, cubic_sparsity, magnitude_mask, quality_sparsity
from kerasq.keras import keras


def test_cubic_schedule_has_its_worked_values():
    """Section 10.1: 0 to 0.9 in ten steps."""
    worked = [0, 0.2439, 0.4392, 0.5913, 0.7056, 0.7875, 0.8424, 0.8757, 0.8928, 0.8991, 0.9]
    assert [cubic_sparsity(0, 0.9, t / 10) for t in range(11)] == pytest.approx(worked, abs=5e-5)


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.333, 0.5, 0.999])
def test_achieved_sparsity_is_within_one_weight(rng, sparsity):
    kernel = rng.normal(size=(3, 3, 5, 7))
    assert abs((~magnitude_mask(kernel, sparsity)).mean() - sparsity) <= 1 / kernel.size


def test_the_smallest_go_first_and_ties_by_index():
    kernel = np.array([[1.0, -2.0, 1.0], [-1.0, 0.5, 3.0]])
    assert magnitude_mask(kernel, 0.5).tolist() == [[False, True, False], [True, False, True]]


def test_pruned_weights_never_come_back(rng):
    kernel = rng.normal(size=50)
    mask = magnitude_mask(kernel, 0.5)
    grown = np.where(mask, kernel, 100.0)
    later = magnitude_mask(grown, 0.6, mask)
    assert not (later & ~mask).any() and later.sum() == 20
    assert np.array_equal(magnitude_mask(grown, 0.1, mask), mask)


def test_quality_is_a_threshold_in_standard_deviations(rng):
    kernel = 3 * rng.normal(size=100_000)
    assert quality_sparsity(kernel, 1.0) == pytest.approx(0.6827, abs=0.01)
    assert quality_sparsity(kernel, 0.0) == 0


def small_network():
    return keras.Sequential([keras.Input((6,)), keras.layers.Dense(10, name="a")])


def test_sparsity_follows_the_schedule_while_training(rng):
    model = small_network()
    layer = model.layers[-1]
    pruner = Pruner([(layer, 0.8)], steps=10, updates=10)
    masks = []

    def after_step(step):
        pruner.after_step(step)
        masks.append(np.asarray(layer.kernel) != 0)

    x = rng.normal(size=(64, 6)).astype(np.float32)
    tuner = FineTuner(model, [x], rng.integers(0, 10, 64))
    stage = Stage("prune", 14, 0.01, 16, "adam", loss="labels")
    tuner.run(model, stage, after_step=after_step, on_start=pruner.start)
    shares = [cubic_sparsity(0, 0.8, t / 10) for t in range(1, 11)] + 4 * [0.8]
    assert [1 - mask.mean() for mask in masks] == pytest.approx(shares, abs=0.5 / 60 + 1e-9)
    assert all(not (later & ~mask).any() for mask, later in zip(masks, masks[1:], strict=False))


def test_pruning_at_once_and_kernels_that_are_sparse_already():
    model = small_network()
    layer = model.layers[-1]
    kernel = np.asarray(layer.kernel).copy()
    kernel[:5] = 0
    layer.kernel.assign(kernel)
    Pruner([(layer, 0.5)], steps=0, updates=3).start()
    assert np.array_equal(np.asarray(tf.convert_to_tensor(layer.kernel)), kernel)
    Pruner([(layer, 0.9)], steps=0, updates=3).start()
    assert (np.asarray(layer.kernel) != 0).sum() == 6
