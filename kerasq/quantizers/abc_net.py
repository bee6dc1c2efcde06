"""ABC-Net: sums of scaled binary bases."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from kerasq.quantizers.base import Quantizer, check_bits, check_choice, reduced_axes
from kerasq.quantizers.registry import register_quantizer
from kerasq.representations import BitPlanes

ABC_GRADIENTS = ("paper", "identity")
RIDGE = 1e-6


def signed_sum(scales: Sequence[tf.Tensor], positive: Sequence[Any]) -> tf.Tensor:
    """Return the sum of ``scales[i]``, where ``positive[i]``, and else of ``-scales[i]``.

    It rounds as ``BitPlanes.decode`` does, plane after plane. Hence the subtractions: a chain of
    four additions becomes one AddN in a graph, which adds in another order.
    """
    total = tf.where(positive[0], scales[0], -scales[0])
    for scale, plus in zip(scales[1:], positive[1:], strict=True):
        total -= tf.where(plus, -scale, scale)
    return total


def plane_levels(codes: np.ndarray, scales: tf.Tensor) -> tf.Tensor:
    """Return the values (..., L) of L codes.

    Args:
        codes: (P, L) of -1 and +1: the planes of the codes.
        scales: (..., P).
    """
    return signed_sum([scale[..., None] for scale in tf.unstack(scales, axis=-1)], codes > 0)


def staircase(steps: Sequence[tf.Tensor], levels: tf.Tensor) -> tf.Tensor:
    """Return ``levels[..., c]`` where the first c steps are true.

    Args:
        steps: L - 1 boolean tensors, each true only where those before it are.
        levels: (..., L), broadcast against the steps.
    """
    values = tf.unstack(levels, axis=-1)
    return functools.reduce(
        lambda below, rise: tf.where(rise[0], rise[1], below),
        zip(steps, values[1:], strict=True),
        values[0],
    )


def cells_of(steps: Sequence[tf.Tensor]) -> tf.Tensor:
    """Return how many of the steps are true, float32."""
    return tf.add_n([tf.cast(step, tf.float32) for step in steps])


def cell_moments(
    x: tf.Tensor, cells: tf.Tensor, count: int, axes: Sequence[int]
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return how many elements each cell has and their sum, float64 (kept dimensions, cells)."""
    numbers, sums = [], []
    for cell in range(count):
        member = tf.equal(cells, float(cell))
        inside = tf.where(member, x, tf.zeros_like(x))
        numbers.append(tf.reduce_sum(tf.cast(member, tf.float32), axis=axes, keepdims=True))
        sums.append(tf.reduce_sum(inside, axis=axes, keepdims=True))
    return tuple(tf.cast(tf.stack(part, axis=-1), tf.float64) for part in (numbers, sums))


def least_squares(
    moments: tuple[tf.Tensor, tf.Tensor], codes: Any, ridge: float, prior: Any = (0.0,)
) -> tf.Tensor:
    """Return the scales a that minimize ``||x - a^T codes||^2 + ridge * ||a - prior||^2``.

    All elements of a cell have one code, so that the moments of the cells suffice. The normal
    matrix of equal planes is singular but for the ridge: it is solved in float64.

    Args:
        moments: of the cells, see :func:`cell_moments`.
        codes: (..., P, cells), the planes of each cell.
        ridge: what is added to the diagonal of the normal matrix.
        prior: (..., P) or (1,).

    Returns:
        float32 (kept dimensions, P).
    """
    numbers, sums = moments
    codes = tf.cast(codes, tf.float64)
    normal = tf.matmul(codes * numbers[..., None, :], codes, transpose_b=True)
    normal += ridge * tf.eye(codes.shape[-2], dtype=tf.float64)
    target = tf.matmul(codes, sums[..., None]) + ridge * tf.cast(prior, tf.float64)[..., None]
    solution = tf.linalg.cholesky_solve(tf.linalg.cholesky(normal), target)
    return tf.cast(solution[..., 0], tf.float32)


def abc_codes(bases: int) -> np.ndarray:
    """Return the signs (M, M + 1) of the cells: in cell c the last c bases are +1."""
    return np.where(np.add.outer(np.arange(bases), np.arange(bases + 1)) >= bases, 1, -1)


