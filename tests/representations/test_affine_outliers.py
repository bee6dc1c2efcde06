"""A uniform grid with a few values that are kept as they are."""

import numpy as np
import pytest

from kerasq import representations
from kerasq.representations import Affine

INDEX, VALUE = np.array([1, 7, 23]), np.array([9.5, -8.25, 7.0], np.float32)


@pytest.fixture
def codes(rng):
    return rng.integers(0, 16, (4, 6))


def test_outliers_replace_what_the_codes_say(codes):
    plain = Affine.from_codes(codes, 4, 0.5, 8.0)
    sparse = Affine.from_codes(codes, 4, 0.5, 8.0, outliers=(INDEX, VALUE))
    want = plain.decode().reshape(-1)
    want[INDEX] = VALUE
    np.testing.assert_array_equal(sparse.decode(), want.reshape(4, 6))
    assert sparse.decode().dtype == np.float32
    assert sparse.outlier_index.dtype == np.uint32
    assert sparse.nbytes == plain.nbytes + 3 * (4 + 4)
    np.testing.assert_allclose(sparse.bits_per_weight - plain.bits_per_weight, 3 * 64 / 24)


def test_outliers_beside_scales_per_channel(codes):
    scale = np.arange(1, 7, dtype=np.float32)
    sparse = Affine.from_codes(codes, 4, scale, 8.0, (-1,), outliers=(INDEX, VALUE))
    want = (scale * (codes - 8.0)).astype(np.float32)
    want[np.unravel_index(INDEX, want.shape)] = VALUE
    np.testing.assert_array_equal(sparse.decode(), want)


@pytest.mark.parametrize("outliers", [None, (INDEX, VALUE), (INDEX[:0], VALUE[:0])])
def test_save_and_load(codes, outliers, tmp_path):
    rep = Affine.from_codes(codes, 4, 0.5, 8.0, outliers=outliers)
    rep.save(tmp_path / "rep.npz")
    loaded = representations.load(tmp_path / "rep.npz")
    np.testing.assert_array_equal(loaded.decode(), rep.decode())
    assert loaded.nbytes == rep.nbytes
    assert (loaded.outlier_index is None) == (outliers is None)


@pytest.mark.parametrize(
    ("index", "value"),
    [([3, 1], [1, 1]), ([1, 1], [1, 1]), ([0, 24], [1, 1]), ([-1, 2], [1, 1]), ([1, 2], [1])],
)
def test_outliers_that_do_not_fit_are_refused(codes, index, value):
    with pytest.raises(ValueError, match="ascending positions below 24"):
        Affine.from_codes(codes, 4, 0.5, 8.0, outliers=(np.array(index), np.array(value)))
