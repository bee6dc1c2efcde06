"""Ranges from data: the maximum, a percentile, and the least Kullback-Leibler divergence."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from kerasq.quantizers.aciq import DISTRIBUTIONS, aciq_threshold
from kerasq.quantizers.base import (
    UniformQuantizer,
    check_bits,
    check_choice,
    check_range,
    grid_values,
    is_observing,
    reduced_axes,
)
from kerasq.quantizers.histograms import (
    BINS,
    SMOOTHINGS,
    ZERO_BINS,
    histogram,
    kl_threshold,
    quantile,
    squared_error_threshold,
    stretched,
)
from kerasq.quantizers.registry import register_quantizer

RULES = ("percentile", "mse", *(f"aciq_{name}" for name in DISTRIBUTIONS))


def saturated_grid(
    x: tf.Tensor, threshold: tf.Tensor, bits: int, signed: bool = True
) -> tuple[tf.Tensor, tf.Tensor, float]:
    """Return codes, scale and zero point of ``x`` on the grid of [-T, T], or of [0, T].

    A threshold of 0 (nothing but zeros) gives the scale 1.

    Args:
        x: float32 tensor.
        threshold: T, not negative; it broadcasts with ``x``.
        bits: width of a code.
        signed: the codes are -(2^(bits-1) - 1)..2^(bits-1) - 1, stored with 2^(bits-1) added;
            otherwise 0..2^bits - 1.
    """
    steps = 2.0 ** (bits - 1) - 1 if signed else 2.0**bits - 1
    zero_point = 2.0 ** (bits - 1) if signed else 0.0
    top = tf.where(threshold > 0, threshold, steps * tf.ones_like(threshold))
    unit = tf.clip_by_value(x / top, -1.0 if signed else 0.0, 1.0)
    # A product, not a quotient: graphs turn divisions by constants into products.
    return tf.round(unit * steps) + zero_point, top * np.float32(1 / steps), zero_point


def saturate(x: tf.Tensor, threshold: tf.Tensor, bits: int, signed: bool = True) -> tf.Tensor:
    """Put ``x`` on the grid of [-T, T] or [0, T]; what lies outside gets the nearest end.

    Gradient: ``dL/dx = dL/dq`` on the closed range, 0 outside; the threshold is a constant.
    """

    @tf.custom_gradient
    def quantize(x: tf.Tensor) -> tf.Tensor:
        def grad(dq: tf.Tensor) -> tf.Tensor:
            low = -threshold if signed else 0.0
            return tf.where((x >= low) & (x <= threshold), dq, tf.zeros_like(dq))

        return grid_values(*saturated_grid(x, threshold, bits, signed)), grad

    return quantize(x)


def max_threshold(
    x: tf.Tensor, channel_axes: Sequence[int] = (), factor: float = 1.0, signed: bool = True
) -> tf.Tensor:
    """Return ``factor * max|x|``, with kept dimensions of ``channel_axes`` where there are some."""
    axes = reduced_axes(x.shape.rank, channel_axes) if channel_axes else None
    largest = tf.reduce_max(_magnitude(x, signed), axis=axes, keepdims=bool(channel_axes))
    return np.float32(factor) * largest


def _magnitude(x: tf.Tensor, signed: bool) -> tf.Tensor:
    """Return ``|x|``, or ``relu(x)`` of values without a sign; 0 for what is not finite."""
    magnitude = tf.abs(x) if signed else tf.nn.relu(x)
    return tf.where(tf.math.is_finite(magnitude), magnitude, tf.zeros_like(magnitude))


class _Calibrated(UniformQuantizer):
    """Weights have the range of the tensor itself, activations that of the data seen in training.

    A subclass implements :meth:`threshold_of` and, for activations, :meth:`observe`.
    """

    def __init__(self, bits: int = 8, signed: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bits = check_bits(bits, 2, 8, self.method)
        self.signed = bool(signed)
        self.precision = self.bits
        if self.for_activations:
            self.channel_axes = ()

    @property
    def has_sign(self) -> bool:
        """Tell whether the grid has negative values: that of weights always has."""
        return self.signed or not self.for_activations

    def build(self, shape: Any) -> None:
        """Add the threshold of activations; 0 means that no data was seen yet."""
        if self.for_activations:
            self.threshold = self.add_state("threshold")
        super().build(shape)

    @abc.abstractmethod
    def threshold_of(self, x: tf.Tensor) -> tf.Tensor:
        """Return the threshold that suits the tensor at hand."""

    @abc.abstractmethod
    def observe(self, x: tf.Tensor) -> tf.Tensor:
        """Add activations to what was seen, and return the threshold for all of it."""

    def _threshold(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        if not self.for_activations:
            return self.threshold_of(x)
        if training and (self.trainable or is_observing()):
            self.threshold.assign(self.observe(x))
        known = tf.convert_to_tensor(self.threshold)
        return tf.cond(known > 0.0, lambda: known, lambda: self.threshold_of(x))

    def forward(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return ``x`` on the grid; activations in training are observed first."""
        threshold = tf.stop_gradient(self._threshold(x, training))
        return saturate(x, threshold, self.bits, self.has_sign)

    def grid(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, float]:
        """Return codes, scale and zero point."""
        return saturated_grid(x, self._threshold(x), self.bits, self.has_sign)

    def fixed_grid(self) -> tuple[float, float] | None:
        """Return scale and zero point of calibrated activations."""
        if not (self.for_activations and self.built) or not float(self.threshold) > 0:
            return None
        known = tf.convert_to_tensor(self.threshold)
        _, scale, zero_point = saturated_grid(known, known, self.bits, self.has_sign)
        return float(scale), zero_point

    def levels(self) -> np.ndarray | None:
        """Return the values of calibrated activations of at most 4 bits."""
        levels = super().levels()
        # The code of -2^(bits-1) is not used: the range is symmetric.
        return levels[1:] if levels is not None and self.signed else levels

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "bits": self.bits, "signed": self.signed}


