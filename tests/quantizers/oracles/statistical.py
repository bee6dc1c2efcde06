"""Fixed grids and grids that follow from statistics: QNN, INQ, SAWB, WRPN, Balanced, HWGQ."""

from __future__ import annotations

import numpy as np

from tests.quantizers.oracles.basic import bwn
from tests.quantizers.oracles.method import Method, over, sgn


def ap2(x):
    with np.errstate(divide="ignore"):
        return np.sign(x) * np.exp2(np.round(np.log2(np.abs(x))))


def log_quant(g, bits):
    """Return LogQuant of gradients, rounded to the nearest exponent."""
    if bits is None:
        return g
    highest = ap2(np.abs(g).max())
    lowest = highest / 2.0 ** (2 ** (bits - 1) - 2)
    q = np.clip(ap2(g), -highest, highest)
    return np.where(np.abs(q) < lowest, 0.0, q)


def qnn_linear(x, g, state, bits=4, normalize=False, gradient_bits=None):
    g = log_quant(g, gradient_bits)
    if bits == 1:
        return sgn(x), g * (np.abs(x) <= 1), {}
    s = 2.0 ** (1 - bits)
    largest = np.abs(x).max() if normalize else 1.0
    q = np.clip(np.round(x / largest / s) * s, -1, 1 - s) * largest
    return q, g if normalize else g * ((x >= -1) & (x <= 1 - s)), {}


def qnn_log(x, g, state, bits=4, limit=1.0, gradient_bits=None):
    highest = ap2(limit)
    lowest = highest / 2.0 ** (2 ** (bits - 1) - 2)
    q = np.clip(ap2(x), -highest, highest)
    at_x = log_quant(g, gradient_bits) * (np.abs(x) <= limit)
    return np.where(np.abs(q) < lowest, 0.0, q), at_x, {}


def powers_of_two(w, g, state, bits=5):
    n1 = np.floor(np.log2(4 * np.abs(w).max() / 3))
    n2 = n1 + 1 - 2 ** (bits - 1) / 2
    q, below = np.zeros_like(w), 0.0
    for n in np.arange(n2, n1 + 1):
        level = 2.0**n
        chosen = (np.abs(w) >= (below + level) / 2) & (np.abs(w) < 3 * level / 2)
        q, below = np.where(chosen, np.sign(w) * level, q), level
    return q, g, {}


SAWB = {
    (2, False): (3.12, -2.064),
    (3, False): (7.509, -6.892),
    (4, False): (12.68, -12.80),
    (5, False): (17.74, -18.64),
    (8, False): (31.76, -35.04),
    (2, True): (2.6, -1.71),
    (4, True): (12.035, -12.03),
    (7, True): (28.24, -30.81),
    (8, True): (31.76, -35.04),
}


# Those whose alpha exceeds the largest of some hundred normal numbers.
SAWB_CAPPED = [(5, False), (8, False), (4, True), (7, True), (8, True)]


def sawb(w, g, state, bits=2, zero=False, gradient="clip", cap=True, channel_axes=()):
    axes = over(w, channel_axes)
    c1, c2 = SAWB[bits, zero]
    magnitude = np.abs(w)
    largest = magnitude.max(axes, keepdims=True)
    alpha = c1 * np.sqrt((w**2).mean(axes, keepdims=True))
    alpha = alpha + c2 * magnitude.mean(axes, keepdims=True)
    alpha = np.where((alpha <= 0) | (cap & (alpha > largest)), largest, alpha)
    steps = 2**bits - (2 if zero else 1)
    u = np.clip(w / alpha, -1, 1) / 2 + 0.5
    q = (2 * np.round(steps * u) / steps - 1) * alpha
    return q, g * (magnitude <= alpha) if gradient == "clip" else g, {}


def wrpn(x, g, state, bits=4, target="weights"):
    if target == "activations":
        steps = 2**bits - 1
        return np.round(steps * np.clip(x, 0, 1)) / steps, g * ((x >= 0) & (x <= 1)), {}
    if bits == 1:
        return bwn(x, g, state)
    steps = 2 ** (bits - 1) - 1
    return np.round(steps * np.clip(x, -1, 1)) / steps, g * (np.abs(x) <= 1), {}


def equalized(w, bits, center):
    """Return the bins of recursive partitioning."""
    if bits == 0 or w.size == 0:
        return np.zeros(w.shape, int)
    right = w > center(w)
    bins = np.empty(w.shape, int)
    bins[~right] = equalized(w[~right], bits - 1, center)
    bins[right] = 2 ** (bits - 1) + equalized(w[right], bits - 1, center)
    return bins


