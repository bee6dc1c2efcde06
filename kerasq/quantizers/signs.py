"""One-bit quantizers that differ from the plain sign in the gradient, or by a learned shift."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from kerasq.quantizers.base import Quantizer, check_choice, check_range, reduced_axes
from kerasq.quantizers.binary import SignQuantizer, bwn_scale, scaled_sign_planes, sign, ste_sign
from kerasq.quantizers.registry import register_quantizer
from kerasq.representations import BitPlanes


def sign_with_derivative(x: tf.Tensor, derivative: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
    """Return the sign of ``x``, with another function's derivative as its gradient."""

    @tf.custom_gradient
    def quantize(x: tf.Tensor) -> tf.Tensor:
        return sign(x), lambda dq: dq * derivative(x)

    return quantize(x)


def approx_sign_derivative(x: tf.Tensor) -> tf.Tensor:
    """Return ``2 - 2|x|`` where ``|x| <= 1``, else 0."""
    return tf.maximum(2.0 - 2.0 * tf.abs(x), 0.0)


def approx_sign(x: tf.Tensor) -> tf.Tensor:
    """Sign with the gradient of a piecewise quadratic function; see :class:`BiRealSign`."""
    return sign_with_derivative(x, approx_sign_derivative)


@register_quantizer(
    name="approx_sign",
    paper="Bi-Real Net: Enhancing the Performance of 1-bit CNNs With Improved Representational "
    "Capability and Advanced Training Algorithm",
    arxiv="1808.00278",
    bits=1,
    target="both",
    representation="BitPlanes",
)
class BiRealSign(SignQuantizer):
    r"""Sign of Bi-Real Net's activations, with a piecewise quadratic function's gradient.

    Forward: ``q = +1 if x >= 0 else -1``.

    Gradient: ``dL/dx = dL/dq * (2 - 2|x|) * 1{|x| <= 1}``, the derivative of ``2x + x^2`` below
    zero and of ``2x - x^2`` above.

    Args:
        **kwargs: as for any Keras layer.

    Paper: Z. Liu, B. Wu, W. Luo, X. Yang, W. Liu, K.-T. Cheng, "Bi-Real Net: Enhancing the
    Performance of 1-bit CNNs With Improved Representational Capability and Advanced Training
    Algorithm", ECCV 2018, arXiv 1808.00278.

    Deviations: the paper has it for activations; weights may use it too, as in larq. NaN gives -1.
    The release has ``sgn(0) = 0``.
    """

    def forward(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return the sign of ``x``."""
        return approx_sign(x)


MAGNITUDE_AWARE_GRADIENTS = ("paper", "release", "identity")


def magnitude_aware_sign(
    w: tf.Tensor, channel_axes: Sequence[int] = (-1,), gradient: str = "paper"
) -> tf.Tensor:
    """Scaled sign per filter with Bi-Real Net's gradients; see :class:`BiRealWeights`."""

    @tf.custom_gradient
    def quantize(w: tf.Tensor) -> tf.Tensor:
        scale = bwn_scale(w, channel_axes)

        def grad(dq: tf.Tensor) -> tf.Tensor:
            if gradient == "identity":
                return dq
            masked = tf.where(tf.abs(w) <= 1.0, dq, tf.zeros_like(dq))
            return scale * masked if gradient == "paper" else masked

        return scale * sign(w), grad

    return quantize(w)


@register_quantizer(
    name="magnitude_aware_sign",
    paper="Bi-Real Net: Enhancing the Performance of 1-bit CNNs With Improved Representational "
    "Capability and Advanced Training Algorithm",
    arxiv="1808.00278",
    bits=1,
    target="weights",
    representation="BitPlanes",
)
class BiRealWeights(Quantizer):
    r"""Binary weights of Bi-Real Net: the sign times the mean magnitude of the filter.

    Forward: ``q = s * sgn(w)``, ``s = mean|w|`` over a filter, a constant in the backward pass.

    Gradient, with ``g = dL/dq`` and ``m = 1{|w| <= 1}``:

    - ``"paper"``: ``dL/dw = s * m * g``, the magnitude-aware gradient;
    - ``"release"``: ``dL/dw = m * g``, the authors' PyTorch code (ReActNet's too);
    - ``"identity"``: ``dL/dw = g``, their Caffe code.

    Args:
        gradient: one of the three above.
        channel_axes: (-1,), a scale per filter; () for one scale per layer.

    Raises:
        ValueError: an unknown gradient, or an axis outside the kernel.

    Paper: Z. Liu, B. Wu, W. Luo, X. Yang, W. Liu, K.-T. Cheng, "Bi-Real Net: Enhancing the
    Performance of 1-bit CNNs With Improved Representational Capability and Advanced Training
    Algorithm", ECCV 2018, arXiv 1808.00278.

    Deviations: the paper's mask is strict, ``|w| < 1``. Its last step, which replaces ``s * sgn``
    by ``sgn`` and trains batch normalization again, is left to the user. An all-zero filter gives
    zeros.
    """

    precision = 1

    def __init__(
        self, gradient: str = "paper", *, channel_axes: Sequence[int] = (-1,), **kwargs: Any
    ) -> None:
        super().__init__(channel_axes=channel_axes, **kwargs)
        what = "magnitude_aware_sign: gradient"
        self.gradient = check_choice(gradient, MAGNITUDE_AWARE_GRADIENTS, what)

    def forward(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return ``s * sgn(x)``."""
        return magnitude_aware_sign(x, self.channel_axes, self.gradient)

    def pack(self, w: tf.Tensor) -> BitPlanes:
        """Return one plane with the scales s."""
        return scaled_sign_planes(w, self.channel_axes)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "gradient": self.gradient}


@tf.custom_gradient
def react_sign(x: tf.Tensor, shift: tf.Tensor) -> tf.Tensor:
    """Sign with a threshold per channel of the last axis; see :class:`ReActSign`."""

    def grad(dq: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        at_x = dq * approx_sign_derivative(x - shift)
        return at_x, -tf.reduce_sum(at_x, axis=reduced_axes(x.shape.rank, (-1,)))

    # Compared, not subtracted: a difference may underflow.
    return tf.where(x >= shift, tf.ones_like(x), -tf.ones_like(x)), grad


@register_quantizer(
    name="react_sign",
    paper="ReActNet: Towards Precise Binary Neural Network with Generalized Activation Functions",
    arxiv="2003.03488",
    bits=1,
    target="activations",
    representation="BitPlanes",
    learnable=True,
)
class ReActSign(SignQuantizer):
    r"""RSign of ReActNet: sign with a learned threshold per channel (the last axis).

    Forward: ``q = +1 if x >= a_c else -1``; the variable ``shift`` holds a, of shape (channels,),
    0 at first.

    Gradient: ``dL/dx = dL/dq * (2 - 2|x - a|) * 1{|x - a| <= 1}``; ``dL/da_c`` is minus the sum of
    the same over the batch and space.

    Args:
        **kwargs: as for any Keras layer.

    Raises:
        ValueError: inputs whose number of channels is not known.

    Paper: Z. Liu, Z. Shen, M. Savvides, K.-T. Cheng, "ReActNet: Towards Precise Binary Neural
    Network with Generalized Activation Functions", ECCV 2020, arXiv 2003.03488.

    Deviations: ``x = a`` gives +1, as ``sgn(0)``; the paper's formula has -1 there and the
    release, ``sign(x + b)`` with ``b = -a``, gives 0.
    """

    per_feature = True

    def build(self, input_shape: Any) -> None:
        """Add the thresholds."""
        channels = input_shape[-1] if len(input_shape) else None
        if channels is None:
            raise ValueError(
                f"react_sign has a shift per channel: the last axis of its input {input_shape} "
                "must be known"
            )
        self.shift = self.add_state("shift", (channels,), trainable=True)
        super().build(input_shape)

    def forward(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return the sign of ``x - a``."""
        return react_sign(x, tf.convert_to_tensor(self.shift))


def swish_sign(x: tf.Tensor, beta: float = 5.0) -> tf.Tensor:
    """Sign with the derivative of SignSwish; see :class:`SignSwish`."""

    def derivative(x: tf.Tensor) -> tf.Tensor:
        u = beta * x
        # 1 / (1 + cosh u) without overflow; where it is 0 an infinite factor must not make NaN.
        bell = 2.0 * tf.sigmoid(u) * tf.sigmoid(-u)
        return beta * tf.math.multiply_no_nan(2.0 - u * tf.tanh(0.5 * u), bell)

    return sign_with_derivative(x, derivative)


@register_quantizer(
    name="swish_sign",
    paper="BNN+: Improved Binary Network Training",
    arxiv="1812.11800",
    bits=1,
    target="both",
    representation="BitPlanes",
)
class SignSwish(SignQuantizer):
    r"""Sign with the derivative of SignSwish, ``2 s(bx) (1 + bx (1 - s(bx))) - 1``, s the sigmoid.

    Forward: ``q = +1 if x >= 0 else -1``.

    Gradient: ``dL/dx = dL/dq * beta * (2 - beta x tanh(beta x / 2)) / (1 + cosh(beta x))``, which
    is negative in its tails (beyond ``|x| = 0.48`` for beta = 5).

    Args:
        beta: positive; the greater, the nearer to the sign.

    Raises:
        ValueError: beta is not positive.

    Paper: S. Darabi, M. Belbahri, M. Courbariaux, V. Partovi Nia, "BNN+: Improved Binary Network
    Training", arXiv 1812.11800.

    Deviations: the paper's regularizers and its learned scales are not part of the quantizer. NaN
    gives -1.
    """

    def __init__(self, beta: float = 5.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        limits = np.finfo(np.float32)
        self.beta = check_range(beta, limits.tiny, limits.max, "swish_sign: beta")

    def forward(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return the sign of ``x``."""
        return swish_sign(x, self.beta)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "beta": self.beta}


FTPROP_LOSSES = ("soft_hinge", "saturated_hinge")


def ftprop_sign(x: tf.Tensor, loss: str = "soft_hinge") -> tf.Tensor:
    """Sign with the gradient of target propagation; see :class:`FTPropSign`."""
    if loss == "saturated_hinge":
        return ste_sign(x)
    return sign_with_derivative(x, lambda x: 1.0 - tf.tanh(x) ** 2)


@register_quantizer(
    name="ftprop_sign",
    paper="Deep Learning as a Mixed Convex-Combinatorial Optimization Problem",
    arxiv="1710.11573",
    bits=1,
    target="activations",
    representation="BitPlanes",
)
class FTPropSign(SignQuantizer):
    r"""Hard-threshold activations, trained by feasible target propagation in mini-batches.

    Forward: ``q = +1 if z >= 0 else -1``.

    Gradient: the unit's target is ``t = -sgn(g)``, ``g = dL/dq``, and its layer minimizes ``|g| *
    loss(z, t)``, whose derivative is

    - ``"soft_hinge"``, ``loss = 1 - tanh(z t)``: ``dL/dz = g * (1 - tanh(z)^2)``;
    - ``"saturated_hinge"``, ``loss = max(0, 1 - max(z t, -1))``: ``dL/dz = g * 1{|z| <= 1}``.

    Args:
        loss: one of the two above.

    Raises:
        ValueError: an unknown loss.

    Paper: A. L. Friesen, P. Domingos, "Deep Learning as a Mixed Convex-Combinatorial Optimization
    Problem", ICLR 2018, arXiv 1710.11573.

    Deviations: targets and losses are not formed, since their gradient has the closed form above.
    NaN gives -1.
    """

    def __init__(self, loss: str = "soft_hinge", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.loss = check_choice(loss, FTPROP_LOSSES, "ftprop_sign: loss")

    def forward(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return the sign of ``x``."""
        return ftprop_sign(x, self.loss)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "loss": self.loss}
