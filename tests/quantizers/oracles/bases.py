"""Methods with a basis of binary planes: ABC-Net, HORQ, LQ-Nets."""

from __future__ import annotations

import itertools

import numpy as np

from tests.quantizers.oracles.method import Method, over, sgn


def grouped(function, w, g, channel_axes):
    """Apply ``function(weights, gradients) -> (values, gradients)`` to each group of a scale."""
    kept = [a for a in range(w.ndim) if a not in over(w, channel_axes)]
    q, dw = np.empty_like(w), np.empty_like(w)
    for index in itertools.product(*(range(w.shape[a]) for a in kept)):
        at = [slice(None)] * w.ndim
        for axis, i in zip(kept, index, strict=True):
            at[axis] = i
        at = tuple(at)
        values, gradients = function(w[at].ravel(), g[at].ravel(), index)
        q[at], dw[at] = values.reshape(w[at].shape), gradients.reshape(w[at].shape)
    return q, dw


def abc_bases(w, count):
    """Return the matrix (M, n) of an ABC-Net group's bases and their scales."""
    shifts = [-1 + 2 * m / (count - 1) for m in range(count)] if count > 1 else [0]
    bases = np.stack([sgn(w - w.mean() + u * w.std()) for u in shifts])
    return bases, np.linalg.solve(bases @ bases.T + 1e-6 * np.eye(count), bases @ w)


def abc_weights(w, g, state, bits=3, gradient="paper", channel_axes=()):
    def group(w, g, _):
        bases, alpha = abc_bases(w, bits)
        return alpha @ bases, g * (alpha.sum() if gradient == "paper" else 1)

    return *grouped(group, w, g, channel_axes), {}


def abc_activations(x, g, state, bits=3):
    moved = [x + v for v in state["shifts"]]
    bases = [2.0 * (np.clip(y, 0, 1) >= 0.5) - 1 for y in moved]
    through = [b * g * ((y >= 0) & (y <= 1)) for b, y in zip(state["scales"], moved, strict=True)]
    trained = {
        "shifts": np.array([part.sum() for part in through]),
        "scales": np.array([(g * base).sum() for base in bases]),
    }
    return np.einsum("n,n...->...", state["scales"], np.stack(bases)), sum(through), trained


def abc_activations_state(x, config):
    count = config["bits"]
    return {"shifts": 0.37 * np.cos(np.arange(count)), "scales": 0.3 + 0.1 * np.arange(count)}


def horq(x, g, state, bits=2, scope="sample", differentiate_scales=False):
    axes = tuple(range(1 if scope == "sample" and x.ndim > 1 else 0, x.ndim))
    residual, q, slope = x, 0, 0
    for _ in range(bits):
        beta = np.abs(residual).mean(axes, keepdims=True)
        slope = slope + beta * (np.abs(residual) <= 1)
        slope = slope + differentiate_scales * beta.size / x.size
        q = q + beta * sgn(residual)
        residual = residual - beta * sgn(residual)
    return q, g * slope, {}


def lq_levels(basis, unsigned):
    codes = itertools.product([0, 1] if unsigned else [-1, 1], repeat=len(basis))
    return np.sort([np.dot(basis, code) for code in codes])


def lq_nets(x, g, state, bits=2, channel_axes=(-1,), target=None):
    unsigned = target == "activations"

    def group(x, g, index):
        levels = lq_levels(state["basis"][index], unsigned)
        distance = np.abs(x[:, None] - levels)
        mask = x <= levels[-1] if unsigned else 1
        return levels[distance.argmin(1)], g * mask

    return *grouped(group, x, g, () if unsigned else channel_axes), {}


def lq_nets_state(x, config):
    unsigned = config.get("target") == "activations"
    axes = () if unsigned else config.get("channel_axes", [-1])
    channels = [x.shape[a] for a in range(x.ndim) if a not in over(x, axes)]
    powers = 2.0 ** np.arange(config["bits"])
    spread = 1 + 0.2 * np.cos(np.arange(np.prod([*channels, len(powers)], dtype=int)))
    return {"basis": 0.3 * powers * spread.reshape(*channels, len(powers))}


def alone(config):
    return config["bits"] == 1


METHODS = {
    "abc_weights": Method(
        abc_weights,
        (
            *({"bits": bits} for bits in (1, 2, 3, 5)),
            {"bits": 3, "gradient": "identity"},
            {"bits": 2, "channel_axes": [-1]},
            {"bits": 5, "channel_axes": [-2, -1]},
        ),
        levels=lambda config: config["bits"] + 1,
        # Mean and std of a group's values fall between the same levels again, unless it has only 9.
        idempotent=lambda config: config.get("channel_axes") != [-2, -1],
        equivariant=lambda config: True,
    ),
    "abc_activations": Method(
        abc_activations,
        tuple({"bits": bits} for bits in (1, 2, 3, 5)),
        state=abc_activations_state,
        levels=lambda config: config["bits"] + 1,
        idempotent=alone,
        symmetric=lambda config: False,
        zero=lambda config: False,
    ),
    "horq": Method(
        horq,
        (
            *({"bits": bits, "scope": "tensor"} for bits in (1, 2, 3, 8)),
            {"bits": 2, "scope": "tensor", "differentiate_scales": True},
        ),
        idempotent=alone,
        # Levels may cross from the fourth order on.
        monotone=lambda config: config["bits"] <= 3,
        equivariant=lambda config: True,
    ),
    "lq_nets": Method(
        lq_nets,
        (
            *({"bits": bits} for bits in (1, 2, 3)),
            *({"bits": bits, "channel_axes": []} for bits in (1, 2, 3, 4)),
            {"bits": 4, "channel_axes": [-2, -1]},
            *({"bits": bits, "target": "activations"} for bits in (1, 2, 3, 4)),
        ),
        state=lq_nets_state,
        symmetric=lambda config: "target" not in config,
    ),
}
