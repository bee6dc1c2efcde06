"""Methods with one formula each: BNN, BWN, TWN, DoReFa."""

from __future__ import annotations

import numpy as np

from tests.quantizers.oracles.method import Method, over, sgn


def ste_sign(x, g, state):
    return sgn(x), g * (np.abs(x) <= 1), {}


def bwn(w, g, state, gradient="paper", channel_axes=(-1,)):
    axes = over(w, channel_axes)
    n = np.prod([w.shape[axis] for axis in axes])
    alpha = np.abs(w).mean(axes, keepdims=True)
    mask = np.abs(w) <= 1
    rules = {
        "paper": g * (1 / n + alpha * mask),
        "exact": alpha * mask * g + sgn(w) * (g * sgn(w)).sum(axes, keepdims=True) / n,
        "identity": g,
    }
    return alpha * sgn(w), rules[gradient], {}


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


def twn(w, g, state, exact=False, channel_axes=()):
    axes = over(w, channel_axes)
    rows = w.reshape(-1, np.prod([w.shape[a] for a in range(w.ndim) if a not in axes], dtype=int))
    q = np.stack([_ternary_group(column, exact) for column in rows.T], axis=1)
    return q.reshape(w.shape), g, {}


def dorefa_weights(w, g, state, bits=2, differentiate_max=False):
    if bits == 1:
        return np.abs(w).mean() * sgn(w), g, {}
    t, steps = np.tanh(w), 2**bits - 1
    peak = np.abs(t).max()
    q = 2 * np.round(steps * (t / (2 * peak) + 0.5)) / steps - 1
    dt = g / peak
    if differentiate_max:
        at = np.unravel_index(np.abs(t).argmax(), t.shape)
        dt[at] -= (g * t).sum() / peak**2 * np.sign(t[at])
    return q, dt * (1 - t**2), {}


def dorefa_activations(x, g, state, bits=2):
    steps = 2**bits - 1
    return np.round(steps * np.clip(x, 0, 1)) / steps, g * ((x >= 0) & (x <= 1)), {}


BITS = tuple({"bits": bits} for bits in range(1, 9))

METHODS = {
    "ste_sign": Method(ste_sign, zero=lambda config: False),
    "bwn": Method(
        bwn,
        (
            {},
            {"gradient": "exact"},
            {"gradient": "identity"},
            {"channel_axes": [-2, -1]},
            {"channel_axes": []},
        ),
        equivariant=lambda config: True,
    ),
    "twn": Method(
        twn,
        ({}, {"channel_axes": [-1]}, {"exact": True}, {"exact": True, "channel_axes": [-1]}),
        equivariant=lambda config: True,
    ),
    "dorefa_weights": Method(
        dorefa_weights,
        (*BITS, {"bits": 3, "differentiate_max": True}),
        idempotent=lambda config: config["bits"] <= 3,  # above, tanh bends the grid
        equivariant=lambda config: config["bits"] == 1,
    ),
    "dorefa_activations": Method(dorefa_activations, BITS, symmetric=lambda config: False),
}
