"""Kernels whose elements share the values of their hash bucket."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from kerasq.representations.base import Representation

DEFAULT_SEED = 2
_PRIMES = np.array(
    [0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F, 0x165667B1], np.uint32
)  # of xxHash
_CHUNK = 1 << 20  # hashes computed at once


@dataclasses.dataclass(frozen=True, eq=False)
class HashedKernel(Representation):
    """A kernel of hashed weights: ``W[j, i] = sign(i, j) · values[bucket(i, j)]``.

    Attributes:
        shape: (Cin, Ct).
        values: float32 or float16 (N,), the real weights.
        seed: of both hashes.
    """

    values: np.ndarray
    seed: int = DEFAULT_SEED

    def __post_init__(self) -> None:
        values = np.asarray(self.values)
        if values.dtype != np.float16:
            values = values.astype(np.float32)
        if len(self.shape) != 2 or values.ndim != 1 or not values.size:
            raise ValueError(
                f"a hashed kernel is (inputs, outputs) with a vector of values, not {self.shape} "
                f"with {values.shape}"
            )
        if not 0 <= self.seed < 1 << 31:
            raise ValueError(f"the seed of a hashed kernel is 0 to {(1 << 31) - 1}: {self.seed}")
        object.__setattr__(self, "shape", tuple(int(size) for size in self.shape))
        object.__setattr__(self, "values", values)

    def decode(self) -> np.ndarray:
        """Return the kernel in float32."""
        buckets = hash_buckets(self.shape, len(self.values), self.seed)
        return hash_signs(self.shape, self.seed) * self.values[buckets].astype(np.float32)


def hash_buckets(
    shape: tuple[int, int], buckets: int, seed: int = DEFAULT_SEED, suffix: str = "idxW"
) -> np.ndarray:
    """Return the bucket of every weight: ``xxh32("{i}_{j}idxW", seed) mod buckets``.

    Args:
        shape: (inputs, outputs); i counts the outputs, j the inputs.
        buckets: N, real weights.
        seed: of the hash.
        suffix: end of the hashed string, "idxW"; "idxB" for a bias, of shape (1, outputs).

    Returns:
        int32 (inputs, outputs).
    """
    buckets = int(buckets)
    if not 1 <= buckets < 1 << 31:
        raise ValueError(f"a hashed kernel has 1 to {(1 << 31) - 1} buckets, not {buckets}")
    result = np.empty(shape, np.int32)
    for rows, columns, hashes in _hashes(shape, seed, suffix):
        result[rows, columns] = hashes % np.uint32(buckets)
    return result


def hash_signs(shape: tuple[int, int], seed: int = DEFAULT_SEED, suffix: str = "xiW") -> np.ndarray:
    """Return the sign of every weight: +1 where ``xxh32("{i}_{j}xiW", seed)`` is odd, else -1.

    Args:
        shape: (inputs, outputs).
        seed: of the hash.
        suffix: end of the hashed string, "xiW"; "xiB" for a bias, of shape (1, outputs).

    Returns:
        float32 (inputs, outputs).
    """
    result = np.empty(shape, np.float32)
    for rows, columns, hashes in _hashes(shape, seed, suffix):
        result[rows, columns] = 2.0 * (hashes & 1).astype(np.float32) - 1.0
    return result


def _hashes(
    shape: tuple[int, int], seed: int, suffix: str
) -> Iterator[tuple[slice, slice, np.ndarray]]:
    """Yield blocks of the grid whose strings are equally long, and their hashes."""
    inputs, outputs = shape
    for columns in _equal_digits(outputs):
        for same in _equal_digits(inputs):
            step = max(1, _CHUNK // (columns.stop - columns.start))
            for start in range(same.start, same.stop, step):
                rows = slice(start, min(start + step, same.stop))
                text = [
                    *_digits(columns)[:, None, :],
                    np.uint32([[ord("_")]]),
                    *_digits(rows)[:, :, None],
                    *(np.uint32([[ord(letter)]]) for letter in suffix),
                ]
                hashes = _xxh32(text, seed)
                size = (rows.stop - rows.start, columns.stop - columns.start)
                yield rows, columns, np.broadcast_to(hashes, size)


def _equal_digits(count: int) -> Iterator[slice]:
    """Cut 0 ... count - 1 into ranges of equally many decimal digits."""
    start, stop = 0, 10
    while start < count:
        yield slice(start, min(stop, count))
        start, stop = stop, 10 * stop


def _digits(numbers: slice) -> np.ndarray:
    """Return the decimal digits in ASCII, the first first: uint32 (digits, numbers)."""
    count = len(str(numbers.start))
    powers = 10 ** np.arange(count - 1, -1, -1)
    digits = np.arange(numbers.start, numbers.stop) // powers[:, None] % 10
    return (digits + ord("0")).astype(np.uint32)


def _xxh32(text: list[np.ndarray], seed: int) -> np.ndarray:
    """Hash equally long strings, given as one array of uint32 for every byte of theirs."""
    first, second, third, fourth, fifth = _PRIMES[:, None, None]
    state = np.full((1, 1), seed, np.uint32)
    length = len(text)
    at = length // 16 * 16
    if at:
        lanes = [state + first + second, state + second, state, state - first]
        for start in range(0, at, 16):
            words = [_word(text, start + 4 * lane) for lane in range(4)]
            lanes = [
                _rotated(lane + word * second, 13) * first
                for lane, word in zip(lanes, words, strict=True)
            ]
        turns = (1, 7, 12, 18)
        state = sum(_rotated(lane, turn) for lane, turn in zip(lanes, turns, strict=True))
    else:
        state = state + fifth
    state = state + np.uint32(length)
    for word in (_word(text, start) for start in range(at, length - 3, 4)):
        state = _rotated(state + word * third, 17) * fourth
    for byte in text[length // 4 * 4 :]:
        state = _rotated(state + byte * fifth, 11) * first
    state = (state ^ (state >> 15)) * second
    state = (state ^ (state >> 13)) * third
    return state ^ (state >> 16)


def _word(text: list[np.ndarray], at: int) -> np.ndarray:
    return text[at] | text[at + 1] << 8 | text[at + 2] << 16 | text[at + 3] << 24


def _rotated(state: np.ndarray, bits: int) -> np.ndarray:
    return state << bits | state >> (32 - bits)
