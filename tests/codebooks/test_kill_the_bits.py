"""Published ResNets of And the bit goes down, from archives and files."""

from __future__ import annotations

import pickle
import sys
import types

import numpy as np
import pytest
import tensorflow as tf

from kerasq.codebooks.kill_the_bits import (
    archive_of,
    load_kill_the_bits,
    resnet_of,
    save_kill_the_bits,
)
from kerasq.keras import keras
from kerasq.layers import CodebookConv2D, CodebookDense

layers = keras.layers
SHAPE = (32, 32, 3)


def quantized(rng, outputs, channels, size, subvector, codewords, is_conv=True):
    blocks = channels * size * size // subvector
    return {
        "centroids": rng.normal(0, 0.3, (codewords, subvector)).astype(np.float16),
        "assignments": rng.integers(0, codewords, blocks * outputs).astype(
            np.uint8 if codewords <= 256 else np.int16
        ),
        "n_blocks": blocks,
        "is_conv": is_conv,
        "k": size,
    }


def archive(rng, bottleneck):
    """A narrow ResNet-18 or 50, of two stages."""

    def norm(channels):
        return {
            "weight": rng.uniform(0.5, 1, channels).astype(np.float16),
            "bias": rng.normal(0, 0.1, channels).astype(np.float16),
        }

    stem = {"weight": rng.normal(0, 0.1, (8, 3, 7, 7)).astype(np.float16)}
    found = {"conv1": stem, "bn1": norm(8)}
    channels, expansion = 8, 4 if bottleneck else 1
    for stage, width in ((1, 8), (2, 16)):
        for block in range(2):
            name, out = f"layer{stage}.{block}", width * expansion
            kernels = [(width, channels, 3), (width, width, 3)]
            if bottleneck:
                kernels = [(width, channels, 1), (width, width, 3), (out, width, 1)]
            for i, (n, c, k) in enumerate(kernels, 1):
                found[f"{name}.conv{i}"] = quantized(rng, n, c, k, 4 if k == 1 else 9, 8)
                found[f"{name}.bn{i}"] = norm(n)
            if block == 0 and channels != out:
                found[f"{name}.downsample.0"] = quantized(rng, out, channels, 1, 4, 8)
                found[f"{name}.downsample.1"] = norm(out)
            channels = out
    if bottleneck:  # as in the semi-supervised network: a float layer among the quantized ones
        weight = rng.normal(0, 0.3, (32, 8, 1, 1)).astype(np.float16)
        found["layer1.0.conv3"] = {"weight": weight}
    found["fc"] = quantized(rng, 10, channels, 1, 4, 300, False)
    found["fc_bias"] = {"bias": rng.normal(size=10).astype(np.float32)}
    return found


