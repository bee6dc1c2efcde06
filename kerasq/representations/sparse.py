"""Sparse kernels of few values, entropy-coded."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from kerasq.representations import huffman
from kerasq.representations.base import Representation
from kerasq.representations.codebook import Codebook
from kerasq.representations.packing import pack_bits, unpack_bits

GAP_BITS = range(2, 9)


@dataclasses.dataclass(frozen=True, eq=False)
class SparseCodebook(Representation):
    """A kernel that is mostly zero, as gaps between its other weights and codes of their values.

    The kernel is read in the order of Caffe and PyTorch: output, input, row, column. An entry has a
    gap, of ``gap_bits`` bits: how many zeros lie before it, and a code: its codeword. Where more
    zeros follow than a gap counts, filler entries have the largest gap and code 0, a zero. Gaps and
    codes are Huffman-coded, in streams of their own.

    Attributes:
        shape: (kh, kw, Cin, Ct), or (Cin, Ct).
        codewords: float32 or float16 (K,), the first is 0.
        gaps: uint8, Huffman codes of the gaps.
        gap_lengths: uint8, the 4-bit lengths of their 2**gap_bits codes.
        codes: uint8, Huffman codes of the codes.
        code_lengths: uint8, the 4-bit lengths of their K codes.
        entries: stored entries, fillers included.
        gap_bits: 2 to 8.

    Paper: Han, Mao, Dally, Deep Compression, arXiv:1510.00149.
    """

    codewords: np.ndarray
    gaps: np.ndarray
    gap_lengths: np.ndarray
    codes: np.ndarray
    code_lengths: np.ndarray
    entries: int
    gap_bits: int

    @classmethod
    def from_assignments(
        cls, codewords: np.ndarray, assignments: np.ndarray, gap_bits: int | None = None
    ) -> SparseCodebook:
        """Encode the codewords' numbers of a kernel.

        Args:
            codewords: float32 or float16 (K,), 2 to 256, the first is 0.
            assignments: unsigned integers below K, in the shape of the kernel.
            gap_bits: 2 to 8; None for what takes the fewest bytes.

        Raises:
            ValueError: another float type, a first codeword that is not 0, an assignment of K or
                more, gaps of another width.
        """
        codewords, assignments = np.asarray(codewords), np.asarray(assignments)
        if codewords.dtype not in (np.float32, np.float16) or codewords.ndim != 1:
            raise ValueError(
                "codewords are a float32 or float16 vector, not "
                f"{codewords.dtype} {codewords.shape}"
            )
        size = len(codewords)
        if not 2 <= size <= 256 or codewords[0] != 0:
            raise ValueError(f"2 to 256 codewords, the first 0, not {size} from {codewords[:1]} on")
        if assignments.size and assignments.max() >= size:
            raise ValueError(f"assignment {assignments.max()} in a codebook of {size} codewords")
        if gap_bits is not None and gap_bits not in GAP_BITS:
            raise ValueError(f"gaps have {GAP_BITS[0]} to {GAP_BITS[-1]} bits, not {gap_bits}")
        flat = _outputs_first(assignments)
        positions = np.flatnonzero(flat)
        if gap_bits is None:
            sizes = [_stream_bytes(positions, flat[positions], size, bits) for bits in GAP_BITS]
            gap_bits = GAP_BITS[int(np.argmin(sizes))]
        gaps, codes = with_fillers(positions, flat[positions], gap_bits)
        gap_lengths = huffman.code_lengths(np.bincount(gaps, minlength=1 << gap_bits))
        lengths = huffman.code_lengths(np.bincount(codes, minlength=size))
        return cls(
            tuple(assignments.shape),
            codewords,
            huffman.encode(gaps, gap_lengths),
            pack_bits(gap_lengths, 4),
            huffman.encode(codes, lengths),
            pack_bits(lengths, 4),
            len(gaps),
            gap_bits,
        )

    @classmethod
    def from_kernel(cls, kernel: np.ndarray, dtype: str = "float32") -> SparseCodebook:
        """Encode a kernel of at most 256 values, zero among them.

        Raises:
            ValueError: more values.
        """
        values, assignments = np.unique(np.asarray(kernel).astype(dtype), return_inverse=True)
        codewords = np.append(values.dtype.type(0), values[values != 0])
        numbers = np.where(values == 0, 0, np.cumsum(values != 0))
        if len(codewords) == 1:  # all zero: a codeword that no weight has
            codewords = np.append(codewords, values.dtype.type(1))
        return cls.from_assignments(codewords, numbers[assignments].reshape(kernel.shape))

    @classmethod
    def from_codebook(cls, codebook: Codebook) -> SparseCodebook:
        """Encode one codebook of scalars, the first of them 0.

        Raises:
            ValueError: another codebook.
        """
        if codebook.codewords.shape[::2] != (1, 1):
            raise ValueError(
                "a sparse kernel has one codebook of scalars, not codewords "
                f"{codebook.codewords.shape}"
            )
        assignments = codebook.assignments()
        if codebook.order == "channel":
            *sizes, inputs, outputs = codebook.shape
            rows = assignments.reshape(inputs, *sizes, outputs)
            assignments = np.moveaxis(rows, 0, -2)
        return cls.from_assignments(
            codebook.codewords[0, :, 0], assignments.reshape(codebook.shape)
        )

    def assignments(self) -> np.ndarray:
        """Return the codewords' numbers, uint8, in the shape of the kernel.

        Raises:
            ValueError: streams that are damaged.
        """
        size = len(self.codewords)
        gap_lengths = unpack_bits(self.gap_lengths, 4, 1 << self.gap_bits)
        lengths = unpack_bits(self.code_lengths, 4, size)
        gaps = huffman.decode(self.gaps, gap_lengths, self.entries).astype(np.int64)
        flat = np.zeros(math.prod(self.shape), np.uint8)
        positions = np.cumsum(gaps + 1) - 1
        if len(positions) and positions[-1] >= flat.size:
            raise ValueError(f"a gap leads to weight {positions[-1]} of {flat.size}")
        flat[positions] = huffman.decode(self.codes, lengths, self.entries)
        *sizes, inputs, outputs = self.shape
        rows = flat.reshape(outputs, inputs, math.prod(sizes))
        return np.ascontiguousarray(rows.transpose(2, 1, 0)).reshape(self.shape)

    def decode(self) -> np.ndarray:
        """Return the kernel in float32."""
        return self.codewords.astype(np.float32)[self.assignments()]


def with_fillers(
    positions: np.ndarray, codes: np.ndarray, gap_bits: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the gaps and codes of all entries, for ascending positions and their codes.

    A gap is the difference of positions less 1; what is ``2**gap_bits`` or more takes fillers, of
    gap ``2**gap_bits - 1`` and code 0.
    """
    zeros = np.diff(positions, prepend=-1) - 1
    ends = np.cumsum((zeros >> gap_bits) + 1) - 1  # the entries that are no fillers
    count = int(ends[-1]) + 1 if len(ends) else 0
    gaps = np.full(count, (1 << gap_bits) - 1, np.int64)
    all_codes = np.zeros(count, np.int64)
    gaps[ends] = zeros & ((1 << gap_bits) - 1)
    all_codes[ends] = codes
    return gaps, all_codes


def _stream_bytes(positions: np.ndarray, codes: np.ndarray, size: int, gap_bits: int) -> int:
    """Return the bytes of both streams and the gaps' lengths, for gaps of that width."""
    total = 1 << gap_bits >> 1
    symbols = zip(with_fillers(positions, codes, gap_bits), (1 << gap_bits, size), strict=True)
    for stream, alphabet in symbols:
        counts = np.bincount(stream, minlength=alphabet)
        bits = int(np.sum(counts * huffman.code_lengths(counts).astype(np.int64)))
        total += max(1, (bits + 7) // 8)
    return total


def _outputs_first(kernel: np.ndarray) -> np.ndarray:
    """Flatten (..., Cin, Ct) in the order output, input, row, column."""
    *sizes, inputs, outputs = kernel.shape
    return kernel.reshape(math.prod(sizes), inputs, outputs).transpose(2, 1, 0).reshape(-1)
