"""The cost of a training step: what is measured, and in which order."""

from __future__ import annotations

import numpy as np
import pytest

from kerasq.benchmark import training
from kerasq.benchmark.methods import methods
from kerasq.keras import keras_version

pytestmark = pytest.mark.once


def test_steps_take_turns_and_the_warm_up_is_not_counted(monkeypatch):
    calls, clock = [], iter(range(1000))
    monkeypatch.setattr(training.time, "perf_counter", lambda: float(next(clock)))
    seconds = training.take_turns([lambda: calls.append("a"), lambda: calls.append("b")], 3)
    assert calls == ["a", "b"] * (training.WARM_UP + 3)
    assert np.array_equal(seconds, np.ones((3, 2)))


def test_ratios_are_taken_within_a_turn(monkeypatch):
    turns = np.array([[1.0, 1.5, 3.0], [2.0, 3.0, 3.0], [1.0, 2.0, 2.0]])  # float, ours, larq
    monkeypatch.setattr(training, "networks", lambda name: {"kerasq": list, "larq": list})
    monkeypatch.setattr(training, "step_of", lambda model: None)
    monkeypatch.setattr(training, "take_turns", lambda functions, count: turns)
    ours, larqs = training.run(["ste_sign"], 3, print)
    assert (ours.seconds, ours.over_float, ours.over_ours) == (2.0, 1.5, 1.0)
    assert (larqs.seconds, larqs.over_float, larqs.over_ours) == (3.0, 2.0, 1.0)


@pytest.mark.parametrize("name", methods())
def test_other_libraries_stand_beside_ours_where_they_have_the_method(name):
    libraries = set(training.networks(name))
    assert "kerasq" in libraries
    if keras_version() == 2:
        assert ("larq" in libraries) == (name in training.LARQ)
        assert ("tfmot" in libraries) == (name == training.TFMOT)


@pytest.mark.keras2
@pytest.mark.parametrize("name", training.LARQ)
def test_larqs_network_has_the_same_layers(name):
    built = {library: make() for library, make in training.networks(name).items()}
    shapes = [[w.shape for w in model.get_weights()] for model in built.values()]
    assert len(shapes) == 2 and shapes[0] == shapes[1]


@pytest.mark.slow
def test_a_step_of_each_is_measured(capsys):
    (cost,) = [c for c in training.run(["bwn"], 1, print) if c.library == "kerasq"]
    assert cost.seconds > 0 and cost.over_float > 0
    training.print_costs([cost])
    assert "bwn" in capsys.readouterr().out
