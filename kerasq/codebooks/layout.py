"""How a kernel is cut into sub-vectors."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np


@dataclasses.dataclass(frozen=True)
class KernelLayout:
    """The sub-vectors of a kernel: ``subvector`` consecutive input channels at one position.

    As a matrix, a kernel has one row for each (position, input channel) and one column for each
    output. The solver wants the rows of one sub-space together: `rows` is that order, sub-space
    major, then position, then channel.

    Attributes:
        shape: (kh, kw, Cin, Ct) or (Cin, Ct); Cin is the input channels of one group.
        subvector: d, length of a sub-vector; where it does not divide, the last is shorter.
        groups: groups of a convolution; all of them share the codebooks.
    """

    shape: tuple[int, ...]
    subvector: int
    groups: int = 1

    @property
    def positions(self) -> int:
        """Kernel positions P."""
        return int(np.prod(self.shape[:-2]))

    @property
    def channels(self) -> int:
        """Input channels of one group."""
        return self.shape[-2]

    @property
    def outputs(self) -> int:
        """Output channels of all groups."""
        return self.shape[-1]

    @property
    def subspaces(self) -> int:
        """Sub-spaces M."""
        return -(-self.channels // self.subvector)

    def length(self, subspace: int) -> int:
        """Return the channels of a sub-space: d, or less for the last."""
        return min(self.subvector, self.channels - subspace * self.subvector)

    def span(self, subspace: int) -> slice:
        """Return the rows of a sub-space, in the order of `rows`."""
        start = subspace * self.subvector * self.positions
        return slice(start, start + self.length(subspace) * self.positions)

    @functools.cached_property
    def rows(self) -> np.ndarray:
        """Row numbers (position · channels + channel), sub-space major."""
        grid = np.arange(self.positions * self.channels).reshape(self.positions, self.channels)
        bounds = range(self.subvector, self.channels, self.subvector)
        return np.concatenate([part.ravel() for part in np.split(grid, bounds, axis=1)])

    def matrix(self, kernel: np.ndarray) -> np.ndarray:
        """Return the kernel as a matrix (positions · channels, outputs), rows in `rows`' order."""
        return kernel.reshape(-1, self.outputs)[self.rows]

    def vectors(self, kernel: np.ndarray, subspace: int) -> np.ndarray:
        """Return the sub-vectors of a sub-space: (positions · outputs, length), position major."""
        start = subspace * self.subvector
        part = kernel.reshape(self.positions, self.channels, self.outputs)
        part = part[:, start : start + self.subvector]
        return part.transpose(0, 2, 1).reshape(self.positions * self.outputs, -1)

    def decode(self, codewords: np.ndarray, assignments: np.ndarray) -> np.ndarray:
        """Return the kernel of codewords (M, K, d) and assignments (P, M, Ct)."""
        book = np.arange(self.subspaces)[:, None]
        vectors = codewords[book, assignments]  # (P, M, Ct, d)
        kernel = vectors.transpose(0, 1, 3, 2).reshape(self.positions, -1, self.outputs)
        return np.ascontiguousarray(kernel[:, : self.channels].reshape(self.shape))
