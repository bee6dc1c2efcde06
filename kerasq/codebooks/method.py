"""What `compress` asks of a method, and what it gets."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, ClassVar

import numpy as np

from kerasq.codebooks.layout import KernelLayout
from kerasq.codebooks.moments import Moments


@dataclasses.dataclass(frozen=True)
class LayerSettings:
    """How one layer is compressed.

    Attributes:
        subvector: d.
        codewords: K.
        codebook_dtype: "float32" or "float16".
    """

    subvector: int
    codewords: int
    codebook_dtype: str


@dataclasses.dataclass(frozen=True)
class Solution:
    """The codebook of one layer.

    Attributes:
        codewords: (M, K, d), values representable in the settings' type.
        assignments: uint8 (P, M, Ct).
        error_before: squared error of the responses before error correction, relative to their
            energy; without data that of the weights.
        error_after: the same at the end.
    """

    codewords: np.ndarray
    assignments: np.ndarray
    error_before: float
    error_after: float


class Method(abc.ABC):
    """A way of finding codebooks, layer by layer.

    Attributes:
        name: name in the catalogue.
        needs_data: whether it looks at activations.
        positions: output positions of an image to look at; None for all.
        seed: of everything random.
    """

    name: ClassVar[str]
    needs_data: bool
    positions: int | None
    seed: int

    @abc.abstractmethod
    def plan(self, layers: list[Any]) -> dict[str, LayerSettings]:
        """Return the settings of the layers to compress, by name; those left out stay float."""

    @abc.abstractmethod
    def solve(
        self,
        kernel: np.ndarray,
        layout: KernelLayout,
        moments: list[Moments] | None,
        settings: LayerSettings,
        rng: np.random.Generator,
    ) -> Solution:
        """Find the codebook of a layer.

        Args:
            kernel: float32, the layout's shape.
            layout: how it is cut.
            moments: of each group; None without data.
            settings: of the layer.
            rng: the layer's own generator.
        """

    @abc.abstractmethod
    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
