"""The README's Python, run as it stands."""

import re
from pathlib import Path

import numpy as np

README = Path(__file__).resolve().parents[1] / "README.md"


def test_every_block_of_python_runs(tmp_path, monkeypatch, capsys, rng):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) == 5
    names = {
        "images": rng.random((64, 32, 32, 3)).astype(np.float32),
        "labels": rng.integers(0, 10, 64),
    }
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)
    files = {"model.tflite", "small.tflite", "calibrated.tflite"}
    assert {path.name for path in tmp_path.iterdir()} == files
    assert "KerasqBitplaneConv2D" in capsys.readouterr().out


def test_every_file_that_is_named_exists():
    named = re.findall(r"`([\w/]+\.py)`", README.read_text())
    assert named
    for name in named:
        assert (README.parent / "examples" / name).is_file(), name
