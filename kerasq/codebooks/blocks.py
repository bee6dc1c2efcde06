"""Sub-vectors of "And the bit goes down" and PQF: blocks of an output's weights, one codebook."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from kerasq.codebooks.method import CodebookSettings, Method
from kerasq.codebooks.selection import check_pair, check_selection, choice_of
from kerasq.representations import Codebook

CLAMPS = ("pqf", "paper", "bgd")
MAX_CODEWORDS = 1 << 16
Choice = tuple[int, int] | bool | None
_FLOAT16_LARGEST = 6e4


def clamp_codewords(codewords: int, vectors: int, rule: str = "pqf") -> int:
    """Return the codewords of a layer of so many sub-vectors, at least 1.

    Args:
        codewords: K, as wanted.
        vectors: n, sub-vectors of the layer.
        rule: at most n / 4 ("paper"), the largest power of two not above n / 4 ("pqf"), or the
            largest one strictly below it ("bgd", as the published code).
    """
    quotient = (vectors - 1 if rule == "bgd" else vectors) // 4
    if rule != "paper":
        quotient = 1 << quotient.bit_length() >> 1
    return max(1, min(codewords, quotient))


def vectors_of(kernel: np.ndarray, subvector: int) -> np.ndarray:
    """Return the blocks of a kernel (..., Cin, Ct): float64 (m · Ct, d), output innermost.

    A block is d consecutive weights of an output in the order (input channel, row, column).
    """
    outputs = kernel.shape[-1]
    rows = np.moveaxis(kernel, -2, 0).reshape(-1, subvector, outputs)
    return rows.transpose(0, 2, 1).reshape(-1, subvector).astype(np.float64)


def decoded(codewords: np.ndarray, assignments: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the kernel of codewords (K, d) and assignments (m, Ct)."""
    return Codebook.from_assignments(codewords[None], assignments, shape, "channel").decode()


def shipped(codewords: np.ndarray, dtype: str) -> np.ndarray:
    """Return codewords in the type that is stored.

    Raises:
        ValueError: they are too large for float16.
    """
    largest = np.abs(codewords).max()
    if dtype == "float16" and largest > _FLOAT16_LARGEST:
        raise ValueError(
            f'codewords up to {largest:.3g} do not fit into float16: use codebook_dtype="float32"'
        )
    return codewords.astype(dtype)


def weights_of(codewords: np.ndarray, assignments: np.ndarray) -> dict[str, np.ndarray]:
    """Return the weights of a replacement, for a `Solution`."""
    index = np.uint8 if len(codewords) <= 256 else np.uint16
    return {"codewords": codewords.astype(np.float32), "assignments": assignments.astype(index)}


class BlockMethod(Method):
    """A method whose sub-vectors are blocks of an output's weights, with one codebook a layer.

    The constructor of a subclass sets the attributes of the same names, then calls `_check`.
    """

    gradient: ClassVar[str]
    conv: int
    pointwise: int
    dense: int
    codewords: int
    classifier: int
    clamp: str
    compress_first: bool
    layers: Mapping[str, Choice] | Callable[[Any], Choice] | None
    codebook_dtype: str

    def _check(self) -> None:
        owner = type(self).__name__
        if self.conv < 9 or self.conv % 9:
            raise ValueError(
                f"{owner}: conv is a multiple of 9, got {self.conv}: a block of a 3x3 convolution "
                "has whole input channels; `layers` takes other sizes"
            )
        for name in ("pointwise", "dense", "codewords", "classifier", "batch_size", "iterations"):
            if getattr(self, name) < 1:
                raise ValueError(f"{owner}: {name} must be at least 1, got {getattr(self, name)}")
        if max(self.codewords, self.classifier) > MAX_CODEWORDS:
            raise ValueError(f"{owner}: at most {MAX_CODEWORDS} codewords")
        if self.clamp not in CLAMPS:
            raise ValueError(f"{owner}: clamp is one of {CLAMPS}, got {self.clamp!r}")
        if self.codebook_dtype not in ("float16", "float32"):
            raise ValueError(
                f"{owner}: codebook_dtype is 'float16' or 'float32', got {self.codebook_dtype!r}"
            )

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def plan(self, layers: list[Any]) -> dict[str, CodebookSettings]:
        """Return the settings of the layers to compress, by name.

        Raises:
            ValueError: ``layers`` names a layer that is not there, or gives one a block size that
                does not divide its weights, or more codewords than it has blocks.
            TypeError: ``layers`` is of another kind, or gives a layer something else.
        """
        check_selection(layers, self.layers, f"{type(self).__name__}(layers=...)")
        first = next((layer for layer in layers if _convolves(layer)), None)
        plan = {}
        for layer in layers:
            choice = choice_of(self.layers, layer)
            if choice is None:
                choice = self.compress_first or layer is not first
            if choice is True:
                choice = self._rule(layer, layer is layers[-1] and not _convolves(layer))
            if choice is not False:
                check_pair(choice, f"{type(self).__name__}: layer {layer.name!r}")
                plan[layer.name] = self._settings(layer, *choice)
        return plan

    def _rule(self, layer: Any, is_classifier: bool) -> tuple[int, int]:
        """Return (d, K): whole input channels, as many as asked for that divide theirs."""
        *window, channels, outputs = layer.kernel.shape
        taps = math.prod(window)
        if not _convolves(layer):
            wanted = self.dense
        else:
            wanted = self.pointwise if taps == 1 else self.conv // 9
        length = taps * max(n for n in range(1, wanted + 1) if channels % n == 0)
        vectors = taps * channels * outputs // length
        codewords = self.classifier if is_classifier else self.codewords
        return length, clamp_codewords(codewords, vectors, self.clamp)

    def _settings(self, layer: Any, subvector: int, codewords: int) -> CodebookSettings:
        *rows, outputs = layer.kernel.shape
        row = math.prod(rows)
        if subvector < 1 or row % subvector:
            raise ValueError(
                f"layer {layer.name!r}: blocks of {subvector} do not divide the {row} weights of "
                "an output: choose a divisor"
            )
        vectors = row * outputs // subvector
        if not 1 <= codewords <= min(vectors, MAX_CODEWORDS):
            raise ValueError(
                f"layer {layer.name!r} has {vectors} blocks of {subvector}: its codewords are 1 to "
                f"{min(vectors, MAX_CODEWORDS)}, got {codewords}"
            )
        return CodebookSettings(
            subvector,
            codewords,
            self.codebook_dtype,
            order="channel",
            shared=True,
            gradient=self.gradient,
        )


def _convolves(layer: Any) -> bool:
    return hasattr(layer, "kernel_size")
