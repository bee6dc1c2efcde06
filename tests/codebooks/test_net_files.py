"""Deep Compression's .net files, and the published SqueezeNet."""

from __future__ import annotations

import numpy as np
import pytest

from kerasq.benchmark.squeezenet import load_squeezenet, photograph, squeezenet
from kerasq.codebooks.deep_compression_files import (
    NetLayer,
    decode_net,
    encode_net,
    gap_entries,
    read_net,
    write_net,
)
from kerasq.export import convert
from kerasq.layers import CodebookConv2D
from kerasq.runtime import Interpreter

SHAPES = {"conv1": (4, 2, 3, 3), "ip2": (10, 6)}


def nets(rng):
    made = {}
    for name, shape in SHAPES.items():
        size = 256 if "conv" in name else 16
        codebook = rng.normal(size=size).astype(np.float32)
        codebook[0] = 0
        codes = rng.integers(0, size, shape) * (rng.random(shape) < 0.1)
        bias = rng.normal(size=shape[0]).astype(np.float32)
        made[name] = NetLayer(codebook, codes.astype(np.uint8), bias)
    return made


def worked() -> NetLayer:
    codes = np.zeros(60, np.uint8)
    codes[[1, 4, 5, 22, 40, 41, 58]] = 3, 1, 2, 7, 1, 15, 4
    codebook = np.arange(16, dtype=np.float32)
    return NetLayer(codebook, codes.reshape(10, 6), np.zeros(10, np.float32))


def test_worked_example():
    """Section 3.4: gaps, fillers and the bytes."""
    gaps, codes = gap_entries(worked().codes.ravel())
    assert gaps.tolist() == [1, 2, 0, 15, 0, 15, 1, 0, 15, 0]
    assert codes.tolist() == [3, 1, 2, 0, 7, 0, 1, 15, 0, 4]
    content = encode_net({"ip": worked()})
    assert content[:4] == (10).to_bytes(4, "little")
    assert content[-10:].hex() == "130207f14021f0f0010f"
    assert len(content) == 4 + 4 * 16 + 4 * 10 + 5 + 5


@pytest.mark.parametrize("position", [0, 14, 15, 16, 17, 31, 32, 33, 47, 48])
def test_gaps_at_multiples_of_sixteen(position):
    codes = np.zeros((50, 1), np.uint8)
    codes[position] = 9
    layer = NetLayer(np.arange(16, dtype=np.float32), codes, np.zeros(50, np.float32))
    gaps, _ = gap_entries(codes.ravel())
    assert len(gaps) == position // 16 + 1
    back = decode_net(encode_net({"fc": layer}), {"fc": codes.shape})
    assert np.array_equal(back["fc"].codes, codes)


def test_round_trip_through_a_file(rng, tmp_path):
    layers = nets(rng)
    path = tmp_path / "small.net"
    write_net(path, layers)
    back = read_net(path, SHAPES)
    for name, layer in layers.items():
        assert np.array_equal(back[name].codebook, layer.codebook)
        assert np.array_equal(back[name].codes, layer.codes)
        assert np.array_equal(back[name].bias, layer.bias)
        assert np.array_equal(back[name].kernel, layer.codebook[layer.codes])


def test_an_empty_layer_has_no_entries():
    layer = NetLayer(np.zeros(16, np.float32), np.zeros((3, 4), np.uint8), np.ones(3, np.float32))
    content = encode_net({"fc": layer})
    assert len(content) == 4 + 64 + 12
    assert not decode_net(content, {"fc": (3, 4)})["fc"].codes.any()


def test_every_truncation_is_refused_at_its_byte(rng):
    content = encode_net(nets(rng))
    for length in range(len(content)):
        with pytest.raises(ValueError, match=rf"ends at byte {length}, before"):
            decode_net(content[:length], SHAPES)


def corrupted(content: bytes, at: int, values: bytes) -> bytes:
    return content[:at] + values + content[at + len(values) :]


