"""Packed bits in TensorFlow: streams, words, Huffman codes, sparse kernels."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from kerasq.representations.huffman import MAX_LENGTH

# The integers in which bits pass from one operator to the next.
WORD_BITS = 32


def unpack_stream(packed: tf.Tensor, bits: int, count: int) -> tf.Tensor:
    """Unpack integers of a stream, least significant bit first: (..., bytes) -> int32 (..., n)."""
    stream = tf.bitwise.right_shift(packed[..., None], tf.constant([*range(8)], tf.uint8)) & 1
    leading = packed.shape[:-1]
    stream = tf.reshape(tf.cast(stream, tf.int32), [*leading, -1])[..., : count * bits]
    values = tf.reshape(stream, [*leading, count, bits])
    return tf.reduce_sum(values * tf.constant([1 << i for i in range(bits)]), axis=-1)


def unpack_words(words: tf.Tensor, channels: int) -> tf.Tensor:
    """Unpack bits that operators pass on: int32 (..., words of 32) -> int32 (..., channels)."""
    bits = tf.bitwise.right_shift(words[..., None], tf.range(WORD_BITS)) & 1
    return tf.reshape(bits, [*_leading(words), WORD_BITS * words.shape[-1]])[..., :channels]


def pack_words(bits: tf.Tensor) -> tf.Tensor:
    """Pack bits into words, the lowest first; unused bits are 0. The inverse of unpack_words."""
    words = -(-bits.shape[-1] // WORD_BITS)
    unused = WORD_BITS * words - bits.shape[-1]
    padded = tf.pad(tf.cast(bits, tf.int32), [[0, 0]] * (bits.shape.rank - 1) + [[0, unused]])
    rows = tf.reshape(padded, [*_leading(bits), words, WORD_BITS])
    packed = tf.reduce_sum(tf.bitwise.left_shift(rows, tf.range(WORD_BITS)), axis=-1)
    return tf.ensure_shape(packed, [*bits.shape[:-1], words])


def _leading(x: tf.Tensor) -> list[Any]:
    """Return the dimensions before the last, known where they are."""
    sizes = tf.shape(x)
    return [size if size is not None else sizes[i] for i, size in enumerate(x.shape[:-1])]


def huffman_symbols(stream: tf.Tensor, lengths: tf.Tensor, alphabet: int, count: int) -> tf.Tensor:
    """Read symbols of a canonical Huffman code.

    Every bit of the stream is read as the start of a symbol; then those are kept that the first
    leads to, by doubling: the 2n-th follows the n-th by n symbols.

    Args:
        stream: uint8 (bytes,).
        lengths: uint8, 4 bits a symbol.
        alphabet: symbols there are.
        count: symbols to read.

    Returns:
        int32 (count,).
    """
    lengths = unpack_stream(lengths, 4, alphabet)
    order = tf.argsort(tf.where(lengths > 0, lengths, MAX_LENGTH + 1), stable=True)
    shares = tf.where(lengths > 0, tf.bitwise.left_shift(1, MAX_LENGTH - lengths), 0)
    firsts = tf.cumsum(tf.gather(shares, order), exclusive=True)  # the first code, of 15 bits
    total = 8 * stream.shape[0]
    bits = tf.pad(unpack_stream(stream, 1, total), [[0, MAX_LENGTH]])
    window = tf.zeros([total], tf.int32)
    for bit in range(MAX_LENGTH):
        window = 2 * window + bits[bit : bit + total]
    symbols = tf.gather(order, tf.searchsorted(firsts, window, side="right") - 1)
    following = tf.minimum(tf.range(total) + tf.gather(lengths, symbols), total)
    following = tf.pad(following, [[0, 1]], constant_values=total)
    starts = tf.zeros([1], tf.int32)
    for _ in range(max(0, count - 1).bit_length()):
        starts = tf.concat([starts, tf.gather(following, starts)], axis=0)
        following = tf.gather(following, following)
    return tf.gather(tf.pad(symbols, [[0, 1]]), starts[:count])


def sparse_kernel(
    shape: tuple[int, ...],
    entries: int,
    gap_bits: int,
    stored: tuple[tf.Tensor, ...],
) -> tf.Tensor:
    """Decode a kernel of :class:`kerasq.representations.SparseCodebook`.

    Args:
        shape: (kh, kw, Cin, Ct) of the kernel.
        entries: stored entries.
        gap_bits: width of a gap.
        stored: codewords, gaps, gap_lengths, codes and code_lengths of the representation.

    Returns:
        float32, of that shape.
    """
    *sizes, inputs, outputs = shape
    codewords, gaps, gap_lengths, codes, code_lengths = stored
    between = huffman_symbols(gaps, gap_lengths, 1 << gap_bits, entries)
    numbers = huffman_symbols(codes, code_lengths, codewords.shape[0], entries)
    positions = tf.cumsum(between + 1) - 1
    values = tf.gather(tf.cast(codewords, tf.float32), numbers)
    flat = tf.scatter_nd(positions[:, None], values, [math.prod(shape)])
    rows = tf.reshape(flat, [outputs, inputs, math.prod(sizes)])
    return tf.reshape(tf.transpose(rows, [2, 1, 0]), shape)