def forward(found, x, bottleneck):
    """The network by the definition, without Keras."""

    def kernel(entry):
        if "weight" in entry:
            return entry["weight"].astype(np.float32)
        vectors = entry["centroids"].astype(np.float32)[entry["assignments"]]
        d = vectors.shape[1]
        matrix = vectors.reshape(entry["n_blocks"], -1, d).transpose(0, 2, 1)
        matrix = matrix.reshape(entry["n_blocks"] * d, -1).T
        return matrix.reshape(len(matrix), -1, entry["k"], entry["k"])

    def conv(x, name, stride):
        w = kernel(found[name])
        pad = w.shape[-1] // 2
        x = tf.pad(x, [(0, 0), (pad, pad), (pad, pad), (0, 0)])
        return tf.nn.conv2d(x, w.transpose(2, 3, 1, 0), stride, "VALID")

    def norm(x, name):
        gamma, beta = (found[name][key].astype(np.float32) for key in ("weight", "bias"))
        return x / np.sqrt(1 + 1e-5) * gamma + beta

    x = tf.nn.relu(norm(conv(x, "conv1", 2), "bn1"))
    x = tf.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)], constant_values=-np.inf)
    x = tf.nn.max_pool2d(x, 3, 2, "VALID")
    for name, stride in (("layer1.0", 1), ("layer1.1", 1), ("layer2.0", 2), ("layer2.1", 1)):
        y = x
        for i in range(1, 4 if bottleneck else 3):
            y = conv(y, f"{name}.conv{i}", stride if i == (2 if bottleneck else 1) else 1)
            y = norm(y, f"{name}.bn{i}")
            y = tf.nn.relu(y) if i < (3 if bottleneck else 2) else y
        if f"{name}.downsample.0" in found:
            x = norm(conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
        x = tf.nn.relu(x + y)
    w = kernel(found["fc"]).reshape(10, -1)
    return tf.reduce_mean(x, (1, 2)) @ w.T + found["fc_bias"]["bias"]


@pytest.mark.parametrize("bottleneck", [False, True])
def test_archive_becomes_the_network_it_defines(bottleneck, rng):
    found = archive(rng, bottleneck)
    model = resnet_of(found, SHAPE)
    x = rng.normal(size=(3, *SHAPE)).astype("float32")
    want = forward(found, x, bottleneck)
    np.testing.assert_allclose(model.predict(x, verbose=0), want, rtol=1e-4, atol=1e-4)
    conv = model.get_layer("layer2_0_conv2")
    assert isinstance(conv, CodebookConv2D)
    assert (conv.subvector, conv.codewords_per_codebook, conv.order) == (9, 8, "channel")
    dense = model.get_layer("fc")
    assert isinstance(dense, CodebookDense) and dense.codewords_per_codebook == 300
    assert type(model.get_layer("conv1")) is layers.Conv2D


@pytest.mark.parametrize("bottleneck", [False, True])
def test_archive_comes_back(bottleneck, rng):
    found = archive(rng, bottleneck)
    back = archive_of(resnet_of(found, SHAPE))
    assert sorted(back) == sorted(found)
    for name, entry in found.items():
        assert sorted(back[name]) == sorted(entry)
        for key, value in entry.items():
            np.testing.assert_array_equal(back[name][key], value, err_msg=f"{name} {key}")
            if isinstance(value, np.ndarray):
                assert back[name][key].dtype == value.dtype


def test_statistics_are_folded(rng):
    """A network trained since has means and variances, which the layout has no place for."""
    model = resnet_of(archive(rng, False), SHAPE)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            size = layer.gamma.shape
            layer.moving_mean.assign(rng.normal(0, 0.1, size).astype("float32"))
            layer.moving_variance.assign(rng.uniform(0.5, 2, size).astype("float32"))
    x = rng.normal(size=(3, *SHAPE)).astype("float32")
    want = model.predict(x, verbose=0)
    got = resnet_of(archive_of(model), SHAPE).predict(x, verbose=0)
    np.testing.assert_allclose(got, want, atol=0.02 * np.abs(want).max())  # float16


def test_model_is_saved_and_trains(rng, tmp_path):
    model = resnet_of(archive(rng, False), SHAPE)
    x = rng.normal(size=(8, *SHAPE)).astype("float32")
    model.save(tmp_path / "resnet.keras")
    again = keras.models.load_model(tmp_path / "resnet.keras")
    np.testing.assert_array_equal(model.predict(x, verbose=0), again.predict(x, verbose=0))
    before = np.array(model.get_layer("fc").codewords)
    model.compile("sgd", "mse")
    model.fit(x, rng.normal(size=(8, 10)), verbose=0)
    assert not np.array_equal(before, np.array(model.get_layer("fc").codewords))


class Tensor:
    """What the decoder asks of a tensor of PyTorch."""

    def __init__(self, value, trained=False):
        self.value, self.trained = value, trained

    def detach(self):
        return Tensor(self.value)

    def numpy(self):
        if self.trained:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad.")
        return self.value


@pytest.fixture
def torch(monkeypatch):
    """Two functions in the place of PyTorch."""
    module = types.ModuleType("torch")

    def load(path, map_location, weights_only):
        assert (map_location, weights_only) == ("cpu", True)
        with open(path, "rb") as file:
            return pickle.load(file)

    module.load, module.save, module.from_numpy = load, pickle.dump, Tensor
    monkeypatch.setitem(sys.modules, "torch", module)
    return module


@pytest.mark.usefixtures("torch")
def test_files_are_written_and_read(rng, tmp_path):
    model = resnet_of(archive(rng, False), SHAPE)
    save_kill_the_bits(model, tmp_path / "resnet.pth")
    again = load_kill_the_bits(tmp_path / "resnet.pth", SHAPE)
    x = rng.normal(size=(3, *SHAPE)).astype("float32")
    np.testing.assert_array_equal(model.predict(x, verbose=0), again.predict(x, verbose=0))


@pytest.mark.usefixtures("torch")
def test_the_published_bias_is_a_parameter(rng, tmp_path):
    """It was saved as it was trained: it gives no array before it is detached."""
    found = archive(rng, False)
    want = found["fc_bias"]["bias"]
    found["fc_bias"] = {"bias": Tensor(want, trained=True)}
    (tmp_path / "resnet.pth").write_bytes(pickle.dumps(found))
    model = load_kill_the_bits(tmp_path / "resnet.pth", SHAPE)
    np.testing.assert_array_equal(model.get_layer("fc").bias, want)


def test_statistics_of_a_file_are_read(rng):
    """Files of the published program, other than the published ones, have them unfolded."""
    found = archive(rng, False)
    means, variances = rng.normal(size=8), rng.uniform(0.5, 2, 8)
    found["bn1"] |= {"running_mean": means, "running_var": variances, "num_batches_tracked": 7}
    layer = resnet_of(found, SHAPE).get_layer("bn1")
    np.testing.assert_allclose(layer.moving_mean, means, rtol=1e-6)
    np.testing.assert_allclose(layer.moving_variance, variances, rtol=1e-6)
    found["bn1"]["running_var"] = -variances
    with pytest.raises(ValueError, match="running_var of 'bn1'.*below zero"):
        resnet_of(found, SHAPE)


def test_files_are_written_whole_or_not_at_all(rng, tmp_path, torch):
    def full(state, file):
        file.write(b"half")
        raise OSError("no space left on device")

    torch.save = full
    (tmp_path / "resnet.pth").write_bytes(b"of before")
    with pytest.raises(OSError, match="no space"):
        save_kill_the_bits(resnet_of(archive(rng, False), SHAPE), tmp_path / "resnet.pth")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"of before"]