@register_quantizer(
    name="calibrate_max",
    paper="8-bit Inference with TensorRT",
    arxiv="GTC 2017 S7310",
    bits=(2, 8),
    target="both",
    representation="Affine",
)
class CalibrateMax(_Calibrated):
    r"""Uniform grid up to the largest magnitude (max calibration, max-scalar).

    Forward: ``q = s * clip(round(x / s), -n, n)``, ``s = f * max|x| / n``, ``n = 2^(b-1) - 1``.
    Activations without a sign: codes 0..n, ``n = 2^b - 1``.

    Gradient: ``dL/dx = dL/dq * 1{|x| <= f * max|x|}`` (``1{0 <= x <= ...}`` without a sign); the
    maximum is held constant.

    Weights take their own maximum at each call. Activations take the running maximum of the data
    seen in training or by :func:`calibrate`; before any, that of the tensor at hand. With
    ``trainable = False`` training adds no more data.

    Args:
        bits: b in 2..8.
        signed: activations have negative values too; weights always have.
        factor: f in (0, 1], of the maximum ("scaled max": 0.8).
        channel_axes: axes of weights that keep a scale of their own; activations have one scale.

    Raises:
        ValueError: bits outside 2..8, or a factor outside (0, 1].

    Paper: S. Migacz, "8-bit Inference with TensorRT", NVIDIA, GTC 2017 S7310 (no arXiv id).

    Deviations: the talk calibrates trained networks only; the straight-through gradient is there
    to fine-tune them.
    """

    def __init__(
        self,
        bits: int = 8,
        signed: bool = False,
        factor: float = 1.0,
        channel_axes: Sequence[int] = (-1,),
        **kwargs: Any,
    ) -> None:
        super().__init__(bits, signed, channel_axes=channel_axes, **kwargs)
        self.factor = check_range(factor, 1e-6, 1.0, "calibrate_max: factor")

    def threshold_of(self, x: tf.Tensor) -> tf.Tensor:
        """Return the scaled maximum."""
        return max_threshold(x, self.channel_axes, self.factor, self.has_sign)

    def observe(self, x: tf.Tensor) -> tf.Tensor:
        """Return the scaled maximum of all activations seen."""
        return tf.maximum(tf.convert_to_tensor(self.threshold), self.threshold_of(x))

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "factor": self.factor}


class _HistogramCalibrated(_Calibrated):
    """The threshold comes of a histogram of the magnitudes, of all activations seen.

    A subclass implements :meth:`threshold_in`.
    """

    per_channel = False

    def build(self, shape: Any) -> None:
        """Add the histogram and its upper end."""
        if self.for_activations:
            self.counts = self.add_state("histogram", (BINS,))
            self.peak = self.add_state("peak")
        super().build(shape)

    @abc.abstractmethod
    def threshold_in(self, counts: tf.Tensor, peak: tf.Tensor) -> tf.Tensor:
        """Return the threshold for a histogram (float64) over [0, peak]."""

    def threshold_of(self, x: tf.Tensor) -> tf.Tensor:
        """Return the threshold for the histogram of the tensor."""
        magnitude = _magnitude(x, self.has_sign)
        peak = tf.reduce_max(magnitude)
        return self.threshold_in(histogram(magnitude, peak), peak)

    def observe(self, x: tf.Tensor) -> tf.Tensor:
        """Add the magnitudes to the histogram, which is stretched where a new maximum appears."""
        magnitude = _magnitude(x, self.has_sign)
        old = tf.convert_to_tensor(self.peak)
        peak = tf.maximum(old, tf.reduce_max(magnitude))
        counts = stretched(tf.convert_to_tensor(self.counts), old, peak)
        counts += histogram(magnitude, peak)
        self.peak.assign(peak)
        self.counts.assign(tf.cast(counts, tf.float32))
        return self.threshold_in(counts, peak)


