"""Statistics of magnitudes: quantiles, histograms that grow, and where to cut them off."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

BINS = 2048  # of TensorRT's histograms
_HALF = 16  # bits
ZERO_BINS = ("neighbor", "keep")
SMOOTHINGS = ("reject", "mxnet")
_EPSILON = 1e-4  # what MXNet puts into an empty bin
_ROUNDING = 1e-12  # of sums of up to 2048 terms: costs that differ by less are equal


def quantile(magnitude: tf.Tensor, fraction: float) -> tf.Tensor:
    """Return the quantile of all elements, linearly interpolated as numpy's default does.

    Args:
        magnitude: float32 tensor of any shape, nothing negative; its sizes may be unknown.
        fraction: 0 to 1.
    """
    flat = tf.reshape(magnitude, [-1])
    last = tf.size(flat) - 1
    position = fraction * tf.cast(last, tf.float64)
    below = tf.cast(tf.floor(position), tf.int32)
    low, high = _order_statistics(flat, below, tf.minimum(below + 1, last))
    share = tf.cast(position - tf.floor(position), tf.float32)
    return low + (high - low) * share


def _order_statistics(flat: tf.Tensor, rank: tf.Tensor, following: tf.Tensor) -> tuple:
    """Return the values of a rank, counted from 0, and of that rank or the next.

    The bits of floats that are not negative are ordered as the floats are. Counting their upper
    halves and, of the half in question, the lower ones is several times faster than to sort.
    """
    bits = tf.bitcast(flat, tf.int32)
    upper = _counts_up_to(tf.bitwise.right_shift(bits, _HALF), 1 << (31 - _HALF))
    half = tf.searchsorted(upper, rank[None], side="right")[0]
    before = tf.where(half > 0, upper[tf.maximum(half - 1, 0)], 0)
    start = tf.bitwise.left_shift(half, _HALF)
    inside = tf.clip_by_value(bits - start, -1, 1 << _HALF)  # -1 is not counted
    lower = _counts_up_to(inside, (1 << _HALF) + 1)[:-1]
    ranks = tf.stack([rank, following]) - before
    first, second = tf.unstack(start + tf.searchsorted(lower, ranks, side="right"))

    def of_next_half() -> tf.Tensor:
        return tf.reduce_min(tf.where(bits > first, bits, tf.int32.max))

    second = tf.cond(ranks[1] < lower[-1], lambda: second, of_next_half)
    return tf.bitcast(first, tf.float32), tf.bitcast(second, tf.float32)


def _counts_up_to(index: tf.Tensor, size: int) -> tf.Tensor:
    """Return how many elements are 0, at most 1, ..., at most size - 1."""
    return tf.cumsum(tf.math.unsorted_segment_sum(tf.ones_like(index), index, size))


def histogram(magnitude: tf.Tensor, peak: tf.Tensor, bins: int = BINS) -> tf.Tensor:
    """Return how many values lie in each of ``bins`` equal parts of [0, peak], float64."""
    at = tf.math.divide_no_nan(tf.reshape(magnitude, [-1]), peak) * bins
    index = tf.minimum(tf.cast(at, tf.int32), bins - 1)
    counts = tf.math.unsorted_segment_sum(tf.ones_like(index), index, bins)
    return tf.cast(counts, tf.float64) * tf.cast(peak > 0, tf.float64)


def stretched(counts: tf.Tensor, old_peak: tf.Tensor, new_peak: tf.Tensor) -> tf.Tensor:
    """Return the histogram over [0, old_peak] as one over [0, new_peak], which is no smaller.

    A bin's count is taken to be spread evenly over the bin.
    """
    bins = counts.shape[0]
    growth = tf.math.divide_no_nan(tf.cast(new_peak, tf.float64), tf.cast(old_peak, tf.float64))
    edges = tf.minimum(tf.range(bins + 1, dtype=tf.float64) * growth, float(bins))
    below = tf.cast(tf.floor(edges), tf.int32)
    share = edges - tf.floor(edges)
    total = _running_sum(tf.cast(counts, tf.float64))
    low, high = tf.gather(total, below), tf.gather(total, tf.minimum(below + 1, bins))
    at_edges = low + (high - low) * share
    return at_edges[1:] - at_edges[:-1]


def _running_sum(values: tf.Tensor) -> tf.Tensor:
    """Return the sums of the first 0, 1, ... values."""
    return tf.pad(tf.cumsum(values), [[1, 0]])


def kl_divergences(counts: Any, levels: int, smoothing: str = "reject") -> tf.Tensor:
    """Return KL(P || Q) for the thresholds after i = levels, levels + 1, ..., bins bins, float64.

    P is the histogram cut after i bins, with the outliers in its last bin. Q has the cut-off part
    quantized: bin j belongs to level floor(j * levels / i), and a level's mass is spread evenly
    over its bins that are not empty.

    Args:
        counts: histogram of magnitudes, (bins,).
        levels: number of levels that magnitudes have.
        smoothing: "reject" makes it infinite where Q is 0 and P is not; "mxnet" gives 1e-4 to the
            empty bins of P, and of Q, and takes it evenly from the others of each. There a bin with
            less than half a value, as a stretched histogram may have, is empty.

    Raises:
        ValueError: fewer bins than levels.
    """
    counts = tf.cast(tf.convert_to_tensor(counts), tf.float64)
    bins = counts.shape[0]
    if bins < levels:
        raise ValueError(f"a histogram of {bins} bins cannot be quantized to {levels} levels")
    if smoothing == "mxnet":  # so that no bin holds less than is taken from it
        counts = tf.where(counts < 0.5, tf.zeros_like(counts), counts)
    # Q is constant on a level, so that a candidate costs its levels, not its bins.
    cut = tf.range(levels, bins + 1)
    starts = (tf.range(levels + 1) * cut[:, None] + levels - 1) // levels
    mass, filled = _running_sum(counts), _running_sum(tf.cast(counts > 0, tf.float64))
    inside = tf.gather(mass, cut)
    last, outliers = tf.gather(counts, cut - 1), mass[-1] - inside
    missed = tf.cast((last == 0.0) & (outliers > 0.0), tf.float64)  # Q's last bin is empty, not P's
    added = _EPSILON if smoothing == "mxnet" else 0.0
    of_q = tf.gather(filled, cut)
    of_p, size = of_q + missed, tf.cast(cut, tf.float64)
    from_p = tf.math.divide_no_nan(added * (size - of_p), of_p)
    from_q = tf.math.divide_no_nan(added * (size - of_q), of_q)
    if smoothing == "mxnet":
        p_log_p = _smoothed_x_log_x(counts, cut, outliers, from_p)
    else:
        p_log_p = tf.gather(_running_sum(_x_log(counts, counts)), cut)
        p_log_p += _x_log(last + outliers, last + outliers) - _x_log(last, last)
    level, held = _differences(tf.gather(mass, starts)), _differences(tf.gather(filled, starts))
    height = tf.math.divide_no_nan(level, held) - from_q[:, None]
    p_log_q = tf.reduce_sum(_x_log(level - from_p[:, None] * held, height), axis=1)
    p_log_q += _x_log((1.0 - missed) * outliers, height[:, -1])
    p_log_q += _x_log(missed * (outliers - from_p), added * tf.ones_like(outliers))
    # Bins that both have empty add nothing: they stay equal.
    kl = tf.math.divide_no_nan(p_log_p - p_log_q, mass[-1]) + tf.math.log(inside / mass[-1])
    impossible = tf.math.is_nan(kl) | (inside <= 0.0)
    return tf.where(impossible, tf.constant(np.inf, tf.float64), kl)


def _smoothed_x_log_x(
    counts: tf.Tensor, cut: tf.Tensor, outliers: tf.Tensor, taken: tf.Tensor
) -> tf.Tensor:
    """Return the sums of ``(p - taken) * log(p - taken)`` over the bins of P that are not empty.

    What is taken differs between candidates, so that no running sum serves: all bins of all.
    """
    index = tf.range(counts.shape[0])
    p = tf.where(index < cut[:, None], counts, tf.zeros_like(counts))
    p += tf.where(index == cut[:, None] - 1, outliers[:, None], tf.zeros_like(p))
    left = tf.where(p > 0.0, p - taken[:, None], tf.zeros_like(p))
    return tf.reduce_sum(_x_log(left, left), axis=1)


def _differences(x: tf.Tensor) -> tf.Tensor:
    return x[:, 1:] - x[:, :-1]


def _x_log(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Return ``x * log(y)``, and 0 where x is 0."""
    return tf.math.multiply_no_nan(tf.math.log(y), x)


