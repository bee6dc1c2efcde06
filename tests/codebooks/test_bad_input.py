"""Bad input, for every method of the catalogue: the right result or one clear error."""

from __future__ import annotations

import contextlib
import functools
import pickle
import re
import resource
import shutil
import sys
import tempfile
import types
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from kerasq.codebooks import FineTuner, Stage, catalogue, compress, compress_in_stages, finetuning
from kerasq.codebooks.checkpoint import Checkpoint
from kerasq.codebooks.data import calibration_data
from kerasq.codebooks.deep_compression_files import NetLayer, decode_net, encode_net
from kerasq.codebooks.kill_the_bits import load_kill_the_bits, resnet_of
from kerasq.codebooks.qcnn_files import read_bin, read_cbn, write_bin, write_cbn
from kerasq.keras import keras, keras_version

layers = keras.layers
pytestmark = [
    pytest.mark.filterwarnings("ignore:Even though.*eagerly:UserWarning"),
    pytest.mark.filterwarnings("ignore:layer .* has only .*vectors:UserWarning"),
]

# Small constructor arguments of each method: few steps, but each of its parts has its turn.
_TRAINED = {"steps": 1, "batch_size": 16}
SETTINGS = {
    "bit_goes_down": {**_TRAINED, "layer_steps": 1, "codewords": 8, "classifier": 8},
    "deep_compression": {
        "sparsity": 0.5,
        "conv_bits": 3,
        "dense_bits": 3,
        "prune_steps": 1,
        "prune_updates": 1,
        "retrain_steps": 1,
        "finetune_steps": 1,
        "batch_size": 16,
    },
    "deep_kmeans": {**_TRAINED, "codewords": 8, "refresh": 1},
    "fixed_point": {**_TRAINED, "levels": 15},
    "hashed_nets": _TRAINED,
    "pqf": {**_TRAINED, "codewords": 8, "classifier": 8, "swaps": 5, "iterations": 3},
    "qcnn": {"subvector": 4, "codewords": 8, "sweeps": 2},
    "vector_quantization": {"kind": "residual", "subvector": 4, "codewords": 8},
}
TRAINS_ON_LABELS = {"deep_compression", "deep_kmeans", "fixed_point", "hashed_nets", "pqf"}


def method_named(name: str, **settings):
    if name not in SETTINGS:
        pytest.fail(f"method {name!r} of the catalogue has no small settings: add them to SETTINGS")
    return catalogue()[name].cls(**{**SETTINGS[name], **settings})


@pytest.fixture(params=catalogue())
def name(request):
    return request.param


def network(strides=1):
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [
            keras.Input((5, 5, 4), name="images"),
            layers.Conv2D(8, 1, strides, activation="relu", name="conv"),
            layers.Conv2D(8, 1, strides, name="silent"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4, name="dense"),
        ],
        name="net",
    )


@functools.cache
def data() -> tuple[np.ndarray, np.ndarray]:
    """A channel is dead, another one constant: the Gram matrices are singular."""
    rng = np.random.default_rng(8)
    x = rng.normal(size=(32, 5, 5, 4)).astype("float32")
    x[..., 0], x[..., 1] = 0, 1
    return x, rng.integers(0, 4, 32)