def balanced(w, g, state, bits=2, method="median", scale="max", factor=2.0):
    center = np.median if method == "median" else lambda part: np.float32(part.mean())
    s = np.abs(w).max() if scale == "max" else factor * np.abs(w).mean()
    return s * (2 * equalized(w, bits, center) / (2**bits - 1) - 1), g, {}


STEPS = {1: 0.799, 2: 0.538, 3: 0.3217, 4: 0.185}
LEVELS = {
    (1, None): [0.799],
    (2, 2): [0.453, 1.51],
    (2, None): [0.3177, 1.0001, 1.8936],
    (3, None): [0.1457, 0.4413, 0.7505, 1.0857, 1.4676, 1.9386, 2.6251],
    (4, None): [
        *[0.0702, 0.2110, 0.3532, 0.4978, 0.6460, 0.7991, 0.9587, 1.1268, 1.3063, 1.5011],
        *[1.7170, 1.9634, 2.2576, 2.6368, 3.2137],
    ],
}


def hwgq(x, g, state, bits=2, uniform=True, gradient="clipped", positive_levels=None):
    levels = np.arange(1, 2**bits) * STEPS[bits] if uniform else LEVELS[bits, positive_levels]
    levels = np.asarray(levels)
    nearest = levels[np.abs(x[..., None] - levels).argmin(-1)]
    top = levels[-1]
    tail = {"clipped": 0.0, "vanilla": 1.0, "log_tailed": 1 / np.maximum(x - top + 1, 1)}
    dx = np.where(x > top, tail[gradient], 1.0) * (x > 0)
    return np.where(x > 0, nearest, 0.0), g * dx, {}


def always(config):
    return True


def never(config):
    return False


HWGQ_VARIANTS = (
    *({"bits": bits} for bits in STEPS),
    {"gradient": "vanilla"},
    {"gradient": "log_tailed"},
    *({"bits": bits, "uniform": False} for bits in STEPS),
    {"uniform": False, "positive_levels": 2, "gradient": "log_tailed"},
)

METHODS = {
    "qnn_linear": Method(
        qnn_linear,
        (
            *({"bits": bits} for bits in (1, 2, 4, 8)),
            {"bits": 4, "normalize": True},
            {"bits": 2, "gradient_bits": 6},
        ),
        symmetric=lambda config: config["bits"] == 1,  # two's complement is not
        idempotent=lambda config: not config.get("normalize"),
        equivariant=lambda config: config.get("normalize", False),
        zero=lambda config: config["bits"] > 1,
    ),
    "qnn_log": Method(
        qnn_log, ({"bits": 2}, {"bits": 3}, {}, {"limit": 2.9}, {"bits": 3, "gradient_bits": 3})
    ),
    "powers_of_two": Method(
        powers_of_two,
        ({}, {"bits": 2}, {"bits": 3}, {"bits": 4}),
        equivariant=always,  # by powers of two
    ),
    "sawb": Method(
        sawb,
        (
            *({"bits": bits, "zero": zero} for bits, zero in SAWB),
            {"bits": 4, "cap": False},
            {"gradient": "identity", "channel_axes": [-1]},
            {"bits": 4, "zero": True, "channel_axes": [-2, -1]},
        ),
        # A scale that was capped stays: the levels reach alpha on both sides.
        idempotent=lambda config: (
            (config.get("bits", 2), config.get("zero")) in SAWB_CAPPED and len(config) == 2
        ),
        equivariant=always,
    ),
    "wrpn": Method(
        wrpn,
        (*({"bits": bits} for bits in (1, 2, 4, 8)), {"bits": 2, "target": "activations"}),
        symmetric=lambda config: "target" not in config,
        equivariant=lambda config: config["bits"] == 1,
    ),
    "balanced": Method(
        balanced,
        (
            *({"bits": bits} for bits in (1, 2, 4, 8)),
            *({"bits": bits, "method": "mean"} for bits in (1, 3)),
            {"bits": 3, "scale": "mean", "factor": 1.5},
        ),
        symmetric=never,  # an odd count has its middle on the left
        idempotent=lambda config: "scale" not in config,
        equivariant=always,
    ),
    "hwgq": Method(hwgq, HWGQ_VARIANTS, symmetric=never),
}
