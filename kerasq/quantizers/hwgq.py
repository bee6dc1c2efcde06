"""Activations on the levels that suit the positive half of a Gaussian."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from kerasq.quantizers.base import (
    UniformQuantizer,
    check_bits,
    check_choice,
    grid_values,
    scalar_codebook,
)
from kerasq.quantizers.registry import register_quantizer
from kerasq.quantizers.uniform import Grid
from kerasq.representations import Affine, Codebook

HWGQ_GRADIENTS = ("clipped", "vanilla", "log_tailed")
# Steps for N(0, 1) by bits, as in the authors' release.
HWGQ_STEPS = {1: 0.799, 2: 0.538, 3: 0.3217, 4: 0.185}
# Positive levels for N(0, 1) by their number: 1 and 2 as in the release, the others by Lloyd's
# algorithm.
HWGQ_LEVELS = {
    1: (0.799,),
    2: (0.453, 1.51),
    3: (0.3177, 1.0001, 1.8936),
    7: (0.1457, 0.4413, 0.7505, 1.0857, 1.4676, 1.9386, 2.6251),
    15: (
        *(0.0702, 0.2110, 0.3532, 0.4978, 0.6460, 0.7991, 0.9587, 1.1268),
        *(1.3063, 1.5011, 1.7170, 1.9634, 2.2576, 2.6368, 3.2137),
    ),
}


def hwgq_levels(count: int) -> np.ndarray:
    """Return zero and ``count`` positive levels that are not equally spaced, float32."""
    return np.array((0.0, *HWGQ_LEVELS[count]), np.float32)


def hwgq_uniform_codes(x: tf.Tensor, bits: int) -> tf.Tensor:
    """Return the codes of equally spaced levels, float32; NaN has the code 0."""
    nearest = tf.clip_by_value(tf.round(x * np.float32(1 / HWGQ_STEPS[bits])), 1.0, 2.0**bits - 1)
    return tf.where(x > 0.0, nearest, tf.zeros_like(x))


def hwgq_codes(x: tf.Tensor, levels: np.ndarray) -> tf.Tensor:
    """Return the positions of ``x`` in other levels, int32; NaN has the code 0."""
    # Half-way between zero and the first level would be wrong: every positive x is above zero.
    thresholds = np.append(np.float32(0), (levels[1:-1] + levels[2:]) / 2)
    codes = tf.searchsorted(thresholds, tf.reshape(x, [-1]), side="left")
    return tf.where(x > 0.0, tf.reshape(codes, tf.shape(x)), 0)


def hwgq(
    x: tf.Tensor,
    bits: int = 2,
    uniform: bool = True,
    gradient: str = "clipped",
    positive_levels: int | None = None,
) -> tf.Tensor:
    """Activations on half-wave Gaussian levels; see :class:`HWGQ`."""
    levels = hwgq_levels(positive_levels or 2**bits - 1)
    top = np.float32((2**bits - 1) * HWGQ_STEPS[bits]) if uniform else levels[-1]

    @tf.custom_gradient
    def quantize(x: tf.Tensor) -> tf.Tensor:
        if uniform:
            scale, zero_point = np.float32(HWGQ_STEPS[bits]), np.float32(0)
            quantized = grid_values(hwgq_uniform_codes(x, bits), scale, zero_point)
        else:
            quantized = tf.gather(levels, hwgq_codes(x, levels))

        def grad(dq: tf.Tensor) -> tf.Tensor:
            if gradient == "clipped":
                return tf.where((x > 0.0) & (x <= top), dq, tf.zeros_like(dq))
            tail = 1.0 if gradient == "vanilla" else tf.maximum(x - (top - 1.0), 1.0)
            return tf.where(x > 0.0, dq / tail, tf.zeros_like(dq))

        return quantized, grad

    return quantize(x)


@register_quantizer(
    name="hwgq",
    paper="Deep Learning with Low Precision by Half-wave Gaussian Quantization",
    arxiv="1702.00953",
    bits=(1, 4),
    target="activations",
    representation="Affine (uniform) or Codebook",
)
class HWGQ(UniformQuantizer):
    r"""Half-wave Gaussian quantization of batch-normalized activations.

    Forward: ``q = 0`` for ``x <= 0``, else the nearest of the positive levels ``q_1 < .. < q_m``:
    every positive x gives ``q_1`` at least. Uniform levels are ``q_i = i * Delta``, ``m = 2^b -
    1``.

    Gradient, 0 where ``x <= 0``:

    - ``"clipped"``: ``dL/dx = dL/dq * 1{x <= q_m}``;
    - ``"vanilla"``: ``dL/dx = dL/dq``;
    - ``"log_tailed"``: ``dL/dx = dL/dq / max(1, x - tau)``, ``tau = q_m - 1``.

    Args:
        bits: b in 1..4.
        uniform: equally spaced levels; False takes those of Lloyd's algorithm.
        gradient: one of the three above.
        positive_levels: m of levels that are not uniform: 2^b - 1 (None), or 2 at 2 bits.

    Raises:
        ValueError: bits outside 1..4, an unknown gradient, or levels there is no table of.

    Paper: Z. Cai, X. He, J. Sun, N. Vasconcelos, CVPR 2017, arXiv 1702.00953.

    Deviations: levels as in the release, where it has them; the other ones were computed anew. NaN
    gives 0.
    """

    per_channel = False

    def __init__(
        self,
        bits: int = 2,
        uniform: bool = True,
        gradient: str = "clipped",
        positive_levels: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.bits = check_bits(bits, 1, 4, "hwgq")
        self.uniform = bool(uniform)
        self.gradient = check_choice(gradient, HWGQ_GRADIENTS, "hwgq: gradient")
        possible = (None, 2**self.bits - 1, *((2,) if self.bits == 2 and not uniform else ()))
        check_choice(positive_levels, possible, f"hwgq: positive_levels (bits={self.bits})")
        self.positive_levels = positive_levels
        self.precision = self.bits

    @property
    def _table(self) -> np.ndarray:
        return hwgq_levels(self.positive_levels or 2**self.bits - 1)

    @property
    def has_step(self) -> bool:
        """Tell whether the levels are uniform."""
        return self.uniform

    def forward(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return ``x`` on the levels."""
        return hwgq(x, self.bits, self.uniform, self.gradient, self.positive_levels)

    def grid(self, x: tf.Tensor) -> Grid:
        """Return codes, scale and zero point of uniform levels."""
        scale, zero_point = self.fixed_grid()
        return hwgq_uniform_codes(x, self.bits), np.float32(scale), np.float32(zero_point)

    def pack(self, w: tf.Tensor) -> Affine | Codebook:
        """Return the codes, with the levels where they are not uniform."""
        if self.uniform:
            return super().pack(w)
        return scalar_codebook(hwgq_codes(w, self._table).numpy(), self._table)

    def fixed_grid(self) -> tuple[float, float] | None:
        """Return the step, and 0, of uniform levels."""
        return (HWGQ_STEPS[self.bits], 0.0) if self.uniform else None

    def levels(self) -> np.ndarray:
        """Return the levels."""
        return super().levels() if self.uniform else self._table

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "bits": self.bits,
            "uniform": self.uniform,
            "gradient": self.gradient,
            "positive_levels": self.positive_levels,
        }
