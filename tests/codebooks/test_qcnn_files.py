"""The ``.bin`` and ``.cbn`` files of Q-CNN."""

from __future__ import annotations

import numpy as np
import pytest

import kerasq
from kerasq.codebooks import QCNN, compress
from kerasq.codebooks.qcnn_files import (
    load_qcnn,
    read_bin,
    read_cbn,
    save_qcnn,
    write_bin,
    write_cbn,
)
from kerasq.keras import keras

layers = keras.layers


@pytest.mark.parametrize("bits", [1, 4, 5, 7, 8, 11])
@pytest.mark.parametrize("shape", [(1,), (3, 5), (40, 3, 3, 20)])
def test_round_trip(shape, bits, tmp_path, rng):
    indices = rng.integers(0, 1 << bits, shape)
    write_cbn(tmp_path / "a.cbn", indices, bits)
    np.testing.assert_array_equal(read_cbn(tmp_path / "a.cbn"), indices)
    values = rng.normal(size=shape).astype("float32")
    write_bin(tmp_path / "a.bin", values)
    np.testing.assert_array_equal(read_bin(tmp_path / "a.bin"), values)


def test_bits_by_hand(tmp_path):
    """Most significant bit first: 5, 3 in 5 bits are 00101 00011."""
    write_cbn(tmp_path / "a.cbn", np.array([[5, 3]]), 5)
    data = (tmp_path / "a.cbn").read_bytes()
    assert data[:16] == np.array([2, 1, 2, 5], "<i4").tobytes()
    assert data[16:18] == bytes([0b00101000, 0b11000000])
    assert len(data) == 16 + 4096
    assert not any(data[18:])
    write_bin(tmp_path / "a.bin", np.array([1.0]))
    assert (tmp_path / "a.bin").read_bytes() == bytes([1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 128, 63])


def test_indices_do_not_straddle_blocks(tmp_path):
    """4681 indices of 7 bits fill 32767 bits of a block; the last bit stays empty."""
    write_cbn(tmp_path / "a.cbn", np.full(4682, 127), 7)
    block = (tmp_path / "a.cbn").read_bytes()[12 : 12 + 4096]
    assert block[-1] == 0b11111110


def test_sizes_of_alexnet(tmp_path):
    """Layers conv2 and fc6 as they were published."""
    for name, array, bits, size in (
        ("conv2.bin", np.zeros((6, 128, 8)), None, 24_592),
        ("conv2.cbn", np.zeros((256, 5, 5, 6), np.uint8), 7, 36_888),
        ("fc6.bin", np.zeros((2304, 32, 4)), None, 1_179_664),
        ("fc6.cbn", np.zeros((4096, 2304), np.uint8), 5, 5_902_352),
    ):
        path = tmp_path / name
        write_bin(path, array) if bits is None else write_cbn(path, array, bits)
        assert path.stat().st_size == size


def test_damaged_files_are_refused_at_the_byte(tmp_path, rng):
    path = tmp_path / "a.cbn"
    write_cbn(path, rng.integers(0, 32, (70, 100)), 5)
    whole = path.read_bytes()
    assert len(whole) == 16 + 2 * 4096
    for length, message in (
        (0, "ends at byte 0, in its head"),
        (6, "ends at byte 6, in its head"),
        (13, "ends at byte 13, in its head"),
        (5000, "cut short: it ends at byte 5000 of 8208"),
    ):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=message):
            read_cbn(path)
    for data, message in (
        (whole + b"\0\0", "2 bytes too many, from byte 8208"),
        (b"\x63" + whole[1:], "99 axes, at byte 0"),
        (whole[:8] + b"\xff\xff\xff\xff" + whole[12:], "size of -1, at byte 8"),
        (whole[:12] + b"\x21" + whole[13:], "33 bits of an index, at byte 12"),
    ):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=message):
            read_cbn(path)
    write_bin(tmp_path / "a.bin", np.ones((2, 3)))
    (tmp_path / "a.bin").write_bytes((tmp_path / "a.bin").read_bytes()[:-1])
    with pytest.raises(ValueError, match="ends at byte 35 of 36"):
        read_bin(tmp_path / "a.bin")
    with pytest.raises(ValueError, match="0 to 9 do not fit 3 bits"):
        write_cbn(path, np.arange(10), 3)


def network(permute=False):
    stages = [
        keras.Input((11, 11, 3)),
        layers.Conv2D(8, 3, activation="relu", name="conv1"),
        layers.MaxPooling2D(2),
        layers.Conv2D(6, 2, groups=2, activation="relu", name="conv2"),
        *([layers.Permute((3, 1, 2))] if permute else []),
        layers.Flatten(name="flatten"),
        layers.Dropout(0.5),
        layers.Dense(10, activation="relu", name="fc6"),
        layers.Dense(4, name="fc7"),
    ]
    return keras.Sequential(stages, name="small")


