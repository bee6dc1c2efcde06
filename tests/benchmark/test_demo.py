"""The demos' parts; the digits demo itself in short."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kerasq.benchmark import demo
from kerasq.benchmark.digits import accuracy, binary_network, digits, float_network
from kerasq.layers import QuantConv2D

pytestmark = pytest.mark.once


def test_digits_are_split_without_overlap():
    data = digits(test=597)
    assert data.x_train.shape == (1200, 8, 8, 1) and data.x_test.shape == (597, 8, 8, 1)
    assert data.x_train.min() == -1 and data.x_train.max() == 1
    assert set(data.y_train) == set(data.y_test) == set(range(10))
    train = {image.tobytes() for image in data.x_train}
    assert not any(image.tobytes() in train for image in data.x_test)


def test_networks_have_the_same_kernels():
    networks = float_network((8, 16)), binary_network((8, 16))
    shapes = [[tuple(w.shape) for w in n.trainable_weights if len(w.shape) > 1] for n in networks]
    assert shapes[0] == shapes[1]
    assert sum(isinstance(layer, QuantConv2D) for layer in networks[1].layers) == 5


def test_accuracy_is_in_per_cent():
    assert accuracy(np.array([[1, 2], [3, 0], [0, 1]]), np.array([1, 0, 0])) == pytest.approx(
        200 / 3
    )


def test_batches_cover_all_rows():
    x = np.arange(25)
    np.testing.assert_array_equal(demo.in_batches(lambda part: part * 2, x, batch=10), 2 * x)


def test_digits_demo_in_short(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "FLOAT_EPOCHS", 3)
    monkeypatch.setattr(demo, "BINARY_EPOCHS", 2)
    monkeypatch.setattr(demo, "float_network", lambda: float_network((8, 16)))
    monkeypatch.setattr(demo, "binary_network", lambda: binary_network((8, 16)))
    report = demo.run_digits(tmp_path, images=200)
    report.write(tmp_path)
    assert len(report.rows) == 5
    assert report.largest_difference <= 0.1 + 100 / report.images
    floating, eight_bits, plain, corrected, binary = report.rows
    assert floating.times_smaller < 1 < eight_bits.times_smaller < corrected.times_smaller
    assert plain.weight_bytes == corrected.weight_bytes
    assert binary.times_smaller > eight_bits.times_smaller
    names = [row["operator"] for row in binary.operators]
    assert names.count("KerasqBitplaneConv2D") == 5
    for row in json.loads((tmp_path / "report.json").read_text())["rows"]:
        assert sum(operator["bytes"] for operator in row["operators"]) == row["file_bytes"]
    files = sorted(path.stat().st_size for path in tmp_path.glob("*.tflite"))
    assert files == sorted(row.file_bytes for row in report.rows)


def test_more_calibration_images_than_there_are():
    with pytest.raises(ValueError, match="1200 calibration images.*has 100"):
        demo._calibration(np.zeros((100, 2)), 1200)


def test_an_archive_without_the_array(tmp_path):
    path = tmp_path / "empty.npz"
    np.savez(path, other=np.zeros(3))
    with pytest.raises(ValueError, match="lacks the array x_train"):
        demo._read(path, demo.cifar10)


def test_a_file_that_is_no_archive(tmp_path):
    path = tmp_path / "text.npz"
    path.write_text("hello")
    with pytest.raises(ValueError, match="cannot read .*text.npz"):
        demo._read(path, demo.cifar10)


def _write_cifar(folder: Path, rng: np.random.Generator) -> tuple[Path, Path]:
    """Write random images and a random ResNet of one block a stage, as the demo reads them."""

    def images(count: int) -> np.ndarray:
        return rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)

    data = {"x_train": images(300), "y_train": rng.integers(0, 10, 300)}
    np.savez(folder / "data.npz", **data, x_test=images(50), y_test=rng.integers(0, 10, 50))
    weights = {"linear.weight": rng.normal(size=(10, 64)), "linear.bias": np.zeros(10)}
    channels = {"conv1": (3, 16), "layer1.0.conv1": (16, 16), "layer1.0.conv2": (16, 16)}
    channels |= {"layer2.0.conv1": (16, 32), "layer2.0.conv2": (32, 32)}
    channels |= {"layer3.0.conv1": (32, 64), "layer3.0.conv2": (64, 64)}
    for name, (inputs, outputs) in channels.items():
        scale = (2 / (9 * inputs)) ** 0.5
        weights[f"{name}.weight"] = rng.normal(size=(outputs, inputs, 3, 3), scale=scale)
        norm = name.replace("conv", "bn")
        for part in ("weight", "running_var"):
            weights[f"{norm}.{part}"] = np.ones(outputs)
        for part in ("bias", "running_mean"):
            weights[f"{norm}.{part}"] = np.zeros(outputs)
    np.savez(folder / "net.npz", **{k: v.astype(np.float32) for k, v in weights.items()})
    return folder / "data.npz", folder / "net.npz"


def test_cifar_demo_in_short(tmp_path, rng):
    data, weights = _write_cifar(tmp_path, rng)
    out = tmp_path / "out"
    report = demo.run_cifar(data, weights, out, images=64, minutes=0.05)
    floating, _, plain, corrected, tuned = report.rows
    assert report.images == 50
    assert report.largest_difference <= 100 / 50
    # Corrected, the ten biases of the network, all zero here, are no longer one number.
    assert plain.file_bytes < corrected.file_bytes == tuned.file_bytes < plain.file_bytes + 200
    assert corrected.times_smaller > 8 * floating.times_smaller
    names = [row["operator"] for row in tuned.operators]
    assert names.count("KerasqCodebookConv2D") == 7 and names.count("KerasqCodebookDense") == 1
    assert "fine-tuning" in report.notes[0]


def test_resnet_settings_follow_the_stages(tmp_path, rng):
    model = demo.resnet_cifar10(_write_cifar(tmp_path, rng)[1])
    assert demo.resnet_settings(model) == {
        "conv1": (1, 32),
        "linear": (1, 8),
        "layer1_0_conv1": (2, 32),
        "layer1_0_conv2": (2, 32),
        "layer2_0_conv2": (2, 32),
        "layer3_0_conv2": (2, 32),
    }
