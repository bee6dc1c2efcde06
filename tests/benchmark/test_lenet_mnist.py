"""LeNet on MNIST without training data: reading, the table, and the figure owed."""

from __future__ import annotations

import json

import numpy as np
import pytest

from kerasq.benchmark import lenet_mnist
from kerasq.benchmark.lenet import lenet5

pytestmark = pytest.mark.once

SETTINGS = {"conv1": (1, 16), "conv2": (2, 16), "ip1": (8, 16), "ip2": (4, 8)}
SHAPES = {"conv1": (20, 1, 5, 5), "conv2": (50, 20, 5, 5), "ip1": (500, 800), "ip2": (10, 500)}


@pytest.fixture
def files(tmp_path, rng):
    """Random weights and images, and the arrays that they hold."""
    weights = {}
    for name, shape in SHAPES.items():
        scale = (2 / np.prod(shape[1:])) ** 0.5
        weights[f"{name}.weight"] = rng.normal(size=shape, scale=scale).astype(np.float32)
        weights[f"{name}.bias"] = rng.normal(size=shape[0], scale=0.1).astype(np.float32)
    images = rng.integers(0, 256, (90, 28, 28), dtype=np.uint8)
    np.savez(tmp_path / "net.npz", **weights)
    np.savez(tmp_path / "data.npz", x_test=images, y_test=rng.integers(0, 10, 90, dtype=np.uint8))
    return tmp_path / "net.npz", tmp_path / "data.npz", weights, images


def run_main(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["lenet_mnist", *map(str, arguments)])
    lenet_mnist.main()


def test_caffes_network_is_computed(files):
    """By numpy, channels first, as Caffe lays out maps and weights."""
    model, data = lenet_mnist.trained_lenet5(files[0]), lenet_mnist.mnist(files[1], images=80)
    weights, x = files[2], files[3][80:, None] / 256
    for name in ("conv1", "conv2"):
        windows = np.lib.stride_tricks.sliding_window_view(x, (5, 5), axis=(2, 3))
        x = np.einsum("nchwij,ocij->nohw", windows, weights[f"{name}.weight"])
        x += weights[f"{name}.bias"][:, None, None]
        x = x.reshape(*x.shape[:2], x.shape[2] // 2, 2, -1, 2).max((3, 5))
    x = np.maximum(x.reshape(len(x), -1) @ weights["ip1.weight"].T + weights["ip1.bias"], 0)
    x = x @ weights["ip2.weight"].T + weights["ip2.bias"]
    np.testing.assert_allclose(model.predict(data.x_test, verbose=0), x, atol=1e-4)


def test_images_that_calibrate_do_not_test(files):
    data = lenet_mnist.mnist(files[1], images=70)
    images = files[3][..., None] / np.float32(256)
    assert np.array_equal(data.x_train, images[:70]) and np.array_equal(data.x_test, images[70:])
    assert (len(data.y_train), len(data.y_test)) == (70, 20)
    with pytest.raises(ValueError, match="none is left"):
        lenet_mnist.mnist(files[1], images=90)


def test_the_command_prints_and_writes_the_rows(files, monkeypatch, capsys, tmp_path):
    """With settings as they might be chosen: the choice takes longer than all the rest."""
    monkeypatch.setattr(lenet_mnist, "settings", lambda *given: SETTINGS)
    out = tmp_path / "rows.json"
    common = ("--weights", files[0], "--data", files[1], "--images", 60)
    run_main(monkeypatch, *common, "--ratio", 16, "--json", out)
    floating, plain, corrected = json.loads(out.read_text())
    assert [row["name"] for row in (floating, plain, corrected)] == ["float32", "k-means", "qcnn"]
    assert floating["weight_bytes"] == 4 * lenet5().count_params()
    assert plain["settings"] == corrected["settings"]
    assert plain["settings"] == {name: list(pair) for name, pair in SETTINGS.items()}
    stored = 4 * (20 + 50 + 500 + 10)  # the biases; a layer's multiplier is one number
    for name, shape in SHAPES.items():
        (size, count), (outputs, channels, *taps) = SETTINGS[name], shape
        spaces = -(-channels // size)
        stored += spaces * count * size * 2
        stored += int(np.prod(taps)) * spaces * -(-outputs * (count.bit_length() - 1) // 8)
    for row in (plain, corrected):
        assert row["weight_bytes"] == pytest.approx(stored, abs=16)
    printed = capsys.readouterr().out
    assert f"{corrected['weight_bytes']:,}" in printed
    assert "the first 60 test images calibrate, 30 test" in printed


@pytest.mark.parametrize("option", ["--weights", "--data"])
@pytest.mark.parametrize("content", ["absent", "text", "other"])
def test_unreadable_files_are_one_clear_line(files, option, content, monkeypatch, capsys, tmp_path):
    path = tmp_path / "bad.npz"
    if content == "text":
        path.write_bytes(b"no archive")
    elif content == "other":
        np.savez(path, something=np.zeros(3))
    good = {"--weights": files[0], "--data": files[1], option: path}
    with pytest.raises(SystemExit) as stop:
        run_main(monkeypatch, *(part for pair in good.items() for part in pair))
    assert stop.value.code == 2
    assert f"{option} {path}" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
def test_mnist_stays_accurate_at_a_twelfth(data_dir):
    """At least 99.0 % on the 9000 images that did not calibrate, weights 12x smaller."""
    folder = data_dir / "lenet_mnist"
    model = lenet_mnist.trained_lenet5(folder / "lenet.npz")
    data = lenet_mnist.mnist(folder / "mnist_test10k.npz")
    floating, _, corrected = lenet_mnist.run(model, data, ratios=(12.5,))
    assert floating.accuracy == pytest.approx(99.16, abs=0.01)
    assert floating.weight_bytes >= 12 * corrected.weight_bytes
    assert floating.file_bytes >= 12 * corrected.file_bytes
    assert corrected.accuracy >= 99.0 and corrected.keras_accuracy >= 99.0
