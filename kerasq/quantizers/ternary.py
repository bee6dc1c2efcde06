"""Two-bit quantizers with one negative value, zero and one positive value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from kerasq.quantizers.base import (
    Quantizer,
    check_range,
    group_size,
    plane_scales,
    reduced_axes,
    scalar_codebook,
)
from kerasq.quantizers.registry import register_quantizer
from kerasq.representations import BitPlanes, Codebook


def ternary_planes(
    ternary: tf.Tensor, scale: tf.Tensor, channel_axes: Sequence[int] = ()
) -> BitPlanes:
    """Return ``scale * ternary``, of values -1, 0, +1, as planes: (+, +), (+, -) is 0, (-, -)."""
    t = ternary.numpy()
    signs = np.stack([np.where(t >= 0, 1, -1), np.where(t > 0, 1, -1)])
    scales = plane_scales(0.5 * scale, 2, channel_axes)
    return BitPlanes.from_signs(signs, scales, channel_axes=tuple(channel_axes))


def _best_threshold(magnitude: tf.Tensor, channel_axes: Sequence[int]) -> tf.Tensor:
    """Return the k-th largest magnitude where ``(sum of the k largest)^2 / k`` is greatest."""
    rank = magnitude.shape.rank
    axes = reduced_axes(rank, channel_axes)
    kept = [axis for axis in range(rank) if axis not in axes]
    count = group_size(magnitude, axes)
    rows = tf.reshape(tf.transpose(magnitude, [*kept, *axes]), [-1, count])
    ordered = tf.sort(rows, axis=1, direction="DESCENDING")
    score = tf.cumsum(ordered, axis=1) ** 2 * tf.constant(1.0 / np.arange(1, count + 1), tf.float32)
    best = tf.gather(ordered, tf.argmax(score, axis=1), batch_dims=1)
    return tf.reshape(best, [magnitude.shape[a] if a in kept else 1 for a in range(rank)])


def twn_parts(
    w: tf.Tensor, channel_axes: Sequence[int] = (), exact: bool = False
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return alpha (kept dimensions) and t in {-1, 0, +1} of TWN; see :class:`TWN`."""
    magnitude = tf.abs(w)
    axes = reduced_axes(w.shape.rank, channel_axes)
    if exact:
        chosen = (magnitude >= _best_threshold(magnitude, channel_axes)) & (magnitude > 0)
    else:
        chosen = magnitude > 0.7 * tf.reduce_mean(magnitude, axis=axes, keepdims=True)
    mask = tf.cast(chosen, tf.float32)
    alpha = tf.math.divide_no_nan(
        tf.reduce_sum(magnitude * mask, axis=axes, keepdims=True),
        tf.reduce_sum(mask, axis=axes, keepdims=True),
    )
    return alpha, tf.where(w > 0, mask, tf.where(chosen, -mask, tf.zeros_like(mask)))


def twn(w: tf.Tensor, channel_axes: Sequence[int] = (), exact: bool = False) -> tf.Tensor:
    """Scaled ternary values with the identity gradient; see :class:`TWN`."""

    @tf.custom_gradient
    def quantize(w: tf.Tensor) -> tf.Tensor:
        alpha, ternary = twn_parts(w, channel_axes, exact)
        return alpha * ternary, lambda dq: dq

    return quantize(w)


