"""Tensors whose sub-vectors are codewords."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from kerasq.representations.base import Representation
from kerasq.representations.packing import pack_bits, unpack_bits

ORDERS = ("position", "channel")


def assignments_shape(shape: tuple[int, ...], subvector: int, order: str) -> tuple[int, ...]:
    """Return the shape of the assignments of a kernel: (..., M, Ct), or (M, Ct) by channel.

    Args:
        shape: (..., Cin, Ct) of the kernel.
        subvector: d.
        order: "position" or "channel", as of `Codebook`.
    """
    if order == "position":
        return (*shape[:-2], -(-shape[-2] // subvector), shape[-1])
    return (-(-math.prod(shape[:-1]) // subvector), shape[-1])


def index_bits(codewords: int) -> int:
    """Return the bits of one assignment: ``max(1, ceil(log2 K))``."""
    return max(1, (codewords - 1).bit_length())


@dataclasses.dataclass(frozen=True, eq=False)
class Codebook(Representation):
    """A kernel whose sub-vectors are codewords.

    By position (Q-CNN), a sub-vector is d consecutive input channels at one kernel position p:
    ``W[p, m·d + j, c] = codewords[m, assignments[p, m, c], j]`` for sub-space m and output c. By
    channel ("And the bit goes down"), it is d consecutive entries of an output's weights in the
    order (input channel, row, column): with r = m·d + j counting them,
    ``W[r % P, r // P, c] = codewords[m, assignments[m, c], j]``. The last sub-space is shorter
    where d does not divide.

    Attributes:
        shape: (..., Cin, Ct): HWIO of a convolution (Cin a group's), or (Cin, Ct); a vector is a
            row of Ct.
        codewords: float32 or float16 (M, K, d), or (1, K, d): one codebook for all sub-spaces.
        packed: uint8 (positions or 1, M, ceil(Ct·bits / 8)): the assignments, output channels
            innermost.
        order: "position" or "channel". They are the same for one position, which is "position".
    """

    codewords: np.ndarray
    packed: np.ndarray
    order: str = "position"

    @classmethod
    def from_assignments(
        cls,
        codewords: np.ndarray,
        assignments: np.ndarray,
        shape: tuple[int, ...],
        order: str = "position",
    ) -> Codebook:
        """Pack assignments.

        Args:
            codewords: (M or 1, K, d), float32 or float16.
            assignments: unsigned integers below K, shape (..., M, Ct), the leading axes as those of
                ``shape``; by channel (M, Ct).
            shape: (..., Cin, Ct) of the decoded kernel.
            order: "position" or "channel".

        Raises:
            ValueError: shapes that do not fit, an assignment of K or more, another float type or
                order.
        """
        if order not in ORDERS:
            raise ValueError(f"order is one of {ORDERS}, got {order!r}")
        codewords, assignments = np.asarray(codewords), np.asarray(assignments)
        if codewords.ndim != 3 or codewords.dtype not in (np.float32, np.float16):
            raise ValueError(
                "codewords are a float32 or float16 array (sub-spaces, K, d), not "
                f"{codewords.dtype} {codewords.shape}"
            )
        books, size, length = codewords.shape
        kernel_shape = _as_kernel(shape)
        expected = assignments_shape(kernel_shape, length, order)
        subspaces = expected[-2]
        if assignments.shape != expected or books not in (1, subspaces):
            raise ValueError(
                f"a kernel {shape} in sub-vectors of {length} takes assignments {expected} and 1 "
                f"or {subspaces} codebooks, not {assignments.shape} and {books}"
            )
        if assignments.size and assignments.max() >= size:
            raise ValueError(f"assignment {assignments.max()} in a codebook of {size} codewords")
        rows = assignments.reshape(-1, subspaces, kernel_shape[-1])
        order = "position" if math.prod(kernel_shape[:-2]) == 1 else order
        return cls(tuple(shape), codewords, pack_bits(rows, index_bits(size)), order)

    @property
    def bits(self) -> int:
        """Bits of one assignment."""
        return index_bits(self.codewords.shape[1])

    def assignments(self) -> np.ndarray:
        """Return the assignments, uint8 (uint16 for K > 256): (..., M, Ct) or (M, Ct)."""
        shape = _as_kernel(self.shape)
        rows = unpack_bits(self.packed, self.bits, shape[-1])
        return rows.reshape(assignments_shape(shape, self.codewords.shape[2], self.order))

    def decode(self) -> np.ndarray:
        """Return the kernel in float32."""
        books, _, length = self.codewords.shape
        subspaces = self.packed.shape[1]
        book = np.arange(subspaces)[:, None] if books > 1 else 0
        vectors = self.codewords.astype(np.float32)[book, self.assignments()]  # (..., M, Ct, d)
        shape = _as_kernel(self.shape)
        kernel = np.moveaxis(vectors, -1, -2)
        if self.order == "channel":
            rows = kernel.reshape(subspaces * length, shape[-1])[: math.prod(shape[:-1])]
            kernel = np.moveaxis(rows.reshape(shape[-2], *shape[:-2], shape[-1]), 0, -2)
            return np.ascontiguousarray(kernel).reshape(self.shape)
        kernel = kernel.reshape(*shape[:-2], subspaces * length, shape[-1])
        return np.ascontiguousarray(kernel[..., : shape[-2], :]).reshape(self.shape)


def _as_kernel(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return ``shape`` with the two axes that a kernel has at least."""
    return (*(1,) * (2 - len(shape)), *shape)