def quiet(model, given, method, *arguments, **options):
    """Compress without the warnings about layers of few sub-vectors, which are tested by name."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*sub-vectors|.*vectors, ")
        return compress(model, given, method, *arguments, verbose=False, **options)


def is_finite(model) -> bool:
    return all(np.isfinite(w).all() for w in model.get_weights())


def degenerate():
    model = network()
    model.get_layer("silent").set_weights([np.zeros((1, 1, 8, 8)), np.ones(8)])
    model.get_layer("dense").set_weights([np.full((8, 4), 0.5), np.zeros(4)])
    return model


@functools.cache
def run(name: str) -> tuple[Path, object]:
    """Dead inputs, a kernel of zeros and a constant one: the checkpoint and the result."""
    folder = Path(tempfile.mkdtemp(prefix="kerasq-test-"))
    return folder, quiet(degenerate(), data(), method_named(name), folder)


@pytest.fixture(scope="module", autouse=True)
def _no_folders_left():
    tf.config.run_functions_eagerly(True)  # for a step or two a graph takes longer
    yield
    tf.config.run_functions_eagerly(False)
    for name in catalogue():
        shutil.rmtree(run(name)[0])
    run.cache_clear()


# 1, 2: layers too small, singular matrices, values that are not finite


def test_dead_and_constant_inputs_and_kernels_give_finite_networks(name):
    small = run(name)[1]
    assert is_finite(small)
    assert np.isfinite(small.predict(data()[0], verbose=0)).all()


def test_layers_smaller_than_a_codebook_and_zero_data(name):
    """Fewer sub-vectors than K: as many codewords as there are."""
    model = keras.Sequential(
        [
            keras.Input((3, 3, 1)),
            layers.Conv2D(2, 3, name="conv"),
            layers.Conv2D(1, 1, name="one"),
            layers.Flatten(),
            layers.Dense(2, name="dense"),
        ]
    )
    x, y = np.zeros((16, 3, 3, 1), "float32"), np.arange(16) % 2
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        small = compress(model, (x, y), method_named(name), verbose=False)
    assert is_finite(small) and np.isfinite(small.predict(x, verbose=0)).all()
    told = [str(w.message) for w in caught if "vectors" in str(w.message)]
    if name in ("qcnn", "vector_quantization", "deep_kmeans"):  # the others clamp by their papers
        assert any(
            re.search("'one' has only [12] .*vectors.* codewords, not 8", text) for text in told
        )


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("bit_goes_down", {"layers": {"dense": (4, 9)}}),
        ("pqf", {"layers": {"dense": (4, 9)}}),
        ("qcnn", {"layers": {"dense": (4, 9)}}),
    ],
)
def test_more_codewords_than_sub_vectors_for_one_layer_are_refused(name, asked):
    with pytest.raises(ValueError, match="layer 'dense'.* 9"):
        quiet(network(), data(), method_named(name, **asked))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("place", [0, 1])
def test_weights_that_are_not_finite_name_the_layer(name, place, value):
    model = network()
    weights = model.get_layer("silent").get_weights()
    weights[place].flat[3] = value
    model.get_layer("silent").set_weights(weights)
    part = ("kernel", "bias")[place]
    with pytest.raises(ValueError, match=f"the {part} of layer 'silent' has 1 NaN or infinite"):
        quiet(model, data(), method_named(name))


def test_training_that_ends_in_nan_is_no_result(name, monkeypatch):
    """After the last step no loss is computed that would tell."""
    method = method_named(name)

    def spoil(compressed, tuner):
        compressed.get_layer("dense").bias.assign(np.full(4, np.nan))

    monkeypatch.setattr(method, "finish", spoil)
    monkeypatch.setattr(method, "prepare", lambda model, tuner: model)
    monkeypatch.setattr(method, "after_layer", lambda compressed, replacement, tuner: None)
    with pytest.raises(ValueError, match="bias of layer 'dense' has 4 NaN.*learning rate"):
        quiet(network(), data(), method)


# 3: data that ends early


class Sequence(keras.utils.Sequence):
    def __init__(self, batches, promised):
        self.batches, self.promised = batches, promised

    def __len__(self):
        return self.promised

    def __getitem__(self, index):
        return self.batches[index]


class Promising:
    """A dataset that says of itself that it has more batches than it has."""

    def __new__(cls, dataset, promised):
        dataset = dataset.map(lambda x: x)
        dataset.cardinality = lambda: tf.constant(promised, tf.int64)
        return dataset


def short(kind):
    x = data()[0]
    whole = tf.data.Dataset.from_tensor_slices(x).batch(10)
    if kind == "sequence":
        return Sequence([x[:10], x[10:20]], 3)
    if kind == "empty batch":
        return Sequence([x[:10], x[:0]], 2)
    if kind == "cardinality":
        return Promising(whole, 7)
    if kind == "assertion":
        return whole.apply(tf.data.experimental.assert_cardinality(7))
    if kind == "read":
        used = iter([x[:10], x[10:]])
        list(used)
        return used

    def broken():
        yield x[:10]
        raise OSError("the disk is gone")

    return tf.data.Dataset.from_generator(
        broken, output_signature=tf.TensorSpec((None, 5, 5, 4), tf.float32)
    )


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("sequence", "cannot be read from batch 2 on"),
        ("empty batch", "batch 1 of the calibration data has 0 samples"),
        ("cardinality", "ends early, after 4 of 7 batches"),
        ("assertion", "cannot be read from batch 4 on.*7"),
        ("read", "no batch.*anew"),
        ("generator", "cannot be read from batch 1 on.*the disk is gone"),
    ],
)
def test_data_that_ends_early_is_refused(kind, message):
    model, methods = network(), map(method_named, catalogue())
    for method in methods:
        if method.needs_data:
            with pytest.raises(ValueError, match=f"(?s){message}"):
                quiet(model, short(kind), method)


def test_batches_of_other_sizes_are_all_taken():
    x, y = data()
    cuts = [0, 1, 12, 30, 32]
    parts = [(x[a:b], y[a:b]) for a, b in zip(cuts, cuts[1:], strict=False)]
    for given in (parts, iter(parts), Sequence(parts, len(parts))):
        (inputs,), labels = calibration_data(given, network())
        np.testing.assert_array_equal(inputs, x)
        np.testing.assert_array_equal(labels, y)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("images.npz", TypeError, "cannot be a str"),
        ([1.0, 2.0], ValueError, "batch 0 of the calibration data is ()"),
        (np.full((4, 5, 5, 4), "a"), ValueError, "values of type <U1.*pass numbers"),
        (np.full((4, 5, 5, 4), 1j), ValueError, "values of type complex128"),
        (iter([np.ones((2, 5, 5, 4)), np.ones((2, 5, 5))]), ValueError, "batch 1 .* is"),
        (
            iter([(np.ones((2, 5, 5, 4)), [1, 2]), (np.ones((2, 5, 5, 4)), [[1], [2]])]),
            ValueError,
            "labels of several shapes",
        ),
        (
            iter([(np.ones((2, 5, 5, 4)), [1, 2]), np.ones((2, 5, 5, 4))]),
            ValueError,
            "4 samples, but labels of 2",
        ),
    ],
)
def test_data_of_no_use_is_refused(given, error, message):
    with pytest.raises(error, match=message):
        quiet(network(), given, "qcnn")


# 4: checkpoints


def test_checkpoint_of_another_run_is_refused_with_the_difference(name):
    folder, _ = run(name)
    x, y = data()
    other = degenerate()
    other.get_layer("silent").bias.assign(np.zeros(8))
    strided = network(strides=2)
    strided.set_weights(degenerate().get_weights())
    another = "fixed_point" if name != "fixed_point" else "hashed_nets"
    method = method_named(name)
    cases = [
        (other, (x, y), method, "model weights: .* there, .* here"),
        (strided, (x, y), method, "model graph: "),
        (degenerate(), (x, y), method_named(name, seed=5), "method seed: 0 there, 5 here"),
        (degenerate(), (x, y), method_named(another), f"method name: {name} there, {another} here"),
    ]
    if method.needs_data:
        cases.append((degenerate(), (x + 1, y), method, "data: .*'values'"))
    for model, given, chosen, message in cases:
        with pytest.raises(ValueError, match=f"another run.*{message}"):
            quiet(model, given, chosen, folder)


def test_training_on_other_labels_is_refused(name):
    folder, small = run(name)
    x, y = data()
    if name in TRAINS_ON_LABELS:
        with pytest.raises(ValueError, match="trained on other labels"):
            quiet(degenerate(), (x, (y + 1) % 4), method_named(name), folder)
    again = quiet(degenerate(), data(), method_named(name), folder)
    for a, b in zip(again.get_weights(), small.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def damages(content: bytes, rng: np.random.Generator):
    for length in np.unique(rng.integers(0, len(content), 30)):
        yield content[:length]
    for place in rng.integers(0, len(content), 50):
        yield (
            content[:place] + bytes([content[place] ^ 1 << rng.integers(8)]) + content[place + 1 :]
        )


def test_damaged_checkpoints_are_refused(name, tmp_path, rng):
    checkpoint = Checkpoint(tmp_path, {})
    for source in sorted(run(name)[0].glob("*.npz"))[:2]:
        path, whole = tmp_path / source.name, source.read_bytes()
        read = functools.partial(checkpoint._read, path.stem, "it")
        path.write_bytes(whole)
        want = read()
        for content in damages(whole, rng):
            path.write_bytes(content)
            try:
                found = read()  # of a byte that nothing depends on, such as of a date
            except ValueError as error:
                assert f"{path.name}' of it cannot be read" in str(error)
                continue
            assert found.keys() == want.keys()
            for key, value in want.items():
                np.testing.assert_array_equal(found[key], value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"null"])
def test_damaged_head_of_a_checkpoint_is_refused(content, tmp_path):
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(ValueError, match="run.json' cannot be read.*remove it"):
        quiet(network(), data(), "qcnn", tmp_path)


# 5: artefacts


def fuzz(content: bytes, read, rng: np.random.Generator) -> None:
    """Decode damaged contents: only a ValueError may come out, or finite values."""
    refused = 0
    for damaged in damages(content, rng):
        try:
            assert all(np.isfinite(array).all() for array in read(damaged))
        except ValueError as error:
            assert "byte" in str(error)
            refused += 1
    assert refused >= 20


def test_damaged_net_files(rng):
    codebook = np.linspace(0, 1, 16, dtype=np.float32)
    codes = (rng.integers(0, 16, (20, 30)) * (rng.random((20, 30)) < 0.3)).astype(np.uint8)
    content = encode_net({"ip": NetLayer(codebook, codes, np.ones(20, np.float32))})

    def read(damaged):
        (layer,) = decode_net(damaged, {"ip": (20, 30)}).values()
        return layer.kernel, layer.bias

    fuzz(content, read, rng)


@pytest.mark.parametrize("kind", ["bin", "cbn"])
def test_damaged_qcnn_files(kind, rng, tmp_path):
    path = tmp_path / f"a.{kind}"
    if kind == "bin":
        write_bin(path, rng.normal(size=(3, 4, 5)))
    else:
        write_cbn(path, rng.integers(0, 32, (6, 4)), 5)

    def read(damaged):
        path.write_bytes(damaged)
        return [read_bin(path) if kind == "bin" else read_cbn(path)]

    fuzz(path.read_bytes(), read, rng)


def test_value_of_a_bin_file_that_is_not_finite_is_refused_at_its_byte(tmp_path):
    write_bin(tmp_path / "a.bin", np.array([[1.0, 2.0], [np.inf, 3.0]]))
    with pytest.raises(ValueError, match="a value of inf, at byte 20"):
        read_bin(tmp_path / "a.bin")


def _archive(rng):
    """The smallest ResNet there is: a stem and a classifier."""
    halves = {key: rng.normal(size=4).astype(np.float16) for key in ("weight", "bias")}
    return {
        "conv1": {"weight": rng.normal(size=(4, 3, 3, 3)).astype(np.float16)},
        "bn1": halves,
        "fc": {
            "centroids": rng.normal(size=(3, 2)).astype(np.float16),
            "assignments": rng.integers(0, 3, 10).astype(np.uint8),
            "n_blocks": 2,
            "is_conv": False,
            "k": 1,
        },
        "fc_bias": {"bias": np.ones(5, np.float32)},
    }


@pytest.mark.parametrize(
    "entry",
    ["conv1 weight", "bn1 bias", "fc centroids", "fc assignments", "fc n_blocks", "fc_bias bias"],
)
def test_values_of_a_pth_file_that_cannot_be_are_refused(entry, rng):
    module, key = entry.split()
    right = _archive(rng)[module][key]
    resnet_of(_archive(rng), (8, 8, 3))
    bad = ["text", None, 0, -1, 2.5, [1], np.float32([np.nan]), np.ones((0, 2)), np.ones((2, 3, 2))]
    if isinstance(right, np.ndarray):
        bad += [right[:-1], right[None, None], np.full(right.shape, np.inf)]
    if key == "assignments":
        del bad[-2]  # their shape is not looked at
    for value in bad:
        archive = _archive(rng)
        archive[module][key] = value
        with pytest.raises(ValueError, match="checkpoint"):
            resnet_of(archive, (8, 8, 3))


def test_damaged_pth_files(rng, tmp_path, monkeypatch):
    """A zip file, as PyTorch writes; its reader there does not compare the checksums."""
    torch = types.ModuleType("torch")

    def load(path, map_location, weights_only):
        with zipfile.ZipFile(path) as file:
            return pickle.loads(file.read("archive/data.pkl"))

    torch.load = load
    monkeypatch.setitem(sys.modules, "torch", torch)
    path = tmp_path / "small.pth"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/version", "3")
        file.writestr("archive/data.pkl", pickle.dumps(_archive(rng)))
    whole = path.read_bytes()
    want = load_kill_the_bits(path, (8, 8, 3)).get_weights()
    refused = 0
    for damaged in list(damages(whole, rng))[::3]:
        path.write_bytes(damaged)
        try:
            found = load_kill_the_bits(path, (8, 8, 3)).get_weights()
        except ValueError as error:
            assert "small.pth" in str(error)
            refused += 1
            continue
        for a, b in zip(found, want, strict=True):
            np.testing.assert_array_equal(a, b)
    assert refused >= 10
    path.write_bytes(whole[:100])
    with pytest.raises(ValueError, match="cut short: it ends at byte 100"):
        load_kill_the_bits(path)
    at = whole.index(b"centroids")
    path.write_bytes(whole[:at] + b"X" + whole[at + 1 :])
    with pytest.raises(ValueError, match="'archive/data.pkl', from byte .* another checksum"):
        load_kill_the_bits(path)


# 6: weights shared between layers


def twice():
    """A layer called twice, and a model within the model called twice."""
    keras.utils.set_random_seed(3)
    y = a = keras.Input((5, 5, 4))
    y = layers.Conv2D(4, 1, activation="relu", name="inner")(y)
    body = keras.Model(a, y, name="body")
    conv = layers.Conv2D(4, 1, name="twice")
    x = inputs = keras.Input((5, 5, 4))
    x = conv(body(layers.ReLU()(conv(body(x)))))
    dense = layers.Dense(4, activation="tanh", name="dense")
    x = dense(dense(layers.GlobalAveragePooling2D()(x)))
    return keras.Model(inputs, x, name="net")


def shared_variable():
    """Two layers of one kernel."""
    model = network()
    first, second = layers.Dense(4, name="first"), layers.Dense(4, name="second")
    x = second(first(model.outputs[0]))
    if keras_version() == 2:
        second.kernel = first.kernel
    else:  # which has no public way
        second.__dict__["_kernel"] = first._kernel
        second._trainable_variables[0] = first._kernel
    assert second.kernel is first.kernel
    return keras.Model(model.inputs, x, name="tied")


def decoded(layer) -> np.ndarray:
    kernel = tf.convert_to_tensor(layer.kernel)
    quantizer = getattr(layer, "kernel_quantizer", None)
    return np.array(kernel if quantizer is None else quantizer(kernel))


def same_function(model, small) -> None:
    """The float network, with the replacements' kernels and biases, computes the same."""
    plain = {layer.name: layer for layer in finetuning.flat_layers(model)}
    for layer in finetuning.flat_layers(small):
        if getattr(layer, "kernel", None) is not None:
            plain[layer.name].set_weights([decoded(layer), np.array(layer.bias)])
    x = data()[0]
    want, got = model.predict(x, verbose=0), small.predict(x, verbose=0)
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4 * np.abs(want).max())


