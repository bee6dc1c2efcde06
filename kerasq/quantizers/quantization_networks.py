"""Steps that are sums of sigmoids in training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from kerasq.quantizers.base import Quantizer, scalar_codebook
from kerasq.quantizers.registry import register_quantizer
from kerasq.representations import Codebook

WEIGHT_LEVELS = (-1.0, 0.0, 1.0)
ACTIVATION_LEVELS = (0.0, 1.0, 2.0, 3.0)
CLAMP = 10.0  # of the sigmoids' arguments in the release
ITERATIONS = 50  # of k-means, more than it takes to settle


def step_codes(
    x: tf.Tensor, beta: tf.Tensor, biases: tf.Tensor, levels: Sequence[float]
) -> tf.Tensor:
    """Return how many biases ``beta * x`` exceeds: the index of its level, int32."""
    scaled = beta * x
    steps = [tf.cast(scaled > biases[i], tf.int32) for i in range(len(levels) - 1)]
    return tf.add_n(steps)


def quantization_networks(
    x: tf.Tensor,
    alpha: tf.Tensor,
    beta: tf.Tensor,
    biases: tf.Tensor,
    levels: Sequence[float],
    temperature: Any,
    hard: bool = False,
) -> tf.Tensor:
    """Sum of sigmoids, or steps where ``hard``; see :class:`QuantizationNetworks`.

    Args:
        x: float32 tensor.
        alpha: scale of the output, a trained scalar.
        beta: scale of the input, a trained scalar.
        biases: (n,) ascending positions of the steps, in units of ``beta * x``.
        levels: n + 1 ascending output values, before alpha.
        temperature: T.
        hard: give the steps' value, still with the sigmoids' gradient.
    """
    sizes = np.diff(np.asarray(levels, np.float32))
    # With one step only the release takes the sigmoid's slope at T = 1: it would vanish.
    slope_temperature = 1.0 if len(sizes) == 1 else temperature

    @tf.custom_gradient
    def quantize(x: tf.Tensor, alpha: tf.Tensor, beta: tf.Tensor) -> tf.Tensor:
        soft, slope = tf.zeros_like(x) + np.float32(levels[0]), tf.zeros_like(x)
        for i, size in enumerate(sizes):
            distance = beta * x - biases[i]
            soft += size * tf.sigmoid(tf.clip_by_value(temperature * distance, -CLAMP, CLAMP))
            at_slope = tf.sigmoid(slope_temperature * distance)
            slope += size * at_slope * (1.0 - at_slope)

        def grad(dq: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            at_scaled = alpha * temperature * slope * dq
            return beta * at_scaled, tf.reduce_sum(soft * dq), tf.reduce_sum(x * at_scaled)

        if not hard:
            return alpha * soft, grad
        values = alpha * tf.constant(levels, tf.float32)
        return tf.gather(values, step_codes(x, beta, biases, levels)), grad

    return quantize(x, alpha, beta)


def first_biases(scaled: tf.Tensor, levels: Sequence[float]) -> tf.Tensor:
    """Return the midpoints of the clusters that k-means finds from the levels, (n,).

    An empty cluster keeps its center.

    Args:
        scaled: ``beta * x``, of any shape.
        levels: n + 1 ascending values, the first centers.
    """
    ordered = tf.sort(tf.reshape(scaled, [-1]))
    total = tf.pad(tf.cumsum(tf.cast(ordered, tf.float64)), [[1, 0]])
    ends = tf.stack([0, tf.size(ordered)])

    def improved(centers: tf.Tensor) -> tf.Tensor:
        middle = tf.cast((centers[1:] + centers[:-1]) / 2, tf.float32)
        inner = tf.searchsorted(ordered, middle, side="right")
        bounds = tf.concat([ends[:1], inner, ends[1:]], axis=0)
        count = tf.cast(bounds[1:] - bounds[:-1], tf.float64)
        sums = tf.gather(total, bounds[1:]) - tf.gather(total, bounds[:-1])
        return tf.where(count > 0, tf.math.divide_no_nan(sums, count), centers)

    (centers,) = tf.while_loop(
        lambda centers: True,
        lambda centers: (improved(centers),),
        (tf.constant(levels, tf.float64),),
        maximum_iterations=ITERATIONS,
    )
    return tf.cast((centers[1:] + centers[:-1]) / 2, tf.float32)


@register_quantizer(
    name="quantization_networks",
    paper="Quantization Networks",
    arxiv="1911.09464",
    bits=(1, 8),
    target="both",
    representation="Codebook",
    learnable=True,
)
class QuantizationNetworks(Quantizer):
    r"""Levels p_0 < ... < p_n as a sum of n sigmoids, hard steps at inference, one scale per layer.

    Forward: training: ``q = alpha * (p_0 + sum_i (p_i - p_{i-1}) * sigmoid(T * (beta * x - b_i)))``
    with the argument clamped to [-10, 10]; inference: a step, 1 where ``beta * x > b_i``, in the
    place of the sigmoid.

    Gradient: with ``y = q / alpha`` and ``S = sum_i (p_i - p_{i-1}) * sigma_i * (1 - sigma_i)`` of
    the sigmoids: ``dL/dx = dL/dq * alpha * beta * T * S``, ``dL/dbeta = sum(dL/dq * alpha * T * x *
    S)``, ``dL/dalpha = sum(dL/dq * y)``. With two levels only, S is that of T = 1. At inference the
    gradient is the same, also y's.

    The first batch in training gives ``beta = 5/4 * max|p| / max|x|``, ``alpha = 1 / beta``, and b
    as the midpoints of the clusters of ``beta * x`` (k-means). b is not trained. The variable
    ``temperature`` holds T, which training raises: T = 10 * (epoch + 1), at most 2000.

    Args:
        levels: ascending; None is (-1, 0, 1) for weights and (0, 1, 2, 3) for activations.
        temperature: the first T.

    Raises:
        ValueError: levels that are not 2 to 256 ascending finite numbers, or T that is not
            positive.

    Paper: J. Yang et al., "Quantization Networks", CVPR 2019, arXiv 1911.09464.

    Deviations: the paper calls the biases learnable; they are fixed, as in the release. k-means
    starts from the levels and is deterministic. The offset is p_0, which is the release's for
    levels that are symmetric or start at 0.
    """

    per_channel = False

    def __init__(
        self, levels: Sequence[float] | None = None, temperature: float = 10.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        default = ACTIVATION_LEVELS if self.for_activations else WEIGHT_LEVELS
        self.given_levels = None if levels is None else tuple(float(p) for p in levels)
        self.level_values = default if levels is None else self.given_levels
        count = len(self.level_values)
        ascending = np.all(np.diff(self.level_values) > 0) and np.isfinite(self.level_values).all()
        if not (2 <= count <= 256 and ascending):
            raise ValueError(
                f"quantization_networks: levels must be 2 to 256 ascending numbers, got {levels}"
            )
        if not 0 < float(temperature) < np.inf:
            raise ValueError(
                f"quantization_networks: temperature must be positive, got {temperature!r}"
            )
        self.first_temperature = float(temperature)
        self.precision = (count - 1).bit_length()

    def build(self, shape: Any) -> None:
        """Add the trained scales, the biases and the temperature; beta = 0 means not set yet."""
        self.alpha = self.add_state("alpha", trainable=True)
        self.beta = self.add_state("beta", trainable=True)
        self.biases = self.add_state("biases", (len(self.level_values) - 1,))
        self.temperature = self.add_state("temperature", initial=self.first_temperature)
        super().build(shape)

    def _first_values(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        widest = np.float32(1.25 * np.abs(self.level_values).max())
        largest = tf.reduce_max(tf.abs(x))
        beta = tf.stop_gradient(tf.where(largest > 0, widest / largest, tf.ones_like(largest)))
        return 1.0 / beta, beta, first_biases(beta * tf.stop_gradient(x), self.level_values)

    def _parameters(self, x: tf.Tensor, training: bool) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Return alpha, beta and the biases; their first values where they have none."""
        variables = (self.alpha, self.beta, self.biases)
        current = tuple(tf.convert_to_tensor(v) for v in variables)
        unset = tf.equal(current[1], 0.0)
        first = tf.cond(unset, lambda: self._first_values(x), lambda: current)
        if not training:
            return tuple(tf.where(unset, *pair) for pair in zip(first, current, strict=True))
        for variable, value in zip(variables, first, strict=True):
            variable.assign(value)
        return tuple(tf.convert_to_tensor(v) for v in variables)

    def forward(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return the sum of sigmoids in training, else the level."""
        parameters = self._parameters(x, training)
        temperature = tf.convert_to_tensor(self.temperature)
        return quantization_networks(
            x, *parameters, self.level_values, temperature, hard=not training
        )

    def pack(self, w: tf.Tensor) -> Codebook:
        """Return the levels and which of them each value has."""
        alpha, beta, biases = self._parameters(w, training=False)
        codes = step_codes(w, beta, biases, self.level_values).numpy()
        return scalar_codebook(codes, (alpha * tf.constant(self.level_values)).numpy())

    def levels(self) -> np.ndarray | None:
        """Return the levels of activations of at most 4 bits, once there are scales."""
        if not (self.for_activations and self.built) or len(self.level_values) > 16:
            return None
        alpha, beta = float(self.alpha), float(self.beta)
        if alpha <= 0 or beta <= 0:
            return None
        return np.float32(alpha) * np.float32(self.level_values)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        levels = None if self.given_levels is None else list(self.given_levels)
        config = {"levels": levels, "temperature": self.first_temperature}
        return {**super().get_config(), **config}
