"""Published ResNets of PQF, from state dicts and files."""

from __future__ import annotations

import pickle
import sys
import types

import numpy as np
import pytest
import tensorflow as tf

from kerasq.codebooks import PQF, compress, load_kill_the_bits, load_pqf, save_pqf
from kerasq.codebooks.pqf_files import resnet_of_state, state_of
from kerasq.keras import keras
from kerasq.layers import CodebookConv2D, CodebookDense

layers = keras.layers
SHAPE = (32, 32, 3)
BLOCKS = (("layer1.0", 1), ("layer1.1", 1), ("layer2.0", 2), ("layer2.1", 1))


def quantized(rng, name, outputs, row, subvector, codewords, dtype=np.float16):
    codes = rng.integers(0, codewords, (outputs, row // subvector))
    book = rng.normal(0, row**-0.5, (codewords, subvector))
    return {
        f"{name}.codes_matrix": codes.astype(np.uint8 if codewords <= 256 else np.int16),
        f"{name}.codebook": book.astype(dtype),
    }


def normalization(rng, name, channels):
    return {
        f"{name}.weight": rng.uniform(0.5, 1, channels).astype(np.float32),
        f"{name}.bias": rng.normal(0, 0.1, channels).astype(np.float32),
    }


def published(rng, bottleneck, dtype=np.float16):
    """The state of a narrow ResNet-18 of small blocks or ResNet-50 of large ones, of two stages."""
    found = {"conv1.weight": rng.normal(0, 0.1, (8, 3, 7, 7)).astype(np.float32)}
    found |= normalization(rng, "bn1", 8)
    channels, expansion = 8, 4 if bottleneck else 1
    large = 2 if bottleneck else 1
    for name, _ in BLOCKS:
        width = 8 if name.startswith("layer1") else 16
        out = width * expansion
        kernels = [(width, channels, 3), (width, width, 3)]
        if bottleneck:
            kernels = [(width, channels, 1), (width, width, 3), (out, width, 1)]
        for i, (n, c, k) in enumerate(kernels, 1):
            length = large * (4 if k == 1 else 9)
            found |= quantized(rng, f"{name}.conv{i}", n, c * k * k, length, 8, dtype)
            found |= normalization(rng, f"{name}.bn{i}", n)
        if name.endswith(".0") and channels != out:
            found |= quantized(rng, f"{name}.downsample.0", out, channels, 4, 8, dtype)
            found |= normalization(rng, f"{name}.downsample.1", out)
        channels = out
    found |= quantized(rng, "fc", 10, channels, 4, 300, dtype)
    found["fc.bias"] = rng.normal(size=10).astype(np.float32)
    return found


def with_statistics(rng, found):
    """The state of the network while it is trained: statistics are not folded yet."""
    for name in [name for name in found if ".bn" in name or name.startswith("bn")]:
        if name.endswith(".weight"):
            size, module = len(found[name]), name.removesuffix(".weight")
            found[f"{module}.running_mean"] = rng.normal(0, 0.1, size).astype(np.float32)
            found[f"{module}.running_var"] = rng.uniform(0.5, 2, size).astype(np.float32)
            found[f"{module}.num_batches_tracked"] = np.array(3)
    return found


def kernel(found, name):
    """A weight, outputs first, by the definition: codewords one after the other in each row."""
    if f"{name}.weight" in found:
        return found[f"{name}.weight"]
    codes = found[f"{name}.codes_matrix"]
    book = found[f"{name}.codebook"].astype(np.float32)
    rows = [np.concatenate([book[code] for code in row]) for row in codes]
    return np.stack(rows)


def forward(found, x, bottleneck):
    """The network by the definition, without Keras."""

    def conv(x, name, stride, size):
        w = kernel(found, name)
        w = w.reshape(len(w), -1, size, size)
        x = tf.pad(x, [(0, 0), (size // 2,) * 2, (size // 2,) * 2, (0, 0)])
        return tf.nn.conv2d(x, w.transpose(2, 3, 1, 0), stride, "VALID")

    def norm(x, name):
        mean = found.get(f"{name}.running_mean", 0)
        variance = found.get(f"{name}.running_var", 1)
        x = (x - mean) / np.sqrt(variance + np.float32(1e-5))
        return x * found[f"{name}.weight"] + found[f"{name}.bias"]

    x = tf.nn.relu(norm(conv(x, "conv1", 2, 7), "bn1"))
    x = tf.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)], constant_values=-np.inf)
    x = tf.nn.max_pool2d(x, 3, 2, "VALID")
    sizes = (1, 3, 1) if bottleneck else (3, 3)
    for name, stride in BLOCKS:
        y = x
        for i, size in enumerate(sizes, 1):
            y = conv(y, f"{name}.conv{i}", stride if i == len(sizes) - 1 else 1, size)
            y = norm(y, f"{name}.bn{i}")
            y = tf.nn.relu(y) if i < len(sizes) else y
        if f"{name}.downsample.0.codebook" in found:
            x = norm(conv(x, f"{name}.downsample.0", stride, 1), f"{name}.downsample.1")
        x = tf.nn.relu(x + y)
    return tf.reduce_mean(x, (1, 2)) @ kernel(found, "fc").T + found["fc.bias"]


def images(rng, count=3):
    return rng.normal(size=(count, *SHAPE)).astype("float32")


def predict(model, x):
    return np.asarray(model(x, training=False))


@pytest.mark.parametrize("bottleneck", [False, True])
def test_state_becomes_the_network_it_defines(bottleneck, rng):
    found = published(rng, bottleneck)
    model, x = resnet_of_state(found, SHAPE), images(rng)
    np.testing.assert_allclose(
        predict(model, x), forward(found, x, bottleneck), rtol=1e-4, atol=1e-5
    )
    conv = model.get_layer("layer2_0_conv2")
    assert isinstance(conv, CodebookConv2D)
    assert (conv.subvector, conv.codewords_per_codebook) == (18 if bottleneck else 9, 8)
    assert (conv.order, conv.gradient, conv.codebook_dtype) == ("channel", "sum", "float16")
    want = kernel(found, "layer2.0.conv2").reshape(16, 16, 3, 3).transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(conv.kernel, want)
    dense = model.get_layer("fc")
    assert isinstance(dense, CodebookDense) and dense.codewords_per_codebook == 300
    np.testing.assert_array_equal(dense.kernel, kernel(found, "fc").T)
    assert type(model.get_layer("conv1")) is layers.Conv2D


@pytest.mark.parametrize("bottleneck", [False, True])
def test_state_comes_back_to_the_last_bit(bottleneck, rng):
    found = published(rng, bottleneck)
    back = state_of(resnet_of_state(found, SHAPE))
    assert sorted(back) == sorted(found)
    for name, value in found.items():
        np.testing.assert_array_equal(back[name], value, err_msg=name)
        assert back[name].dtype == value.dtype


def test_state_of_training_has_statistics_and_float32_codewords(rng):
    found = with_statistics(rng, published(rng, False, np.float32))
    model, x = resnet_of_state(found, SHAPE), images(rng)
    want = forward(found, x, False)
    np.testing.assert_allclose(predict(model, x), want, rtol=1e-4, atol=1e-5)
    folded = state_of(model)
    assert not [name for name in folded if "running" in name or "tracked" in name]
    assert folded["layer1.0.conv1.codebook"].dtype == np.float32
    again = resnet_of_state(folded, SHAPE)
    np.testing.assert_allclose(predict(again, x), want, rtol=1e-4, atol=1e-5)


def test_first_layer_quantized_and_classifier_float(rng):
    found = published(rng, False)
    del found["conv1.weight"], found["fc.codes_matrix"], found["fc.codebook"]
    found |= quantized(rng, "conv1", 8, 147, 49, 8)
    found["fc.weight"] = rng.normal(size=(10, 16)).astype(np.float32)
    model, x = resnet_of_state(found, SHAPE), images(rng)
    assert isinstance(model.get_layer("conv1"), CodebookConv2D)
    assert model.get_layer("conv1").kernel_size == (7, 7)
    assert type(model.get_layer("fc")) is layers.Dense
    np.testing.assert_allclose(predict(model, x), forward(found, x, False), rtol=1e-4, atol=1e-5)
    back = state_of(model)
    for name in ("conv1.codes_matrix", "conv1.codebook", "fc.weight", "fc.bias"):
        np.testing.assert_array_equal(back[name], found[name])


def small_resnet(stride_padding="torch", top=None):
    """A float network with the names of the modules, of Keras's own defaults otherwise."""
    keras.utils.set_random_seed(5)

    def norm(x, name):
        return layers.BatchNormalization(name=name)(x)

    def conv(x, filters, size, stride, name):
        padding = "same"
        if stride > 1 and size > 1 and stride_padding == "torch":
            x, padding = layers.ZeroPadding2D(size // 2)(x), "valid"
        return layers.Conv2D(filters, size, stride, padding, use_bias=False, name=name)(x)

    inputs = keras.Input(SHAPE)
    x = layers.ReLU()(norm(conv(inputs, 8, 7, 2, "conv1"), "bn1"))
    x = layers.MaxPooling2D(3, 2)(layers.ZeroPadding2D(1)(x))
    for stage, width in ((1, 8), (2, 16)):
        name, short = f"layer{stage}_0", x
        x = conv(x, width, 3, stage, f"{name}_conv1")
        x = layers.ReLU()(norm(x, f"{name}_bn1"))
        x = norm(conv(x, width, 3, 1, f"{name}_conv2"), f"{name}_bn2")
        if stage == 2:
            short = conv(short, width, 1, 2, f"{name}_downsample_0")
            short = norm(short, f"{name}_downsample_1")
        x = layers.ReLU()(layers.Add()([x, short]))
    x = layers.Dense(10, name="fc", activation=top)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, x, name="small")


class Tensor:
    """What the decoder asks of a tensor of PyTorch."""

    def __init__(self, value):
        self.value = value

    def detach(self):
        return self

    def numpy(self):
        return self.value


@pytest.fixture
def torch(monkeypatch):
    """Three functions in the place of PyTorch."""
    module = types.ModuleType("torch")

    def load(path, map_location, weights_only):
        assert (map_location, weights_only) == ("cpu", True)
        with open(path, "rb") as file:
            return pickle.load(file)

    module.load, module.save, module.from_numpy = load, pickle.dump, Tensor
    monkeypatch.setitem(sys.modules, "torch", module)


@pytest.mark.usefixtures("torch")
def test_files_are_written_and_read(rng, tmp_path):
    found = published(rng, False)
    (tmp_path / "published.pth").write_bytes(pickle.dumps({k: Tensor(v) for k, v in found.items()}))
    model = load_pqf(tmp_path / "published.pth", SHAPE)
    save_pqf(model, tmp_path / "ours.pth")
    ours = pickle.loads((tmp_path / "ours.pth").read_bytes())
    assert sorted(ours) == sorted(found)
    for name, tensor in ours.items():
        np.testing.assert_array_equal(tensor.numpy(), found[name], err_msg=name)
    again, x = load_pqf(tmp_path / "ours.pth", SHAPE), images(rng)
    np.testing.assert_array_equal(predict(model, x), predict(again, x))


@pytest.mark.usefixtures("torch")
def test_what_the_method_compresses_is_saved_and_loaded(rng, tmp_path):
    model = small_resnet()
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            size = layer.gamma.shape
            layer.moving_mean.assign(rng.normal(0, 0.1, size).astype("float32"))
            layer.moving_variance.assign(rng.uniform(0.5, 2, size).astype("float32"))
    method = PQF(codewords=8, classifier=16, swaps=100, iterations=5, steps=0)
    compressed = compress(model, None, method, verbose=False)
    save_pqf(compressed, tmp_path / "small.pth")
    loaded, x = load_pqf(tmp_path / "small.pth", SHAPE), images(rng, 8)
    want = predict(compressed, x)
    np.testing.assert_allclose(predict(loaded, x), want, atol=1e-5 * np.abs(want).max())
    for name in ("layer1_0_conv1", "layer2_0_downsample_0", "fc"):
        before, after = compressed.get_layer(name), loaded.get_layer(name)
        np.testing.assert_array_equal(before.kernel, after.kernel)
        assert before.codewords_per_codebook == after.codewords_per_codebook


def test_a_file_of_torch_itself(rng, tmp_path):
    pytest.importorskip("torch", reason="torch is an extra of gigabytes: kerasq[torch]")
    model = resnet_of_state(published(rng, True), SHAPE)
    save_pqf(model, tmp_path / "resnet.pth")
    again = load_pqf(tmp_path / "resnet.pth", SHAPE)
    for a, b in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.usefixtures("torch")
def test_other_files_are_refused(rng, tmp_path):
    def file(name, content):
        (tmp_path / name).write_bytes(pickle.dumps(content))
        return tmp_path / name

    with pytest.raises(ValueError, match="list.pth' is not a checkpoint"):
        load_pqf(file("list.pth", [1, 2]))
    with pytest.raises(ValueError, match=r"float.pth' is not a checkpoint of PQF.*codes_matrix"):
        load_pqf(file("float.pth", {"conv1.weight": np.ones((8, 3, 7, 7))}))
    bits = {"fc": {"centroids": np.ones((2, 2)), "n_blocks": 2}}
    with pytest.raises(ValueError, match=r"bits.pth' is.*bit goes down.*load_kill_the_bits"):
        load_pqf(file("bits.pth", bits))
    with pytest.raises(ValueError, match=r"pqf.pth' is a checkpoint of PQF.*load_pqf"):
        load_kill_the_bits(file("pqf.pth", published(rng, False)))
    with pytest.raises(FileNotFoundError):
        load_pqf(tmp_path / "nowhere.pth")


def test_files_need_torch(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"pip install kerasq\[torch\]"):
        load_pqf(tmp_path / "resnet.pth")


def edited(found, name, change):
    value = found[name]
    if change == "missing":
        del found[name]
    elif change == "nan":
        value = value.copy()
        value.flat[1] = np.nan
        found[name] = value
    elif change == "large":
        value.flat[5] = 8
    elif change == "negative":
        found[name] = value.astype(np.int16)
        found[name].flat[3] = -7
    else:
        found[name] = change(value)
    return found


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("conv1.weight", "missing", r"'conv1' of the checkpoint|no 'conv1'"),
        ("layer1.1.conv2.codebook", "missing", r"'layer1.1.conv2'.*no \['codebook'\], but"),
        ("layer1.1.conv2.codes_matrix", "missing", r"'layer1.1.conv2'.*no \['codes_matrix'\]"),
        ("layer2.0.bn1.bias", "missing", r"'layer2.0.bn1'.*no \['bias'\], but \['weight'\]"),
        ("fc.bias", "missing", r"'fc'.*no \['bias'\]"),
        ("conv1.weight", lambda v: v[..., 1:], "'conv1'.*no kernel, but .*7, 6"),
        ("conv1.weight", lambda v: v[:, :2], "'conv1'.*reads 2 channels, but there are 3"),
        ("bn1.weight", lambda v: v[1:], r"weight of 'bn1'.*\(7,\) values, not \(8,\)"),
        ("fc.bias", lambda v: v[1:], r"bias of 'fc'.*\(9,\) values, not \(10,\)"),
        ("fc.codes_matrix", lambda v: v[:, 1:], "'fc'.*3 blocks of 4 are no matrix over 16"),
        (
            "layer2.0.conv2.codes_matrix",
            lambda v: v[:, 1:],
            "'layer2.0.conv2'.*15 blocks of 9 are no square kernel of odd size over 16 channels",
        ),
        ("layer2.0.conv2.codebook", lambda v: v[:, :4], "16 blocks of 4 are no square kernel"),
        ("layer2.0.conv2.codebook", lambda v: v[0], r"codebook \(9,\).*no quantized kernel"),
        ("layer2.0.conv2.codes_matrix", lambda v: v[0], r"codes \(16,\).*no quantized kernel"),
        ("fc.codes_matrix", lambda v: v.astype(np.float32), "'fc'.*of type float32.*no quantized"),
        ("layer2.1.conv1.codes_matrix", "large", "'layer2.1.conv1'.*0 to 8, but 8 codewords"),
        ("fc.codes_matrix", "negative", "'fc'.*assignments -7 to"),
        ("layer1.0.conv1.codebook", "nan", "'codebook' of 'layer1.0.conv1'.*not finite numbers"),
        ("layer1.0.bn2.weight", "nan", "'weight' of 'layer1.0.bn2'.*not finite numbers"),
        ("conv1.weight", "nan", "'weight' of 'conv1'.*not finite numbers"),
        ("conv1.weight", lambda v: "text", "'weight' of 'conv1'.*not finite numbers"),
    ],
)
def test_broken_states_are_refused(name, change, message, rng):
    found = edited(published(rng, False), name, change)
    with pytest.raises(ValueError, match=message):
        resnet_of_state(found, SHAPE)


