"""The table of all codebook methods, on a random ResNet of one block a stage."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from kerasq.benchmark import compression
from kerasq.benchmark.networks import cifar10, resnet_cifar10
from kerasq.codebooks import catalogue

pytestmark = pytest.mark.once


@pytest.fixture
def files(tmp_path, rng) -> tuple[Path, Path]:
    def images(count):
        return rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)

    arrays = {"x_train": images(600), "y_train": rng.integers(0, 10, 600)}
    arrays |= {"x_test": images(60), "y_test": rng.integers(0, 10, 60)}
    np.savez(tmp_path / "data.npz", **arrays)
    weights = {"linear.weight": rng.normal(size=(10, 64)), "linear.bias": np.zeros(10)}
    channels = {"conv1": (3, 16), "layer1.0.conv1": (16, 16), "layer1.0.conv2": (16, 16)}
    channels |= {"layer2.0.conv1": (16, 32), "layer2.0.conv2": (32, 32)}
    channels |= {"layer3.0.conv1": (32, 64), "layer3.0.conv2": (64, 64)}
    for name, (inputs, outputs) in channels.items():
        scale = (2 / (9 * inputs)) ** 0.5
        weights[f"{name}.weight"] = rng.normal(size=(outputs, inputs, 3, 3), scale=scale)
        norm = name.replace("conv", "bn")
        for part, value in (("weight", 1), ("running_var", 1), ("bias", 0), ("running_mean", 0)):
            weights[f"{norm}.{part}"] = np.full(outputs, value)
    np.savez(tmp_path / "net.npz", **{k: v.astype(np.float32) for k, v in weights.items()})
    return tmp_path / "data.npz", tmp_path / "net.npz"


def test_every_method_of_the_catalogue_has_a_row(files):
    methods = compression.methods(resnet_cifar10(files[1]))
    assert {method.name for method in methods.values()} == set(catalogue())


@pytest.mark.slow
def test_a_ratio_is_kept_by_the_methods_that_take_one(files):
    model, data = resnet_cifar10(files[1]), cifar10(files[0])
    chosen = compression.at_ratio(9.0)
    assert list(chosen) == ["k-means", "qcnn"]
    chosen["qcnn"].sweeps = 1
    _, plain, corrected = compression.run(model, data, chosen, images=64)
    for row in (plain, corrected):
        assert row.ratio == pytest.approx(9.0, rel=0.05)


@pytest.mark.slow
def test_rows_of_kmeans_and_qcnn_are_those_of_their_files(files):
    model, data = resnet_cifar10(files[1]), cifar10(files[0])
    chosen = compression.methods(model)
    chosen = {name: chosen[name] for name in ("k-means", "qcnn")}
    floating, plain, corrected = compression.run(model, data, chosen, images=64, minutes=0.02)
    assert (floating.name, floating.after) == ("float", None)
    assert floating.ratio == pytest.approx(1) and floating.bits_per_weight == pytest.approx(32)
    assert max(plain.file_bytes, corrected.file_bytes) < floating.file_bytes / 4
    # Indices and codebooks of each convolution: all layers but conv1 have pairs of channels.
    stored = weights = 0
    for layer in model.layers:
        if not hasattr(layer, "kernel_size"):
            continue
        _, _, channels, outputs = layer.kernel.shape
        size, count = chosen["qcnn"].layers.get(layer.name, (2, 16))
        bits = (count - 1).bit_length()
        spaces = channels // size
        stored += 9 * spaces * -(-outputs * bits // 8) + spaces * count * size * 2
        weights += 9 * channels * outputs
    for row in (plain, corrected):
        assert row.bits_per_weight == pytest.approx(8 * stored / weights, rel=1e-6)
    assert corrected.after is not None and corrected.tuning_seconds > 0
    assert "error_correction=False" in plain.settings


def test_the_command_prints_and_writes_the_table(files, tmp_path):
    import typer

    app = typer.Typer()
    app.command()(compression.main)
    data, weights = map(str, files)
    out = tmp_path / "rows.json"
    common = ["--data", data, "--weights", weights, "--methods", "k-means", "--limit", "300"]
    result = CliRunner().invoke(app, [*common, "--network", "resnet8", "--json", str(out)])
    assert result.exit_code == 0, result.output
    assert [row["name"] for row in json.loads(out.read_text())] == ["float", "k-means"]
    wrong = CliRunner().invoke(app, [*common, "--network", "resnet20"])
    assert wrong.exit_code != 0
    unknown = [*common[:4], "--methods", "magic", "--network", "resnet8"]
    assert CliRunner().invoke(app, unknown).exit_code != 0
