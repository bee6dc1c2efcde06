"""The squared error of a layer's responses as a function of its weights."""

from __future__ import annotations

import abc

import numpy as np

from kerasq.codebooks.moments import Moments


class Objective(abc.ABC):
    """``J(Ŵ) = Σ_n ‖t_n − Ŵᵀ x_n‖² + λ s ‖Ŵ − W‖²`` with ``s = tr(G) / Q``, for one group.

    In what follows G and H have the prior in them: ``G + λ s I`` and ``H + λ s W``.

    Attributes:
        outputs: the group's columns of the kernel.
        scale: s.
    """

    outputs: slice
    scale: float

    @abc.abstractmethod
    def value(self, weights: np.ndarray) -> float:
        """Return J, and take Ŵ (Q, Ct) as the weights that `residual` speaks of."""

    @abc.abstractmethod
    def residual(self, rows: slice, weights: np.ndarray) -> np.ndarray:
        """Return ``H − GŴ`` on some rows, (R, Ct)."""

    @abc.abstractmethod
    def gram(self, rows: slice) -> np.ndarray:
        """Return G on some rows and columns, (R, R)."""

    @abc.abstractmethod
    def moved(self, rows: slice, change: np.ndarray) -> None:
        """Take notice that some rows of Ŵ changed."""


def objective_of(
    moments: Moments,
    order: np.ndarray,
    original: np.ndarray,
    outputs: slice,
    prior: float,
    dtype: type,
) -> Objective:
    """Return a group's objective: from its samples where there are fewer than Q.

    Args:
        moments: of the group.
        order: the rows of the moments, as the kernel's matrix has them.
        original: W (Q, Ct), rows in that order.
        outputs: the group's columns of the kernel.
        prior: λ.
        dtype: of large arrays and their products.
    """
    kind = _GramObjective if moments.samples is None else _SampleObjective
    return kind(moments, order, original, outputs, prior, dtype)


class _GramObjective(Objective):
    """From G and H: a sweep over the rows costs Q² Ct, whatever the number of samples."""

    def __init__(
        self,
        moments: Moments,
        order: np.ndarray,
        original: np.ndarray,
        outputs: slice,
        prior: float,
        dtype: type,
    ):
        self.outputs = outputs
        # All inputs zero: the prior alone.
        self.scale = float(np.trace(moments.gram)) / moments.inputs or 1.0
        ridge = prior * self.scale
        gram, cross = moments.gram.astype(dtype), moments.cross.astype(dtype)
        if not np.array_equal(order, np.arange(len(order))):
            gram, cross = gram[np.ix_(order, order)], cross[order]
        gram[np.diag_indices_from(gram)] += dtype(ridge)
        cross += dtype(ridge) * original
        self._gram, self._cross = gram, cross
        self._constant = moments.energy + ridge * _square_sum(original)

    def value(self, weights: np.ndarray) -> float:
        product = weights * (self._gram @ weights - 2 * self._cross)
        return self._constant + float(product.sum(dtype=np.float64))

    def residual(self, rows: slice, weights: np.ndarray) -> np.ndarray:
        return self._cross[rows] - self._gram[rows] @ weights

    def gram(self, rows: slice) -> np.ndarray:
        return self._gram[rows, rows]

    def moved(self, rows: slice, change: np.ndarray) -> None:
        return


class _SampleObjective(Objective):
    """From the samples X (N, Q), N < Q: a sweep costs 2 Q N Ct, and G is never made.

    ``H − GŴ = Xᵀ E + λ s (W − Ŵ)`` with the errors ``E = T − XŴ`` kept up to date.
    """

    def __init__(
        self,
        moments: Moments,
        order: np.ndarray,
        original: np.ndarray,
        outputs: slice,
        prior: float,
        dtype: type,
    ):
        self.outputs = outputs
        inputs, targets = (array.astype(dtype, copy=False) for array in moments.samples)
        self.scale = _square_sum(inputs) / moments.inputs or 1.0
        self._ridge = dtype(prior * self.scale)
        if not np.array_equal(order, np.arange(len(order))):
            inputs = inputs[:, order]
        self._inputs, self._targets, self._original = inputs, targets, original
        self._errors = targets

    def value(self, weights: np.ndarray) -> float:
        self._errors = self._targets - self._inputs @ weights
        pull = self._ridge * _square_sum(self._original - weights)
        return _square_sum(self._errors) + float(pull)

    def residual(self, rows: slice, weights: np.ndarray) -> np.ndarray:
        pull = self._ridge * (self._original[rows] - weights[rows])
        return self._inputs[:, rows].T @ self._errors + pull

    def gram(self, rows: slice) -> np.ndarray:
        gram = self._inputs[:, rows].T @ self._inputs[:, rows]
        gram[np.diag_indices_from(gram)] += self._ridge
        return gram

    def moved(self, rows: slice, change: np.ndarray) -> None:
        self._errors -= self._inputs[:, rows] @ change


def _square_sum(array: np.ndarray) -> float:
    return float(np.square(array).sum(dtype=np.float64))
