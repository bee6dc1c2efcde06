"""A layer that is to be compressed, and what became of it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from kerasq.codebooks.moments import Moments


@dataclasses.dataclass(frozen=True)
class Site:
    """A layer that is to be solved for.

    Attributes:
        layer: of the float model, built.
        kernel: its weights, float32 (kh, kw, Cin, Ct) or (Cin, Ct).
        settings: of the method's plan.
        moments: of each group's inputs and responses; None without data.
    """

    layer: Any
    kernel: np.ndarray
    settings: Any
    moments: list[Moments] | None

    @property
    def groups(self) -> int:
        """Groups of a convolution, 1 of a dense layer."""
        return getattr(self.layer, "groups", 1)


@dataclasses.dataclass(frozen=True)
class Solution:
    """What became of one layer.

    Attributes:
        weights: of the replacement, by the names of its attributes: "codewords", "assignments",
            and others that the method changes, such as "bias".
        error_before: squared error of the responses before error correction, relative to their
            energy; without data that of the weights.
        error_after: the same at the end.
        history: the objective, a value for each round.
    """

    weights: dict[str, np.ndarray]
    error_before: float
    error_after: float
    history: tuple[float, ...] = ()


def weight_solution(
    weights: dict[str, np.ndarray],
    kernel: np.ndarray,
    decoded: np.ndarray,
    history: tuple[float, ...] = (),
) -> Solution:
    """Return the solution of a method that looks at weights only, with their relative error."""
    energy = max(float((kernel.astype(np.float64) ** 2).sum()), np.finfo(np.float32).tiny)
    error = float(((decoded.astype(np.float64) - kernel) ** 2).sum()) / energy
    return Solution(weights, error, error, history)
