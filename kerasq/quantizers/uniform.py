"""Quantizers with equally spaced levels."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from kerasq.quantizers.base import Quantizer, check_bits
from kerasq.quantizers.binary import bwn, bwn_scale, sign
from kerasq.quantizers.registry import register_quantizer
from kerasq.representations import Affine, BitPlanes


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
