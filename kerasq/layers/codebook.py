"""Convolution and dense layer whose kernel is made of codewords."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from kerasq.keras import keras, register
from kerasq.layers.own_variables import OwnVariables
from kerasq.representations import Codebook
from kerasq.representations.codebook import ORDERS, assignments_shape

MAX_CODEWORDS = 1 << 16
_DTYPES = ("float32", "float16")
_GRADIENTS = ("sum", "mean")


class CodebookLayer(OwnVariables):
    """Mixed into a Keras layer: codewords and assignments in place of its kernel."""

    def _set_codebook(
        self,
        subvector: int,
        codewords: int,
        codebook_dtype: str,
        gradient: str,
        shared: bool,
        order: str,
        fixed_zero: bool,
    ) -> None:
        owner = f"{type(self).__name__} {self.name!r}"
        if subvector < 1:
            raise ValueError(f"{owner}: subvector must be at least 1, got {subvector}")
        if not 1 <= codewords <= MAX_CODEWORDS:
            raise ValueError(f"{owner}: codewords must be 1 to {MAX_CODEWORDS}, got {codewords}")
        if codebook_dtype not in _DTYPES:
            raise ValueError(f"{owner}: codebook_dtype is one of {_DTYPES}, got {codebook_dtype!r}")
        if gradient not in _GRADIENTS:
            raise ValueError(f"{owner}: gradient is one of {_GRADIENTS}, got {gradient!r}")
        if order not in ORDERS:
            raise ValueError(f"{owner}: order is one of {ORDERS}, got {order!r}")
        if order == "channel" and not shared:
            raise ValueError(f"{owner}: sub-vectors by channel share a codebook: pass shared=True")
        self.subvector, self.codewords_per_codebook = int(subvector), int(codewords)
        self.codebook_dtype, self.gradient, self.shared = codebook_dtype, gradient, bool(shared)
        self.order, self.fixed_zero = order, bool(fixed_zero)

    def _build_codebook(
        self, kernel_shape: tuple[int, ...], outputs: int, stages: tuple[int, ...] = ()
    ) -> None:
        """Add the weights: codewords (..., M or 1, K, d), assignments and the bias.

        The kernel is a sum of ``stages``, if any: leading axes of codewords and assignments.
        """
        self.kernel_shape = tuple(int(size) for size in kernel_shape)
        grid = assignments_shape(self.kernel_shape, self.subvector, self.order)
        spaces = grid[-2]
        taps = math.prod(self.kernel_shape[:-2])
        fans = taps * (self.kernel_shape[-2] + self.kernel_shape[-1])
        limit = math.sqrt(6 / (fans * math.prod(stages)))
        books = 1 if self.shared else spaces
        self.codewords = self.add_weight(
            name="codewords",
            shape=(*stages, books, self.codewords_per_codebook, self.subvector),
            initializer=keras.initializers.RandomUniform(-limit, limit),
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
            trainable=True,
            autocast=False,
        )
        self.assignments = self.add_weight(
            name="assignments",
            shape=(*stages, *grid),
            dtype=self._index_dtype(),
            initializer=self._random_assignments,
            trainable=False,
            autocast=False,
        )
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias",
                shape=(outputs,),
                initializer=self.bias_initializer,
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
                trainable=True,
            )
        self.built = True

    def _random_assignments(self, shape: Sequence[int], dtype: Any = None) -> tf.Tensor:
        drawn = tf.random.uniform(shape, 0, self.codewords_per_codebook, tf.int32)
        return tf.cast(drawn, self._index_dtype())

    def _index_dtype(self) -> str:
        if isinstance(tf.distribute.get_strategy(), tf.distribute.MultiWorkerMirroredStrategy):
            return "int32"  # it broadcasts initial values, and not those of unsigned integers
        return "uint8" if self.codewords_per_codebook <= 256 else "uint16"

    @property
    def kernel(self) -> tf.Tensor:
        """The decoded kernel, in the layer's compute dtype."""
        if not self.built:
            raise AttributeError(f"build layer {self.name!r} before reading its kernel")
        kernel = self._decoded(
            tf.convert_to_tensor(self.codewords), tf.convert_to_tensor(self.assignments)
        )
        return tf.cast(kernel, self.compute_dtype)

    def _decoded(self, codewords: tf.Tensor, assignments: tf.Tensor) -> tf.Tensor:
        codewords = _shipped(
            codewords, assignments, self.codebook_dtype, self.gradient, self.fixed_zero
        )
        return decode(codewords, assignments, self.kernel_shape, self.order)

    def codebook(self) -> Codebook:
        """Return the kernel as it is shipped: ``codebook().decode()`` is ``kernel`` in float32."""
        codewords = np.array(tf.convert_to_tensor(self.codewords))
        return self._as_shipped(codewords, np.array(tf.convert_to_tensor(self.assignments)))

    def _as_shipped(self, codewords: np.ndarray, assignments: np.ndarray) -> Codebook:
        codewords = codewords.astype(self.codebook_dtype)
        if self.fixed_zero:
            codewords[:, 0] = 0.0
        return Codebook.from_assignments(codewords, assignments, self.kernel_shape, self.order)

    def set_codebook(self, codewords: np.ndarray, assignments: np.ndarray) -> None:
        """Assign codewords (M or 1, K, d) and assignments (..., M, Ct), by channel (M, Ct)."""
        self.codewords.assign(np.asarray(codewords, np.float32))
        self.assignments.assign(np.asarray(assignments, self._index_dtype()))

    def _own_variables(self) -> dict[str, Any]:
        if not self.built:
            return {}
        own = {"codewords": self.codewords, "assignments": self.assignments}
        return own if self.bias is None else {**own, "bias": self.bias}

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "subvector": self.subvector,
            "codewords": self.codewords_per_codebook,
            "codebook_dtype": self.codebook_dtype,
            "gradient": self.gradient,
            "shared": self.shared,
            "order": self.order,
            "fixed_zero": self.fixed_zero,
        }


