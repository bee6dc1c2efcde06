"""Weights in fixed point: one step for a layer."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import numpy as np
import tensorflow as tf

from kerasq.codebooks.finetuning import FineTuner, Stage
from kerasq.codebooks.method import LayerSettings, Method, config_without_kernel
from kerasq.codebooks.registry import register_method
from kerasq.codebooks.selection import Selection, check_names, convolves, selected
from kerasq.codebooks.site import Site, Solution, weight_solution
from kerasq.keras import register
from kerasq.layers import QuantConv2D, QuantDense
from kerasq.quantizers.base import UniformQuantizer, check_choice, grid_values

KINDS = ("max", "l2")
_ROUNDS = 100  # the alternation ends after a few dozen


def fixed_point_codes(x: tf.Tensor, step: Any, levels: int) -> tf.Tensor:
    """Return ``z = sgn(x) · min(⌊|x|/Δ + ½⌋, (M − 1)/2)``.

    Args:
        x: any shape, float32 or float64.
        step: Δ.
        levels: M, odd.
    """
    return tf.sign(x) * tf.minimum(tf.floor(tf.abs(x) / step + 0.5), (levels - 1) / 2)


def max_step(x: tf.Tensor, levels: int) -> tf.Tensor:
    """Return ``Δ = max|x| / ((M − 1)/2)``, 1 where x is all zeros."""
    # A product, not a quotient: graphs turn divisions by constants into products.
    step = tf.reduce_max(tf.abs(x)) * (2 / (levels - 1))
    return tf.where(step > 0, step, tf.ones_like(step))


def better_step(x: tf.Tensor, step: tf.Tensor, levels: int) -> tf.Tensor:
    """Return ``Δ = Σ x z / Σ z²`` with z the codes of a step; ``Σ (x − Δ z)²`` can only fall."""
    codes = fixed_point_codes(x, step, levels)
    energy = tf.reduce_sum(codes**2)
    return tf.where(energy > 0, tf.reduce_sum(x * codes) / tf.maximum(energy, 1), step)


def l2_step(x: tf.Tensor, levels: int) -> tf.Tensor:
    """Return the step to which `better_step` leads from `max_step`, in x's type.

    Args:
        x: any shape, float32 or float64.
        levels: M, odd.
    """
    values = tf.cast(x, tf.float64)

    def moves(before: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        return before != step

    def alternate(_: tf.Tensor, step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return step, better_step(values, step, levels)

    first = max_step(values, levels)
    start = (first, better_step(values, first, levels))
    _, step = tf.while_loop(moves, alternate, start, maximum_iterations=_ROUNDS)
    return tf.cast(step, x.dtype)


@register
class FixedPointQuantizer(UniformQuantizer):
    r"""Weights in fixed point: M odd levels around zero, one step for a layer.

    Forward: ``q = Δ z``, ``z = sgn(w) · min(⌊|w|/Δ + ½⌋, (M − 1)/2)``.

    Gradient: ``dL/dw = dL/dq``.

    Δ is `max_step` ("max") or `l2_step` ("l2") of the weights at hand until it is set: by the first
    call in training, or by :meth:`fit`. Then it stays.

    Args:
        kind: "max" or "l2".
        levels: M, odd, 3 to 255.

    Raises:
        ValueError: a setting out of range.

    Papers: V. Vanhoucke, A. Senior, M. Mao, "Improving the speed of neural networks on CPUs", NIPS
    workshop 2011 (M = 255, "max"); K. Hwang, W. Sung, "Fixed-point feedforward deep neural network
    design using weights +1, 0, and -1", SiPS 2014 ("l2").
    """

    method = "fixed_point"
    uses = "weights"
    per_channel = False

    def __init__(self, kind: str = "max", levels: int = 255, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.kind = check_choice(kind, KINDS, "fixed_point: kind")
        self.size = check_levels(levels)
        self.bits = self.precision = (self.size - 1).bit_length()

    def build(self, shape: Any) -> None:
        """Add the step; 0 as long as it is not set."""
        self.step = self.add_state("step")
        super().build(shape)

    def fit(self, w: Any) -> None:
        """Set the step to that of some weights."""
        self.step.assign(self._estimate(tf.cast(tf.convert_to_tensor(w), tf.float32)))

    def _estimate(self, w: tf.Tensor) -> tf.Tensor:
        return max_step(w, self.size) if self.kind == "max" else l2_step(w, self.size)

    def grid(self, x: tf.Tensor, training: bool = False) -> tuple[tf.Tensor, tf.Tensor, np.float32]:
        """Return codes, scale and zero point."""
        unset = tf.convert_to_tensor(self.step) <= 0
        step = self.first_value(self.step, unset, lambda: self._estimate(x), training)
        middle = np.float32((self.size - 1) / 2)
        return fixed_point_codes(x, step, self.size) + middle, step, middle

    def forward(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return ``x`` on the grid."""

        @tf.custom_gradient
        def quantize(x: tf.Tensor) -> tf.Tensor:
            return grid_values(*self.grid(x, training)), lambda dq: dq

        return quantize(x)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "kind": self.kind, "levels": self.size}


