"""Layers whose kernel is a sum of kernels made of codewords: residual vector quantization."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from kerasq.keras import register
from kerasq.layers.codebook import CodebookConv2D, CodebookDense
from kerasq.representations import Codebook


class ResidualCodebookLayer:
    """Mixed into a codebook layer: its codewords and assignments have a leading axis of stages."""

    codebook = None  # one does not hold the kernel

    def _set_stages(self, stages: int) -> None:
        if stages < 1:
            raise ValueError(
                f"{type(self).__name__} {self.name!r}: stages must be at least 1, got {stages}"
            )
        self.stages = int(stages)

    def _build_codebook(self, kernel_shape: tuple[int, ...], outputs: int) -> None:
        super()._build_codebook(kernel_shape, outputs, (self.stages,))

    @property
    def kernel(self) -> tf.Tensor:
        """The sum of the decoded kernels, in the layer's compute dtype."""
        if not self.built:
            raise AttributeError(f"build layer {self.name!r} before reading its kernel")
        codewords = tf.unstack(tf.convert_to_tensor(self.codewords))
        assignments = tf.unstack(tf.convert_to_tensor(self.assignments))
        kernels = [self._decoded(*stage) for stage in zip(codewords, assignments, strict=True)]
        return tf.cast(sum(kernels[1:], kernels[0]), self.compute_dtype)

    def codebooks(self) -> list[Codebook]:
        """Return the stages as they are shipped: the sum of their kernels is ``kernel``."""
        codewords = np.array(tf.convert_to_tensor(self.codewords))
        assignments = np.array(tf.convert_to_tensor(self.assignments))
        stages = zip(codewords, assignments, strict=True)
        return [self._as_shipped(*stage) for stage in stages]

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "stages": self.stages}


@register
class ResidualCodebookConv2D(ResidualCodebookLayer, CodebookConv2D):
    r"""Two-dimensional convolution whose kernel is a sum of kernels made of codewords.

    Forward: ``W = Σ_t W_t``, ``W_t[p, m·d + j, c] = D[t, m, B[t, p, m, c], j]`` with D rounded to
    ``codebook_dtype``, then ``y = activation(conv(x, W) + bias)``.

    Gradient: of each stage's codewords as of `CodebookConv2D`; B is not trained.

    Weights: ``codewords`` D, (T, M or 1, K, d), trainable; ``assignments`` B, unsigned (T, kh, kw,
    M, filters), not trainable; ``bias``.

    Args:
        filters: number of output channels.
        kernel_size: one or two sizes.
        strides: one or two steps.
        stages: T, kernels in the sum.
        **kwargs: as for `CodebookConv2D`.

    Raises:
        ValueError: a setting out of range.

    Reference: Gong et al., Compressing Deep Convolutional Networks using Vector Quantization,
    arXiv:1412.6115
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = (1, 1),
        *,
        stages: int = 2,
        **kwargs: Any,
    ) -> None:
        super().__init__(filters, kernel_size, strides, **kwargs)
        self._set_stages(stages)


@register
class ResidualCodebookDense(ResidualCodebookLayer, CodebookDense):
    r"""Dense layer whose kernel is a sum of kernels made of codewords.

    Forward: ``W = Σ_t W_t``, ``W_t[m·d + j, c] = D[t, m, B[t, m, c], j]`` with D rounded to
    ``codebook_dtype``, then ``y = activation(x @ W + bias)`` over the last axis of x.

    Gradient: of each stage's codewords as of `CodebookDense`; B is not trained.

    Weights: ``codewords`` D, (T, M or 1, K, d), trainable; ``assignments`` B, unsigned (T, M,
    units), not trainable; ``bias``.

    Args:
        units: number of outputs.
        stages: T, kernels in the sum.
        **kwargs: as for `CodebookDense`.

    Raises:
        ValueError: a setting out of range.

    Reference: Gong et al., Compressing Deep Convolutional Networks using Vector Quantization,
    arXiv:1412.6115
    """

    def __init__(self, units: int, *, stages: int = 2, **kwargs: Any) -> None:
        super().__init__(units, **kwargs)
        self._set_stages(stages)
