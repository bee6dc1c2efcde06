"""Photographs by a compressed MobileNetV2: crops, folding, bytes, and the figure owed."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf
import typer
from typer.testing import CliRunner

from kerasq.benchmark import mobilenet
from kerasq.keras import keras

pytestmark = pytest.mark.once


def give_statistics(model, rng):
    """Normalizations as if they had been trained."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            gamma, beta, mean, variance = (rng.normal(size=w.shape) for w in layer.get_weights())
            layer.set_weights([1 + 0.3 * gamma, 0.1 * beta, 0.1 * mean, 0.5 + variance**2])
    return model


def small_network(rng, outputs=1000):
    """An inverted residual as in MobileNetV2, for images of 32x32."""
    layers = keras.layers
    x = inputs = keras.Input((32, 32, 3))
    x = layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False, name="stem")(x)
    x = shortcut = layers.BatchNormalization(name="stem_BN")(x)
    x = layers.Conv2D(32, 1, use_bias=False, name="expand")(x)
    x = layers.ReLU(6.0, name="expand_relu")(layers.BatchNormalization(name="expand_BN")(x))
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise")(x)
    x = layers.ReLU(6.0, name="depthwise_relu")(layers.BatchNormalization(name="depthwise_BN")(x))
    x = layers.Conv2D(8, 1, use_bias=False, name="project")(x)
    x = layers.Add(name="add")([shortcut, layers.BatchNormalization(name="project_BN")(x)])
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dense(outputs, activation="softmax", name="predictions")(x)
    return give_statistics(keras.Model(inputs, x), rng)


@pytest.fixture
def folder(tmp_path, rng):
    """Three pictures of coarse colours, and a thousand labels after the background."""
    for name, shape in (("tall", (80, 60, 3)), ("wide", (50, 90, 3)), ("square", (64, 64, 3))):
        colours = rng.integers(0, 256, (4, 4, 3)).astype(np.float32)
        picture = tf.cast(tf.image.resize(colours, shape[:2]), tf.uint8)
        (tmp_path / f"{name}.png").write_bytes(tf.io.encode_png(picture).numpy())
    labels = ["background", *(f"thing {i}, so to say" for i in range(1000))]
    (tmp_path / "imagenet_labels.txt").write_text("\n".join(labels))
    return tmp_path


def test_photographs_are_cut_in_the_middle_and_at_random(folder):
    photos = mobilenet.photographs(folder)
    assert photos.names == ["square.png", "tall.png", "wide.png"]
    assert photos.labels[0] == "thing 0, so to say" and len(photos.labels) == 1000
    middle = photos.pictures[0][4:60, 4:60]  # 7/8 of 64
    assert photos.centres(56).shape == (3, 56, 56, 3)
    np.testing.assert_allclose(photos.centres(56)[0], middle / 127.5 - 1, atol=1e-5)
    crops = photos.crops(9, 24, np.random.default_rng(3))
    assert crops.shape == (9, 24, 24, 3) and crops.dtype == np.float32
    assert crops.min() >= -1 and crops.max() <= 1
    assert np.array_equal(crops, photos.crops(9, 24, np.random.default_rng(3)))
    assert not np.allclose(crops[0], crops[3], atol=0.01)  # two of the same picture


def test_random_boxes_lie_within_the_picture(rng):
    boxes = np.array([mobilenet._box(50, 90, rng) for _ in range(500)])
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 0] + boxes[:, 2] <= 50).all() and (boxes[:, 1] + boxes[:, 3] <= 90).all()
    areas = boxes[:, 2] * boxes[:, 3] / 4500
    assert areas.min() < 0.3 and areas.max() > 0.8


def test_folding_keeps_the_function(rng):
    model = small_network(rng, 10)
    x = rng.uniform(-1, 1, (4, 32, 32, 3)).astype(np.float32)
    folded = mobilenet.folded(model)
    expanded = keras.Model(folded.inputs, folded.get_layer("expand").output)
    normalized = keras.Model(folded.inputs, folded.get_layer("expand_BN").output)
    for inner in (expanded, normalized):
        wanted = keras.Model(model.inputs, model.get_layer("expand_BN").output)
        np.testing.assert_allclose(
            inner.predict(x, verbose=0), wanted.predict(x, verbose=0), atol=1e-5
        )
    np.testing.assert_allclose(folded.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-5)


