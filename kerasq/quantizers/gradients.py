"""Quantizers of the gradients that flow back through them."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from kerasq.quantizers.base import Quantizer, check_bits
from kerasq.quantizers.registry import register_quantizer
from kerasq.representations import Affine


def dorefa_gradients(dr: tf.Tensor, bits: int, noise: Any = 0.0) -> tf.Tensor:
    """Put a gradient on 2^bits levels of each sample's range; see :class:`DoReFaGradients`.

    Args:
        dr: gradient, float32; the first axis is the batch.
        bits: k.
        noise: sigma, in steps of the grid: uniform in [-1/2, 1/2], of the shape of ``dr``.
    """
    steps = 2.0**bits - 1
    largest = tf.reduce_max(tf.abs(dr), axis=tf.range(1, tf.rank(dr)), keepdims=True)
    unit = tf.math.divide_no_nan(dr, 2.0 * largest) + 0.5 + noise / steps
    rounded = tf.round(steps * tf.clip_by_value(unit, 0.0, 1.0)) / steps
    return 2.0 * largest * (rounded - 0.5)


@register_quantizer(
    name="dorefa_gradients",
    paper="DoReFa-Net: Training Low Bitwidth CNNs with Low Bitwidth Gradients",
    arxiv="1606.06160",
    bits=(2, 8),
    target="gradients",
    representation="training only",
)
class DoReFaGradients(Quantizer):
    r"""DoReFa-Net gradients of k bits: nothing forward, quantization backward.

    Forward: ``q = x``.

    Gradient: ``dL/dx = 2 M * (Q_k(clip(dr / (2 M) + 1/2 + N, 0, 1)) - 1/2)`` with ``dr = dL/dq``,
    ``M = max|dr|`` of each sample, ``N = sigma / (2^k - 1)``, sigma uniform in [-1/2, 1/2], and
    ``Q_k(u) = round((2^k - 1) u) / (2^k - 1)``.

    Its place is after a convolution and before BatchNormalization.

    Args:
        bits: k in 2..8, of the gradient; ``precision`` is 32, since values pass as they are.

    Raises:
        ValueError: bits outside 2..8.

    Paper: S. Zhou et al., arXiv 1606.06160.

    Deviations: outside of training there is no noise.
    """

    per_channel = False

    def __init__(self, bits: int = 6, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bits = check_bits(bits, 2, 8, "dorefa_gradients")

    def forward(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return ``x``."""

        @tf.custom_gradient
        def quantize(x: tf.Tensor) -> tf.Tensor:
            def grad(dr: tf.Tensor) -> tf.Tensor:
                noise = tf.random.uniform(tf.shape(dr), -0.5, 0.5) if training else 0.0
                return dorefa_gradients(dr, self.bits, noise)

            return tf.identity(x), grad

        return quantize(x)

    def pack(self, w: tf.Tensor) -> Affine:
        """Refuse: gradients are not stored."""
        raise ValueError(
            "dorefa_gradients quantizes gradients, in training only: there is nothing to represent"
        )

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "bits": self.bits}
