"""Hashed kernels: the strings, the hash, and the table of the catalogue."""

import numpy as np
import pytest

from kerasq import representations
from kerasq.representations import HashedKernel, hash_buckets, hash_signs
from kerasq.representations.hashed import _xxh32


def xxh32(text, seed=0):
    return int(_xxh32([np.uint32([[byte]]) for byte in text.encode()], seed)[0, 0])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", 0x02CC5D05),
        ("a", 0x550D7456),
        ("abc", 0x32D153FF),
        ("Nobody inspects the spammish repetition", 0xE2293B2F),
    ],
)
def test_published_values_of_xxhash(text, value):
    assert xxh32(text) == value


def test_worked_example():
    buckets = [[4, 11, 13, 13], [3, 14, 3, 1], [6, 10, 14, 12]]
    signs = [[-1, -1, 1, -1], [-1, -1, -1, -1], [1, -1, 1, 1]]
    assert hash_buckets((4, 3), 16).T.tolist() == buckets
    assert hash_signs((4, 3)).T.tolist() == signs
    kernel = HashedKernel((4, 3), np.arange(16, dtype=np.float32))
    np.testing.assert_array_equal(kernel.decode().T, np.multiply(buckets, signs))


def test_the_hashed_strings(rng):
    # Numbers of one to five digits, and strings longer than the 16 bytes of a stripe.
    buckets, signs = hash_buckets((10100, 111), 9973, seed=5), hash_signs((10100, 111), seed=5)
    for j, i in [(0, 0), (9, 10), (10, 9), (99, 100), (10099, 110), (1000, 99)]:
        assert buckets[j, i] == xxh32(f"{i}_{j}idxW", 5) % 9973
        assert signs[j, i] == (1 if xxh32(f"{i}_{j}xiW", 5) % 2 else -1)
    long = hash_buckets((1, 3), 2**31 - 1, suffix="idxB of a long name")
    assert long[0, 2] == xxh32("2_0idxB of a long name", 2) % (2**31 - 1)


def test_buckets_hold_one_weight_in_the_mean_of_the_ratio():
    counts = np.bincount(hash_buckets((300, 200), 6000).reshape(-1), minlength=6000)
    assert counts.mean() == 10
    assert counts.std() == pytest.approx(np.sqrt(10), rel=0.1)  # as independent draws
    assert abs(hash_signs((300, 200)).mean()) < 4 / np.sqrt(60000)


def test_bytes_and_files(tmp_path, rng):
    kernel = HashedKernel((7, 5), rng.standard_normal(6), seed=9)
    assert kernel.nbytes == 24
    kernel.save(tmp_path / "kernel.npz")
    np.testing.assert_array_equal(
        representations.load(tmp_path / "kernel.npz").decode(), kernel.decode()
    )


def test_halves_take_two_bytes(tmp_path, rng):
    values = rng.standard_normal(6).astype(np.float16)
    kernel = HashedKernel((7, 5), values)
    assert kernel.nbytes == 12 and kernel.decode().dtype == np.float32
    np.testing.assert_array_equal(
        kernel.decode(), HashedKernel((7, 5), values.astype(np.float32)).decode()
    )
    kernel.save(tmp_path / "kernel.npz")
    assert representations.load(tmp_path / "kernel.npz").values.dtype == np.float16


def test_settings_are_checked():
    with pytest.raises(ValueError, match="vector of values"):
        HashedKernel((3, 3, 3), np.ones(4))
    with pytest.raises(ValueError, match="vector of values"):
        HashedKernel((3, 3), np.ones(0))
    with pytest.raises(ValueError, match="seed"):
        HashedKernel((3, 3), np.ones(4), seed=-1)
    with pytest.raises(ValueError, match="buckets, not 0"):
        hash_buckets((3, 3), 0)
