"""Dense layer whose weights share the values of their hash bucket."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf

from kerasq.keras import keras, register
from kerasq.layers.own_variables import OwnVariables
from kerasq.representations.hashed import DEFAULT_SEED, HashedKernel, hash_buckets, hash_signs

VALUE_DTYPES = ("float32", "float16")


def bucket_count(ratio: float, weights: int) -> int:
    """Return how many real values stand for a number of virtual weights, rounded up."""
    return math.ceil(ratio * weights)


@register
class HashedDense(OwnVariables, keras.layers.Dense):
    r"""Dense layer whose weights share the values of their hash bucket.

    Forward: ``V[j, i] = ξ(i, j) · w[h(i, j)]`` for output i and input j, with fixed hashes h into
    N buckets and ξ to ±1 and w rounded to ``value_dtype``, then ``y = activation(x @ V + bias)``
    over the last axis of x.

    Gradient: ``∂L/∂w[n] = Σ_{ij: h(i, j) = n} ξ(i, j) ∂L/∂V[j, i]``, as if w were not rounded;
    ``∂L/∂x = ∂L/∂y @ Vᵀ``.

    Weights: ``values`` w, (N,), trainable, ``N = ceil(ratio · inputs · units)``, at first uniform
    in ±1/√inputs; ``bias``. The hashes are those of `kerasq.representations.hash_buckets`.

    Args:
        units: number of outputs.
        ratio: ρ, real weights to weights, above 0 and at most 1.
        seed: of both hashes.
        hash_bias: hash the bias likewise, into ``hashed_bias`` of ceil(ratio · units) values.
        value_dtype: "float32" or "float16", the type that w is shipped in.
        **kwargs: as for ``keras.layers.Dense``; kernel_regularizer and kernel_constraint apply to
            the values, kernel_initializer is not used.

    Raises:
        ValueError: a setting out of range.

    Reference: Chen et al., Compressing Neural Networks with the Hashing Trick, arXiv:1504.04788

    Deviations: the authors' code hashes the bias; here it is a setting. They store w in 32 bits.
    """

    def __init__(
        self,
        units: int,
        *,
        ratio: float = 0.125,
        seed: int = DEFAULT_SEED,
        hash_bias: bool = False,
        value_dtype: str = "float32",
        **kwargs: Any,
    ) -> None:
        super().__init__(units, **kwargs)
        if not 0 < ratio <= 1:
            raise ValueError(
                f"HashedDense {self.name!r}: ratio is above 0 and at most 1, got {ratio}"
            )
        if not 0 <= seed < 1 << 31:
            raise ValueError(f"HashedDense {self.name!r}: seed is 0 to {(1 << 31) - 1}, got {seed}")
        if value_dtype not in VALUE_DTYPES:
            raise ValueError(
                f"HashedDense {self.name!r}: value_dtype is one of {VALUE_DTYPES}, got "
                f"{value_dtype!r}"
            )
        self.ratio, self.seed, self.hash_bias = float(ratio), int(seed), bool(hash_bias)
        self.value_dtype = value_dtype

    def build(self, input_shape: Any) -> None:
        """Add the values and the bias, and compute the hashes."""
        channels = input_shape[-1]
        if channels is None:
            raise ValueError(f"layer {self.name!r}: the last axis of its input must be known")
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: channels})
        self.kernel_shape = (int(channels), self.units)
        limit = 1 / math.sqrt(channels)
        self.values = self.add_weight(
            name="values",
            shape=(bucket_count(self.ratio, channels * self.units),),
            initializer=keras.initializers.RandomUniform(-limit, limit),
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
            trainable=True,
            autocast=False,
        )
        # Arrays, not tensors: those would belong to the graph that happens to build the layer.
        self._buckets, self._signs = hashes(self.kernel_shape, self.values.shape[0], self.seed)
        self._build_bias()
        self.built = True

    def _build_bias(self) -> None:
        self._bias = self.hashed_bias = None
        settings = {
            "initializer": self.bias_initializer,
            "regularizer": self.bias_regularizer,
            "constraint": self.bias_constraint,
            "trainable": True,
        }
        if self.use_bias and self.hash_bias:
            size = bucket_count(self.ratio, self.units)
            self.hashed_bias = self.add_weight(name="hashed_bias", shape=(size,), **settings)
            self._bias_hashes = hashes((1, self.units), size, self.seed, "B")
        elif self.use_bias:
            self._bias = self.add_weight(name="bias", shape=(self.units,), **settings)

    @property
    def kernel(self) -> tf.Tensor:
        """The weights V (inputs, units), in the layer's compute dtype."""
        if not self.built:
            raise AttributeError(f"build layer {self.name!r} before reading its kernel")
        values = _rounded(tf.convert_to_tensor(self.values), self.value_dtype)
        return tf.cast(_spread(values, self._buckets, self._signs), self.compute_dtype)

    @property
    def bias(self) -> Any:
        """The bias: a variable, or what `hashed_bias` makes; None without."""
        if self.hashed_bias is None:
            return self._bias
        buckets, signs = self._bias_hashes
        return _spread(tf.convert_to_tensor(self.hashed_bias), buckets, signs)[0]

    def hashed_kernel(self) -> HashedKernel:
        """Return the kernel as it is shipped: ``decode()`` is ``kernel`` in float32."""
        values = np.array(tf.convert_to_tensor(self.values)).astype(self.value_dtype)
        return HashedKernel(self.kernel_shape, values, self.seed)

    def _own_variables(self) -> dict[str, Any]:
        if not self.built:
            return {}
        own = {"values": self.values, "bias": self._bias, "hashed_bias": self.hashed_bias}
        return {name: variable for name, variable in own.items() if variable is not None}

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "ratio": self.ratio,
            "seed": self.seed,
            "hash_bias": self.hash_bias,
            "value_dtype": self.value_dtype,
        }


