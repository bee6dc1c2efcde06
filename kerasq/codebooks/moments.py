"""Sums over the calibration data: all that error correction needs to know of it."""

from __future__ import annotations

import numpy as np


class Moments:
    """Streaming second moments of a layer's inputs x and targets t.

    ``G = Σ x xᵀ``, ``H = Σ x tᵀ``, ``τ = Σ ‖t‖²``, with ``Σ x``, ``Σ t`` and the count N. Each
    block is a float32 matrix product, added to float64 sums. With them the squared error of any
    weights W is ``τ − 2⟨W, H⟩ + ⟨W, G W⟩``, whatever the number of samples.

    Fewer samples than Q say more in less memory as they are: they are kept until there are Q, and
    summed then, or when G or H is asked for.

    Args:
        inputs: length Q of x.
        outputs: length Ct of t.

    Attributes:
        inputs, outputs: Q and Ct.
        energy: τ.
        count: N.
        input_sum: Σ x, float64 (Q,).
        target_sum: Σ t, float64 (Ct,).
    """

    def __init__(self, inputs: int, outputs: int):
        self.inputs, self.outputs = inputs, outputs
        self.input_sum = np.zeros(inputs)
        self.target_sum = np.zeros(outputs)
        self.energy = 0.0
        self.count = 0
        self._samples: list[tuple[np.ndarray, np.ndarray]] | None = []
        self._gram = self._cross = None

    def update(self, inputs: np.ndarray, targets: np.ndarray) -> None:
        """Add samples: ``inputs`` (n, Q) and ``targets`` (n, Ct); they are not copied."""
        self.input_sum += inputs.sum(0, dtype=np.float64)
        self.target_sum += targets.sum(0, dtype=np.float64)
        self.energy += float(np.square(targets, dtype=np.float64).sum())
        self.count += len(inputs)
        if self._samples is None:
            self._add(inputs, targets)
            return
        self._samples.append((inputs, targets))
        if self.count >= self.inputs:
            self._sum_up()

    @property
    def gram(self) -> np.ndarray:
        """G, float64 (Q, Q)."""
        self._sum_up()
        return self._gram

    @gram.setter
    def gram(self, value: np.ndarray) -> None:
        self._sum_up()
        self._gram = value

    @property
    def cross(self) -> np.ndarray:
        """H, float64 (Q, Ct)."""
        self._sum_up()
        return self._cross

    @cross.setter
    def cross(self, value: np.ndarray) -> None:
        self._sum_up()
        self._cross = value

    @property
    def samples(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The samples (N, Q) and their targets (N, Ct); None where only the sums are left."""
        if not self._samples:
            return None
        if len(self._samples) > 1:
            inputs, targets = zip(*self._samples, strict=True)
            self._samples = [(np.concatenate(inputs), np.concatenate(targets))]
        return self._samples[0]

    @property
    def finite(self) -> bool:
        """Whether neither the samples nor their sums overflow or are NaN."""
        total = self.energy + self.input_sum.sum()
        if self._samples is None:
            total += self._gram.sum()
        return bool(np.isfinite(total))

    def error(self, weights: np.ndarray) -> float:
        """Return ``Σ ‖t − Wᵀx‖²`` of weights W (Q, Ct)."""
        weights = np.asarray(weights, np.float64)
        return self.energy + float((weights * (self.gram @ weights - 2 * self.cross)).sum())

    def centred(self) -> Moments:
        """Return the moments of ``x − mean(x)`` and ``t − mean(t)``: what a free bias leaves."""
        count = max(self.count, 1)
        centred = Moments(self.inputs, self.outputs)
        centred.count = self.count
        centred.energy = max(0.0, self.energy - float((self.target_sum**2).sum()) / count)
        if self.samples is not None:
            sums = (self.input_sum, self.target_sum)
            pairs = zip(self.samples, sums, strict=True)
            centred._samples = [tuple(x - (s / count).astype(x.dtype) for x, s in pairs)]
            return centred
        centred.gram = self.gram - np.outer(self.input_sum, self.input_sum) / count
        centred.cross = self.cross - np.outer(self.input_sum, self.target_sum) / count
        return centred

    def mean_error(self, weights: np.ndarray) -> np.ndarray:
        """Return ``mean(t − Wᵀx)`` of weights W (Q, Ct): what a bias can take away, (Ct,)."""
        return (self.target_sum - self.input_sum @ weights) / max(self.count, 1)

    def _sum_up(self) -> None:
        if self._samples is None:
            return
        samples, self._samples = self._samples, None
        self._gram = np.zeros((self.inputs, self.inputs))
        self._cross = np.zeros((self.inputs, self.outputs))
        for inputs, targets in samples:
            self._add(inputs, targets)

    def _add(self, inputs: np.ndarray, targets: np.ndarray) -> None:
        self._gram += inputs.T @ inputs
        self._cross += inputs.T @ targets
