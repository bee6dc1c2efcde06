"""One-bit quantizers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from kerasq.keras import keras, register
from kerasq.quantizers.base import (
    Quantizer,
    check_choice,
    check_range,
    group_size,
    plane_scales,
    reduced_axes,
)
from kerasq.quantizers.constraints import LatentClip
from kerasq.quantizers.registry import register_quantizer
from kerasq.representations import BitPlanes


def sign(x: tf.Tensor) -> tf.Tensor:
    """Return +1 where ``x >= 0``, else -1 (``tf.sign`` would return 0 at 0)."""
    return tf.where(x >= 0, tf.ones_like(x), -tf.ones_like(x))


class SignQuantizer(Quantizer):
    """Base class of the quantizers whose values are -1 and +1: one plane with the scale 1."""

    precision = 1
    per_channel = False

    def pack(self, w: tf.Tensor) -> BitPlanes:
        """Return one plane with the scale 1."""
        return BitPlanes.from_signs(self.forward(w).numpy()[None], np.ones(1, np.float32))

    def levels(self) -> np.ndarray:
        """Return -1 and +1."""
        return np.array([-1.0, 1.0], np.float32)


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
class BNNSign(SignQuantizer):
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

    def forward(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return the sign of ``x``."""
        return ste_sign(x)

    def kernel_constraint(self) -> keras.constraints.Constraint:
        """Return the clip of latent weights to [-1, 1]."""
        return LatentClip()


INFERENCES = ("sign", "real")


def glorot_coefficient(shape: Sequence[int]) -> float:
    """Return ``sqrt(1.5 / (fan_in + fan_out))`` of a kernel (..., inputs, outputs)."""
    if len(shape) < 2:
        raise ValueError(f"binary_connect: h='glorot' needs a kernel, got the shape {tuple(shape)}")
    receptive_field = float(np.prod(shape[:-2]))
    return float(np.sqrt(1.5 / (receptive_field * (shape[-2] + shape[-1]))))


@register
class GlorotClip(keras.constraints.Constraint):
    """Clip latent weights to plus or minus the Glorot coefficient of their shape."""

    def __call__(self, w: Any) -> tf.Tensor:
        """Return the clipped weights."""
        return LatentClip(glorot_coefficient(w.shape))(w)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments: none."""
        return {}


def binary_connect(w: tf.Tensor, h: float = 1.0, value: str = "sign") -> tf.Tensor:
    """Weights of magnitude h; see :class:`BinaryConnect`.

    Args:
        w: latent weights.
        h: H.
        value: "sign", "stochastic" (a draw) or "real" (the clipped latent weights).
    """

    @tf.custom_gradient
    def quantize(w: tf.Tensor) -> tf.Tensor:
        if value == "real":
            return tf.clip_by_value(w, -h, h), lambda dq: dq
        if value == "stochastic":
            positive = tf.random.uniform(tf.shape(w)) < tf.clip_by_value((w / h + 1.0) / 2.0, 0, 1)
            return tf.where(positive, h, -h), lambda dq: dq
        return h * sign(w), lambda dq: dq

    return quantize(w)


@register_quantizer(
    name="binary_connect",
    paper="BinaryConnect: Training Deep Neural Networks with binary weights during propagations",
    arxiv="1511.00363",
    bits=1,
    target="weights",
    representation="BitPlanes",
)
class BinaryConnect(Quantizer):
    r"""Binary weights, deterministic or drawn anew at each training step.

    Forward: ``q = H * sgn(w)``; with ``stochastic``, in training, ``q = +H`` with the probability
    ``sigma(w / H)``, else ``-H``, where ``sigma(x) = clip((x + 1) / 2, 0, 1)``: the mean of the
    draws is ``clip(w, -H, H)``.

    Gradient: ``dL/dw = dL/dq``.

    Our layers clip latent weights to [-H, H] after each step (unless they are given another
    constraint): the clip is part of the method, since outside a weight would hardly flip again.

    Args:
        stochastic: draw the weights in training.
        inference: what stochastically trained weights are at inference: "real", the default for
            them, is the clipped latent weight as in the release, which is not binary and cannot be
            stored in one bit; "sign" is ``H * sgn(w)``, the default and only choice otherwise.
        h: H, a positive number, or "glorot" for ``sqrt(1.5 / (fan_in + fan_out))`` of the kernel.

    Raises:
        ValueError: an unknown or unfit ``inference``, or an ``h`` that is not positive;
            ``represent`` where weights are real at inference.

    Paper: M. Courbariaux, Y. Bengio, J.-P. David, "BinaryConnect: Training Deep Neural Networks
    with binary weights during propagations", NIPS 2015, arXiv 1511.00363.

    Deviations: the learning rates scaled by the Glorot coefficient are left to the optimizer.
    ``sgn(0) = +1``, so that zeros give +H.
    """

    precision = 1
    per_channel = False

    def __init__(
        self,
        stochastic: bool = False,
        inference: str | None = None,
        h: float | str = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.stochastic = bool(stochastic)
        choices = INFERENCES if self.stochastic else ("sign",)
        default = "real" if self.stochastic else "sign"
        self.inference = check_choice(inference or default, choices, "binary_connect: inference")
        tiny, huge = np.finfo(np.float32).tiny, np.finfo(np.float32).max
        self.h = h if h == "glorot" else check_range(h, tiny, huge, "binary_connect: h")
        if self.inference == "real":
            self.precision = 32

    def magnitude(self, w: tf.Tensor) -> float:
        """Return H for the weights ``w``."""
        return glorot_coefficient(w.shape) if self.h == "glorot" else self.h

    def forward(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return the signs times H, a draw of them, or the clipped weights."""
        value = "stochastic" if training and self.stochastic else self.inference
        return binary_connect(x, self.magnitude(x), value)

    def pack(self, w: tf.Tensor) -> BitPlanes:
        """Return one plane with the scale H."""
        if self.inference == "real":
            raise ValueError(
                "binary_connect: weights trained with stochastic=True stay real-valued at "
                "inference and have no one-bit form; set inference='sign' to use and store their "
                "signs"
            )
        return BitPlanes.from_signs(sign(w).numpy()[None], np.float32([self.magnitude(w)]))

    def kernel_constraint(self) -> keras.constraints.Constraint:
        """Return the clip of latent weights to [-H, H]."""
        return GlorotClip() if self.h == "glorot" else LatentClip(self.h)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        config = {"stochastic": self.stochastic, "inference": self.inference, "h": self.h}
        return {**super().get_config(), **config}


BWN_GRADIENTS = ("paper", "exact", "identity")


def bwn_scale(w: tf.Tensor, channel_axes: Sequence[int]) -> tf.Tensor:
    """Return ``mean|w|`` over what shares a scale, with kept dimensions."""
    return tf.reduce_mean(tf.abs(w), axis=reduced_axes(w.shape.rank, channel_axes), keepdims=True)


def scaled_sign_planes(w: tf.Tensor, channel_axes: Sequence[int]) -> BitPlanes:
    """Return ``mean|w| * sgn(w)`` as one plane."""
    scales = plane_scales(bwn_scale(w, channel_axes), 1, channel_axes)
    return BitPlanes.from_signs(sign(w).numpy()[None], scales, channel_axes=tuple(channel_axes))


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
        return scaled_sign_planes(w, self.channel_axes)

    def kernel_constraint(self) -> keras.constraints.Constraint:
        """Return the clip of latent weights to [-1, 1]."""
        return LatentClip()

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "gradient": self.gradient}