def hashes(
    shape: tuple[int, int], buckets: int, seed: int, kind: str = "W"
) -> tuple[np.ndarray, np.ndarray]:
    """Return the bucket, int32, and the sign, int8, of every weight.

    Args:
        shape: (inputs, units); of a bias (1, units).
        buckets: N.
        seed: of both hashes.
        kind: "W" or "B", of a bias.
    """
    signs = hash_signs(shape, seed, f"xi{kind}").astype(np.int8)
    return hash_buckets(shape, buckets, seed, f"idx{kind}"), signs


@tf.custom_gradient
def _through(values: tf.Tensor, rounded: tf.Tensor) -> tuple[tf.Tensor, Any]:
    return tf.identity(rounded), lambda upstream: (upstream, None)


def _rounded(values: tf.Tensor, dtype: str) -> tf.Tensor:
    """Return what is left of the values in a type; its gradient is that of the values."""
    if values.dtype == dtype:
        return values
    return _through(values, tf.cast(tf.cast(values, dtype), values.dtype))


def _spread(values: tf.Tensor, buckets: np.ndarray, signs: np.ndarray) -> tf.Tensor:
    """Return ``signs · values[buckets]``; its gradient is summed over each bucket."""

    @tf.custom_gradient
    def spread(values: tf.Tensor) -> tuple[tf.Tensor, Any]:
        plus_minus = tf.cast(signs, values.dtype)

        def backward(upstream: tf.Tensor) -> tf.Tensor:
            terms = tf.reshape(upstream * plus_minus, [-1])
            return _bucket_sums(terms, tf.constant(buckets.ravel()), values.shape[0])

        return tf.gather(values, buckets) * plus_minus, backward

    return spread(values)


@tf.function(jit_compile=True)
def _bucket_sums(terms: tf.Tensor, buckets: tf.Tensor, size: int) -> tf.Tensor:
    # XLA's is several times faster than TensorFlow's own kernel, and always adds in the same order.
    return tf.math.unsorted_segment_sum(terms, buckets, size)
