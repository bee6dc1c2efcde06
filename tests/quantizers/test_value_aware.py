"""V-Quant."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from kerasq.quantizers import ValueAware, value_aware
from tests.quantizers.oracles import METHODS, X_STAR


def test_worked_numbers():
    x = np.maximum(X_STAR, 0)
    got = value_aware(tf.constant(x), 3, 0.25, signed=False)
    want = [0, 0.171429, 0.342857, 0.514286, 0.857143, 1.2, 2.5, 7]
    np.testing.assert_allclose(got, want, atol=1e-6)


@pytest.mark.parametrize("signed", [False, True])
def test_ratio_one_keeps_all_and_zero_none(signed, rng):
    x = rng.normal(0, 1, 50).astype(np.float32)
    np.testing.assert_array_equal(value_aware(tf.constant(x), 2, 1.0, signed), x)
    plain = value_aware(tf.constant(x), 4, 0.0, signed).numpy()
    assert len(np.unique(plain)) <= 16


@pytest.mark.parametrize("ratio", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("shape", [(3, 3, 8, 4), (30, 10)])
def test_kept_values_are_exact_and_stored(ratio, shape, rng):
    w = rng.normal(0, 1, shape).astype(np.float32)
    q = ValueAware(bits=3, ratio=ratio)
    got, rep = q(w).numpy(), q.represent(w)
    large = np.abs(w) >= np.quantile(np.abs(w), 1 - ratio)
    np.testing.assert_array_equal(got[large], w[large])
    np.testing.assert_array_equal(rep.decode(), got)
    np.testing.assert_array_equal(rep.outlier_index, np.flatnonzero(large))
    want, _, _ = METHODS["value_aware"].oracle(w.astype(float), 1.0, {}, bits=3, ratio=ratio)
    np.testing.assert_allclose(got, want, atol=1e-6)
    packed = -(-w.size * 3 // 8)
    assert rep.nbytes == packed + 8 + 8 * large.sum()


def test_zeros_are_never_kept():
    x = np.zeros(100, np.float32)
    x[:3] = [5, 1, 2]
    rep = ValueAware(ratio=0.5, target="activations").represent(x)
    np.testing.assert_array_equal(rep.outlier_index, [0, 1, 2])
    np.testing.assert_array_equal(rep.decode(), x)


@pytest.mark.parametrize("jit", [False, True])
def test_unknown_batch(jit, rng):
    q = ValueAware(bits=3, ratio=0.05, target="activations")
    f = tf.function(q, jit_compile=jit, input_signature=[tf.TensorSpec([None, 7])])
    x = np.maximum(rng.normal(0, 1, (9, 7)), 0).astype(np.float32)
    np.testing.assert_array_equal(f(tf.constant(x)), q(x))


@pytest.mark.parametrize("bad", [{"bits": 1}, {"ratio": 1.5}, {"ratio": -0.1}])
def test_bad_arguments(bad):
    with pytest.raises(ValueError, match="value_aware"):
        ValueAware(**bad)
