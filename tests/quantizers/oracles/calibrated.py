"""Methods whose range comes of data: calibration, GEMMLOWP, V-Quant, Quantization Networks."""

from __future__ import annotations

import numpy as np

from tests.quantizers.oracles.method import Method, over


def on_grid(x, g, top, bits, signed):
    """Return ``x`` on the grid of [-top, top] or [0, top], and its clipped gradient."""
    steps = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
    scale = np.where(top > 0, top, steps) / steps
    q = scale * np.clip(np.round(x / scale), -steps if signed else 0, steps)
    return q, g * ((x <= top) & (x >= (-top if signed else 0)))


def has_sign(target, signed):
    return signed or target != "activations"


def magnitude_of(x, target, signed):
    return np.abs(x) if has_sign(target, signed) else np.maximum(x, 0)


def calibrate_max(
    x, g, state, bits=8, signed=False, factor=1.0, channel_axes=(-1,), target="weights"
):
    top = factor * magnitude_of(x, target, signed).max(over(x, channel_axes), keepdims=True)
    if target == "activations":
        top = state["threshold"]
    return *on_grid(x, g, top, bits, has_sign(target, signed)), {}


# T over sigma of a normal distribution, or over Laplace's b.
ACIQ = {
    "aciq_gauss": {2: 1.47818312, 3: 1.80489289, 4: 2.19227856, 8: 3.61691335},
    "aciq_laplace": {2: 2.33152939, 3: 3.04528770, 4: 4.00378631, 8: 8.65265030},
}


def least_error(counts, peak, bits, sign):
    """Return the last of the bins' right edges whose squared error is least."""
    bins = len(counts)
    centres, errors = (np.arange(bins) + 0.5) / bins, []
    for i in range(1, bins + 1):
        q, _ = on_grid(centres, 0.0, i / bins, bits, sign)
        errors.append((counts * (centres - q) ** 2).sum() / max(counts.sum(), 1))
    return peak * (1 + np.flatnonzero(errors <= min(errors) + 1e-12)[-1]) / bins


def calibrate_percentile(
    x,
    g,
    state,
    bits=8,
    signed=False,
    percentile=99.99,
    rule="percentile",
    target="weights",
):
    magnitude, sign = magnitude_of(x, target, signed), has_sign(target, signed)
    if target == "activations":
        top = state["threshold"]
    elif rule == "percentile":
        top = np.quantile(magnitude, percentile / 100)
    elif rule == "mse":
        counts, _ = np.histogram(magnitude, 2048, (0, magnitude.max()))
        top = least_error(counts, magnitude.max(), bits, sign)
    else:
        used = magnitude[magnitude > 0]
        spread = np.sqrt((used**2).mean()) if rule == "aciq_gauss" else used.mean()
        top = min(ACIQ[rule][bits] * spread, magnitude.max())
    return *on_grid(x, g, top, bits, sign), {}


def smoothed(p):
    """Return MXNet's smoothing; None where nothing is left to take from."""
    empty = p == 0
    if empty.all():
        return None
    q = np.where(empty, 1e-4, p - 1e-4 * empty.sum() / (~empty).sum())
    return q if (q > 0).all() else None


def kl_of(counts, i, levels, smoothing="reject"):
    """Return the divergence for the threshold after i bins; None where it is infinite."""
    p = counts[:i].copy()
    p[-1] += counts[i:].sum()
    q, level = np.zeros(i), np.arange(i) * levels // i
    for k in range(levels):
        bins = (level == k) & (counts[:i] > 0)
        if bins.any():
            q[bins] = counts[:i][level == k].sum() / bins.sum()
    if smoothing == "mxnet":
        p, q = smoothed(p), smoothed(q)
        if p is None or q is None:
            return None
    used = p > 0
    if np.any(q[used] == 0):
        return None
    p, q = p / p.sum(), q / q.sum()
    return (p[used] * np.log(p[used] / q[used])).sum()


def kl_bins(counts, levels, zero_bin="neighbor", smoothing="reject"):
    counts = np.array(counts, np.float64)
    if zero_bin == "neighbor":
        counts[0] = counts[1]
    # Rejected at once, to save the test's time: a last bin that is empty, with outliers after it.
    tails = counts[::-1].cumsum()[::-1] - counts
    candidates = [
        i
        for i in range(levels, len(counts) + 1)
        if smoothing == "mxnet" or counts[i - 1] > 0 or tails[i - 1] == 0
    ]
    kls = {i: kl_of(counts, i, levels, smoothing) for i in candidates}
    least = min((v for v in kls.values() if v is not None), default=None)
    best = [i for i, v in kls.items() if v is not None and v <= least + 1e-12]
    return max(best, default=len(counts))


def calibrate_kl(
    x,
    g,
    state,
    bits=8,
    signed=False,
    zero_bin="neighbor",
    smoothing="reject",
    target="weights",
):
    magnitude, sign = magnitude_of(x, target, signed), has_sign(target, signed)
    if target == "activations":
        top = state["threshold"]
    else:
        counts, _ = np.histogram(magnitude, 2048, (0, magnitude.max()))
        levels = 2 ** (bits - 1) if sign else 2**bits
        top = magnitude.max() * kl_bins(counts, levels, zero_bin, smoothing) / 2048
    return *on_grid(x, g, top, bits, sign), {}