def test_corruption_is_refused_at_its_byte():
    shapes = {"ip": (10, 6)}
    content = encode_net({"ip": worked()})
    gaps = len(content) - 5
    with pytest.raises(ValueError, match=r"byte 0: layer 'ip' of 60 weights has 61"):
        decode_net(corrupted(content, 0, b"\x3d"), shapes)
    with pytest.raises(ValueError, match=r"byte 4: the first codeword of layer 'ip' is 1, not 0"):
        decode_net(corrupted(content, 4, np.float32(1).tobytes()), shapes)
    with pytest.raises(ValueError, match=r"byte 12: nan in the codebook of layer 'ip'"):
        decode_net(corrupted(content, 12, np.float32("nan").tobytes()), shapes)
    with pytest.raises(ValueError, match=rf"byte {gaps + 4}: entry 9 of layer 'ip' lies beyond"):
        decode_net(corrupted(content, gaps + 4, b"\xff"), shapes)
    with pytest.raises(ValueError, match=rf"has 1 bytes left at byte {len(content)}"):
        decode_net(content + b"\0", shapes)
    odd = encode_net({"ip": NetLayer(worked().codebook, worked().codes[:5], np.zeros(5, "f4"))})
    with pytest.raises(
        ValueError, match=rf"byte {len(odd) - 1}: .*behind the gaps of layer 'ip' and is not 0"
    ):
        decode_net(corrupted(odd, len(odd) - 1, bytes([odd[-1] | 0x10])), {"ip": (5, 6)})


def test_what_a_file_cannot_hold_is_refused(rng):
    layer = worked()
    with pytest.raises(ValueError, match="layer 'pool': .*contains one of"):
        encode_net({"pool": layer})
    with pytest.raises(ValueError, match="takes 256 codewords of which the first is 0"):
        encode_net({"conv": layer})
    with pytest.raises(ValueError, match="10 outputs take as many biases"):
        encode_net({"ip": NetLayer(layer.codebook, layer.codes, np.zeros(3, np.float32))})
    with pytest.raises(ValueError, match="code 16 in a codebook of 16"):
        codes = np.full((10, 6), 16, np.uint8)
        encode_net({"ip": NetLayer(layer.codebook, codes, layer.bias)})


@pytest.fixture(scope="module")
def published(data_dir):
    return data_dir / "squeezenet_deep_compression" / "compressed_SqueezeNet.net"


@pytest.fixture(scope="module")
def network(published):
    return load_squeezenet(published)


def caffe_shapes():
    layers = [x for x in squeezenet().layers if hasattr(x, "kernel")]
    return {x.name: tuple(np.array(x.kernel.shape)[[3, 2, 0, 1]]) for x in layers}


def test_squeezenet_is_decoded_to_its_last_byte(published):
    """T-DC-5."""
    content = published.read_bytes()
    layers = decode_net(content, caffe_shapes())
    entries = [gap_entries(layer.codes.ravel()) for layer in layers.values()]
    assert len(layers) == 26 and len(content) == 675_763
    assert sum(len(gaps) for gaps, _ in entries) == 422_083
    fillers = [gaps[codes == 0] for gaps, codes in entries]
    assert sum(map(len, fillers)) == 6_162 and (np.concatenate(fillers) == 15).all()
    assert encode_net(layers) == content


def test_squeezenet_becomes_a_network_of_codebook_layers(network, published):
    layers = [layer for layer in network.layers if isinstance(layer, CodebookConv2D)]
    stored = read_net(published, caffe_shapes())
    assert len(layers) == 26
    for layer in layers:
        kernel = stored[layer.name].kernel.transpose(2, 3, 1, 0)
        assert np.array_equal(layer.codebook().decode(), kernel)
        assert np.array_equal(np.asarray(layer.bias), stored[layer.name].bias)
    assert network.get_layer("pool8").output.shape[1:3] == (13, 13)
    assert network.get_layer("conv_final").output.shape[1:] == (15, 15, 1000)


def test_squeezenet_knows_the_photographs(network, data_dir):
    folder = data_dir / "photos"
    names = (folder / "imagenet_labels.txt").read_text().splitlines()[1:]
    expected = {
        "bird.png": "chickadee",
        "cat.png": "tiger cat",
        "dragonfly.png": "dragonfly",
        "hot_dog.jpg": "hotdog",
        "parrot.jpg": "macaw",
        "missvickie_potato_chips.png": "packet",
    }
    images = np.stack([photograph(folder / name) for name in expected])
    answers = network.predict(images, verbose=0).argmax(1)
    for answer, name in zip(answers, expected.values(), strict=True):
        assert names[answer].startswith(name)


@pytest.mark.slow
def test_squeezenet_becomes_a_tflite_of_about_the_size_of_its_file(network, published, data_dir):
    content = convert(network)
    assert len(content) <= published.stat().st_size
    image = photograph(data_dir / "photos" / "dragonfly.png")[None]
    answer = Interpreter(model_content=content).predict(image)
    expected = network.predict(image, verbose=0)
    np.testing.assert_allclose(answer, expected, rtol=1e-3, atol=1e-3)
