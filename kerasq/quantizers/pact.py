"""Activations clipped at a learned value."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from kerasq.keras import keras, keras_version
from kerasq.quantizers.base import UniformQuantizer, check_bits, check_range, grid_values
from kerasq.quantizers.lsq import rounded
from kerasq.quantizers.registry import register_quantizer
from kerasq.quantizers.uniform import Grid

MIN_ALPHA = 1e-3


def clipped_grid(x: tf.Tensor, top: tf.Tensor, bits: int) -> Grid:
    """Return codes, scale and zero point of ``x`` on 2^bits levels from 0 to ``top`` > 0."""
    # Graphs turn a division by a constant into a product, eagerly it is none: say product.
    steps = 2.0**bits - 1
    return rounded(x * steps / top, 0.0, steps), top * np.float32(1 / steps), np.float32(0)


def pact(x: tf.Tensor, alpha: tf.Tensor, bits: int = 4) -> tf.Tensor:
    """Activations on 2^bits levels in [0, alpha]; see :class:`PACT`."""

    @tf.custom_gradient
    def quantize(x: tf.Tensor, alpha: tf.Tensor) -> tf.Tensor:
        top = tf.maximum(alpha, MIN_ALPHA)

        def grad(dq: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            # Also to an alpha below its bound, or it would never come back.
            at_x = tf.where((x > 0.0) & (x < top), dq, tf.zeros_like(dq))
            return at_x, tf.reduce_sum(tf.where(x >= top, dq, tf.zeros_like(dq)))

        return grid_values(*clipped_grid(x, top, bits)), grad

    return quantize(x, alpha)


@register_quantizer(
    name="pact",
    paper="PACT: Parameterized Clipping Activation for Quantized Neural Networks",
    arxiv="1805.06085",
    bits=(1, 8),
    target="activations",
    representation="Affine",
    learnable=True,
)
class PACT(UniformQuantizer):
    r"""Activations clipped at a learned alpha, one per layer; takes the place of the ReLU.

    Forward: ``q = round(y * (2^k - 1) / alpha) * alpha / (2^k - 1)``, ``y = clip(x, 0, alpha)``.

    Gradient: ``dL/dx = dL/dq * 1{0 < x < alpha}``, ``dL/dalpha = sum(dL/dq * 1{x >= alpha})``.

    Alpha is the trained variable ``alpha``; the forward pass takes it as 0.001 at least. The paper
    pulls it down by an L2 penalty with the coefficient of the weight decay.

    Args:
        bits: k in 1..8.
        alpha: its initial value; 10 as in the paper's CIFAR figure.
        alpha_decay: adds ``alpha_decay * alpha^2`` to the model's losses. 0, the default, leaves it
            to the ``weight_decay`` of the optimizer, which reaches alpha as it does the weights;
            with regularized kernels instead give their coefficient (2e-4 in the paper's CIFAR-10).

    Raises:
        ValueError: bits outside 1..8, an alpha below 0.001, or a negative decay.

    Paper: J. Choi, Z. Wang, S. Venkataramani, P. I.-J. Chuang, V. Srinivasan, K. Gopalakrishnan,
    arXiv 1805.06085. Its weights are DoReFa's.

    Deviations: the bound of alpha, below which the paper's training breaks. NaN gives 0.
    """

    per_channel = False

    def __init__(
        self, bits: int = 4, alpha: float = 10.0, alpha_decay: float = 0.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.bits = check_bits(bits, 1, 8, "pact")
        self.first_alpha = check_range(alpha, MIN_ALPHA, np.inf, "pact: alpha")
        self.alpha_decay = check_range(alpha_decay, 0.0, np.inf, "pact: alpha_decay")
        self.precision = self.bits

    def build(self, shape: Any) -> None:
        """Add alpha, and its penalty."""
        self.alpha = self.add_state("alpha", initial=self.first_alpha, trainable=True)
        if self.alpha_decay:
            penalty = keras.regularizers.L2(self.alpha_decay)
            if keras_version() == 2:
                self.add_loss(lambda: penalty(tf.convert_to_tensor(self.alpha)))
            else:
                self.alpha.regularizer = penalty
        super().build(shape)

    def forward(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return ``x`` on the grid."""
        return pact(x, tf.convert_to_tensor(self.alpha), self.bits)

    def grid(self, x: tf.Tensor) -> Grid:
        """Return codes, scale and zero point."""
        top = tf.maximum(tf.convert_to_tensor(self.alpha), MIN_ALPHA)
        return clipped_grid(x, top, self.bits)

    def fixed_grid(self) -> tuple[float, float]:
        """Return scale and zero point."""
        alpha = tf.convert_to_tensor(self.alpha if self.built else np.float32(self.first_alpha))
        _, scale, _ = clipped_grid(alpha, tf.maximum(alpha, MIN_ALPHA), self.bits)
        return float(scale), 0.0

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        config = {"bits": self.bits, "alpha": self.first_alpha, "alpha_decay": self.alpha_decay}
        return {**super().get_config(), **config}
