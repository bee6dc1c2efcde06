"""Methods with learned parameters: PACT, LSQ, QIL, DSQ, NICE."""

from __future__ import annotations

import numpy as np

from tests.quantizers.oracles.method import Method, over, sgn


def for_activations(config):
    return config.get("target") == "activations"


def pact(x, g, state, bits=4, alpha=10.0, alpha_decay=0.0):
    top, steps = max(state["alpha"], 1e-3), 2**bits - 1
    q = np.round(np.clip(x, 0, top) * steps / top) * top / steps
    return q, g * ((x > 0) & (x < top)), {"alpha": (g * (x >= top)).sum()}


def lsq(v, g, state, bits=4, signed=None, count_batch=False, channel_axes=(), target=None):
    activations = target == "activations"
    if signed is None:
        signed = not activations
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    axes = over(v, () if activations else channel_axes)
    s = state["step"].reshape([1 if a in axes else n for a, n in enumerate(v.shape)])
    t = v / s
    below, above = t <= low, t >= high
    residual = np.where(below, low, np.where(above, high, np.round(t) - t))
    shared = np.prod([v.shape[a] for a in axes])
    count = v[0].size if activations and not count_batch else shared
    ds = (g * residual).sum(axes).reshape(state["step"].shape) / np.sqrt(count * high)
    return s * np.round(np.clip(t, low, high)), g * ~(below | above), {"step": ds}


def lsq_state(x, config):
    axes = over(x, () if for_activations(config) else config.get("channel_axes", ()))
    return {"step": 0.7 * np.abs(x).mean(axes)}


def qil(x, g, state, bits=4, gamma=1.0, trainable_gamma=None, target=None):
    if bits == 1 and target is None:
        return np.abs(x).mean() * sgn(x), g, {}
    c, d = state["center"], state["distance"]
    if target == "activations":
        steps, sign, m, gamma = 2**bits - 1, np.ones_like(x), x, 1.0
    else:
        steps, sign, m, gamma = 2 ** (bits - 1) - 1, np.sign(x), np.abs(x), state["gamma"]
    inside = (m >= c - d) & (m <= c + d)
    u = np.where(inside, 0.5 / d * m + 0.5 - 0.5 * c / d, 0.5)  # 0.5: not used
    v = np.where(m < c - d, 0.0, np.where(m > c + d, 1.0, u**gamma)) * sign
    dv = inside * gamma * u ** (gamma - 1)
    trained = {
        "center": (g * dv * -0.5 / d * sign).sum(),
        "distance": (g * dv * -0.5 * (m - c) / d**2 * sign).sum(),
    }
    if target is None and (trainable_gamma or (trainable_gamma is None and bits == 2)):
        trained["gamma"] = (g * inside * u**gamma * np.log(u) * sign).sum()
    return np.round(v * steps) / steps, g * dv * 0.5 / d, trained


def qil_state(x, config):
    if config["bits"] == 1 and not for_activations(config):
        return {}
    interval = {"center": 1.5 * x.std(), "distance": 1.25 * x.std()}
    return interval if for_activations(config) else {**interval, "gamma": config.get("gamma", 1.0)}


def dsq_soft(x, lower, upper, alpha, bits):
    steps = 2**bits - 1
    delta = (upper - lower) / steps
    i = np.clip(np.floor((x - lower) / delta), 0, steps - 1)
    kappa, s = np.log(2 / alpha - 1) / delta, 1 / (1 - alpha)
    soft = lower + delta * (i + (s * np.tanh(kappa * (x - lower - (i + 0.5) * delta)) + 1) / 2)
    return np.where(x < lower, lower, np.where(x > upper, upper, soft))


