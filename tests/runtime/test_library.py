import re
from pathlib import Path

import pytest

import kerasq
from kerasq.runtime import library, library_path

KERNELS = Path(__file__).parents[2] / "tflite_kernels"


def test_the_package_has_a_library():
    assert library_path().endswith("libkerasq_tflite.so")


def test_the_kernels_have_the_version_of_the_package():
    project = re.search(r"project\(.* VERSION (\S+)", (KERNELS / "CMakeLists.txt").read_text())
    assert project[1] == kerasq.__version__


def test_missing_library_says_how_to_build(monkeypatch, tmp_path):
    monkeypatch.delenv("KERASQ_LIBRARY", raising=False)
    monkeypatch.setattr(library, "__file__", str(tmp_path / "library.py"))
    with pytest.raises(FileNotFoundError, match=r"pip install \.`.*`make build`"):
        library_path()


def test_override(monkeypatch, tmp_path):
    other = tmp_path / "other.so"
    monkeypatch.setenv("KERASQ_LIBRARY", str(other))
    with pytest.raises(FileNotFoundError, match="KERASQ_LIBRARY is set to .*other.so"):
        library_path()
    other.write_bytes(b"")
    assert library_path() == str(other)


def test_library_that_does_not_load(monkeypatch, tmp_path):
    from kerasq.runtime import Interpreter

    other = tmp_path / "other.so"
    other.write_bytes(b"no library")
    monkeypatch.setenv("KERASQ_LIBRARY", str(other))
    model = tmp_path / "model.tflite"
    model.write_bytes(b"\0\0\0\0TFL3")
    with pytest.raises(RuntimeError, match="cannot load kerasq's kernels from .*other.so"):
        Interpreter(model)
