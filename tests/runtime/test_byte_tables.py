"""Look-up tables of 8 bits: the kernels against the TensorFlow body, bit for bit."""

import numpy as np
import pytest

import kerasq
from tests.runtime import models
from tests.runtime.test_operators import CONVOLUTIONS

pytestmark = pytest.mark.once


def assert_kernel_is_the_body(model, x):
    content = models.convert(model)
    desired = model.predict(x, verbose=0)
    for threads in (1, 2):
        y = kerasq.Interpreter(model_content=content, num_threads=threads).predict(x)
        np.testing.assert_array_equal(y, desired)


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize(("subvector", "codewords"), [(3, 5), (2, 16), (4, 200)])
def test_conv(rng, name, subvector, codewords):
    layer = models.byte_codebook_conv(rng, 6, 12, subvector, codewords, **CONVOLUTIONS[name])
    x = rng.standard_normal((2, 9, 10, 6)).astype(np.float32)
    assert_kernel_is_the_body(models.sequential((9, 10, 6), layer), x)


@pytest.mark.parametrize("rows", [1, 3, 40])
@pytest.mark.parametrize("channels", [(1, 1), (33, 65)])
@pytest.mark.parametrize("codewords", [16, 100])
def test_dense(rng, rows, channels, codewords):
    layer = models.byte_codebook_dense(rng, *channels, 4, codewords)
    x = rng.standard_normal((rows, channels[0])).astype(np.float32)
    assert_kernel_is_the_body(models.sequential((channels[0],), layer), x)


def test_halves_are_rounded_as_the_body_does(rng):
    layer = models.byte_codebook_conv(rng, 6, 12)
    x = (rng.integers(-400, 400, (2, 9, 10, 6)) / np.float32(2 * 40)).astype(np.float32)
    assert_kernel_is_the_body(models.sequential((9, 10, 6), layer), x)