def dsq(x, g, state, bits=4, alpha=0.2, trainable_alpha=True, ema=None, target=None):
    values = {key: float(state[key]) for key in ("lower", "upper", "alpha")}
    lower, upper, steps = values["lower"], values["upper"], 2**bits - 1
    delta = (upper - lower) / steps
    i = np.clip(np.floor((x - lower) / delta), 0, steps - 1)
    hard = lower + delta * (i + (sgn(x - lower - (i + 0.5) * delta) + 1) / 2)
    q = np.where(x < lower, lower, np.where(x > upper, upper, hard))
    trained = [] if ema is not None and target == "activations" else ["lower", "upper"]
    trained += ["alpha"] if trainable_alpha else []
    gradients = {}
    for key in trained:  # central differences of the soft value: its kinks are of second order
        h = 1e-6 * max(abs(values[key]), delta)
        ends = [dsq_soft(x, **{**values, key: values[key] + e}, bits=bits) for e in (h, -h)]
        gradients[key] = (g * (ends[0] - ends[1])).sum() / (2 * h)
    kappa = np.log(2 / values["alpha"] - 1) / delta
    falling = 1 - np.tanh(kappa * (x - lower - (i + 0.5) * delta)) ** 2
    slope = delta / 2 * kappa * falling / (1 - values["alpha"])
    return q, g * slope * ((x >= lower) & (x <= upper)), gradients


def dsq_state(x, config):
    return {"lower": np.quantile(x, 0.1), "upper": np.quantile(x, 0.95), "alpha": 0.3}


def nice(x, g, state, bits=4, stage="quantized", probability=0.05, residual=False, target=None):
    c = abs(state["clamp"])
    if target is None:
        delta = c / (2 ** (bits - 1) - 1)
        return np.round(np.clip(x, -c, c) / delta) * delta, g, {}
    n = 2**bits - 1
    y = np.maximum(x, 0) - np.maximum(x - c, 0)
    t = y * n / c
    dc = (x > c) + residual * ((x > 0) & (x <= c)) * (np.round(t) - t) / n
    trained = {"clamp": (g * dc).sum() * np.sign(state["clamp"])}
    return np.round(t) * c / n, g * ((x > 0) & (x <= c)), trained


def nice_state(x, config):
    return {"clamp": 1.5 * x.std()}


ACTIVATIONS = {"target": "activations"}

METHODS = {
    "pact": Method(
        pact,
        ({}, *({"bits": bits, "alpha": 1.3} for bits in range(1, 9))),
        lambda x, config: {"alpha": config.get("alpha", 10.0)},
        symmetric=lambda config: False,
    ),
    "lsq": Method(
        lsq,
        (
            *({"bits": bits} for bits in range(2, 9)),
            *({"bits": bits, **ACTIVATIONS} for bits in range(1, 9)),
            {"bits": 3, "channel_axes": [-1]},
            {"bits": 4, "channel_axes": [-2, -1]},
            {"bits": 3, "signed": True, **ACTIVATIONS},
            {"bits": 3, "signed": False},
            {"bits": 3, "count_batch": True, **ACTIVATIONS},
        ),
        lsq_state,
        symmetric=lambda config: False,
        equivariant=lambda config: True,
    ),
    "qil": Method(
        qil,
        (
            *({"bits": bits} for bits in range(1, 9)),
            *({"bits": bits, **ACTIVATIONS} for bits in range(1, 9)),
            {"bits": 2, "trainable_gamma": False},
            {"bits": 4, "trainable_gamma": True, "gamma": 1.3},
        ),
        qil_state,
        levels=lambda config: (
            2 ** config["bits"] - (config["bits"] > 1 and not for_activations(config))
        ),
        symmetric=lambda config: not for_activations(config),
        idempotent=lambda config: config["bits"] == 1 and not for_activations(config),
        equivariant=lambda config: config["bits"] == 1 and not for_activations(config),
    ),
    "dsq": Method(
        dsq,
        (
            *({"bits": bits} for bits in range(1, 9)),
            {"bits": 2, **ACTIVATIONS},
            {"bits": 3, "ema": 0.1, **ACTIVATIONS},
            {"bits": 3, "trainable_alpha": False, "alpha": 0.4},
        ),
        dsq_state,
        symmetric=lambda config: False,
        equivariant=lambda config: True,
        gradient_tolerance=1e-3,  # in float32 the place within one of 255 intervals is coarse
    ),
    "nice": Method(
        nice,
        (
            *({"bits": bits} for bits in range(2, 9)),
            *({"bits": bits, **ACTIVATIONS} for bits in range(1, 9)),
            {"bits": 3, "residual": True, **ACTIVATIONS},
        ),
        nice_state,
        symmetric=lambda config: not for_activations(config),
        equivariant=lambda config: True,
    ),
}
