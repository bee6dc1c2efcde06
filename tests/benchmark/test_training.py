"""The cost of a training step: what is measured, and in which order."""

from __future__ import annotations

import pytest

from kerasq.benchmark import training
from kerasq.benchmark.methods import methods
from kerasq.keras import keras_version


def test_steps_alternate_and_the_warm_up_is_not_counted(monkeypatch):
    calls, clock = [], iter(range(1000))
    monkeypatch.setattr(training.time, "perf_counter", lambda: float(next(clock)))
    medians = training.alternate(lambda: calls.append("a"), lambda: calls.append("b"), 3)
    assert calls == ["a", "b"] * (training.WARM_UP + 3)
    assert medians == (1.0, 1.0)


def test_the_ratio_is_to_the_float_network():
    assert training.Cost("lsq", "kerasq", 0.3, 0.2).ratio == pytest.approx(1.5)


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


def test_a_step_of_each_is_measured(capsys):
    (cost,) = [c for c in training.run(["bwn"], 1, print) if c.library == "kerasq"]
    assert cost.seconds > 0 and cost.float_seconds > 0
    training.print_costs([cost])
    assert "bwn" in capsys.readouterr().out
