"""What a test has to know about a method: its oracle, its variants and its properties."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

W_STAR = np.array([0.8, -0.5, 0.3, -0.1, 0.05, -1.2, 0.6, -0.2], np.float32)
G_STAR = np.array([0.1, -0.2, 0.3, 0.4, -0.5, 0.6, -0.7, 0.8], np.float32)
X_STAR = np.array([-0.4, 0.1, 0.35, 0.5, 0.8, 1.2, 2.5, 7.0], np.float32)
GX_STAR = np.arange(1, 9, dtype=np.float32)


@dataclasses.dataclass(frozen=True)
class Method:
    """One row of the catalogue, as the tests see it.

    Attributes:
        oracle: (x, g, state, **config) -> (value, gradient at x, {variable: gradient}), float64
            numpy, written from the formula; at inference. Variables have the names that the
            quantizer gave them. Without trainable variables the third part is {}.
        variants: configurations that are tested.
        state: (x, config) -> {variable: value}, given to the built quantizer before the oracle
            comparison; None where the method has no variables, or the initial ones will do.
        levels: config -> how many values the output may have per scale group; None for
            2**precision.
        idempotent, symmetric, monotone, equivariant: config -> whether the property holds
            (symmetric: q(-x) = -q(x); equivariant: q(4x) = 4 q(x)).
        zero: config -> whether an all-zero tensor gives zeros.
        gradient_tolerance: relative and absolute.
    """

    oracle: Callable[..., tuple[np.ndarray, np.ndarray, dict[str, Any]]]
    variants: tuple[dict[str, Any], ...] = ({},)
    state: Callable[[np.ndarray, dict[str, Any]], dict[str, Any]] | None = None
    levels: Callable[[dict[str, Any]], int] | None = None
    idempotent: Callable[[dict[str, Any]], bool] = lambda config: True
    symmetric: Callable[[dict[str, Any]], bool] = lambda config: True
    monotone: Callable[[dict[str, Any]], bool] = lambda config: True
    equivariant: Callable[[dict[str, Any]], bool] = lambda config: False
    zero: Callable[[dict[str, Any]], bool] = lambda config: True
    gradient_tolerance: float = 1e-5


def sgn(x):
    return np.where(x >= 0, 1.0, -1.0)


def over(w, channel_axes):
    """Return the axes that share a scale: all but ``channel_axes``."""
    kept = {axis % w.ndim for axis in channel_axes}
    return tuple(axis for axis in range(w.ndim) if axis not in kept)
