"""Clamps from statistics, and noise while a layer is being quantized."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from kerasq.quantizers.base import (
    UniformQuantizer,
    check_bits,
    check_choice,
    check_range,
    grid_values,
    is_observing,
)
from kerasq.quantizers.lsq import rounded
from kerasq.quantizers.pact import clipped_grid
from kerasq.quantizers.registry import register_quantizer
from kerasq.quantizers.uniform import Grid, clipped_ste
from kerasq.representations import Affine

NICE_STAGES = ("quantized", "noisy", "float")
WEIGHT_DEVIATIONS, ACTIVATION_DEVIATIONS = 3.45, 5.0
DECAY = 0.9


def _deviation(x: tf.Tensor) -> tf.Tensor:
    """Return the standard deviation with ``n - 1``; 0 of a single value."""
    squares = tf.reduce_sum((x - tf.reduce_mean(x)) ** 2)
    return tf.sqrt(squares / tf.maximum(tf.cast(tf.size(x), tf.float32) - 1.0, 1.0))


def nice_weight_clamp(w: tf.Tensor) -> tf.Tensor:
    """Return ``|mean(w)| + 3.45 std(w)``."""
    return tf.abs(tf.reduce_mean(w)) + WEIGHT_DEVIATIONS * _deviation(w)


def nice_activation_clamp(x: tf.Tensor) -> tf.Tensor:
    """Return ``mean(x) + 5 std(x)`` of what comes before the ReLU, and 0 where that is negative."""
    return tf.nn.relu(tf.reduce_mean(x) + ACTIVATION_DEVIATIONS * _deviation(x))


def _or_one(clamp: tf.Tensor) -> tf.Tensor:
    return tf.where(tf.equal(clamp, 0.0), tf.ones_like(clamp), tf.abs(clamp))


def nice_weight_grid(w: tf.Tensor, clamp: tf.Tensor, bits: int) -> Grid:
    """Return codes, scale and zero point of weights in [-c, c]."""
    steps, half, top = 2.0 ** (bits - 1) - 1, np.float32(2 ** (bits - 1)), _or_one(clamp)
    return rounded(w * steps / top, -steps, steps) + half, top * np.float32(1 / steps), half


def nice_noise(w: tf.Tensor, clamp: tf.Tensor, bits: int) -> tf.Tensor:
    """Return ``clip(w + U(-Delta/2, Delta/2), -c, c)``."""
    limit = tf.abs(clamp)
    half_step = 0.5 * limit / (2.0 ** (bits - 1) - 1)
    noisy = w + half_step * tf.random.uniform(tf.shape(w), -1.0, 1.0)
    return tf.clip_by_value(noisy, -limit, limit)


def nice_activations(
    x: tf.Tensor, clamp: tf.Tensor, bits: int, residual: bool = False, quantized: Any = True
) -> tf.Tensor:
    """Activations in [0, |c|], rounded where ``quantized`` is true; see :class:`NICE`."""
    steps = 2.0**bits - 1

    @tf.custom_gradient
    def quantize(x: tf.Tensor, clamp: tf.Tensor) -> tf.Tensor:
        top = _or_one(clamp)
        codes, scale, zero_point = clipped_grid(x, top, bits)
        clipped = tf.where(x > 0.0, tf.minimum(x, top), 0.0)

        def grad(dq: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            inside = (x > 0.0) & (x <= top)
            at_top = tf.cast(x > top, tf.float32)
            if residual:
                error = (codes - clipped * steps / top) / steps
                at_top += tf.where(inside & quantized, error, tf.zeros_like(error))
            towards = tf.where(clamp < 0.0, -1.0, 1.0)
            return tf.where(inside, dq, tf.zeros_like(dq)), towards * tf.reduce_sum(dq * at_top)

        return tf.where(quantized, grid_values(codes, scale, zero_point), clipped), grad

    return quantize(x, clamp)


def nice_bias(bias: tf.Tensor, step: tf.Tensor, bits: int = 16) -> tf.Tensor:
    """Put biases on whole steps of what is added to them: ``step * round(bias / step)``.

    Gradient: ``dL/dbias = dL/dq``; the step is a constant.

    Args:
        bias: float32 (channels,).
        step: activation step times weight step, one or (channels,); 0 leaves the bias as it is.
        bits: the codes are in ``±(2^(bits-1) - 1)``.
    """
    limit = 2.0 ** (bits - 1) - 1
    codes = tf.clip_by_value(tf.round(tf.math.divide_no_nan(bias, step)), -limit, limit)
    return clipped_ste(bias, tf.where(step > 0.0, codes * step, bias), -np.inf, np.inf)


@register_quantizer(
    name="nice",
    paper="NICE: Noise Injection and Clamping Estimation for Neural Network Quantization",
    arxiv="1810.00162",
    bits=(1, 8),
    target="both",
    representation="Affine",
    learnable=True,
)
class NICE(UniformQuantizer):
    r"""Weights clamped by their statistics, activations by a learned clamp, noise in training.

    Forward: weights ``q = Delta * round(clip(w, -c, c) / Delta)``, ``Delta = c / (2^(b-1) - 1)``,
    ``c = |mean(w)| + 3.45 std(w)``. Activations ``q = round(y n / c) * c / n``, ``n = 2^b - 1``,
    ``y = relu(x) - relu(x - |c|)``: they take the place of the ReLU.

    Gradient: weights ``dL/dw = dL/dq``, also through noise; activations ``dL/dx = dL/dq * 1{0 < x
    <= c}``, ``dL/dc = sum(dL/dq * 1{x > c})``; with ``residual`` also the rounding's ``(round(t) -
    t) / n``, ``t = x n / c``, where ``0 < x <= c``.

    A layer is in one of three stages, which a schedule moves on by :meth:`set_stage`:

    - ``"quantized"``: as above;
    - ``"noisy"``: in training a weight becomes ``clip(w + U(-Delta/2, Delta/2), -c, c)`` with the
      probability p, and q otherwise;
    - ``"float"``: weights stay as they are, activations are clamped but not rounded.

    The variable ``clamp`` is unset at 0. The first training step sets it: of weights for good, for
    those of the trained network; of activations to ``mean + 5 std`` of x, the input of the ReLU,
    and from then on it is trained. ``kerasq.quantizers.calibrate`` gathers that over many batches
    before: ``new = 0.9 old + 0.1 batch``. At inference an unset clamp is estimated for the one
    call.

    The paper's biases are on a grid of 16 bits, of the activations' step times the weights': our
    layers put them there by ``bias_bits=16``, but for the float stage.

    Args:
        bits: b in 1..8; weights have at least 2.
        stage: the initial one.
        probability: p, of noise, in 0..1.
        residual: also differentiate the scale of activations, as the release does.

    Raises:
        ValueError: bits outside 1..8, weights of 1 bit, an unknown stage, p outside 0..1, or a
            layer that is to be stored in its float stage.

    Paper: C. Baskin, N. Liss, Y. Chai, E. Zheltonozhskii, E. Schwartz, R. Giryes, A. Mendelson, A.
    M. Bronstein, Mathematics 2021, arXiv 1810.00162.

    Deviations: biases keep their precision unless the layer has ``bias_bits``; those of larq's
    layers and TFMOT's wrappers always do, since these quantize no bias. An all-zero layer gives
    zeros. NaN gives the lowest level.
    """

    per_channel = False

    def __init__(
        self,
        bits: int = 4,
        stage: str = "quantized",
        probability: float = 0.05,
        residual: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.bits = check_bits(bits, 2 if self.target == "weights" else 1, 8, "nice")
        self.first_stage = check_choice(stage, NICE_STAGES, "nice: stage")
        self.probability = check_range(probability, 0.0, 1.0, "nice: probability")
        self.residual = bool(residual)
        self.precision = self.bits

    def build(self, shape: Any) -> None:
        """Add the clamp and the stage."""
        check_bits(self.bits, 1 if self.for_activations else 2, 8, "nice, weights")
        self.clamp = self.add_state("clamp", trainable=self.for_activations)
        self.stage = self.add_state("stage", initial=NICE_STAGES.index(self.first_stage))
        super().build(shape)

    def set_stage(self, stage: str) -> None:
        """Move the layer to a stage: "quantized", "noisy" or "float"."""
        index = NICE_STAGES.index(check_choice(stage, NICE_STAGES, "nice: stage"))
        if self.built:
            self.stage.assign(float(index))
        else:
            self.first_stage = stage

    def _in_stage(self, stage: str) -> tf.Tensor:
        return tf.equal(tf.convert_to_tensor(self.stage), float(NICE_STAGES.index(stage)))

    def _clamp(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        def estimate() -> tf.Tensor:
            return nice_activation_clamp(x) if self.for_activations else nice_weight_clamp(x)

        unset = tf.equal(tf.convert_to_tensor(self.clamp), 0.0)
        clamp = self.first_value(self.clamp, unset, estimate, training)
        if self.for_activations and training and is_observing():
            self.clamp.assign(DECAY * clamp + (1.0 - DECAY) * estimate())
        return clamp

    def forward(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return ``x`` as the stage has it."""
        clamp = self._clamp(x, training)
        if self.for_activations:
            quantized = ~self._in_stage("float")
            return nice_activations(x, clamp, self.bits, self.residual, quantized)
        values = grid_values(*nice_weight_grid(x, clamp, self.bits))
        if training and self.probability and not is_observing():
            chosen = tf.random.uniform(tf.shape(x)) < self.probability
            noisy = chosen & self._in_stage("noisy")
            values = tf.where(noisy, nice_noise(x, clamp, self.bits), values)
        values = tf.where(self._in_stage("float"), x, values)
        return clipped_ste(x, values, -np.inf, np.inf)

    def grid(self, x: tf.Tensor) -> Grid:
        """Return codes, scale and zero point."""
        clamp = self._clamp(x)
        if self.for_activations:
            return clipped_grid(x, _or_one(clamp), self.bits)
        return nice_weight_grid(x, clamp, self.bits)

    def grid_step(self, x: tf.Tensor) -> tf.Tensor:
        """Return the scale, and 0 in the float stage."""
        return tf.where(self._in_stage("float"), 0.0, super().grid_step(x))

    def pack(self, w: tf.Tensor) -> Affine:
        """Return the codes."""
        if bool(self._in_stage("float")):
            raise ValueError(
                "nice: in the float stage there are no codes to store: finish the schedule, or "
                "call set_stage('quantized')"
            )
        return super().pack(w)

    def fixed_grid(self) -> tuple[float, float] | None:
        """Return scale and zero point of activations whose clamp is set."""
        if not (self.for_activations and self.built) or bool(self._in_stage("float")):
            return None
        clamp = tf.convert_to_tensor(self.clamp)
        _, scale, _ = clipped_grid(clamp, tf.abs(clamp), self.bits)
        return (float(scale), 0.0) if float(clamp) else None

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "bits": self.bits,
            "stage": self.first_stage,
            "probability": self.probability,
            "residual": self.residual,
        }
