"""Quantizers with equally spaced levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from kerasq.keras import keras, register
from kerasq.quantizers.base import Quantizer, UniformQuantizer, check_bits, grid_values
from kerasq.quantizers.binary import BWN, bwn, bwn_scale, sign, ste_sign
from kerasq.quantizers.constraints import LatentClip
from kerasq.quantizers.gradients import check_gradient_bits, with_log_gradient
from kerasq.quantizers.registry import register_quantizer
from kerasq.representations import Affine, BitPlanes

Grid = tuple[tf.Tensor, Any, Any]


def clipped_ste(x: tf.Tensor, values: tf.Tensor, low: Any, high: Any) -> tf.Tensor:
    """Return ``values``, whose gradient goes to ``x`` where ``low <= x <= high``."""

    @tf.custom_gradient
    def straight_through(x: tf.Tensor) -> tf.Tensor:
        def grad(dq: tf.Tensor) -> tf.Tensor:
            return tf.where((x >= low) & (x <= high), dq, tf.zeros_like(dq))

        return tf.identity(values), grad

    return straight_through(x)


def mid_rise_grid(codes: tf.Tensor, limit: tf.Tensor, steps: int) -> Grid:
    """Return codes, scale and zero point of ``limit * (2 * code / steps - 1)``.

    Args:
        codes: float whole numbers 0..steps.
        limit: kept dimensions; 0 makes a channel zeros.
        steps: intervals.
    """
    # Zero is not on the grid: an all-zero layer is code 0 at zero point 0, with the scale 1.
    empty = tf.reduce_all(limit <= 0.0)
    scale = tf.where(empty, tf.ones_like(limit), limit * np.float32(2 / steps))
    zero_point = tf.where(empty, 0.0, np.float32(steps / 2))
    return tf.where(empty, tf.zeros_like(codes), codes), scale, zero_point


def _without_nan(x: tf.Tensor) -> tf.Tensor:
    return tf.where(tf.math.is_nan(x), tf.zeros_like(x), x)


def dorefa_weight_codes(w: tf.Tensor, bits: int) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Return the codes (float 0..2^bits - 1), ``tanh(w)`` and ``max|tanh(w)|`` of DoReFa."""
    squashed = tf.tanh(w)
    largest = tf.reduce_max(tf.abs(squashed))
    # An all-zero layer has the scale 1: its weights keep their gradient and can grow again.
    largest = tf.where(largest > 0, largest, tf.ones_like(largest))
    unit = squashed / (2.0 * largest) + 0.5
    return tf.round((2.0**bits - 1) * unit), squashed, largest


def _dorefa_grid(bits: int) -> tuple[np.float32, np.float32]:
    """Return scale and zero point of ``2 * code / (2^bits - 1) - 1``."""
    steps = 2**bits - 1
    return np.float32(2 / steps), np.float32(steps / 2)


def dorefa_weights(w: tf.Tensor, bits: int, differentiate_max: bool = False) -> tf.Tensor:
    """Weights on 2^bits levels in [-1, 1]; see :class:`DoReFaWeights`."""
    if bits == 1:
        return bwn(w, (), "identity")
    scale, zero_point = _dorefa_grid(bits)

    @tf.custom_gradient
    def quantize(w: tf.Tensor) -> tf.Tensor:
        codes, squashed, largest = dorefa_weight_codes(w, bits)
        empty = tf.reduce_all(tf.equal(w, 0.0))

        def grad(dq: tf.Tensor) -> tf.Tensor:
            at_squashed = dq / largest
            if differentiate_max:
                peak = tf.cast(tf.equal(tf.abs(squashed), largest), tf.float32)
                share = peak * tf.sign(squashed)
                pull = tf.reduce_sum(dq * squashed) / largest**2
                at_squashed -= pull * tf.math.divide_no_nan(share, tf.reduce_sum(peak))
            return at_squashed * (1.0 - squashed**2)

        return tf.where(empty, tf.zeros_like(w), scale * (codes - zero_point)), grad

    return quantize(w)