@pytest.mark.usefixtures("torch")
def test_values_beyond_float16_are_not_written(rng, tmp_path):
    model = resnet_of(archive(rng, False), SHAPE)
    model.get_layer("layer1_0_bn2").gamma.assign(np.full(8, 1e6, np.float32))
    with np.errstate(over="ignore"), pytest.raises(ValueError, match=r"'layer1.0.bn2'.*finite"):
        save_kill_the_bits(model, tmp_path / "resnet.pth")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("torch")
def test_other_files_are_refused(tmp_path):
    (tmp_path / "other.pth").write_bytes(b"no pickle")
    with pytest.raises(ValueError, match="other.pth' is not a checkpoint"):
        load_kill_the_bits(tmp_path / "other.pth")
    (tmp_path / "list.pth").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(ValueError, match="list.pth' is not a checkpoint"):
        load_kill_the_bits(tmp_path / "list.pth")
    (tmp_path / "flat.pth").write_bytes(pickle.dumps({"conv1.weight": np.ones(3)}))
    with pytest.raises(ValueError, match=r"flat.pth'.*'conv1.weight' is no module"):
        load_kill_the_bits(tmp_path / "flat.pth")
    (tmp_path / "pqf.pth").write_bytes(pickle.dumps({"fc.codes_matrix": np.ones((3, 2))}))
    with pytest.raises(ValueError, match=r"pqf.pth' is a checkpoint of PQF.*load_pqf"):
        load_kill_the_bits(tmp_path / "pqf.pth")
    with pytest.raises(FileNotFoundError):
        load_kill_the_bits(tmp_path / "nowhere.pth")


def test_files_need_torch(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"pip install kerasq\[torch\]"):
        load_kill_the_bits(tmp_path / "resnet.pth")


def test_a_file_of_torch_itself(rng, tmp_path):
    pytest.importorskip("torch", reason="torch is an extra of gigabytes: kerasq[torch]")
    model = resnet_of(archive(rng, True), SHAPE)
    save_kill_the_bits(model, tmp_path / "resnet.pth")
    again = load_kill_the_bits(tmp_path / "resnet.pth", SHAPE)
    for a, b in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def broken(found, change):
    if change == "missing":
        del found["layer1.1.conv2"]
    elif change == "entry":
        del found["layer1.0.conv1"]["k"]
    elif change == "more":
        found["layer1.0.se"] = {}
    elif change == "short":
        found["fc"]["assignments"] = found["fc"]["assignments"][:-1]
    elif change == "large":
        found["layer2.1.conv1"]["assignments"][5] = 8
    elif change == "channels":
        found["layer2.0.conv2"] = found["layer1.0.conv2"]
    elif change == "classifier":
        found["fc"] = quantized(np.random.default_rng(1), 10, 32, 1, 4, 8, False)
    return found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", "no 'layer1.1.conv2'"),
        ("entry", r"'layer1.0.conv1'.*no \['k'\]"),
        ("more", "layer1.0.se.*no ResNet has"),
        ("short", "'fc'.*39 assignments in 4 blocks"),
        ("large", "'layer2.1.conv1'.*0 to 8, but 8 codewords"),
        ("channels", "'layer2.0.conv2'.*reads 8 channels, but there are 16"),
        ("classifier", "'fc'.*reads 32 channels, but there are 16"),
    ],
)
def test_broken_archives_are_refused(change, message, rng):
    found = archive(rng, False)
    with pytest.raises(ValueError, match=message):
        resnet_of(broken(found, change), SHAPE)


def test_layers_without_a_place_are_refused():
    model = keras.Sequential([keras.Input((8,)), layers.Dense(4, name="other")])
    with pytest.raises(ValueError, match="'other' .Dense. has no place"):
        archive_of(model)
    own = CodebookDense(4, subvector=2, codewords=4, name="own")
    with pytest.raises(ValueError, match="'own'.*one codebook"):
        archive_of(keras.Sequential([keras.Input((8,)), own]))
