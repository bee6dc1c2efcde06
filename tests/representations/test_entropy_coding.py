"""Gaps, Huffman codes and sparse kernels: the tests T-DC-3 and T-DC-4 of the catalogue."""

import numpy as np
import pytest

from kerasq import representations
from kerasq.representations import Codebook, SparseCodebook, huffman
from kerasq.representations.sparse import with_fillers


def random_kernel(rng, shape, codewords, density):
    """Numbers of codewords, most of them 0."""
    numbers = rng.geometric(0.1, shape) % (codewords - 1) + 1
    return np.where(rng.random(shape) < density, numbers, 0)


def test_worked_example_of_gaps():
    codes = {1: 3, 4: 1, 5: 2, 22: 7, 40: 1, 41: 15, 58: 4}
    gaps, stored = with_fillers(np.array([*codes]), np.array([*codes.values()]), 4)
    expected = [(1, 3), (2, 1), (0, 2), (15, 0), (0, 7), (15, 0), (1, 1), (0, 15), (15, 0), (0, 4)]
    assert list(zip(gaps.tolist(), stored.tolist(), strict=True)) == expected


@pytest.mark.parametrize("gap_bits", range(2, 9))
@pytest.mark.parametrize("difference", [-1, 0, 1, 2])
@pytest.mark.parametrize("multiple", [1, 2, 5])
def test_gaps_around_multiples_of_the_largest(gap_bits, difference, multiple):
    zeros = (multiple << gap_bits) + difference
    flat = np.zeros(3 * zeros + 5, np.int64)
    flat[zeros] = flat[2 * zeros + 1] = 1
    sparse = SparseCodebook.from_assignments(np.float32([0, 2]), flat[:, None], gap_bits)
    assert sparse.entries == 2 * (zeros // 2**gap_bits + 1)
    np.testing.assert_array_equal(sparse.assignments()[:, 0], flat)


def test_worked_example_of_huffman_lengths():
    counts = np.array([45, 13, 12, 16, 9, 5])
    lengths = huffman.code_lengths(counts)
    assert lengths.tolist() == [1, 3, 3, 3, 4, 4]
    frequencies = counts / counts.sum()
    assert np.sum(frequencies * lengths) == pytest.approx(2.24, abs=5e-5)
    assert -np.sum(frequencies * np.log2(frequencies)) == pytest.approx(2.2199, abs=5e-5)


@pytest.mark.parametrize("symbols", [2, 3, 16, 100, 256])
@pytest.mark.parametrize("spread", [0.0, 1.0, 4.0])
def test_codes_are_complete_and_near_the_entropy(rng, symbols, spread):
    counts = np.ceil(np.exp(spread * rng.standard_normal(symbols))).astype(int)
    lengths = huffman.code_lengths(counts).astype(int)
    assert np.sum(2.0**-lengths) == 1
    frequencies = counts / counts.sum()
    entropy = -np.sum(frequencies * np.log2(frequencies))
    assert entropy - 1e-9 <= np.sum(frequencies * lengths) < entropy + 1


def test_codes_are_limited_to_15_bits(rng):
    counts = np.array([1, 1, *np.cumprod(np.full(38, 1.6)).astype(int)])  # unlimited: 39 bits
    lengths = huffman.code_lengths(counts).astype(int)
    assert lengths.max() == 15
    assert np.sum(2.0**-lengths) == 1
    symbols = rng.integers(0, len(counts), 500)
    stream = huffman.encode(symbols, lengths)
    np.testing.assert_array_equal(huffman.decode(stream, lengths, 500), symbols)


@pytest.mark.parametrize("counts", [[0, 0, 0], [0, 5], [7, 0, 0, 0]])
def test_codes_of_fewer_than_two_symbols_are_complete(counts):
    assert sorted(huffman.code_lengths(counts))[-2:] == [1, 1]


def test_huffman_refuses_what_it_cannot_read():
    with pytest.raises(ValueError, match="complete"):
        huffman.decode(np.zeros(1, np.uint8), np.array([1, 2]), 1)
    with pytest.raises(ValueError, match="ends before 9"):
        huffman.decode(np.zeros(1, np.uint8), np.array([1, 1]), 9)
    with pytest.raises(ValueError, match="2 bytes has more than its 8 symbols"):
        huffman.decode(np.zeros(2, np.uint8), np.array([1, 1]), 8)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("shape", [(3, 3, 5, 7), (40, 30), (1, 1, 9, 1)])
@pytest.mark.parametrize(("codewords", "density"), [(2, 0.02), (16, 0.1), (256, 0.4), (3, 1.0)])
def test_round_trip(rng, tmp_path, shape, codewords, density, dtype):
    values = np.append(0, rng.standard_normal(codewords - 1)).astype(dtype)
    numbers = random_kernel(rng, shape, codewords, density)
    sparse = SparseCodebook.from_assignments(values, numbers)
    np.testing.assert_array_equal(sparse.assignments(), numbers)
    np.testing.assert_array_equal(sparse.decode(), values.astype(np.float32)[numbers])
    arrays = (sparse.codewords, sparse.gaps, sparse.gap_lengths, sparse.codes, sparse.code_lengths)
    assert sparse.nbytes == sum(array.nbytes for array in arrays)
    others = [SparseCodebook.from_assignments(values, numbers, bits) for bits in range(2, 9)]
    assert sparse.nbytes == min(other.nbytes for other in others)
    sparse.save(tmp_path / "kernel.npz")
    loaded = representations.load(tmp_path / "kernel.npz")
    np.testing.assert_array_equal(loaded.decode(), sparse.decode())
    np.testing.assert_array_equal(
        SparseCodebook.from_kernel(sparse.decode()).decode(), sparse.decode()
    )


@pytest.mark.parametrize("order", ["position", "channel"])
def test_the_same_kernel_as_a_codebook(rng, order):
    shape = (3, 2, 7, 5)
    numbers = random_kernel(rng, (6, 7, 5) if order == "position" else (42, 5), 9, 0.2)
    numbers = numbers.reshape(3, 2, 7, 5) if order == "position" else numbers
    codewords = np.append(0, rng.standard_normal(8)).astype(np.float32)[None, :, None]
    codebook = Codebook.from_assignments(codewords, numbers, shape, order)
    sparse = SparseCodebook.from_codebook(codebook)
    assert sparse.shape == shape
    np.testing.assert_array_equal(sparse.decode(), codebook.decode())


def test_a_kernel_of_zeros():
    sparse = SparseCodebook.from_kernel(np.zeros((3, 3, 2, 4), np.float32))
    assert sparse.entries == 0
    np.testing.assert_array_equal(sparse.decode(), np.zeros((3, 3, 2, 4)))


def test_a_sparse_kernel_is_checked():
    numbers = np.zeros((4, 4), int)
    with pytest.raises(ValueError, match="the first 0"):
        SparseCodebook.from_assignments(np.float32([1, 2]), numbers)
    with pytest.raises(ValueError, match="2 to 256"):
        SparseCodebook.from_assignments(np.zeros(257, np.float32), numbers)
    with pytest.raises(ValueError, match="float64"):
        SparseCodebook.from_assignments(np.zeros(2), numbers)
    with pytest.raises(ValueError, match="assignment 2"):
        SparseCodebook.from_assignments(np.float32([0, 2]), numbers + 2)
    with pytest.raises(ValueError, match="2 to 8 bits, not 9"):
        SparseCodebook.from_assignments(np.float32([0, 2]), numbers, 9)
    with pytest.raises(ValueError, match="scalars"):
        book = Codebook.from_assignments(np.zeros((1, 2, 2), np.float32), numbers[:2], (4, 4))
        SparseCodebook.from_codebook(book)


def test_damaged_streams_are_errors(rng):
    sparse = SparseCodebook.from_kernel(random_kernel(rng, (30, 20), 8, 0.2).astype(np.float32))
    fields = {**sparse._fields(), "shape": (3, 2)}
    with pytest.raises(ValueError, match="leads to weight"):
        SparseCodebook(**fields).decode()
    with pytest.raises(ValueError, match="ends before"):
        SparseCodebook(**{**sparse._fields(), "codes": sparse.codes[:3]}).decode()