def test_all_1x1_convolutions_of_mobilenet_are_found(rng):
    model = keras.applications.MobileNetV2((32, 32, 3), 0.35, weights=None, classes=10)
    pointwise = [layer for layer in model.layers if mobilenet.is_pointwise(layer)]
    assert len(pointwise) == 34
    give_statistics(model, rng)
    x = rng.uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)
    np.testing.assert_allclose(
        mobilenet.folded(model).predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-4
    )


def test_the_command_prints_and_writes_the_rows(folder, rng, monkeypatch):
    """On a small network; the rows are those of its files."""
    model = small_network(rng)
    monkeypatch.setattr(mobilenet, "HELD_OUT", 30)
    monkeypatch.setattr(mobilenet, "mobilenet", lambda path: model)
    weights, out = folder / "net.h5", folder / "rows.json"
    weights.write_bytes(b"")
    app = typer.Typer()
    app.command()(mobilenet.main)
    options = ["--ratio", "6", "--crops", "40", "--json", str(out)]
    result = CliRunner().invoke(app, [str(weights), str(folder), *options])
    assert result.exit_code == 0, result.output
    assert "tall.png" in result.output and "3 of 3" in result.output
    floating, plain, corrected = json.loads(out.read_text())
    assert [row["name"] for row in (floating, plain, corrected)] == ["float32", "k-means", "qcnn"]
    # Only the 1x1 convolutions count.
    assert floating["pointwise_bytes"] == 4 * 2 * 8 * 32
    assert floating["weights"] == plain["weights"] == corrected["weights"] == 2 * 8 * 32
    assert max(plain["pointwise_bytes"], corrected["pointwise_bytes"]) <= 2048 / 6
    assert (floating["ratio"], floating["crops"]) == (1, 100)
    assert floating["labels"][0].startswith("thing ")
    for row in (floating, plain, corrected):
        assert row["labels"] == row["runtime_labels"]
        same = sum(map(str.__eq__, row["labels"], floating["labels"]))
        assert row["same"] == row["runtime_same"] == same


def test_bad_input_is_one_clear_error(folder, tmp_path_factory):
    app = typer.Typer()
    app.command()(mobilenet.main)
    weights, empty = folder / "net.h5", tmp_path_factory.mktemp("empty")
    weights.write_bytes(b"no weights")
    for arguments, message in (
        ([folder / "absent.h5", folder], "absent.h5"),
        ([weights, empty], "imagenet_labels.txt"),
        ([weights, folder, "--method", "magic"], "magic"),
        ([weights, folder], "no weights of MobileNetV2"),
    ):
        result = CliRunner().invoke(app, [str(part) for part in arguments])
        assert result.exit_code == 2
        # Long paths are broken wherever the box ends.
        assert message.replace(" ", "") in "".join(result.output.replace("│", " ").split())
    (empty / "imagenet_labels.txt").write_text("only\nthree\nlabels")
    with pytest.raises(ValueError, match="3 lines, not 1001"):
        mobilenet.photographs(empty)
    (empty / "imagenet_labels.txt").write_text("\n".join("x" * 1001))
    with pytest.raises(ValueError, match="no photographs"):
        mobilenet.photographs(empty)


@pytest.fixture
def real(data_dir):
    weights = data_dir / "mobilenet_v2" / "mobilenet_v2_1.0_224.h5"
    return mobilenet.mobilenet(weights), mobilenet.photographs(data_dir / "photos")


@pytest.mark.slow
def test_photographs_keep_their_labels_at_a_fifth(real):
    """At least 8 of the 10 photographs, in Keras and in the runtime, 1x1 weights 5x smaller."""
    # Fewer crops and one method, for the time it takes.
    floating, corrected = mobilenet.run(*real, ratios=(8.0,), crops=250, methods=("qcnn",))
    assert len(floating.labels) == 10
    assert floating.weights == 2_124_672
    assert corrected.ratio >= 5
    assert (floating.same, floating.runtime_same) == (10, 10)
    assert min(corrected.same, corrected.runtime_same) >= 8