def abc_weight_parts(
    w: tf.Tensor, bases: int, channel_axes: Sequence[int] = ()
) -> tuple[list[tf.Tensor], tf.Tensor]:
    """Return ``B_M > 0, ..., B_1 > 0`` and alpha (kept dimensions, M); see :class:`ABCWeights`."""
    axes = reduced_axes(w.shape.rank, channel_axes)
    centred = w - tf.reduce_mean(w, axis=axes, keepdims=True)
    std = tf.sqrt(tf.reduce_mean(tf.square(centred), axis=axes, keepdims=True))
    shifts = np.linspace(1, -1, bases, dtype=np.float32) if bases > 1 else np.zeros(1, np.float32)
    # The greater u, the more elements are +1: each basis holds the next one's.
    steps = [centred + u * std >= 0 for u in shifts]
    moments = cell_moments(w, cells_of(steps), bases + 1, axes)
    return steps, least_squares(moments, abc_codes(bases), RIDGE)


def abc_weights(
    w: tf.Tensor, bases: int, channel_axes: Sequence[int] = (), gradient: str = "paper"
) -> tf.Tensor:
    """Sum of binary bases with least-squares scales; see :class:`ABCWeights`."""

    @tf.custom_gradient
    def quantize(w: tf.Tensor) -> tf.Tensor:
        steps, alpha = abc_weight_parts(w, bases, channel_axes)

        def grad(dq: tf.Tensor) -> tf.Tensor:
            return dq * tf.reduce_sum(alpha, axis=-1) if gradient == "paper" else dq

        return staircase(steps, plane_levels(abc_codes(bases), alpha)), grad

    return quantize(w)