@register_quantizer(
    name="twn",
    paper="Ternary Weight Networks",
    arxiv="1605.04711",
    bits=2,
    target="weights",
    representation="BitPlanes",
)
class TWN(Quantizer):
    r"""Ternary weights with a scale.

    Forward: ``q = alpha * t``, ``t = sign(w) * 1{|w| > delta}``, ``delta = 0.7 * mean|w|``,
    ``alpha`` = the mean of those ``|w|`` that are above delta. With ``exact``, the k largest
    ``|w|`` are kept, k maximizing ``(sum of the k largest |w|)^2 / k``: the minimizer of
    ``||w - alpha t||^2``.

    Gradient: ``dL/dw = dL/dq``, for the zeroed weights as well.

    Args:
        exact: search the optimal threshold.
        channel_axes: (), one scale per layer, as the release; (-1,) for a scale per filter.

    Raises:
        ValueError: an axis outside the kernel.

    Paper: F. Li, B. Zhang, B. Liu, "Ternary Weight Networks", arXiv 1605.04711.

    Deviations: the release adds 1e-6 to the count in alpha's denominator; here an all-zero tensor
    gives zeros instead.
    """

    precision = 2

    def __init__(
        self, exact: bool = False, *, channel_axes: Sequence[int] = (), **kwargs: Any
    ) -> None:
        super().__init__(channel_axes=channel_axes, **kwargs)
        self.exact = bool(exact)

    def forward(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return ``alpha * t``."""
        return twn(x, self.channel_axes, self.exact)

    def pack(self, w: tf.Tensor) -> BitPlanes:
        """Return two planes of scale alpha / 2."""
        alpha, ternary = twn_parts(w, self.channel_axes, self.exact)
        return ternary_planes(ternary, alpha, self.channel_axes)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "exact": self.exact}


@tf.custom_gradient
def tnn(x: tf.Tensor, lower: tf.Tensor, upper: tf.Tensor) -> tf.Tensor:
    """Ternary values by two thresholds; see :class:`TNN`."""
    above, below = tf.cast(x > upper, tf.float32), tf.cast(x < lower, tf.float32)
    return above - below, lambda dq: (dq, None, None)


@tf.custom_gradient
def stochastic_firing(x: tf.Tensor) -> tf.Tensor:
    """Ternary values whose mean is ``clip(x, -1, 1)``; see :class:`TNN`."""
    noise = tf.random.uniform(tf.shape(x))
    return tf.floor(tf.clip_by_value(x, -1.0, 1.0) + noise), lambda dq: dq


Thresholds = float | Sequence[float]


@register_quantizer(
    name="tnn",
    paper="Ternary Neural Networks for Resource-Efficient AI Applications",
    arxiv="1609.00222",
    bits=2,
    target="activations",
    representation="BitPlanes",
)
class TNN(Quantizer):
    r"""Ternary activations by two thresholds.

    Forward: ``q = +1 if x > upper, -1 if x < lower, else 0``: with the thresholds -1/2 and 1/2,
    ``round(x)`` of an ``x`` in [-1, 1]. With ``stochastic``, in training, ``q = floor(clip(x, -1,
    1) + u)``, u uniform in [0, 1): +1 with the probability x, or -1 with the probability -x, so
    that the mean is x.

    Gradient: ``dL/dx = dL/dq``.

    The input is squashed already: put a tanh before it, as the teacher does. A student network has
    neither tanh nor batch normalization, but two whole thresholds for each neuron.

    Args:
        lower: the lower threshold, or one for each neuron (the last axis).
        upper: the upper one, or one for each neuron; not below the lower.
        stochastic: fire at random in training, as the paper's teacher.

    Raises:
        ValueError: thresholds that are not finite, of more than one axis, or in the wrong order;
            another number of them than there are neurons.

    Paper: H. Alemdar, V. Leroy, A. Prost-Boucle, F. Petrot, "Ternary Neural Networks for
    Resource-Efficient AI Applications", IJCNN 2017, arXiv 1609.00222.

    Deviations: drawing at random takes no notice of the thresholds. NaN gives 0.
    """

    precision = 2
    per_channel = False

    def __init__(
        self,
        lower: Thresholds = -0.5,
        upper: Thresholds = 0.5,
        stochastic: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.lower, self.upper = np.asarray(lower, np.float32), np.asarray(upper, np.float32)
        self.stochastic = bool(stochastic)
        self._check_thresholds()

    def _check_thresholds(self) -> None:
        counts = {t.size for t in (self.lower, self.upper) if t.ndim}
        if max(self.lower.ndim, self.upper.ndim) > 1 or len(counts) > 1:
            raise ValueError(
                "tnn: lower and upper must be numbers or lists of one length, got the shapes "
                f"{self.lower.shape} and {self.upper.shape}"
            )
        if not np.isfinite(self.lower + self.upper).all() or np.any(self.lower > self.upper):
            raise ValueError(
                f"tnn: lower must not exceed upper, both finite, got {self.lower.tolist()!r} and "
                f"{self.upper.tolist()!r}"
            )

    @property
    def per_feature(self) -> bool:
        """Tell whether neurons have thresholds of their own."""
        return max(self.lower.ndim, self.upper.ndim) == 1

    def build(self, input_shape: Any) -> None:
        """Check that there are as many thresholds as neurons."""
        count = max(self.lower.size, self.upper.size)
        if self.per_feature and input_shape[-1] != count:
            raise ValueError(f"tnn: {count} thresholds for inputs of shape {tuple(input_shape)}")
        super().build(input_shape)

    def forward(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return -1, 0 or +1."""
        if training and self.stochastic:
            return stochastic_firing(x)
        return tnn(x, tf.constant(self.lower), tf.constant(self.upper))

    def pack(self, w: tf.Tensor) -> BitPlanes:
        """Return two planes of scale 1/2."""
        return ternary_planes(self.forward(w), tf.ones(()))

    def levels(self) -> np.ndarray:
        """Return -1, 0 and +1."""
        return np.array([-1.0, 0.0, 1.0], np.float32)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        config = {"lower": self.lower.tolist(), "upper": self.upper.tolist()}
        return {**super().get_config(), **config, "stochastic": self.stochastic}


def ttq_threshold(w: tf.Tensor, t: float = 0.05, sparsity: float | None = None) -> tf.Tensor:
    """Return ``t * max|w|``, or the quantile of ``|w|`` at ``sparsity``."""
    magnitude = tf.abs(w)
    if sparsity is None:
        return t * tf.reduce_max(magnitude)
    ordered = tf.sort(tf.reshape(magnitude, [-1]))
    position = sparsity * (group_size(w, range(w.shape.rank)) - 1)
    low, high = ordered[int(np.floor(position))], ordered[int(np.ceil(position))]
    return low + (high - low) * (position - np.floor(position))


def ttq_codes(w: tf.Tensor, t: float = 0.05, sparsity: float | None = None) -> tf.Tensor:
    """Return 0 for -W_n, 1 for zero and 2 for W_p, whole numbers."""
    threshold = ttq_threshold(w, t, sparsity)
    return 1 + tf.cast(w > threshold, tf.int32) - tf.cast(w < -threshold, tf.int32)


def ttq(
    w: tf.Tensor,
    w_p: tf.Tensor,
    w_n: tf.Tensor,
    t: float = 0.05,
    sparsity: float | None = None,
) -> tf.Tensor:
    """Ternary values of two trained magnitudes; see :class:`TTQ`."""

    @tf.custom_gradient
    def quantize(w: tf.Tensor, w_p: tf.Tensor, w_n: tf.Tensor) -> tf.Tensor:
        codes = ttq_codes(w, t, sparsity)

        def grad(dq: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            at_p = tf.reduce_sum(tf.where(codes == 2, dq, 0.0))
            at_n = -tf.reduce_sum(tf.where(codes == 0, dq, 0.0))
            return dq * tf.gather(tf.stack([w_n, 1.0, w_p]), codes), at_p, at_n

        return tf.gather(tf.stack([-w_n, 0.0, w_p]), codes), grad

    return quantize(w, w_p, w_n)


@register_quantizer(
    name="ttq",
    paper="Trained Ternary Quantization",
    arxiv="1612.01064",
    bits=2,
    target="weights",
    representation="Codebook",
    learnable=True,
)
class TTQ(Quantizer):
    r"""Ternary weights whose positive and negative values are trained.

    Forward: ``q = W_p if w > delta, -W_n if w < -delta, else 0`` with ``delta = t * max|w|``, or
    the quantile of ``|w|`` at ``sparsity``. W_p and W_n are one number each per layer, 1 at first.

    Gradient, with ``g = dL/dq``: ``dL/dw = W_p * g``, ``1 * g`` or ``W_n * g`` where q is
    positive, zero or negative; ``dL/dW_p`` = the sum of g where q is positive, ``dL/dW_n`` = minus
    its sum where q is negative. Delta is a constant.

    Args:
        t: the threshold as a part of the largest magnitude, in 0..1.
        sparsity: the part of the weights that becomes zero, in 0..1, in place of t.

    Raises:
        ValueError: t or sparsity outside 0..1.

    Paper: C. Zhu, S. Han, H. Mao, W. J. Dally, "Trained Ternary Quantization", ICLR 2017, arXiv
    1612.01064.

    Deviations: the paper prints ``dL/dW_n`` without its minus, as the derivative by the signed
    value. Quantiles between two weights are interpolated linearly.
    """

    precision = 2
    per_channel = False

    def __init__(self, t: float = 0.05, sparsity: float | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.t = check_range(t, 0.0, 1.0, "ttq: t")
        given = sparsity is not None
        self.sparsity = check_range(sparsity, 0.0, 1.0, "ttq: sparsity") if given else None

    def build(self, input_shape: Any) -> None:
        """Add W_p and W_n."""
        self.w_p = self.add_state("w_p", initial=1.0, trainable=True)
        self.w_n = self.add_state("w_n", initial=1.0, trainable=True)
        super().build(input_shape)

    def forward(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return W_p, 0 or -W_n."""
        w_p, w_n = tf.convert_to_tensor(self.w_p), tf.convert_to_tensor(self.w_n)
        return ttq(x, w_p, w_n, self.t, self.sparsity)

    def pack(self, w: tf.Tensor) -> Codebook:
        """Return three codewords and the codes."""
        levels = tf.stack([-tf.convert_to_tensor(self.w_n), 0.0, tf.convert_to_tensor(self.w_p)])
        return scalar_codebook(ttq_codes(w, self.t, self.sparsity).numpy(), levels.numpy())

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "t": self.t, "sparsity": self.sparsity}