def test_a_layer_or_model_called_twice_stays_one(name):
    model = twice()
    small = quiet(model, data(), method_named(name))
    count = {layer.name: 0 for layer in finetuning.flat_layers(model)}
    assert len(list(finetuning.flat_layers(small))) == len(count)
    same_function(twice(), small)


@pytest.mark.parametrize("name", ["qcnn", "vector_quantization"])
def test_layers_that_share_a_variable_get_codewords_of_their_own(name):
    model = shared_variable()
    small = quiet(model, data(), method_named(name))
    books = [small.get_layer(layer).codewords for layer in ("first", "second")]
    assert books[0] is not books[1]
    assert is_finite(small)


# 7: out of disk


def test_no_room_for_activations_names_the_folder_and_the_remedy(monkeypatch, tmp_path):
    def full(descriptor, offset, length):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kerasq.codebooks.activations._MEMORY", 0)
    monkeypatch.setattr("kerasq.codebooks.activations.os.posix_fallocate", full)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(OSError, match="bytes of activations.*No space left.*TMPDIR") as caught:
        quiet(network(), data(), method_named("qcnn"))
    assert caught.value.errno == 28 and caught.value.filename == str(tmp_path)
    assert not list(tmp_path.iterdir())


@contextlib.contextmanager
def files_of_at_most(nbytes):
    """The operating system refuses to make files larger: any user can have that, on any disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_files_that_the_system_does_not_take(tmp_path, monkeypatch):
    """Report, checkpoint and activations: an error each, never a signal, and nothing left."""
    method = method_named("qcnn")
    quiet(network(), data(), method)  # what is compiled on the way has been written
    with (
        pytest.raises(OSError, match="cannot write the report.*make room"),
        files_of_at_most(1000),
    ):
        quiet(network(), data(), method, report=tmp_path / "page.html")
    with (
        pytest.raises(OSError, match="cannot write the checkpoint.*make room"),
        files_of_at_most(100),
    ):
        quiet(network(), data(), method, tmp_path / "checkpoint")
    monkeypatch.setattr("kerasq.codebooks.activations._MEMORY", 0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with (
        pytest.raises(OSError, match="activations in the temporary folder.*TMPDIR"),
        files_of_at_most(1000),
    ):
        quiet(network(), data(), method)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_files_of_activations_have_no_names(monkeypatch, tmp_path):
    """A killed process leaves nothing behind."""
    monkeypatch.setattr("kerasq.codebooks.activations._MEMORY", 0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    seen = []
    quiet(
        network(),
        data(),
        method_named("qcnn"),
        callback=lambda report: seen.append(list(tmp_path.iterdir())),
    )
    assert seen == [[], [], []]


# 8: other wrong arguments


def test_choices_of_single_layers_that_cannot_be(name):
    with pytest.raises(ValueError, match=r"'cnov'.*'conv'.*did you mean 'conv'\?"):
        quiet(network(), data(), method_named(name, layers={"cnov": False}))
    for wrong in (3, "conv", {"conv": "x"}, {"conv": (4,)}, {"conv": 2.5}):
        with pytest.raises(TypeError, match="layers|layer 'conv'|bits"):
            quiet(network(), data(), method_named(name, layers=wrong))


def test_settings_of_another_type(name):
    for wrong, error in ((2.5, TypeError), ("1", TypeError), (True, TypeError), (-1, ValueError)):
        with pytest.raises(error, match="seed"):
            quiet(network(), data(), method_named(name, seed=wrong))
    for rate in {"rate", "learning_rate", "prior"} & method_named(name).get_config().keys():
        with pytest.raises(ValueError, match=f"{rate} must"):
            quiet(network(), data(), method_named(name, **{rate: float("nan")}))
    if "steps" in method_named(name).get_config():
        with pytest.raises(TypeError, match="steps is 2.5, pass int"):
            quiet(network(), data(), method_named(name, steps=2.5))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        ({"batch_size": -3}, ValueError, "batch_size must be at least 1"),
        ({"batch_size": 2.5}, TypeError, "batch_size is a float"),
        ({"batch_size": None}, TypeError, "batch_size is a NoneType"),
        ({"checkpoint_dir": 3}, TypeError, "checkpoint_dir is a int"),
        ({"report": 3}, TypeError, "report is a int"),
        ({"augment": "flip"}, TypeError, "augment is a str"),
        ({"callback": []}, TypeError, "callback is a list"),
        ({"strategy": "mirrored"}, TypeError, "strategy is a str.*Strategy"),
        ({"checkpoint_dir": __file__}, ValueError, "checkpoint_dir .* is a file"),
    ],
)
def test_arguments_of_compress_that_cannot_be(options, error, message):
    with pytest.raises(error, match=message):
        quiet(network(), data(), "qcnn", **options)


def test_labels_that_are_no_classes_are_refused():
    x, y = data()
    for name in sorted(TRAINS_ON_LABELS & catalogue().keys()):
        with pytest.raises(ValueError, match="on labels from 1 to 4, but .* 4 classes, 0 to 3"):
            quiet(network(), (x, np.maximum(y, 1) + (y == 3)), method_named(name))
    with pytest.raises(ValueError, match="32 samples, but labels of 31"):
        quiet(network(), (x, y[1:]), method_named("hashed_nets"))
    for labels in ([-1], [np.nan], [[0.0, 1.0]], ["cat"]):
        tuner = FineTuner(network(), [x], np.concatenate([np.array(labels)] * len(x)))
        with pytest.raises(ValueError, match="mine trains on labels"):
            tuner.run(network(), Stage("mine", 1, 0.1, loss="labels"))


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"steps": -1}, ValueError),
        ({"steps": 1.5}, TypeError),
        ({"batch_size": 0}, ValueError),
        ({"optimizer": "sdg"}, ValueError),
        ({"schedule": "cos"}, ValueError),
        ({"loss": "label"}, ValueError),
        ({"temperature": 0.0}, ValueError),
        ({"momentum": -0.1}, ValueError),
        ({"learning_rate": -1.0}, ValueError),
    ],
)
def test_stages_that_cannot_be(settings, error):
    with pytest.raises(error, match=f"mine: {next(iter(settings))}"):
        Stage(**{"name": "mine", "steps": 1, "learning_rate": 0.1, **settings})


def test_networks_without_convolutions_or_without_dense_layers(name):
    dense = [keras.Input((8,)), layers.Dense(8, name="a"), layers.Dense(4, name="b")]
    convs = [keras.Input((5, 5, 4)), layers.Conv2D(8, 1, name="a"), layers.Conv2D(8, 1, name="b")]
    for parts, kind in ((dense, "dense"), (convs, "conv")):
        model = keras.Sequential(parts)
        if (name, kind) in (("deep_kmeans", "dense"), ("hashed_nets", "conv")):
            x = np.ones((4, *model.inputs[0].shape[1:]), "float32")
            with pytest.raises(ValueError, match="to compress|there is none"):
                quiet(model, x, method_named(name))
        else:
            assert "b" in method_named(name).plan(model.layers)


# 9: Dropout in training that is taken up again


class Stop(Exception):
    pass


def noisy():
    keras.utils.set_random_seed(3)
    x = inputs = keras.Input((5, 5, 4))
    x = layers.Conv2D(8, 1, activation="relu", name="conv")(x)
    x = layers.GaussianNoise(0.5)(layers.SpatialDropout2D(0.5)(x))
    x = layers.Dropout(0.5, seed=4)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, layers.Dense(4, name="dense")(x), name="noisy")


def trained(folder=None, training=True, stop=None):
    model = noisy()
    checkpoint = None if folder is None else Checkpoint(folder, {})
    tuner = FineTuner(model, [data()[0]], data()[1], checkpoint)
    stage = Stage("mine", 6, 0.1, 16, training=training, loss="labels")

    def after_step(step):
        if step == stop:
            raise Stop

    return tuner.run(model, stage, after_step=after_step), model.get_weights()


@pytest.fixture
def _graphs():
    tf.config.run_functions_eagerly(False)
    yield
    tf.config.run_functions_eagerly(True)


@pytest.mark.usefixtures("_graphs")
def test_dropout_draws_the_same_in_training_that_is_taken_up_again(monkeypatch, tmp_path):
    monkeypatch.setattr(finetuning, "_SAVE_EVERY", 2)
    losses, weights = trained()
    with pytest.raises(Stop):
        trained(tmp_path, stop=4)
    assert (tmp_path / "stage-mine.npz").exists()
    tf.random.set_seed(99)
    again, resumed = trained(tmp_path)
    assert again == losses
    for a, b in zip(weights, resumed, strict=True):
        np.testing.assert_array_equal(a, b)
    assert losses != trained(training=False)[0]


@pytest.mark.slow
@pytest.mark.usefixtures("_graphs")
def test_every_method_goes_on_with_the_dropout_of_a_run_in_one(name, monkeypatch, tmp_path):
    monkeypatch.setattr(finetuning, "_SAVE_EVERY", 1)
    save, count = Checkpoint.save_stage, []

    def killed(self, stage, arrays):
        save(self, stage, arrays)
        count.append(stage)
        raise Stop

    steps = {"steps": 3} if "steps" in SETTINGS[name] else {}
    whole = quiet(noisy(), data(), method_named(name, **steps))
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save_stage", killed)
        for _ in range(3):
            try:
                quiet(noisy(), data(), method_named(name, **steps), tmp_path)
            except Stop:
                continue
    resumed = quiet(noisy(), data(), method_named(name, **steps), tmp_path)
    assert bool(count) == (name not in ("qcnn", "vector_quantization"))
    for a, b in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_stages_of_a_whole_network_refuse_bad_data_too():
    stage = Stage("dense layers", 1, 0.1, 16)
    with pytest.raises(ValueError, match="cannot be read from batch 2 on"):
        compress_in_stages(network(), short("sequence"), method_named("qcnn"), stage)
