"""Every method trains on Fashion-MNIST, and its file labels real images as Keras does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kerasq.benchmark import catalogue
from kerasq.benchmark.methods import FLOAT, methods

# Per cent of the test images: some points below what each method reached when it was recorded.
FLOORS = json.loads((Path(__file__).parent / "catalogue_floors.json").read_text())
CHANCE = 10.0


@pytest.fixture(scope="module")
def data(data_dir):
    return catalogue.fashion_mnist(data_dir / "fashion_mnist.npz")


@pytest.mark.slow
@pytest.mark.keras2  # once is enough: tests/benchmark/test_methods.py trains under both
@pytest.mark.parametrize("name", [FLOAT, *methods()])
def test_trains_on_real_images(name, data):
    result = catalogue.measure(name, data)
    assert result.top1 >= FLOORS[name]
    assert result.same_labels == 100.0


def test_every_method_has_a_floor_well_above_chance():
    assert set(FLOORS) == {FLOAT, *methods()}
    assert min(FLOORS.values()) >= 4 * CHANCE


def test_results_are_printed(capsys):
    catalogue.print_results([catalogue.Result("lsq", 81.5, 100.0, 12_345, 6.7)])
    out = capsys.readouterr().out
    assert "lsq" in out and "81.50" in out and "12,345" in out
