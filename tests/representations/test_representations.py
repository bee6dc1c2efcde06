import numpy as np
import pytest

from kerasq import representations
from kerasq.representations import Affine, BitPlanes, Codebook, pack_bits, unpack_bits


@pytest.mark.parametrize("bits", [1, 2, 3, 5, 7, 8, 11, 16])
@pytest.mark.parametrize("count", [1, 7, 8, 13, 64])
def test_packing_round_trip(rng, bits, count):
    values = rng.integers(0, 1 << bits, (3, 2, count))
    packed = pack_bits(values, bits)
    assert packed.shape == (3, 2, -(-count * bits // 8))
    np.testing.assert_array_equal(unpack_bits(packed, bits, count), values)


def test_packing_is_least_significant_bit_first():
    assert pack_bits(np.array([1, 0, 1, 1, 0, 0, 0, 0, 1]), 1).tolist() == [0b00001101, 1]
    assert pack_bits(np.array([0x3, 0xA]), 4).tolist() == [0xA3]


def test_packing_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="do not fit into 3"):
        pack_bits(np.array([8]), 3)


@pytest.mark.parametrize(
    ("shape", "axes"), [((3, 3, 5, 7), (-1,)), ((3, 3, 5, 2), (-2, -1)), ((9, 4), ()), ((6,), ())]
)
@pytest.mark.parametrize("planes", [1, 2, 3])
def test_bit_planes_decode_their_sum(rng, shape, axes, planes):
    signs = np.where(rng.random((planes, *shape)) < 0.5, -1.0, 1.0)
    channels = int(np.prod([shape[a] for a in axes]))
    scales = rng.random((planes, channels)).astype(np.float32)
    offset = rng.random(channels).astype(np.float32)
    rep = BitPlanes.from_signs(signs, scales, offset, axes)
    broadcast = [1] * (len(shape) - len(axes)) + [shape[a] for a in axes]
    expected = offset.reshape(broadcast) + sum(
        s.reshape(broadcast) * p for s, p in zip(scales, signs, strict=True)
    )
    np.testing.assert_allclose(rep.decode(), expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(rep.signs(), signs)
    elements = int(np.prod(shape)) // channels
    assert rep.nbytes == planes * channels * -(-elements // 8) + scales.nbytes + offset.nbytes
    assert rep.bits_per_weight == 8 * rep.nbytes / np.prod(shape)


def test_bit_planes_of_a_binary_filter_bank_take_a_bit_a_weight(rng):
    signs = np.where(rng.random((1, 3, 3, 64, 32)) < 0.5, -1, 1)
    rep = BitPlanes.from_signs(signs, np.ones((1, 32)), channel_axes=(-1,))
    assert rep.bits_per_weight == 1 + 32 / (9 * 64)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_affine_decodes_its_grid(rng, bits):
    codes = rng.integers(0, 1 << bits, (3, 3, 4, 6))
    scale = rng.random(6).astype(np.float32)
    rep = Affine.from_codes(codes, bits, scale, (2**bits - 1) / 2, (-1,))
    np.testing.assert_array_equal(rep.codes(), codes)
    expected = scale * (codes.astype(np.float32) - np.float32((2**bits - 1) / 2))
    np.testing.assert_array_equal(rep.decode(), expected)
    assert rep.nbytes == -(-codes.size * bits // 8) + 6 * 4 + 4


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("shape", "d"), [((3, 3, 8, 5), 4), ((3, 3, 7, 5), 3), ((10, 6), 1)])
def test_codebook_decodes_its_codewords(rng, shape, d, shared, dtype):
    subspaces, size = -(-shape[-2] // d), 6
    codewords = rng.standard_normal((1 if shared else subspaces, size, d)).astype(dtype)
    assignments = rng.integers(0, size, (*shape[:-2], subspaces, shape[-1]))
    rep = Codebook.from_assignments(codewords, assignments, shape)
    decoded = rep.decode()
    assert decoded.dtype == np.float32
    for index in np.ndindex(shape):
        *position, i, c = index
        book = 0 if shared else i // d
        k = assignments[(*position, i // d, c)]
        assert decoded[index] == codewords[book, k, i % d]
    np.testing.assert_array_equal(rep.assignments(), assignments)
    positions = int(np.prod(shape[:-2]))
    assert rep.nbytes == codewords.nbytes + positions * subspaces * -(-shape[-1] * 3 // 8)


def _examples(rng):
    signs = np.where(rng.random((2, 3, 3, 2, 5)) < 0.5, -1, 1)
    yield BitPlanes.from_signs(signs, rng.random((2, 5)), None, (-1,))
    yield BitPlanes.from_signs(signs, rng.random(2), 0.5)
    yield Affine.from_codes(rng.integers(0, 8, (4, 5)), 3, 0.1, 3.5)
    codewords = rng.standard_normal((1, 5, 2)).astype(np.float16)
    yield Codebook.from_assignments(codewords, rng.integers(0, 5, (3, 4)), (6, 4))


def test_save_and_load(rng, tmp_path):
    for rep in _examples(rng):
        path = tmp_path / "rep.npz"
        rep.save(path)
        again = representations.load(path)
        assert type(again) is type(rep)
        assert again.shape == rep.shape
        assert again.nbytes == rep.nbytes
        np.testing.assert_array_equal(again.decode(), rep.decode())
    assert [p.name for p in tmp_path.iterdir()] == ["rep.npz"]


def test_load_refuses_another_file(tmp_path):
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(ValueError, match="no representation"):
        representations.load(tmp_path / "other.npz")


def test_clear_errors(rng):
    with pytest.raises(ValueError, match="-1 and"):
        BitPlanes.from_signs(np.zeros((1, 3)), np.ones(1))
    with pytest.raises(ValueError, match="2 scales a plane for 3"):
        BitPlanes.from_signs(np.ones((1, 4, 3)), np.ones((1, 2)), channel_axes=(-1,))
    with pytest.raises(ValueError, match="not the last axes"):
        BitPlanes.from_signs(np.ones((1, 4, 3)), np.ones((1, 4)), channel_axes=(0,))
    with pytest.raises(ValueError, match="1 to 8 bits"):
        Affine.from_codes(np.zeros(3, int), 9, 1.0, 0.0)
    with pytest.raises(ValueError, match="assignment 4 in a codebook of 4"):
        Codebook.from_assignments(np.zeros((1, 4, 1), np.float32), np.full((2, 2), 4), (2, 2))
    with pytest.raises(ValueError, match="takes assignments"):
        Codebook.from_assignments(np.zeros((1, 4, 2), np.float32), np.zeros((2, 2), int), (2, 2))