def int8_gemmlowp(x, g, state, true_zero=False, stochastic=False, target="weights"):
    low, high = x.min(), x.max()
    if target == "activations":
        low, high = state["minimum"], state["maximum"]
    if true_zero:
        low, high = min(low, 0), max(high, 0)
    s = (high - low) / 255
    if true_zero:
        zero = np.round(-low / s)
        return s * (np.clip(np.round(x / s) + zero, 0, 255) - zero), g, {}
    return s * np.clip(np.round((x - low) / s), 0, 255) + low, g, {}


def value_aware(x, g, state, bits=4, ratio=0.01, signed=False, target="weights"):
    sign = has_sign(target, signed)
    large = np.zeros(x.shape, bool)
    if ratio > 0:
        large = np.abs(x) >= np.quantile(np.abs(x), 1 - ratio)
    top = magnitude_of(x, target, signed)[~large].max(initial=0.0)
    return np.where(large, x, on_grid(x, g, top, bits, sign)[0]), g, {}


def quantization_networks(x, g, state, levels=None, temperature=10.0, target="weights"):
    default = (0, 1, 2, 3) if target == "activations" else (-1, 0, 1)
    p = np.array(default if levels is None else levels, np.float64)
    alpha, beta, t = state["alpha"], state["beta"], state["temperature"]
    distance = beta * x[..., None] - state["biases"]
    sizes = np.diff(p)
    hard = alpha * (p[0] + (sizes * (distance > 0)).sum(-1))
    soft = p[0] + (sizes / (1 + np.exp(-np.clip(t * distance, -10, 10)))).sum(-1)
    at_slope = 1 / (1 + np.exp(-(1 if len(p) == 2 else t) * distance))
    slope = (sizes * at_slope * (1 - at_slope)).sum(-1)
    return (
        hard,
        g * alpha * beta * t * slope,
        {"alpha": (g * soft).sum(), "beta": (g * alpha * t * x * slope).sum()},
    )


def threshold(x, config):
    return {"threshold": 1.1} if config.get("target") == "activations" else {}


def average_range(x, config):
    if config.get("target") != "activations":
        return {}
    return {"minimum": -0.7, "maximum": 1.3, "seen": 1.0}


def network_state(x, config):
    default = (0, 1, 2, 3) if config.get("target") == "activations" else (-1, 0, 1)
    levels = np.array(config.get("levels") or default, np.float64)
    biases = (levels[1:] + levels[:-1]) / 2
    return {"alpha": 0.5, "beta": 2.0, "biases": biases, "temperature": 3.0}


def of_weights(config):
    return config.get("target") != "activations"


def with_sign(config):
    return has_sign(config.get("target"), config.get("signed", False))


ACTIVATIONS = (
    {"target": "activations"},
    {"target": "activations", "bits": 2},
    {"target": "activations", "bits": 4, "signed": True},
)

METHODS = {
    "calibrate_max": Method(
        calibrate_max,
        (
            {},
            {"channel_axes": []},
            {"channel_axes": [-2, -1], "bits": 4},
            {"bits": 2},
            {"factor": 0.8},
            *ACTIVATIONS,
        ),
        state=threshold,
        symmetric=with_sign,
        idempotent=lambda config: "factor" not in config,  # its maximum is cut each time
        equivariant=of_weights,
    ),
    "calibrate_percentile": Method(
        calibrate_percentile,
        (
            {},
            {"percentile": 95.0, "bits": 4},
            {"rule": "mse", "bits": 3},
            {"rule": "mse"},
            {"rule": "aciq_gauss", "bits": 2},
            {"rule": "aciq_laplace", "bits": 4},
            {"rule": "aciq_gauss", "bits": 8},
            *ACTIVATIONS,
        ),
        state=threshold,
        symmetric=with_sign,
        # Where hardly a value lies above T, that value is all that the next T comes of. By the
        # other rules what was clipped is the next maximum, which bounds the next T.
        idempotent=lambda config: bool(config),
        equivariant=of_weights,
    ),
    "calibrate_kl": Method(
        calibrate_kl,
        (
            {},
            {"bits": 4},
            {"zero_bin": "keep"},
            {"smoothing": "mxnet", "bits": 4},
            *ACTIVATIONS,
        ),
        state=threshold,
        symmetric=with_sign,
        equivariant=of_weights,
    ),
    "int8_gemmlowp": Method(
        int8_gemmlowp,
        ({}, {"true_zero": True}, {"target": "activations"}, {"stochastic": True}),
        state=average_range,
        symmetric=lambda config: False,
        equivariant=of_weights,
    ),
    "value_aware": Method(
        value_aware,
        (
            {"ratio": 0.002},
            {"bits": 8, "ratio": 0.0},
            {"bits": 2, "ratio": 0.001, "target": "activations"},
            {"bits": 3, "ratio": 0.001, "signed": True, "target": "activations"},
        ),
        levels=lambda config: 2 ** config.get("bits", 4) + 10,  # 0.002 of 4608 values
        symmetric=with_sign,
        equivariant=lambda config: True,
    ),
    "quantization_networks": Method(
        quantization_networks,
        (
            {},
            {"levels": [-1.0, 1.0]},
            {"levels": [-4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0], "temperature": 20.0},
            {"target": "activations"},
        ),
        state=network_state,
        symmetric=of_weights,
        zero=lambda config: config.get("levels") != [-1.0, 1.0],
        equivariant=of_weights,  # the first values scale with the weights
    ),
}