def publish(folder, rng):
    """Write the files of the network's architecture; conv1's codewords are padded to 8."""
    parts = {
        1: ((1, 12, 8), (8, 3, 3, 1)),
        4: ((2, 5, 2), (6, 2, 2, 2)),
        9: ((14, 7, 4), (10, 14)),  # 54 inputs, the last sub-space is shorter
        11: ((10, 3, 1), (4, 10)),
    }
    arrays = []
    for number, (books, grid) in parts.items():
        arrays.append(
            (rng.normal(size=books), rng.integers(0, books[1], grid), rng.random(grid[0]))
        )
        codewords, indices, bias = arrays[-1]
        write_bin(folder / f"net.ctrdLst.{number:02}.bin", codewords)
        write_cbn(folder / f"net.asmtLst.{number:02}.cbn", indices, (books[1] - 1).bit_length())
        write_bin(folder / f"net.biasVec.{number:02}.bin", bias)
    return arrays


def matrix(codewords, indices, rows):
    """Decode a dense layer by the definition: (inputs, outputs)."""
    vectors = codewords[np.arange(len(codewords)), indices]  # (Ct, M, d)
    return vectors.reshape(len(indices), -1)[:, :rows].T


def test_loaded_network_computes_what_the_files_say(tmp_path, rng):
    arrays = publish(tmp_path, rng)
    loaded = load_qcnn(tmp_path, "net", network())
    x = rng.normal(size=(5, 11, 11, 3)).astype("float32")
    maps = keras.Model(loaded.inputs, loaded.get_layer("conv2").output).predict(x, verbose=0)
    # fc6 reads its input channel by channel.
    hidden = maps.transpose(0, 3, 1, 2).reshape(5, -1)
    assert hidden.shape[1] == 54
    for (codewords, indices, bias), last in zip(arrays[2:], (False, True), strict=True):
        hidden = hidden @ matrix(codewords, indices, hidden.shape[1]) + bias
        hidden = hidden if last else np.maximum(hidden, 0)
    np.testing.assert_allclose(loaded.predict(x, verbose=0), hidden, rtol=1e-4, atol=1e-4)
    codewords, indices, _ = arrays[0]
    kernel = np.array(loaded.get_layer("conv1").kernel)
    want = codewords[0][indices[..., 0]][..., :3].transpose(1, 2, 3, 0)
    np.testing.assert_array_equal(kernel, want.astype("float32"))
    again = load_qcnn(tmp_path, "net", network(permute=True))
    np.testing.assert_allclose(again.predict(x, verbose=0), hidden, rtol=1e-4, atol=1e-4)
    interpreter = kerasq.Interpreter(model_content=kerasq.convert(loaded))
    np.testing.assert_allclose(interpreter.predict(x), hidden, rtol=1e-3, atol=1e-3)


def test_compressed_network_is_written_and_read_back(tmp_path, rng):
    model = network(permute=True)
    x = rng.normal(size=(40, 11, 11, 3)).astype("float32")
    small = compress(model, x, QCNN(2, 6, dense=(4, 4), classifier=(1, 4)), verbose=False)
    save_qcnn(small, tmp_path / "files", "net")
    names = sorted(path.name for path in (tmp_path / "files").iterdir())
    assert len(names) == 12
    assert names[0] == "net.asmtLst.01.cbn"
    loaded = load_qcnn(tmp_path / "files", "net", model)
    np.testing.assert_allclose(
        loaded.predict(x, verbose=0), small.predict(x, verbose=0), rtol=1e-5, atol=1e-5
    )


def test_what_the_files_cannot_hold_is_refused(tmp_path):
    plain = {"error_correction": False, "subvector": 2, "codewords": 4}
    with pytest.raises(ValueError, match="'fc7' has a float kernel"):
        small = compress(network(True), None, QCNN(**plain, classifier=False), verbose=False)
        save_qcnn(small, tmp_path, "net")
    with pytest.raises(ValueError, match=r"after 'flatten'.*\(C, H, W\).*Permute"):
        save_qcnn(compress(network(), None, QCNN(**plain), verbose=False), tmp_path, "net")


def test_files_of_another_network(tmp_path, rng):
    publish(tmp_path, rng)
    other = keras.Sequential([keras.Input((4,)), layers.Dense(3)], name="other")
    with pytest.raises(ValueError, match="4 layers named 'net', but model 'other' has 1"):
        load_qcnn(tmp_path, "net", other)
    write_bin(tmp_path / "net.ctrdLst.04.bin", np.zeros((3, 5, 2)))
    with pytest.raises(ValueError, match="'conv2' with a kernel .* layer 04 of 'net'"):
        load_qcnn(tmp_path, "net", network())
    publish(tmp_path, rng)
    write_bin(tmp_path / "net.ctrdLst.11.bin", np.zeros((10, 2, 1)))
    write_cbn(tmp_path / "net.asmtLst.11.cbn", np.full((4, 10), 2), 2)
    with pytest.raises(ValueError, match="layer 11 of 'net' has an index 2 into 2"):
        load_qcnn(tmp_path, "net", network())
    (tmp_path / "net.biasVec.09.bin").unlink()
    with pytest.raises(FileNotFoundError, match="biasVec.09"):
        load_qcnn(tmp_path, "net", network())
