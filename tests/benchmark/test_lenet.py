"""The LeNet benchmark: networks, data and the table."""

from __future__ import annotations

import numpy as np
import pytest

from kerasq.benchmark import lenet
from kerasq.benchmark.networks import Images

pytestmark = pytest.mark.once


def stripes(rng, count):
    """Ten classes that a LeNet learns in a few steps: where a bright row is."""
    labels = rng.integers(0, 10, count)
    images = rng.normal(size=(count, 28, 28, 1)).astype(np.float32) * 0.1
    for image, label in zip(images, labels, strict=True):
        image[2 + 2 * label] += 1
    return images, labels


@pytest.fixture
def data(rng):
    return Images(*stripes(rng, 512), *stripes(rng, 128))


def test_networks_have_their_published_sizes():
    assert lenet.lenet5().count_params() == 431_080
    assert lenet.lenet300().count_params() == 266_610
    assert set(lenet.METHODS["deep_compression"]) == set(lenet.NETWORKS)


def test_reads_the_images(tmp_path, rng):
    path = tmp_path / "images.npz"
    images = rng.integers(0, 256, (5, 28, 28)).astype(np.uint8)
    labels = np.arange(5, dtype=np.uint8)
    np.savez(path, x_train=images, y_train=labels, x_test=images[:2], y_test=labels[:2])
    data = lenet.fashion_mnist(path)
    assert data.x_train.shape == (5, 28, 28, 1) and data.x_test.shape == (2, 28, 28, 1)
    assert np.array_equal(data.x_train[..., 0], (images / np.float32(255)))


def test_compresses_exports_and_measures(data, capsys):
    """A short run: the files answer as their Keras models do, and the second is smaller."""
    steps = {"prune_steps": 30, "retrain_steps": 20, "finetune_steps": 10}
    rows = lenet.run(data, "lenet300", "deep_compression", epochs=3, **steps)
    assert [row.name for row in rows] == ["float32", "deep_compression"]
    assert all(abs(row.error - row.keras_error) <= 1 for row in rows)
    assert rows[1].error <= rows[0].error + 10
    assert rows[1].file_bytes < rows[0].file_bytes / 5
    lenet.print_rows(rows, "a short run")
    printed = capsys.readouterr().out
    assert "float32" in printed and f"{rows[1].file_bytes:,}" in printed


@pytest.mark.parametrize("content", [None, b"no archive"])
def test_unreadable_data_is_one_clear_line(monkeypatch, capsys, tmp_path, content):
    path = tmp_path / "missing.npz"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setattr("sys.argv", ["lenet", "--data", str(path)])
    with pytest.raises(SystemExit) as stop:
        lenet.main()
    assert stop.value.code == 2
    assert "--data" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
def test_fashion_mnist_becomes_small_and_stays_accurate(data_dir):
    """The command prints the figures; a single seed's error moves by about 0.35 points."""
    data = lenet.fashion_mnist(data_dir / "fashion_mnist.npz")
    plain, small = lenet.run(data, "lenet300", "deep_compression")
    assert plain.file_bytes >= 30 * small.file_bytes
    assert small.error <= plain.error + 1.0