@dataclasses.dataclass(frozen=True)
class FixedPointSettings(LayerSettings):
    """A layer whose kernel becomes whole multiples of a step.

    Attributes:
        kind: "max" or "l2".
        levels: M.
    """

    kind: str
    levels: int

    def replacement(self, layer: Any) -> QuantConv2D | QuantDense:
        """Return an unbuilt layer of the layer's configuration."""
        cls = QuantConv2D if convolves(layer) else QuantDense
        quantizer = FixedPointQuantizer(self.kind, self.levels)
        return cls.from_config({**config_without_kernel(layer), "kernel_quantizer": quantizer})

    def __str__(self) -> str:
        """Return the levels."""
        return f"M={self.levels} {self.kind}"


@register_method("fixed_point", "Improving the speed of neural networks on CPUs")
class FixedPoint(Method):
    r"""Fixed point: weights are whole multiples of a step Δ, one for each layer.

    ``Ŵ = Δ z``, ``z = sgn(W) · min(⌊|W|/Δ + ½⌋, (M − 1)/2)``. With "max" ``Δ = max|W| / ((M −
    1)/2)``: for M = 255 ``z = round(127 W / max|W|)``, 8 bits. With "l2" that Δ is where the
    alternation starts of z and ``Δ = Σ W z / Σ z²``, which lowers ``Σ (W − Δ z)²`` until nothing
    changes.

    Retraining keeps the steps: the network computes with Δ z, and the gradient for Δ z changes the
    float weights. It trains on labels where data is (inputs, labels), otherwise against the float
    network's outputs.

    Args:
        kind: "max" or "l2".
        levels: M, odd, 3 to 255: for all layers, or a dict from layer names (255 for those that it
            does not name).
        layers: a dict from layer names, or a function of the layer, to False for those that stay
            float.
        steps: batches of retraining; 0 needs no data.
        learning_rate: of Adam, going down to zero as a cosine.
        batch_size: samples in a step.
        seed: of their order.

    Raises:
        ValueError: a setting out of range.

    References: Vanhoucke, Senior, Mao, Improving the speed of neural networks on CPUs, NIPS
    workshop 2011 ("max"); Hwang, Sung, Fixed-point feedforward deep neural network design using
    weights +1, 0, and -1, SiPS 2014, and Anwar, Hwang, Sung, Fixed point optimization of deep
    convolutional neural networks for object recognition, ICASSP 2015 ("l2")

    Deviations: activations and biases stay float, where Vanhoucke's are 8 and 32 bits; ties round
    away from zero; Adam.
    """

    needs_moments = False

    def __init__(
        self,
        kind: str = "max",
        levels: int | dict[str, int] = 255,
        layers: Selection = None,
        steps: int = 0,
        learning_rate: float = 1e-4,
        batch_size: int = 128,
        seed: int = 0,
    ):
        self.kind, self.levels, self.layers = kind, levels, layers
        self.steps, self.learning_rate = steps, learning_rate
        self.batch_size, self.seed = batch_size, seed
        check_choice(kind, KINDS, "FixedPoint: kind")
        for size in levels.values() if isinstance(levels, dict) else [levels]:
            check_levels(size)
        if steps < 0 or batch_size < 1:
            raise ValueError("FixedPoint: steps must be at least 0 and batch_size at least 1")

    @property
    def needs_data(self) -> bool:
        """Retraining needs data."""
        return self.steps > 0

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def plan(self, layers: list[Any]) -> dict[str, FixedPointSettings]:
        """Return the settings of the layers to compress, by name.

        Raises:
            ValueError: ``layers`` or ``levels`` names a layer that is not there.
        """
        sizes = self.levels if isinstance(self.levels, dict) else {}
        check_names(layers, sizes, "FixedPoint(levels=...)")
        every = 255 if isinstance(self.levels, dict) else self.levels
        return {
            layer.name: FixedPointSettings(self.kind, sizes.get(layer.name, every))
            for layer in selected(layers, self.layers, "FixedPoint")
        }

    def solve(self, site: Site, rng: np.random.Generator) -> Solution:
        """Measure the error; the weights stay, their step is found by `after_layer`."""
        quantizer = FixedPointQuantizer(site.settings.kind, site.settings.levels)
        decoded = quantizer.represent(site.kernel).decode()
        return weight_solution({"kernel": site.kernel}, site.kernel, decoded)

    def after_layer(self, compressed: Any, replacement: Any, tuner: FineTuner) -> None:
        """Set the step of the layer's kernel, which retraining then keeps."""
        replacement.kernel_quantizer.fit(replacement.kernel)

    def finish(self, compressed: Any, tuner: FineTuner) -> None:
        """Retrain the network."""
        if not self.steps:
            return
        stage = Stage(
            "fixed_point",
            self.steps,
            self.learning_rate,
            self.batch_size,
            optimizer="adam",
            schedule="cosine",
            training=True,
            loss="distillation" if tuner.labels is None else "labels",
        )
        tuner.run(compressed, stage)


def check_levels(levels: int) -> int:
    """Return the number of levels.

    Raises:
        ValueError: it is not odd, or not 3 to 255.
    """
    if not 3 <= levels <= 255 or levels % 2 != 1:
        raise ValueError(f"fixed_point: levels must be odd, 3 to 255, got {levels}")
    return int(levels)
