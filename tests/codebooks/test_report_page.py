"""The page about a run: its figures, its pictures, and when it is refused."""

from __future__ import annotations

import builtins
import functools
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from kerasq import files
from kerasq.codebooks import QCNN, compress
from kerasq.codebooks.report import check_report
from kerasq.keras import keras

layers = keras.layers
METHOD = {"subvector": 2, "codewords": 8, "sweeps": 2}


def network():
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [
            keras.Input((6, 6, 4)),
            layers.Conv2D(8, 3, name="first>1", activation="relu"),
            layers.BatchNormalization(name="norm"),
            layers.Flatten(),
            layers.Dense(5, name="last", use_bias=False),
        ],
        name="net",
    )


@pytest.fixture
def data(rng):
    return rng.normal(size=(60, 6, 6, 4)).astype("float32"), rng.integers(0, 5, 60)


class Reader(HTMLParser):
    """Collects the table's rows, the addresses, and the counts of elements."""

    def __init__(self, text: str):
        super().__init__()
        self.rows, self.addresses, self.tags = [], [], []
        self._cell = False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        names = ("href", "xlink:href", "src", "action", "data")
        self.addresses += [value for name, value in attributes if name in names]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._cell = True

    def handle_endtag(self, tag):
        self._cell = self._cell and tag not in ("td", "th")

    def handle_data(self, text):
        if self._cell:
            self.rows[-1][-1] += text


def page_of(tmp_path: Path, *arguments, **options) -> str:
    compress(*arguments, verbose=False, report=tmp_path / "report.html", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    return (tmp_path / "report.html").read_text()


def test_the_page_tells_the_bytes_the_errors_and_the_accuracy(data, tmp_path):
    model, seen = network(), []
    compress(model, data, QCNN(**METHOD), verbose=False, callback=seen.append)
    text = page_of(tmp_path, model, data, QCNN(**METHOD))
    head, first, last, total = Reader(text).rows
    assert head[4:8] == ["indices", "codebooks", "rest", "bytes"]
    # 3x3x2 sub-vectors of 8 outputs, 3 bits; 2 sub-spaces of 8 codewords of 2 float16; 8 biases.
    assert first[:2] == ["first>1", "d=2 K=8"]
    assert first[4:8] == [str(9 * 2 * 3), str(2 * 8 * 2 * 2), "32", str(54 + 64 + 32)]
    assert first[2:4] == [f"{x:.3%}" for x in _errors(seen[0])]
    # 64 sub-spaces of 5 sub-vectors each.
    assert last[1:2] + last[4:7] == ["d=2 K=5", str(64 * 2), f"{64 * 5 * 2 * 2:,}", "0"]
    assert total[4:8] == ["182", f"{64 + 1280:,}", "32", f"{182 + 64 + 1280 + 32:,}"]
    kernels = 4 * (9 * 4 * 8 + 128 * 5)
    assert f"{kernels / (182 + 64 + 1280):.1f}×" in text
    x, y = data
    right = 100 * (model.predict(x, verbose=0).argmax(-1) == y).mean()
    assert f"top-1 of the 60 samples given; float {right:.2f} %" in text
    one_hot = page_of(tmp_path, model, (x, np.eye(5)[y]), QCNN(**METHOD))
    assert f"float {right:.2f} %" in one_hot


def _errors(report):
    return report.solution.error_before, report.solution.error_after


def test_the_page_is_one_file_with_four_pictures(data, tmp_path):
    text = page_of(tmp_path, network(), data, QCNN(**METHOD))
    read = Reader(text)
    assert read.tags.count("svg") == 4
    inside = ("#", "data:image/png;base64,")
    assert not {"script", "link", "img", "iframe"} & set(read.tags)
    assert read.addresses and all(x.startswith(inside) for x in read.addresses)
    assert not re.search(r"https?:|url\((?!#)|@import", text)
    assert "first&gt;1" in text and "first>1" not in text


def test_a_run_without_data_and_labels_has_a_page_too(data, tmp_path):
    plain = QCNN(2, 8, error_correction=False)
    for given in (None, data[0]):
        text = page_of(tmp_path, network(), given, plain)
        assert "top-1" not in text
        assert Reader(text).tags.count("svg") == 3  # no rounds
    assert "top-1 of the 60 samples" in page_of(tmp_path, network(), data, plain)


def test_labels_of_a_shuffled_dataset_belong_to_their_images(rng, tmp_path):
    """It is read once: another time it would come in another order."""
    import tensorflow as tf

    model = network()
    x = rng.normal(size=(300, 6, 6, 4)).astype("float32")
    y = model.predict(x, verbose=0).argmax(-1)
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(300).batch(50)
    text = page_of(tmp_path, model, dataset, QCNN(**METHOD))
    assert "top-1 of the 300 samples given; float 100.00 %" in text


def test_labels_of_some_images_only_are_refused(data):
    x, y = data
    with pytest.raises(ValueError, match="60 samples, but labels of 50"):
        compress(network(), (x, y[:50]), QCNN(**METHOD), verbose=False)


@pytest.mark.parametrize(
    ("path", "message"),
    [("folder", "is a folder"), ("nowhere/report.html", "there is no folder .*nowhere")],
)
def test_a_path_that_cannot_be_written_is_refused_before_the_work(path, message, data, tmp_path):
    (tmp_path / "folder").mkdir()
    seen = []
    with pytest.raises(ValueError, match=message):
        compress(network(), data, "qcnn", report=tmp_path / path, callback=seen.append)
    assert not seen


def test_a_folder_without_permission_is_refused(tmp_path, monkeypatch):
    # Root, whom CI may run as, may write everywhere: the system's answer is put in its mouth.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(ValueError, match="cannot be written"):
        check_report(tmp_path / "report.html")


def test_without_matplotlib_it_says_what_to_install(data, tmp_path, monkeypatch):
    original = builtins.__import__

    def missing(name, *arguments, **options):
        if name.split(".")[0] == "matplotlib":
            raise ImportError(name)
        return original(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    seen = []
    with pytest.raises(ImportError, match=r"pip install 'kerasq\[benchmark\]'"):
        compress(network(), data, "qcnn", report=tmp_path / "report.html", callback=seen.append)
    assert not seen and not list(tmp_path.iterdir())


def test_a_page_is_written_whole_or_not_at_all(data, tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("the last one")
    full = functools.partial(open, "/dev/full")
    monkeypatch.setattr(files, "open", lambda file, mode: full(mode), raising=False)
    with pytest.raises(OSError, match="cannot write the report.*No space left.*report.html"):
        compress(network(), data, QCNN(**METHOD), verbose=False, report=path)
    assert path.read_text() == "the last one"
    assert list(tmp_path.iterdir()) == [path]
