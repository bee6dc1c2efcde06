"""The kernel comparison: one operator each, medians and ratios."""

from __future__ import annotations

import json
import sys

import pytest

from kerasq.benchmark import kernels
from kerasq.keras import keras

pytestmark = pytest.mark.once


def test_each_is_one_operator_and_is_measured(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(kernels, "SIZE", 6)
    monkeypatch.setattr(kernels, "CHANNELS", 16)
    path = tmp_path / "kernels.json"
    monkeypatch.setattr(sys, "argv", ["kernels", "--runs", "3", "--json", str(path)])
    kernels.main()
    rows = json.loads(path.read_text())
    assert list(rows) == list(kernels.layers())
    assert rows[kernels.BASELINE]["times_faster"] == 1.0
    assert all(row["median"] > 0 and row["runs"] == 3 for row in rows.values())
    assert "codebook, K=256, d=8" in capsys.readouterr().out


def test_refuses_a_layer_that_becomes_several_operators(monkeypatch):
    monkeypatch.setattr(kernels, "SIZE", 6)
    monkeypatch.setattr(kernels, "CHANNELS", 4)
    with pytest.raises(RuntimeError, match="2 operators"):
        kernels.single(keras.layers.Conv2D(4, 3, activation="sigmoid"))
