"""The operators of sparse and hashed kernels equal the functions that are exported."""

import numpy as np
import pytest

import kerasq
from kerasq.representations import HashedKernel
from tests.runtime import models
from tests.runtime.test_operators import CONVOLUTIONS, assert_kernel_equals_body

pytestmark = pytest.mark.once


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize(("codewords", "density"), [(9, 0.2), (256, 0.6)])
def test_sparse_conv(rng, name, codewords, density):
    layer = models.sparse_conv(rng, 6, 12, codewords, density, **CONVOLUTIONS[name])
    x = rng.standard_normal((2, 9, 10, 6)).astype(np.float32)
    assert_kernel_equals_body(models.sequential((9, 10, 6), layer), x)


@pytest.mark.parametrize("density", [0.0, 0.001, 0.05, 1.0])
@pytest.mark.parametrize("codewords", [2, 17])
def test_sparse_kernels_of_every_density(rng, density, codewords):
    layer = models.sparse_conv(rng, 20, 12, codewords, density)
    x = rng.standard_normal((2, 7, 8, 20)).astype(np.float32)
    assert_kernel_equals_body(models.sequential((7, 8, 20), layer), x)


@pytest.mark.parametrize("channels", [(1, 1), (7, 9), (33, 65), (300, 41)])
def test_any_number_of_channels(rng, channels):
    x = rng.standard_normal((3, 2, channels[0])).astype(np.float32)
    for layer in (
        models.sparse_dense(rng, *channels),
        models.hashed_dense(rng, *channels),
        models.hashed_dense(rng, *channels, buckets=1, seed=2**31 - 1),
        models.hashed_dense(rng, *channels, dtype=np.float16),
    ):
        assert_kernel_equals_body(models.sequential((2, channels[0]), layer), x)


def test_the_file_of_a_hashed_layer_holds_no_hashes(rng):
    layer = models.hashed_dense(rng, 400, 300, buckets=100)
    content = models.convert(models.sequential((400,), layer))
    assert len(content) < 8000
    (operator,) = kerasq.inspect(content).operators
    assert operator.nbytes == 4 * (100 + 300 + 300)
    assert operator.weights == 400 * 300
    values, multiplier, bias = layer.constants
    x = rng.standard_normal((3, 400)).astype(np.float32)
    expected = multiplier * (x @ HashedKernel((400, 300), values).decode()) + bias
    y = kerasq.Interpreter(model_content=content).predict(x)
    np.testing.assert_allclose(y, expected, atol=1e-4 * np.abs(expected).max())


def test_the_file_of_a_sparse_layer_holds_its_streams(rng):
    kernel = models.sparse_representation(rng, (3, 3, 16, 32), 33, 0.1)
    layer = models.sparse_conv(np.random.default_rng(5), 16, 32, 33, 0.1)
    content = models.convert(models.sequential((8, 8, 16), layer))
    (operator,) = kerasq.inspect(content).operators
    assert operator.nbytes == sum(constant.nbytes for constant in layer.constants)
    assert operator.nbytes < kernel.nbytes + 2 * 4 * 32 + 200  # as small as another of its kind
    assert operator.weights == 3 * 3 * 16 * 32
    assert operator.macs == operator.weights * 64