@register_quantizer(
    name="dorefa_weights",
    paper="DoReFa-Net: Training Low Bitwidth CNNs with Low Bitwidth Gradients",
    arxiv="1606.06160",
    bits=(1, 8),
    target="weights",
    representation="Affine (1 bit: BitPlanes)",
)
class DoReFaWeights(Quantizer):
    r"""DoReFa-Net weights of k bits, one scale per layer.

    Forward: for k = 1, ``q = mean|w| * sgn(w)``; for k > 1, ``q = 2 * Q_k(u) - 1`` with ``u =
    tanh(w) / (2 * max|tanh(w)|) + 1/2`` and ``Q_k(u) = round((2^k - 1) u) / (2^k - 1)``.

    Gradient: for k = 1, ``dL/dw = dL/dq``; for k > 1, ``dL/dw = dL/dq * (1 - tanh(w)^2) /
    max|tanh(w)|``, the maximum held constant. With ``differentiate_max`` the maximum is
    differentiated too, which changes the gradient of the largest weight only.

    Args:
        bits: k in 1..8.
        differentiate_max: also differentiate the maximum (k > 1).

    Raises:
        ValueError: bits outside 1..8.

    Paper: S. Zhou et al., arXiv 1606.06160.

    Deviations: an all-zero layer gives zeros, though zero is no level. The authors' code (in
    tensorpack) has ``differentiate_max=True``; the default here is larq's.
    """

    per_channel = False

    def __init__(self, bits: int = 2, differentiate_max: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bits = check_bits(bits, 1, 8, "dorefa_weights")
        self.differentiate_max = bool(differentiate_max)
        self.precision = self.bits

    def forward(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return ``x`` on the grid."""
        return dorefa_weights(x, self.bits, self.differentiate_max)

    def pack(self, w: tf.Tensor) -> BitPlanes | Affine:
        """Return the signs and their scale (1 bit), or the codes."""
        if self.bits == 1:
            scale = bwn_scale(w, ()).numpy().reshape(1)
            return BitPlanes.from_signs(sign(w).numpy()[None], scale)
        scale, zero_point = _dorefa_grid(self.bits)
        if not np.any(w.numpy()):
            codes = np.zeros(w.shape, np.uint8)
            return Affine.from_codes(codes, self.bits, np.float32(1), np.float32(0))
        codes = dorefa_weight_codes(w, self.bits)[0].numpy().astype(np.uint8)
        return Affine.from_codes(codes, self.bits, scale, zero_point)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        config = {"bits": self.bits, "differentiate_max": self.differentiate_max}
        return {**super().get_config(), **config}


def _dorefa_planes(codes: np.ndarray, bits: int) -> BitPlanes:
    """Return ``code / (2^bits - 1)`` as planes: ``1/2 + sum_i 2^i / (2 (2^bits - 1)) * h_i``."""
    weights = 2 ** np.arange(bits)
    signs = np.stack([np.where(codes & weight, 1, -1) for weight in weights])
    scales = (weights / (2 * (2**bits - 1))).astype(np.float32)
    return BitPlanes.from_signs(signs, scales, offset=np.float32(0.5))


def dorefa_activation_codes(x: tf.Tensor, bits: int) -> tf.Tensor:
    """Return the codes, float 0..2^bits - 1; NaN has the code 0."""
    clipped = tf.clip_by_value(tf.where(tf.math.is_nan(x), tf.zeros_like(x), x), 0.0, 1.0)
    return tf.round((2.0**bits - 1) * clipped)


def dorefa_activations(x: tf.Tensor, bits: int) -> tf.Tensor:
    """Activations on 2^bits levels in [0, 1]; see :class:`DoReFaActivations`."""

    @tf.custom_gradient
    def quantize(x: tf.Tensor) -> tf.Tensor:
        codes = dorefa_activation_codes(x, bits)
        if bits <= 3:
            # A sum of planes is a rounding off code / (2^bits - 1): the table has the sums.
            table = tf.constant(_dorefa_planes(np.arange(2**bits), bits).decode())
            quantized = tf.gather(table, tf.cast(codes, tf.int32))
        else:
            quantized = codes * np.float32(1 / (2**bits - 1))

        def grad(dq: tf.Tensor) -> tf.Tensor:
            return tf.where((x >= 0.0) & (x <= 1.0), dq, tf.zeros_like(dq))

        return quantized, grad

    return quantize(x)


@register_quantizer(
    name="dorefa_activations",
    paper="DoReFa-Net: Training Low Bitwidth CNNs with Low Bitwidth Gradients",
    arxiv="1606.06160",
    bits=(1, 8),
    target="activations",
    representation="Affine (1-3 bits: BitPlanes)",
)
class DoReFaActivations(Quantizer):
    r"""DoReFa-Net activations of k bits.

    Forward: ``q = round((2^k - 1) * clip(x, 0, 1)) / (2^k - 1)``, half to even.

    Gradient: ``dL/dx = dL/dq * 1{0 <= x <= 1}``.

    Args:
        bits: k in 1..8.

    Raises:
        ValueError: bits outside 1..8.

    Paper: S. Zhou et al., arXiv 1606.06160.

    Deviations: NaN gives 0.
    """

    per_channel = False

    def __init__(self, bits: int = 2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bits = check_bits(bits, 1, 8, "dorefa_activations")
        self.precision = self.bits

    def forward(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return ``x`` on the grid."""
        return dorefa_activations(x, self.bits)

    def pack(self, w: tf.Tensor) -> BitPlanes | Affine:
        """Return the codes' bits as planes (1 to 3 bits), or the codes."""
        codes = dorefa_activation_codes(w, self.bits).numpy().astype(np.uint8)
        if self.bits <= 3:
            return _dorefa_planes(codes, self.bits)
        steps = 2**self.bits - 1
        return Affine.from_codes(codes, self.bits, np.float32(1 / steps), np.float32(0))

    def levels(self) -> np.ndarray | None:
        """Return the 2, 4 or 8 levels, or None above 3 bits."""
        if self.bits > 3:
            return None
        return _dorefa_planes(np.arange(2**self.bits), self.bits).decode()

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "bits": self.bits}


def qnn_linear_grid(x: tf.Tensor, bits: int, normalize: bool = False) -> Grid:
    """Return codes, scale and zero point of LinearQuant; see :class:`QNNLinear`."""
    half = 2.0 ** (bits - 1)
    largest = tf.reduce_max(tf.abs(x)) if normalize else tf.ones([])
    largest = tf.where(largest > 0.0, largest, tf.ones_like(largest))
    codes = tf.clip_by_value(tf.round(_without_nan(x) / largest * half), -half, half - 1.0)
    return codes + half, largest / half, tf.constant(half)


def qnn_linear(x: tf.Tensor, bits: int, normalize: bool = False) -> tf.Tensor:
    """Two's complement fractions in [-1, 1); see :class:`QNNLinear`."""
    if bits == 1:
        return ste_sign(x)
    values = grid_values(*qnn_linear_grid(x, bits, normalize))
    if normalize:
        return clipped_ste(x, values, -np.inf, np.inf)
    return clipped_ste(x, values, -1.0, 1.0 - 2.0 ** (1 - bits))


@register
class LatentRange(keras.constraints.Constraint):
    """Clip latent weights: ``w <- clip(w, low, high)``.

    Args:
        low: the least latent weight.
        high: the greatest.
    """

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = float(low), float(high)

    def __call__(self, w: Any) -> tf.Tensor:
        """Return the clipped weights."""
        return tf.clip_by_value(tf.convert_to_tensor(w), self.low, self.high)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"low": self.low, "high": self.high}


