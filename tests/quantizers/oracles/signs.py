"""Sign with its many gradients, and the ternary methods with thresholds."""

from __future__ import annotations

import numpy as np

from tests.quantizers.oracles.method import Method, over, sgn


def binary_connect(w, g, state, stochastic=False, inference="sign", h=1.0):
    if h == "glorot":
        fan_in, fan_out = np.prod(w.shape[:-1]), np.prod(w.shape[:-2]) * w.shape[-1]
        h = np.sqrt(1.5 / (fan_in + fan_out))
    return h * sgn(w), g, {}


def approx_sign(x, g, state):
    slope = np.where(x < 0, 2 + 2 * x, 2 - 2 * x)
    return sgn(x), g * np.where(np.abs(x) <= 1, slope, 0), {}


def magnitude_aware_sign(w, g, state, gradient="paper", channel_axes=(-1,)):
    scale = np.abs(w).mean(over(w, channel_axes), keepdims=True)
    mask = np.abs(w) <= 1
    rules = {"paper": scale * mask * g, "release": mask * g, "identity": g}
    return scale * sgn(w), rules[gradient], {}


def react_sign(x, g, state):
    q, at_x, _ = approx_sign(x - state["shift"], g, {})
    return q, at_x, {"shift": -at_x.sum(tuple(range(x.ndim - 1)))}


def react_shift(x, config):
    return {"shift": np.linspace(-0.6, 0.4, x.shape[-1])}


def swish_sign(x, g, state, beta=5.0):
    u = beta * x
    return sgn(x), g * beta * (2 - u * np.tanh(u / 2)) / (1 + np.cosh(u)), {}


def ftprop_sign(x, g, state, loss="soft_hinge"):
    slope = 1 / np.cosh(x) ** 2 if loss == "soft_hinge" else np.abs(x) <= 1
    return sgn(x), g * slope, {}


def tnn(x, g, state, lower=-0.5, upper=0.5):
    return np.where(x > upper, 1.0, np.where(x < lower, -1.0, 0.0)), g, {}


def ttq(w, g, state, t=0.05, sparsity=None):
    delta = t * np.abs(w).max() if sparsity is None else np.quantile(np.abs(w), sparsity)
    up, down = w > delta, w < -delta
    w_p, w_n = state["w_p"], state["w_n"]
    at_w = g * np.select([up, down], [w_p, w_n], 1.0)
    return w_p * up - w_n * down, at_w, {"w_p": g[up].sum(), "w_n": -g[down].sum()}


def no(config):
    return False


METHODS = {
    "binary_connect": Method(
        binary_connect,
        (
            {},
            {"h": 0.25},
            {"h": "glorot"},
            {"stochastic": True, "inference": "sign"},
        ),
        zero=no,
    ),
    "approx_sign": Method(approx_sign, zero=no),
    "magnitude_aware_sign": Method(
        magnitude_aware_sign,
        (
            {},
            {"gradient": "release"},
            {"gradient": "identity"},
            {"channel_axes": [-2, -1]},
            {"channel_axes": []},
        ),
        equivariant=lambda config: True,
    ),
    "react_sign": Method(react_sign, state=react_shift, symmetric=no, zero=no),
    "swish_sign": Method(swish_sign, ({}, {"beta": 2.0}), zero=no),
    "ftprop_sign": Method(ftprop_sign, ({}, {"loss": "saturated_hinge"}), zero=no),
    "tnn": Method(
        tnn,
        ({}, {"lower": -0.2, "upper": 0.7}, {"lower": -1.5, "upper": -0.25}),
        levels=lambda config: 3,
        idempotent=lambda config: config.get("upper") != -0.25,
        symmetric=lambda config: not config,
        zero=lambda config: config.get("upper") != -0.25,
    ),
    "ttq": Method(
        ttq,
        ({}, {"t": 0.7}, {"sparsity": 0.5}, {"sparsity": 0.3}),
        state=lambda w, config: {"w_p": 0.7, "w_n": 0.5},
        levels=lambda config: 3,
        symmetric=no,
    ),
}