def decode(
    codewords: tf.Tensor, assignments: Any, shape: tuple[int, ...], order: str = "position"
) -> tf.Tensor:
    """Return the kernel ``W[p, m·d + j, c] = codewords[m, assignments[p, m, c], j]``.

    By channel ``W[r % P, r // P, c] = codewords[0, assignments[m, c], j]`` with ``r = m·d + j``.
    """
    books, size, length = codewords.shape
    spaces = assignments_shape(shape, length, order)[-2]
    index = tf.cast(tf.convert_to_tensor(assignments), tf.int32)
    if books > 1:
        index += tf.range(spaces)[:, None] * size
    vectors = tf.gather(tf.reshape(codewords, (books * size, length)), index)  # (..., M, Ct, d)
    kernel = tf.linalg.matrix_transpose(vectors)
    if order == "channel":
        rows = tf.reshape(kernel, (spaces * length, shape[-1]))[: math.prod(shape[:-1])]
        kernel = tf.reshape(rows, (shape[-2], -1, shape[-1]))  # (Cin, P, Ct)
        return tf.reshape(tf.transpose(kernel, (1, 0, 2)), shape)
    kernel = tf.reshape(kernel, (*shape[:-2], spaces * length, shape[-1]))
    return kernel[..., : shape[-2], :]


def _shipped(
    codewords: tf.Tensor, assignments: tf.Tensor, dtype: str, gradient: str, fixed_zero: bool
) -> tf.Tensor:
    """Round the codewords to the type they are shipped in; the gradient goes straight through.

    A fixed zero, the first codeword, has no gradient.
    """
    if fixed_zero:
        size = codewords.shape[1]
        codewords *= tf.reshape(tf.cast(tf.range(size) > 0, codewords.dtype), (1, size, 1))

    @tf.custom_gradient
    def rounded(values: tf.Tensor) -> tuple[tf.Tensor, Any]:
        def backward(upstream: tf.Tensor) -> tf.Tensor:
            if gradient == "sum":
                return upstream
            return upstream / _members(assignments, *values.shape[:2])[:, :, None]

        return tf.cast(tf.cast(values, dtype), values.dtype), backward

    return rounded(codewords)


def _members(assignments: tf.Tensor, books: int, size: int) -> tf.Tensor:
    """Count how often each codeword is used, at least 1: float32 (books, K)."""
    index = tf.cast(assignments, tf.int32)
    if books > 1:
        index += tf.range(books)[:, None] * size
    index = tf.reshape(index, [-1])
    ones = tf.ones_like(index, tf.float32)
    counts = tf.math.unsorted_segment_sum(ones, index, books * size)
    return tf.maximum(tf.reshape(counts, (books, size)), 1.0)


