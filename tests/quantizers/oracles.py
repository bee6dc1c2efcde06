"""The formulas of the papers in numpy, float64: value, and gradient for an upstream gradient."""

from __future__ import annotations

import numpy as np

W_STAR = np.array([0.8, -0.5, 0.3, -0.1, 0.05, -1.2, 0.6, -0.2], np.float32)
G_STAR = np.array([0.1, -0.2, 0.3, 0.4, -0.5, 0.6, -0.7, 0.8], np.float32)
X_STAR = np.array([-0.4, 0.1, 0.35, 0.5, 0.8, 1.2, 2.5, 7.0], np.float32)
GX_STAR = np.arange(1, 9, dtype=np.float32)


def sgn(x):
    return np.where(x >= 0, 1.0, -1.0)


def over(w, channel_axes):
    kept = {axis % w.ndim for axis in channel_axes}
    return tuple(axis for axis in range(w.ndim) if axis not in kept)


def ste_sign(x, g):
    return sgn(x), g * (np.abs(x) <= 1)


def bwn(w, g, gradient="paper", channel_axes=(-1,)):
    axes = over(w, channel_axes)
    n = np.prod([w.shape[axis] for axis in axes])
    alpha = np.abs(w).mean(axes, keepdims=True)
    mask = np.abs(w) <= 1
    rules = {
        "paper": g * (1 / n + alpha * mask),
        "exact": alpha * mask * g + sgn(w) * (g * sgn(w)).sum(axes, keepdims=True) / n,
        "identity": g,
    }
    return alpha * sgn(w), rules[gradient]


def _ternary_group(w, exact):
    magnitude = np.abs(w)
    if exact:
        ordered = np.sort(magnitude)[::-1]
        best = np.argmax(np.cumsum(ordered) ** 2 / np.arange(1, w.size + 1))
        chosen = magnitude >= ordered[best]
    else:
        chosen = magnitude > 0.7 * magnitude.mean()
    alpha = magnitude[chosen].mean() if chosen.any() else 0.0
    return alpha * np.sign(w) * chosen


def twn(w, g, exact=False, channel_axes=()):
    axes = over(w, channel_axes)
    rows = w.reshape(-1, np.prod([w.shape[a] for a in range(w.ndim) if a not in axes], dtype=int))
    q = np.stack([_ternary_group(column, exact) for column in rows.T], axis=1)
    return q.reshape(w.shape), g


def dorefa_weights(w, g, bits=2, differentiate_max=False):
    if bits == 1:
        return np.abs(w).mean() * sgn(w), g
    t, steps = np.tanh(w), 2**bits - 1
    peak = np.abs(t).max()
    q = 2 * np.round(steps * (t / (2 * peak) + 0.5)) / steps - 1
    dt = g / peak
    if differentiate_max:
        at = np.unravel_index(np.abs(t).argmax(), t.shape)
        dt[at] -= (g * t).sum() / peak**2 * np.sign(t[at])
    return q, dt * (1 - t**2)


def dorefa_activations(x, g, bits=2):
    steps = 2**bits - 1
    return np.round(steps * np.clip(x, 0, 1)) / steps, g * ((x >= 0) & (x <= 1))


ORACLES = {
    "ste_sign": ste_sign,
    "bwn": bwn,
    "twn": twn,
    "dorefa_weights": dorefa_weights,
    "dorefa_activations": dorefa_activations,
}

# The variants that are tested of each method; a method without a row has its defaults tested.
VARIANTS = {
    "bwn": [
        {},
        {"gradient": "exact"},
        {"gradient": "identity"},
        {"channel_axes": [-2, -1]},
        {"channel_axes": []},
    ],
    "twn": [{}, {"channel_axes": [-1]}, {"exact": True}, {"exact": True, "channel_axes": [-1]}],
    "dorefa_weights": [
        *({"bits": bits} for bits in range(1, 9)),
        {"bits": 3, "differentiate_max": True},
    ],
    "dorefa_activations": [{"bits": bits} for bits in range(1, 9)],
}