@register_quantizer(
    name="qnn_linear",
    paper="Quantized Neural Networks: Training Neural Networks with Low Precision Weights and "
    "Activations",
    arxiv="1609.07061",
    bits=(1, 8),
    target="both",
    representation="Affine (1 bit: BitPlanes)",
)
class QNNLinear(UniformQuantizer):
    r"""LinearQuant of QNN: fractions in two's complement (weights and activations).

    Forward: ``q = clip(round(x / s) * s, -1, 1 - s)``, ``s = 2^(1-b)``; for b = 1, ``q = sgn(x)``.
    With ``normalize``, weights are divided by ``max|w|`` first and multiplied by it afterwards.

    Gradient: ``dL/dx = dL/dq * 1{-1 <= x <= 1 - s}`` (b = 1: ``1{|x| <= 1}``); with ``normalize``,
    ``dL/dw = dL/dq``, ``max|w|`` held constant.

    With ``gradient_bits`` dL/dq first becomes ``LogQuant(dL/dq)``: zero and ``2^(bits-1) - 1``
    signed powers of two, the largest ``AP2(max|dL/dq|)`` of the tensor. In training it is rounded
    stochastically, without bias up to that power; elsewhere to the nearest exponent.

    Our layers keep latent weights in that range by a constraint (unless they are given another
    one); with ``normalize`` there is none.

    Args:
        bits: b in 1..8.
        normalize: divide weights by ``max|w|`` (b > 1); activations never are.
        gradient_bits: 2..8, of the gradients (6 in the paper); None leaves them in float.

    Raises:
        ValueError: bits outside 1..8.

    Paper: I. Hubara, M. Courbariaux, D. Soudry, R. El-Yaniv, Y. Bengio, JMLR 18(187), 2018, arXiv
    1609.07061.

    Deviations: the paper leaves the step open: a reading, which the code of RedBit shares, as it
    does ``normalize`` and its gradient. It leaves open too between which values gradients are
    rounded stochastically. NaN gives 0; a gradient that is not finite stays.
    """

    per_channel = False

    def __init__(
        self,
        bits: int = 4,
        normalize: bool = False,
        gradient_bits: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.bits = check_bits(bits, 1, 8, "qnn_linear")
        self.normalize = bool(normalize)
        self.gradient_bits = check_gradient_bits(gradient_bits, "qnn_linear")
        self.precision = self.bits

    @property
    def _normalizes(self) -> bool:
        return self.normalize and not self.for_activations

    def forward(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return ``x`` on the grid."""
        values = qnn_linear(x, self.bits, self._normalizes)
        return with_log_gradient(values, self.gradient_bits, training)

    def grid(self, x: tf.Tensor) -> Grid:
        """Return codes, scale and zero point."""
        return qnn_linear_grid(x, self.bits, self._normalizes)

    def pack(self, w: tf.Tensor) -> BitPlanes | Affine:
        """Return the signs (1 bit), or the codes."""
        if self.bits == 1:
            return BitPlanes.from_signs(sign(w).numpy()[None], np.ones(1, np.float32))
        return super().pack(w)

    def fixed_grid(self) -> tuple[float, float] | None:
        """Return scale and zero point, unless the weights are normalized."""
        if self._normalizes:
            return None
        return (2.0, 0.5) if self.bits == 1 else (2.0 ** (1 - self.bits), 2.0 ** (self.bits - 1))

    def kernel_constraint(self) -> keras.constraints.Constraint | None:
        """Return the clip of latent weights to the range that passes gradients."""
        if self.bits == 1:
            return LatentClip()
        return None if self.normalize else LatentRange(-1.0, 1.0 - 2.0 ** (1 - self.bits))

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        config = {"normalize": self.normalize, "gradient_bits": self.gradient_bits}
        return {**super().get_config(), "bits": self.bits, **config}


def wrpn_grid(x: tf.Tensor, bits: int, activations: bool = False) -> Grid:
    """Return codes, scale and zero point of WRPN (weights: 2 bits or more)."""
    if activations:
        return dorefa_activation_codes(x, bits), np.float32(1 / (2**bits - 1)), np.float32(0)
    steps, offset = 2.0 ** (bits - 1) - 1, 2.0 ** (bits - 1)
    codes = tf.round(steps * tf.clip_by_value(_without_nan(x), -1.0, 1.0))
    return codes + offset, np.float32(1 / steps), np.float32(offset)


def wrpn(x: tf.Tensor, bits: int, activations: bool = False) -> tf.Tensor:
    """Weights in [-1, 1] of at least 2 bits, or activations in [0, 1]; see :class:`WRPN`."""
    values = grid_values(*wrpn_grid(x, bits, activations))
    return clipped_ste(x, values, 0.0 if activations else -1.0, 1.0)


@register_quantizer(
    name="wrpn",
    paper="WRPN: Wide Reduced-Precision Networks",
    arxiv="1709.01134",
    bits=(1, 8),
    target="both",
    representation="Affine (1-bit weights: BitPlanes)",
)
class WRPN(UniformQuantizer):
    r"""Uniform weights in [-1, 1] and activations in [0, 1], for widened layers.

    Forward: weights of k > 1 bits, ``q = round((2^(k-1) - 1) * clip(w, -1, 1)) / (2^(k-1) - 1)``;
    of 1 bit, as :class:`BWN`. Activations, ``q = round((2^k - 1) * clip(x, 0, 1)) / (2^k - 1)``.

    Gradient: ``dL/dx = dL/dq`` inside the clipping range, bounds included, else 0; 1-bit weights
    as :class:`BWN`.

    The method wins back its accuracy by two or three times as many filters.

    Args:
        bits: k in 1..8.
        channel_axes: of 1-bit weights only: (-1,), a scale per filter, is their default.

    Raises:
        ValueError: bits outside 1..8, or axes where there is no scale.

    Paper: A. Mishra, E. Nurvitadhi, J. J. Cook, D. Marr, ICLR 2018, arXiv 1709.01134.

    Deviations: NaN gives 0.
    """

    def __init__(
        self, bits: int = 4, *, channel_axes: Sequence[int] | None = None, **kwargs: Any
    ) -> None:
        self.bits = check_bits(bits, 1, 8, "wrpn")
        if channel_axes is None:
            channel_axes = (-1,) if self.bits == 1 else ()
        super().__init__(channel_axes=channel_axes, **kwargs)
        if self.bits > 1 and self.channel_axes:
            raise ValueError(
                f"wrpn: only 1-bit weights have a scale: at {self.bits} bits channel_axes must be "
                f"empty, got {self.channel_axes}"
            )
        if self.for_activations:
            self.channel_axes = ()
        self.precision = self.bits

    @property
    def _binary(self) -> bool:
        return self.bits == 1 and not self.for_activations

    def forward(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return ``x`` on the grid."""
        if self._binary:
            return bwn(x, self.channel_axes)
        return wrpn(x, self.bits, self.for_activations)

    def grid(self, x: tf.Tensor) -> Grid:
        """Return codes, scale and zero point."""
        return wrpn_grid(x, self.bits, self.for_activations)

    def pack(self, w: tf.Tensor) -> BitPlanes | Affine:
        """Return the signs and their scales (1-bit weights), or the codes."""
        if self._binary:
            return BWN(channel_axes=self.channel_axes).pack(w)
        return super().pack(w)

    def fixed_grid(self) -> tuple[float, float] | None:
        """Return scale and zero point of activations."""
        return (1 / (2**self.bits - 1), 0.0) if self.for_activations else None

    def kernel_constraint(self) -> keras.constraints.Constraint | None:
        """Return BWN's constraint, of 1-bit weights."""
        return LatentClip() if self._binary else None

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "bits": self.bits}