@register_quantizer(
    name="calibrate_percentile",
    paper="8-bit Inference with TensorRT",
    arxiv="GTC 2017 S7310",
    bits=(2, 8),
    target="both",
    representation="Affine",
)
class CalibratePercentile(_HistogramCalibrated):
    r"""Uniform grid up to a percentile of the magnitudes, or up to the least squared error.

    Forward: ``q = s * clip(round(x / s), -n, n)``, ``s = T / n``, ``n = 2^(b-1) - 1``. Activations
    without a sign: codes 0..n, ``n = 2^b - 1``. T follows from the magnitudes by a rule:

    - ``"percentile"``: the p-th percentile of |x|;
    - ``"mse"``: of the 2048 bins' right edges the one with the least ``sum((x - q)^2)``; of equals
      the greatest;
    - ``"aciq_gauss"``, ``"aciq_laplace"``: a multiple of ``sigma = sqrt(mean(x^2))`` or ``b =
      mean|x|`` over the values that are not 0: that of the least squared error where x is normal,
      or Laplace's (2, 3, 4, 8 bits: 1.478, 1.805, 2.192, 3.617 sigma; 2.332, 3.045, 4.004, 8.653
      b). Values without a sign are half of such a distribution, with the multiple of b + 1 bits.

    Gradient: ``dL/dx = dL/dq * 1{|x| <= T}`` (``1{0 <= x <= T}`` without a sign); T is held
    constant.

    Weights take their own percentile at each call, linearly interpolated between elements.
    Activations take that of the histogram (2048 bins) of the data seen in training or by
    :func:`calibrate`, linearly interpolated within a bin; before any, that of the tensor at hand.
    With ``trainable = False`` training adds no more data. By "mse" weights have a histogram too,
    whose 2048 thresholds are all tried at each call.

    Args:
        bits: b in 2..8.
        signed: activations have negative values too; weights always have.
        percentile: p in 0..100, usually 99.9, 99.99 or 99.999; for the rule "percentile".
        rule: "percentile", "mse", "aciq_gauss" or "aciq_laplace".

    Raises:
        ValueError: bits outside 2..8, no percentile, or another rule.

    Paper: S. Migacz, "8-bit Inference with TensorRT", NVIDIA, GTC 2017 S7310 (no arXiv id); the
    percentile is that of NVIDIA's pytorch-quantization. ACIQ: R. Banner, Y. Nahshan, E. Hoffer, D.
    Soudry, arXiv 1810.05723.

    Deviations: where the percentile of the tensor at hand is 0 but its maximum is not, T is the
    maximum; the histogram's is at least the first bin's end. By "mse" a bin's values count as its
    centre. ACIQ clips on both sides of the mean, which is 0 here, since the grid is symmetric; T is
    at most the maximum; of activations the histogram's first bin counts as zeros. Its multiples are
    those that OCS's code publishes: they assume a larger rounding error than this grid's.
    """

    def __init__(
        self,
        bits: int = 8,
        signed: bool = False,
        percentile: float = 99.99,
        rule: str = "percentile",
        **kwargs: Any,
    ) -> None:
        super().__init__(bits, signed, **kwargs)
        self.percentile = check_range(percentile, 0, 100, "calibrate_percentile: percentile")
        self.rule = check_choice(rule, RULES, "calibrate_percentile: rule")

    def threshold_of(self, x: tf.Tensor) -> tf.Tensor:
        """Return the threshold of the magnitudes at hand."""
        if self.rule == "mse":
            return super().threshold_of(x)
        magnitude = _magnitude(x, self.has_sign)
        if self.rule == "percentile":
            threshold = quantile(magnitude, self.percentile / 100)
        else:
            threshold = self._aciq(magnitude, tf.cast(magnitude > 0, tf.float32))
        largest = tf.reduce_max(magnitude)
        return tf.where(threshold > 0, tf.minimum(threshold, largest), largest)

    def threshold_in(self, counts: tf.Tensor, peak: tf.Tensor) -> tf.Tensor:
        """Return the threshold of a histogram."""
        if self.rule == "percentile":
            end = self._percentile_in(counts)
        elif self.rule == "mse":
            end = tf.cast(squared_error_threshold(counts, self._steps) / BINS, tf.float32)
        else:
            centre = (tf.range(BINS, dtype=tf.float64) + 0.5) / BINS
            end = self._aciq(centre, counts * tf.cast(centre > 1 / BINS, tf.float64))
            end = tf.minimum(tf.cast(end, tf.float32), 1.0)
        # Of what lies in the first bin, zeros most of all, the histogram cannot tell more.
        return peak * tf.maximum(end, 1 / BINS)

    @property
    def _steps(self) -> int:
        return 2 ** (self.bits - 1) - 1 if self.has_sign else 2**self.bits - 1

    def _percentile_in(self, counts: tf.Tensor) -> tf.Tensor:
        """Return where the histogram over [0, 1] has reached the percentile."""
        total = tf.cumsum(counts)
        want = total[-1] * (self.percentile / 100)
        index = tf.minimum(tf.reduce_sum(tf.cast(total < want, tf.int32)), BINS - 1)
        missing = want - (total[index] - counts[index])
        edge = tf.cast(index, tf.float64) + tf.math.divide_no_nan(missing, counts[index])
        return tf.cast(edge / BINS, tf.float32)

    def _aciq(self, magnitude: tf.Tensor, counts: tf.Tensor) -> tf.Tensor:
        bits = self.bits if self.has_sign else self.bits + 1
        return aciq_threshold(magnitude, counts, self.rule.removeprefix("aciq_"), bits)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "percentile": self.percentile, "rule": self.rule}