@register_quantizer(
    name="abc_weights",
    paper="Towards Accurate Binary Convolutional Neural Network",
    arxiv="1711.11294",
    bits=(1, 8),
    target="weights",
    representation="BitPlanes",
)
class ABCWeights(Quantizer):
    r"""ABC-Net weights: M binary bases with least-squares scales.

    Forward: ``q = sum_m alpha_m B_m``, ``B_m = sgn(w - mean(w) + u_m * std(w))``, the M shifts
    ``u_m`` evenly spaced in [-1, 1] (M = 1: u = 0), ``alpha = argmin ||w - sum_m alpha_m B_m||^2``.

    Gradient, with ``g = dL/dq``; mean, std and alpha are constants:

    - ``"paper"``: ``dL/dw = g * sum_m alpha_m``;
    - ``"identity"``: ``dL/dw = g``.

    Args:
        bits: M in 1..8, the number of bases: one bit each.
        gradient: one of the two above.
        channel_axes: (), one set of scales, mean and std per layer; (-1,) for one per filter.

    Raises:
        ValueError: bits outside 1..8, an unknown gradient, or an axis outside the kernel.

    Paper: X. Lin, C. Zhao, W. Pan, NIPS 2017, arXiv 1711.11294.

    Deviations: the normal matrix has 1e-6 added to its diagonal, for equal bases make it singular.
    The paper's gradient is written with that of a basis: it is read as the branch's before its
    scale, which gives ``sum alpha_m``, not ``sum alpha_m^2``.
    """

    def __init__(
        self,
        bits: int = 3,
        gradient: str = "paper",
        *,
        channel_axes: Sequence[int] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(channel_axes=channel_axes, **kwargs)
        self.bits = check_bits(bits, 1, 8, "abc_weights")
        self.gradient = check_choice(gradient, ABC_GRADIENTS, "abc_weights: gradient")
        self.precision = self.bits

    def forward(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return the sum of the bases."""
        return abc_weights(x, self.bits, self.channel_axes, self.gradient)

    def pack(self, w: tf.Tensor) -> BitPlanes:
        """Return the bases as planes with the scales alpha."""
        steps, alpha = abc_weight_parts(w, self.bits, self.channel_axes)
        return BitPlanes.from_signs(
            abc_codes(self.bits)[:, cells_of(steps).numpy().astype(int)],
            alpha.numpy().reshape(-1, self.bits).T,
            channel_axes=self.channel_axes,
        )

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "bits": self.bits, "gradient": self.gradient}


def abc_steps(x: tf.Tensor, shifts: tf.Tensor) -> list[tf.Tensor]:
    """Return where each basis is +1: ``clip(x + v, 0, 1) >= 1/2``."""
    return [x + shift >= 0.5 for shift in tf.unstack(shifts)]


@tf.custom_gradient
def abc_activations(x: tf.Tensor, shifts: tf.Tensor, scales: tf.Tensor) -> tf.Tensor:
    """Sum of shifted binary activations; see :class:`ABCActivations`."""
    steps, betas = abc_steps(x, shifts), tf.unstack(scales)

    def grad(dq: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        passed = []
        for shift, beta in zip(tf.unstack(shifts), betas, strict=True):
            moved = x + shift
            inside = (moved >= 0.0) & (moved <= 1.0)
            passed.append(tf.where(inside, beta * dq, tf.zeros_like(dq)))
        at_shifts = tf.stack([tf.reduce_sum(part) for part in passed])
        at_scales = tf.stack([tf.reduce_sum(tf.where(step, dq, -dq)) for step in steps])
        return tf.add_n(passed), at_shifts, at_scales

    return signed_sum(betas, steps), grad


@register_quantizer(
    name="abc_activations",
    paper="Towards Accurate Binary Convolutional Neural Network",
    arxiv="1711.11294",
    bits=(1, 8),
    target="activations",
    representation="BitPlanes",
    learnable=True,
)
class ABCActivations(Quantizer):
    r"""ABC-Net activations: N binary bases with trained shifts and scales.

    Forward: ``q = sum_n beta_n H_n``, ``H_n = +1 if clip(x + v_n, 0, 1) >= 1/2 else -1``.

    Gradient, with ``g = dL/dq`` and ``m_n = 1{0 <= x + v_n <= 1}``: ``dL/dx = g * sum_n beta_n
    m_n``, ``dL/dv_n = sum(g * beta_n * m_n)``, ``dL/dbeta_n = sum(g * H_n)``.

    The trained variables are ``shifts`` (v) and ``scales`` (beta), each (N,), one set per layer.

    Args:
        bits: N in 1..8, the number of bases: one bit each, N + 1 levels.

    Raises:
        ValueError: bits outside 1..8.

    Paper: X. Lin, C. Zhao, W. Pan, NIPS 2017, arXiv 1711.11294.

    Deviations: the paper gives no initial values: v evenly spaced in [-1/2, 1/2] (N = 1: 0) and
    beta = 1/N are chosen. It prints the mask once with x - v, against its own h: x + v is taken.
    """

    per_channel = False

    def __init__(self, bits: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bits = check_bits(bits, 1, 8, "abc_activations")
        self.precision = self.bits

    def build(self, input_shape: Any) -> None:
        """Add the shifts and the scales."""
        spread = np.linspace(-0.5, 0.5, self.bits) if self.bits > 1 else 0.0
        self.shifts = self.add_state("shifts", (self.bits,), spread, trainable=True)
        self.scales = self.add_state("scales", (self.bits,), 1.0 / self.bits, trainable=True)
        super().build(input_shape)

    def forward(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return the sum of the bases."""
        return abc_activations(
            x, tf.convert_to_tensor(self.shifts), tf.convert_to_tensor(self.scales)
        )

    def pack(self, w: tf.Tensor) -> BitPlanes:
        """Return the bases as planes with the scales beta."""
        steps = np.stack([step.numpy() for step in abc_steps(w, tf.convert_to_tensor(self.shifts))])
        scales = tf.convert_to_tensor(self.scales).numpy()
        return BitPlanes.from_signs(np.where(steps, 1, -1), scales)

    def levels(self) -> np.ndarray | None:
        """Return the at most N + 1 sums; None where a negative scale makes q not monotone."""
        if not self.built:
            self.build(())
            self.built = True
        shifts = tf.convert_to_tensor(self.shifts).numpy()
        scales = tf.convert_to_tensor(self.scales).numpy()
        if not np.all(scales >= 0):
            return None
        # The greater its shift, the earlier a basis turns to +1.
        thresholds = np.append(np.unique(shifts), np.inf)
        signs = np.where(shifts[:, None] >= thresholds, 1, -1)
        return np.unique(BitPlanes.from_signs(signs, scales).decode())

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "bits": self.bits}
