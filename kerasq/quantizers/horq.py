"""HORQ: activations binarized again and again, each time what the last one left."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from kerasq.quantizers.abc_net import signed_sum
from kerasq.quantizers.base import Quantizer, check_bits, check_choice
from kerasq.quantizers.binary import sign
from kerasq.quantizers.registry import register_quantizer
from kerasq.representations import BitPlanes

HORQ_SCOPES = ("sample", "tensor")


def _sharing_axes(x: tf.Tensor, scope: str) -> list[int]:
    """Return the axes over which beta is a mean; a vector is one sample."""
    return list(range(1 if scope == "sample" and x.shape.rank > 1 else 0, x.shape.rank))


def horq_parts(
    x: tf.Tensor, order: int, scope: str = "sample"
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """Return the residuals ``R_0..R_{K-1}`` and the scales (kept dimensions); see :class:`HORQ`."""
    axes, residuals, betas = _sharing_axes(x, scope), [x], []
    for _ in range(order):
        last = residuals[-1]
        betas.append(tf.reduce_mean(tf.abs(last), axis=axes, keepdims=True))
        residuals.append(last - betas[-1] * sign(last))
    return residuals[:-1], betas


def horq(
    x: tf.Tensor, order: int, scope: str = "sample", differentiate_scales: bool = False
) -> tf.Tensor:
    """Sum of residual binarizations; see :class:`HORQ`."""

    @tf.custom_gradient
    def quantize(x: tf.Tensor) -> tf.Tensor:
        residuals, betas = horq_parts(x, order, scope)

        def grad(dq: tf.Tensor) -> tf.Tensor:
            slope = tf.add_n(
                [
                    tf.where(tf.abs(residual) <= 1.0, beta, tf.zeros_like(beta))
                    for residual, beta in zip(residuals, betas, strict=True)
                ]
            )
            if differentiate_scales:
                share = tf.size(betas[0]) / tf.size(x)
                slope += order * tf.cast(share, x.dtype)
            return dq * slope

        return signed_sum(betas, [residual >= 0 for residual in residuals]), grad

    return quantize(x)


@register_quantizer(
    name="horq",
    paper="Performance Guaranteed Network Acceleration via High-Order Residual Quantization",
    arxiv="1708.08687",
    bits=(1, 8),
    target="activations",
    representation="BitPlanes",
)
class HORQ(Quantizer):
    r"""High-order residual quantization of activations; the weights go with ``bwn``.

    Forward: ``q = sum_i beta_i H_i`` for i = 1..K, with ``R_0 = x``, ``H_i = sgn(R_{i-1})``,
    ``beta_i = mean|R_{i-1}|``, ``R_i = R_{i-1} - beta_i H_i``.

    Gradient: ``dL/dx = dL/dq * sum_i beta_i * 1{|R_{i-1}| <= 1}``, beta held constant. With
    ``differentiate_scales`` each order adds ``1/n``, as the "paper" rule of ``bwn`` does, n being
    the number of elements that share a beta.

    The scales depend on the data: there are no fixed levels. :class:`kerasq.layers.HORQConv2D`
    also has a beta per position.

    Args:
        bits: K in 1..8, the order: one bit each (paper: 2).
        scope: what shares a beta: a "sample" (the first axis is the batch; a vector is one
            sample), or the whole "tensor".
        differentiate_scales: add the 1/n terms.

    Raises:
        ValueError: bits outside 1..8, or an unknown scope.

    Paper: Z. Li, B. Ni, W. Zhang, X. Yang, W. Gao, ICCV 2017, arXiv 1708.08687.

    Deviations: the paper has a beta per receptive field; one per sample is the cheap reading. Its
    gradient is read as above. A stored batch of several samples repeats beta for each element,
    since the stored form has scales for trailing axes only.
    """

    per_channel = False

    def __init__(
        self,
        bits: int = 2,
        scope: str = "sample",
        differentiate_scales: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.bits = check_bits(bits, 1, 8, "horq")
        self.scope = check_choice(scope, HORQ_SCOPES, "horq: scope")
        self.differentiate_scales = bool(differentiate_scales)
        self.precision = self.bits

    def forward(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return the sum of the binarizations."""
        return horq(x, self.bits, self.scope, self.differentiate_scales)

    def binary_terms(self, x: tf.Tensor) -> list[tuple[tf.Tensor, tf.Tensor]]:
        """Return pairs ``(R_{i-1}, beta_i)``: ``q = sum_i beta_i * sgn(R_{i-1})``.

        A product with q is then a sum of binary products, each times its beta.
        """
        return list(zip(*horq_parts(x, self.bits, self.scope), strict=True))

    def pack(self, w: tf.Tensor) -> BitPlanes:
        """Return the signs of the residuals as planes with the scales beta."""
        residuals, betas = horq_parts(w, self.bits, self.scope)
        signs = np.stack([sign(residual).numpy() for residual in residuals])
        scales = np.stack([beta.numpy() for beta in betas])
        if scales[0].size == 1:
            return BitPlanes.from_signs(signs, scales)
        every = np.broadcast_to(scales, signs.shape)
        return BitPlanes.from_signs(signs, every, channel_axes=tuple(range(w.shape.rank)))

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        config = {
            "bits": self.bits,
            "scope": self.scope,
            "differentiate_scales": self.differentiate_scales,
        }
        return {**super().get_config(), **config}