@register_quantizer(
    name="calibrate_kl",
    paper="8-bit Inference with TensorRT",
    arxiv="GTC 2017 S7310",
    bits=(2, 8),
    target="both",
    representation="Affine",
)
class CalibrateKL(_HistogramCalibrated):
    r"""Uniform grid up to the threshold of the least Kullback-Leibler divergence (entropy).

    Forward: ``q = s * clip(round(x / s), -n, n)``, ``s = T / n``, ``n = 2^(b-1) - 1``. Activations
    without a sign: codes 0..n, ``n = 2^b - 1``. T is the right edge of that bin of the histogram of
    |x| (2048 bins) where ``KL(P || Q)`` is least, P being the histogram with the values above T in
    its last bin, Q the histogram without them, on ``2^(b-1)`` levels (``2^b`` without a sign);
    candidates with Q = 0 where P > 0 are rejected, or P and Q are smoothed first; of equals the
    greatest T is taken.

    Gradient: ``dL/dx = dL/dq * 1{|x| <= T}`` (``1{0 <= x <= T}`` without a sign); T is held
    constant.

    Weights take the threshold of their own histogram at each call, activations that of all data
    seen in training or by :func:`calibrate`; before any, that of the tensor at hand. With
    ``trainable = False`` training adds no more data.

    Args:
        bits: b in 2..8.
        signed: activations have negative values too; weights always have.
        zero_bin: "neighbor" gives the histogram's first bin the count of its second, as NVIDIA's
            tool does; "keep" leaves it.
        smoothing: "reject" candidates with Q = 0 where P > 0; "mxnet" gives empty bins 1e-4 and
            takes that evenly from the others, for P and Q each. Its search costs the square of the
            bins, at each call for weights.

    Raises:
        ValueError: bits outside 2..8, another zero_bin, or another smoothing.

    Paper: S. Migacz, "8-bit Inference with TensorRT", NVIDIA, GTC 2017 S7310 (no arXiv id).

    Deviations: T is the bin's right edge, as in NVIDIA's tool; the talk takes its middle. Of MXNet
    there is the smoothing, not the histogram of 8001 bins over both signs around one of zero: the
    grid is symmetric, so that signs do not matter to T, and MXNet merges equally many bins for each
    of its 255 levels, the rest going to the last, which favours one side. For the smoothing a bin
    with less than half a value, as a stretched histogram may have, is empty.
    """

    def __init__(
        self,
        bits: int = 8,
        signed: bool = False,
        zero_bin: str = "neighbor",
        smoothing: str = "reject",
        **kwargs: Any,
    ) -> None:
        super().__init__(bits, signed, **kwargs)
        self.zero_bin = check_choice(zero_bin, ZERO_BINS, "calibrate_kl: zero_bin")
        self.smoothing = check_choice(smoothing, SMOOTHINGS, "calibrate_kl: smoothing")

    def threshold_in(self, counts: tf.Tensor, peak: tf.Tensor) -> tf.Tensor:
        """Return the right edge of the best bin."""
        levels = 2 ** (self.bits - 1) if self.has_sign else 2**self.bits
        best = kl_threshold(counts, levels, self.zero_bin, self.smoothing)
        return peak * tf.cast(best / BINS, tf.float32)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        config = {"zero_bin": self.zero_bin, "smoothing": self.smoothing}
        return {**super().get_config(), **config}