def test_a_missing_shortcut_is_named(rng):
    found = {k: v for k, v in published(rng, False).items() if "downsample" not in k}
    with pytest.raises(ValueError, match=r"4, 4, 16. and .8, 8, 8.: its 'layer2.0.downsample.0'"):
        resnet_of_state(found, SHAPE)


@pytest.mark.parametrize("name", ["layer1.0.conv1.bias", "layer1.0.se.weight", "epoch"])
def test_entries_without_a_place_are_refused(name, rng):
    found = published(rng, False) | {name: np.ones(8, np.float32)}
    with pytest.raises(ValueError, match=f"{name.removesuffix('.weight')}.*no ResNet has"):
        resnet_of_state(found, SHAPE)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: small_resnet("keras"), "'conv1' of model 'small' gives something else"),
        (lambda: small_resnet(top="softmax"), "'fc' of model 'small'.*logits at the end"),
        (
            lambda: keras.Sequential(small_resnet().layers[:9]),
            "no ResNet can be read from.*no 'layer1.0.conv2'",
        ),
        (
            lambda: keras.Sequential([keras.Input((8,)), layers.Dense(4, name="fc")]),
            "other inputs than one of images",
        ),
        (
            lambda: keras.Sequential([keras.Input(SHAPE), layers.Conv2D(4, 3, name="conv1")]),
            r"'conv1' .Conv2D. has no place in the layout of PQF",
        ),
        (
            lambda: keras.Sequential(
                [
                    keras.Input(SHAPE),
                    CodebookConv2D(4, 3, use_bias=False, subvector=3, codewords=4, name="conv1"),
                ]
            ),
            "'conv1': the layout of PQF has.*order=\"channel\"",
        ),
        (
            lambda: keras.Sequential(
                [
                    keras.Input(SHAPE),
                    CodebookDense(4, subvector=1, codewords=40000, shared=True, name="fc"),
                ]
            ),
            "'fc' has 40000 codewords, the layout of PQF at most 32768",
        ),
        (
            lambda: keras.Sequential(
                [
                    keras.Input(SHAPE),
                    CodebookDense(4, subvector=2, codewords=4, shared=True, name="fc"),
                ]
            ),
            "'fc': the layout of PQF has.*whole blocks",
        ),
    ],
)
def test_models_without_a_file_are_refused(model, message):
    with pytest.raises(ValueError, match=message):
        state_of(model())
