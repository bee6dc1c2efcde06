"""The kernel comparison: one operator each, medians and ratios."""

from __future__ import annotations

import json

import pytest
import typer
from typer.testing import CliRunner

from kerasq.benchmark import kernels
from kerasq.keras import keras

pytestmark = pytest.mark.once

SMALL = (kernels.Shape(6, 16, 16, 3), kernels.Shape(None, 16, 24))


def run(*arguments):
    app = typer.Typer()
    app.command()(kernels.main)
    return CliRunner().invoke(app, list(arguments))


def test_each_is_one_operator_and_is_measured(monkeypatch, tmp_path):
    monkeypatch.setattr(kernels, "SHAPES", SMALL)
    path = tmp_path / "kernels.json"
    names = ["binary", "2x2 bit planes", "codebook K=16 d=8", "weight-only ternary"]
    chosen = [part for name in names for part in ("--operator", name)]
    result = run("--runs", "3", "--json", str(path), *chosen)
    assert result.exit_code == 0, result.output
    found = json.loads(path.read_text())
    assert list(found) == [shape.name for shape in SMALL]
    for rows in found.values():
        expected = [kernels.INT8, kernels.FLOAT, *names]
        expected.insert(5, "codebook K=16 d=8, 8-bit tables")
        assert list(rows) == expected
        assert rows[kernels.INT8]["faster_than_int8"] == 1.0
        assert rows[kernels.FLOAT]["faster_than_float32"] == 1.0
        assert all(row["median"] > 0 and row["runs"] == 3 for row in rows.values())
    assert "weight-only ternary" in result.output


@pytest.mark.parametrize("option", ["--shape", "--operator"])
def test_refuses_what_it_does_not_know(option):
    result = run(option, "nothing")
    assert result.exit_code == 2
    assert "nothing" in result.output


def test_refuses_a_layer_that_becomes_several_operators():
    model = keras.Sequential(
        [keras.layers.Input((6, 6, 4)), keras.layers.Conv2D(4, 3, activation="sigmoid")]
    )
    with pytest.raises(RuntimeError, match="2 operators"):
        kernels.single(model)
