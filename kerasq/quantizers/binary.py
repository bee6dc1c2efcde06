"""One-bit quantizers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from kerasq.keras import keras
from kerasq.quantizers.base import Quantizer, check_choice, group_size, plane_scales, reduced_axes
from kerasq.quantizers.constraints import LatentClip
from kerasq.quantizers.registry import register_quantizer
from kerasq.representations import BitPlanes


def sign(x: tf.Tensor) -> tf.Tensor:
    """Return +1 where ``x >= 0``, else -1 (``tf.sign`` would return 0 at 0)."""
    return tf.where(x >= 0, tf.ones_like(x), -tf.ones_like(x))


@tf.custom_gradient
def ste_sign(x: tf.Tensor) -> tf.Tensor:
    """Sign with the clipped straight-through estimator; see :class:`BNNSign`."""

    def grad(dq: tf.Tensor) -> tf.Tensor:
        return tf.where(tf.abs(x) <= 1.0, dq, tf.zeros_like(dq))

    return sign(x), grad


@register_quantizer(
    name="ste_sign",
    paper="Binarized Neural Networks",
    arxiv="1602.02830",
    bits=1,
    target="both",
    representation="BitPlanes",
)
class BNNSign(Quantizer):
    r"""Sign with the clipped straight-through estimator (weights and activations).

    Forward: ``q = +1 if x >= 0 else -1``.

    Gradient: ``dL/dx = dL/dq * 1{|x| <= 1}``.

    Our layers keep latent weights of this method in [-1, 1] by a constraint (unless they are given
    another one), so that the mask never starves a weight.

    Args:
        **kwargs: as for any Keras layer.

    Paper: I. Hubara, M. Courbariaux, D. Soudry, R. El-Yaniv, Y. Bengio, "Binarized Neural
    Networks", NIPS 2016, arXiv 1602.02830.

    Deviations: the releases pass weights' gradients unmasked, which is the same while the latent
    weights are in [-1, 1]. NaN gives -1. There is no scale, so that zeros give +1.
    """

    precision = 1
    per_channel = False

    def forward(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return the sign of ``x``."""
        return ste_sign(x)

    def pack(self, w: tf.Tensor) -> BitPlanes:
        """Return one plane with the scale 1."""
        return BitPlanes.from_signs(sign(w).numpy()[None], np.ones(1, np.float32))

    def levels(self) -> np.ndarray:
        """Return -1 and +1."""
        return np.array([-1.0, 1.0], np.float32)

    def kernel_constraint(self) -> keras.constraints.Constraint:
        """Return the clip of latent weights to [-1, 1]."""
        return LatentClip()


BWN_GRADIENTS = ("paper", "exact", "identity")


def bwn_scale(w: tf.Tensor, channel_axes: Sequence[int]) -> tf.Tensor:
    """Return ``mean|w|`` over what shares a scale, with kept dimensions."""
    return tf.reduce_mean(tf.abs(w), axis=reduced_axes(w.shape.rank, channel_axes), keepdims=True)


def bwn(w: tf.Tensor, channel_axes: Sequence[int] = (-1,), gradient: str = "paper") -> tf.Tensor:
    """Scaled sign per filter; see :class:`BWN`."""
    axes = reduced_axes(w.shape.rank, channel_axes)
    share = 1.0 / group_size(w, axes)

    @tf.custom_gradient
    def quantize(w: tf.Tensor) -> tf.Tensor:
        alpha, signs = bwn_scale(w, channel_axes), sign(w)

        def grad(dq: tf.Tensor) -> tf.Tensor:
            if gradient == "identity":
                return dq
            scaled = alpha * tf.cast(tf.abs(w) <= 1.0, w.dtype)
            if gradient == "paper":
                return dq * (share + scaled)
            through_scale = tf.reduce_sum(dq * signs, axis=axes, keepdims=True) * share
            return dq * scaled + signs * through_scale

        return alpha * signs, grad

    return quantize(w)


@register_quantizer(
    name="bwn",
    paper="XNOR-Net: ImageNet Classification Using Binary Convolutional Neural Networks",
    arxiv="1603.05279",
    bits=1,
    target="weights",
    representation="BitPlanes",
)
class BWN(Quantizer):
    r"""Binary weights with one scale per filter (also the weights of XNOR-Net).

    Forward: ``q = alpha * sgn(w)``, ``alpha = mean|w|`` over the n weights of a filter, ``sgn(0) =
    +1``: the minimizer of ``||w - alpha b||^2``.

    Gradient, with ``g = dL/dq`` and ``m = 1{|w| <= 1}``:

    - ``"paper"``: ``dL/dw = g * (1/n + alpha * m)``;
    - ``"exact"``: ``dL/dw = alpha * m * g + sgn(w) * sum(g * sgn(w)) / n``;
    - ``"identity"``: ``dL/dw = g``.

    Our layers clip latent weights to [-1, 1] after each step, as the release does (unless they are
    given another constraint). Its mean subtraction is ``kerasq.quantizers.XnorConditioning``.

    Args:
        gradient: one of the three above.
        channel_axes: (-1,), a scale per filter; () for one scale per layer.

    Raises:
        ValueError: an unknown gradient, or an axis outside the kernel.

    Paper: M. Rastegari, V. Ordonez, J. Redmon, A. Farhadi, ECCV 2016, arXiv 1603.05279.

    Deviations: the release also multiplies the gradient by ``1 - 1/c_in``, and by n under SGD: a
    rescaling of the learning rate that is left out. An all-zero filter gives zeros.
    """

    precision = 1

    def __init__(
        self, gradient: str = "paper", *, channel_axes: Sequence[int] = (-1,), **kwargs: Any
    ) -> None:
        super().__init__(channel_axes=channel_axes, **kwargs)
        self.gradient = check_choice(gradient, BWN_GRADIENTS, "bwn: gradient")

    def forward(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return ``alpha * sgn(x)``."""
        return bwn(x, self.channel_axes, self.gradient)

    def pack(self, w: tf.Tensor) -> BitPlanes:
        """Return one plane with the scales alpha."""
        scales = plane_scales(bwn_scale(w, self.channel_axes), 1, self.channel_axes)
        return BitPlanes.from_signs(sign(w).numpy()[None], scales, channel_axes=self.channel_axes)

    def kernel_constraint(self) -> keras.constraints.Constraint:
        """Return the clip of latent weights to [-1, 1]."""
        return LatentClip()

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "gradient": self.gradient}