@register
class CodebookConv2D(CodebookLayer, keras.layers.Conv2D):
    r"""Two-dimensional convolution whose kernel is made of codewords.

    Forward: ``W[p, m·d + j, c] = D[m, B[p, m, c], j]`` with D rounded to ``codebook_dtype``, then
    ``y = activation(conv(x, W) + bias)``.

    Gradient: ``∂L/∂D[m, k] = Σ_{(p, c): B[p, m, c] = k} ∂L/∂W[p, m·d : m·d + d, c]``, or that over
    the number of terms (``gradient="mean"``); straight through the rounding. B is not trained.

    Weights: ``codewords`` D, (M or 1, K, d), trainable; ``assignments`` B, unsigned (kh, kw, M,
    filters), not trainable; ``bias``. M = ceil(input channels / groups / d); where d does not
    divide, the last entries of the last sub-space's codewords are not used.

    Untrained codewords are uniform in the Glorot limit of the decoded kernel, untrained
    assignments uniform.

    Args:
        filters: number of output channels.
        kernel_size: one or two sizes.
        strides: one or two steps.
        subvector: d, consecutive input channels in a sub-vector.
        codewords: K, codewords in a codebook, 1 to 65536.
        codebook_dtype: "float32" or "float16", the type codewords are shipped in.
        gradient: "sum" or "mean" over the members of a codeword.
        shared: one codebook for all sub-spaces.
        order: "position" cuts sub-vectors along the input channels at one kernel position;
            "channel" (with ``shared``) from an output's weights in the order (input channel, row,
            column), as "And the bit goes down" does: then B is (M, filters) with
            ``W[r % P, r // P, c] = D[0, B[m, c], j]``, ``r = m·d + j``.
        fixed_zero: the first codeword is zero and stays: pruned weights.
        **kwargs: as for ``keras.layers.Conv2D``; kernel_regularizer and kernel_constraint apply to
            the codewords, kernel_initializer is not used.

    Raises:
        ValueError: a setting out of range.

    Reference: Wu et al., Quantized Convolutional Neural Networks for Mobile Devices,
    arXiv:1512.06473
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = (1, 1),
        *,
        subvector: int = 8,
        codewords: int = 16,
        codebook_dtype: str = "float32",
        gradient: str = "sum",
        shared: bool = False,
        order: str = "position",
        fixed_zero: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(filters, kernel_size, strides, **kwargs)
        self._set_codebook(
            subvector, codewords, codebook_dtype, gradient, shared, order, fixed_zero
        )

    def build(self, input_shape: Any) -> None:
        """Add codewords, assignments and bias."""
        axis = -1 if self.data_format == "channels_last" else 1
        channels = input_shape[axis]
        if channels is None or channels % self.groups:
            raise ValueError(
                f"layer {self.name!r}: {channels} input channels cannot be split into "
                f"{self.groups} groups"
            )
        self.compute_output_shape(input_shape)  # raises where the kernel is larger than the input
        self.input_spec = keras.layers.InputSpec(min_ndim=4, axes={axis: channels})
        shape = (*self.kernel_size, channels // self.groups, self.filters)
        self._build_codebook(shape, self.filters)


@register
class CodebookDense(CodebookLayer, keras.layers.Dense):
    r"""Dense layer whose kernel is made of codewords.

    Forward: ``W[m·d + j, c] = D[m, B[m, c], j]`` with D rounded to ``codebook_dtype``, then
    ``y = activation(x @ W + bias)`` over the last axis of x.

    Gradient: ``∂L/∂D[m, k] = Σ_{c: B[m, c] = k} ∂L/∂W[m·d : m·d + d, c]``, or that over the number
    of terms (``gradient="mean"``); straight through the rounding. B is not trained.

    Weights: ``codewords`` D, (M or 1, K, d), trainable; ``assignments`` B, unsigned (M, units), not
    trainable; ``bias``. M = ceil(inputs / d); where d does not divide, the last entries of the last
    sub-space's codewords are not used.

    Args:
        units: number of outputs.
        subvector: d, consecutive inputs in a sub-vector.
        codewords: K, codewords in a codebook, 1 to 65536.
        codebook_dtype: "float32" or "float16", the type codewords are shipped in.
        gradient: "sum" or "mean" over the members of a codeword.
        shared: one codebook for all sub-spaces.
        order: "position" or "channel", the same here; see `CodebookConv2D`.
        fixed_zero: the first codeword is zero and stays: pruned weights.
        **kwargs: as for ``keras.layers.Dense``; kernel_regularizer and kernel_constraint apply to
            the codewords, kernel_initializer is not used.

    Raises:
        ValueError: a setting out of range.

    Reference: Wu et al., Quantized Convolutional Neural Networks for Mobile Devices,
    arXiv:1512.06473
    """

    def __init__(
        self,
        units: int,
        *,
        subvector: int = 8,
        codewords: int = 16,
        codebook_dtype: str = "float32",
        gradient: str = "sum",
        shared: bool = False,
        order: str = "position",
        fixed_zero: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(units, **kwargs)
        self._set_codebook(
            subvector, codewords, codebook_dtype, gradient, shared, order, fixed_zero
        )

    def build(self, input_shape: Any) -> None:
        """Add codewords, assignments and bias."""
        channels = input_shape[-1]
        if channels is None:
            raise ValueError(f"layer {self.name!r}: the last axis of its input must be known")
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: channels})
        self._build_codebook((channels, self.units), self.units)
