"""The kernels against the TensorFlow body of the functions that are exported."""

import numpy as np
import pytest

import kerasq
from tests.runtime import models

pytestmark = pytest.mark.once

CONVOLUTIONS = {
    "same": {},
    "valid": {"padding": "valid"},
    "explicit": {"padding": "explicit", "explicit_padding": (2, 0, 1, 3)},
    "strides": {"strides": (2, 3)},
    "dilations": {"dilations": (2, 3), "padding": "valid"},
    "groups": {"groups": 3},
    "depthwise": {"groups": 6, "strides": (2, 2)},
    "relu": {"activation": "relu"},
    "relu6": {"activation": "relu6", "strides": (1, 2)},
}


def assert_kernel_equals_body(model, x):
    content = models.convert(model)
    y = kerasq.Interpreter(model_content=content, num_threads=2).predict(x)
    desired = model.predict(x, verbose=0)
    np.testing.assert_allclose(y, desired, atol=1e-4 * max(1, np.abs(desired).max()))


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize(("input_planes", "pad_value"), [(0, 0), (0, 1), (1, 0), (1, 1), (2, 1)])
def test_bitplane_conv(rng, name, input_planes, pad_value):
    layer = models.bitplane_conv(rng, 6, 12, input_planes, pad_value, **CONVOLUTIONS[name])
    x = rng.standard_normal((2, 9, 10, 6)).astype(np.float32)
    assert_kernel_equals_body(models.sequential((9, 10, 6), layer), x)


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("subvector", [1, 2, 4])
def test_codebook_conv(rng, name, subvector):
    layer = models.codebook_conv(rng, 6, 12, subvector, 16, 4, **CONVOLUTIONS[name])
    x = rng.standard_normal((2, 9, 10, 6)).astype(np.float32)
    assert_kernel_equals_body(models.sequential((9, 10, 6), layer), x)


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize(
    ("order", "subvector", "bits"), [("channel", 4, 3), ("channel", 9, 10), ("position", 2, 9)]
)
def test_codebooks_that_are_decoded(rng, name, order, subvector, bits):
    codewords = 2**bits - 3
    layer = models.codebook_conv(
        rng, 6, 12, subvector, codewords, bits, order, **CONVOLUTIONS[name]
    )
    x = rng.standard_normal((2, 9, 10, 6)).astype(np.float32)
    assert_kernel_equals_body(models.sequential((9, 10, 6), layer), x)


@pytest.mark.parametrize("channels", [(1, 1), (7, 9), (33, 65)])
def test_any_number_of_channels(rng, channels):
    x = rng.standard_normal((3, channels[0])).astype(np.float32)
    for layer in (
        models.bitplane_dense(rng, *channels, input_planes=1),
        models.bitplane_dense(rng, *channels, input_planes=3),
        models.codebook_dense(rng, *channels, 8, 256, 8),
        models.codebook_dense(rng, *channels, 2, 65536, 16),
    ):
        assert_kernel_equals_body(models.sequential((channels[0],), layer), x)
