"""Canonical Huffman codes of at most 15 bits."""

from __future__ import annotations

import numpy as np

MAX_LENGTH = 15


def code_lengths(counts: np.ndarray) -> np.ndarray:
    """Return the code lengths that store symbols in the fewest bits, none above 15.

    By package-merge: the cheapest 2n - 2 coins, each symbol offering one of every denomination
    ``2**-1 ... 2**-15`` at the price of its count; a symbol is as long as its coins are many.
    Where fewer than two symbols occur, others get a code so that it is complete.

    Args:
        counts: how often each symbol occurs, (n,), 2 to 256 of them.

    Returns:
        uint8 (n,): 0 for a symbol that does not occur.
    """
    counts = np.asarray(counts, np.int64)
    used = np.flatnonzero(counts)
    if len(used) < 2:
        used = np.sort(np.append(used, [s for s in range(3) if s not in used][: 2 - len(used)]))
    coins = [(max(1, int(counts[symbol])), (int(symbol),)) for symbol in used]
    packages: list[tuple[int, tuple[int, ...]]] = []
    for _ in range(MAX_LENGTH):
        merged = sorted(coins + packages)
        pairs = zip(merged[::2], merged[1::2], strict=False)
        packages = [(a[0] + b[0], a[1] + b[1]) for a, b in pairs]
    lengths = np.zeros(len(counts), np.uint8)
    for _, symbols in merged[: 2 * len(used) - 2]:
        np.add.at(lengths, list(symbols), 1)
    return lengths


def encode(symbols: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the bit stream of symbols: codes from their first bit, from a byte's lowest on.

    Args:
        symbols: integers (count,), each with a length.
        lengths: of every symbol's code, as :func:`code_lengths` gives them.

    Returns:
        uint8, one byte at least.
    """
    codes, size = _codes(lengths)[symbols], lengths[symbols].astype(np.int64)
    starts = np.cumsum(size) - size
    bits = np.zeros(max(8, int(size.sum())), np.uint8)
    for bit in range(MAX_LENGTH):
        has = size > bit
        bits[starts[has] + bit] = codes[has] >> (size[has] - 1 - bit) & 1
    return np.packbits(bits, bitorder="little")


def decode(stream: np.ndarray, lengths: np.ndarray, count: int) -> np.ndarray:
    """Undo :func:`encode`.

    Args:
        stream: uint8.
        lengths: of every symbol's code.
        count: symbols to read.

    Returns:
        uint8 (count,).

    Raises:
        ValueError: lengths of no complete code, or a stream that ends too early or too late.
    """
    lengths = lengths.astype(np.int64)
    shares = np.where(lengths > 0, 1 << MAX_LENGTH >> lengths, 0)
    if shares.sum() != 1 << MAX_LENGTH:
        raise ValueError("the lengths of a Huffman code are not those of a complete code")
    order = np.lexsort((np.arange(len(lengths)), lengths))
    table = np.repeat(order, shares[order]).astype(np.uint8)  # the symbol of every 15 bits
    bits = np.unpackbits(stream, bitorder="little")
    window = np.zeros(len(bits), np.int64)
    padded = np.append(bits, np.zeros(MAX_LENGTH, np.uint8))
    for bit in range(MAX_LENGTH):
        window = 2 * window + padded[bit : bit + len(bits)]
    symbols = table[window]
    following = (np.arange(len(bits)) + lengths[symbols]).tolist()
    starts, at = [], 0
    for _ in range(count):
        starts.append(at)
        at = following[at] if at < len(following) else len(following) + 1
    if at > len(following):
        raise ValueError(f"a Huffman stream of {len(stream)} bytes ends before {count} symbols")
    if len(stream) > max(1, (at + 7) // 8):
        raise ValueError(
            f"a Huffman stream of {len(stream)} bytes has more than its {count} symbols"
        )
    return symbols[np.array(starts, np.int64)]


def _codes(lengths: np.ndarray) -> np.ndarray:
    """Return the canonical codes: ascending by length, then by symbol."""
    codes = np.zeros(len(lengths), np.int64)
    code, previous = 0, 0
    for symbol in np.lexsort((np.arange(len(lengths)), lengths)):
        length = int(lengths[symbol])
        if length:
            code = (code + 1 if previous else 0) << max(0, length - previous)
            codes[symbol], previous = code, length
    return codes