def kl_threshold(
    counts: Any, levels: int, zero_bin: str = "neighbor", smoothing: str = "reject"
) -> tf.Tensor:
    """Return after how many bins of a histogram the divergence is least; on ties the most.

    Args:
        counts: histogram of magnitudes, (bins,), bins >= levels.
        levels: number of levels that magnitudes have: 128 for signed 8-bit values, 256 for
            unsigned ones.
        zero_bin: "neighbor" gives the first bin the count of the second (NVIDIA's tool: the
            zeros after a ReLU should not decide); "keep" leaves it.
        smoothing: of empty bins; see :func:`kl_divergences`.
    """
    counts = tf.cast(tf.convert_to_tensor(counts), tf.float64)
    if zero_bin == "neighbor":
        counts = tf.concat([counts[1:2], counts[1:]], axis=0)
    return levels + _last_least(kl_divergences(counts, levels, smoothing))


def squared_error_threshold(counts: Any, steps: int) -> tf.Tensor:
    """Return after how many bins a grid's squared error is least; on ties the most.

    Args:
        counts: histogram of magnitudes, (bins,); a bin's values count as its centre.
        steps: of the grid of [0, T], where T is the end of the last bin that is kept.
    """
    counts = tf.cast(tf.convert_to_tensor(counts), tf.float64)
    bins = counts.shape[0]
    counts = tf.math.divide_no_nan(counts, tf.reduce_sum(counts))
    centre = (tf.range(bins, dtype=tf.float64) + 0.5) / bins
    kept, level = tf.range(1, bins + 1)[:, None], tf.range(steps + 1)
    value = tf.cast(level * kept, tf.float64) / (steps * bins)
    # Level k begins at the first bin whose centre is no less than k - 1/2 steps.
    starts = ((2 * level[1:] - 1) * kept + steps - 1) // (2 * steps)
    starts = tf.pad(tf.pad(starts, [[0, 0], [1, 0]]), [[0, 0], [0, 1]], constant_values=bins)
    mass = _differences(tf.gather(_running_sum(counts), starts))
    moment = _differences(tf.gather(_running_sum(counts * centre), starts))
    # The sum of (value - centre)^2, without that of centre^2, which all candidates share.
    return 1 + _last_least(tf.reduce_sum(value * (value * mass - 2.0 * moment), axis=1))


def _last_least(costs: tf.Tensor) -> tf.Tensor:
    """Return the index of the least cost; of several, that of the last."""
    least = costs <= tf.reduce_min(costs) + _ROUNDING
    index = tf.range(costs.shape[0])
    return tf.reduce_max(tf.where(least, index, tf.zeros_like(index)))
