"""Look-up tables of 8 bits for the codebooks of a deployed model, their scales from data."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from kerasq.export.operators import ByteTables
from kerasq.export.packed import CodebookOperator, PackedLayer
from kerasq.quantizers.observation import input_batches

MAX_CODEWORDS = 256
MAX_SUBVECTOR = 512
# Sub-vectors of a layer from which the scale of its tables is chosen.
SAMPLES = 4096
# Where a range is cut, as shares of it: what is kept gets finer steps.
_CUTS = np.linspace(1.0, 0.4, 25)
# An entry before its last rounding is so many bits longer, or one more.
_GUARD_BITS = 6


def use_byte_tables(layers: list[PackedLayer], deployed: Any, data: Any) -> list[str]:
    """Give codebook operators tables of 8 bits, with scales from what their inputs are on data.

    Codes of the input, codewords and table each have one scale a layer, that with the least squared
    error on the data: inputs in 8 bits with a zero point, codewords in 8 bits, entries in 8 bits.

    Args:
        layers: packed layers of the deployed model.
        deployed: the model; its layers are changed in place.
        data: array (N, ...), ``tf.data.Dataset`` or sequence of batches.

    Returns:
        The names of the layers that were changed: those with one codebook by position, of at most
        256 codewords of 2 to 512 weights.

    Raises:
        ValueError: no data, or inputs that are not finite.
    """
    chosen = [layer for layer in layers if layer.codebook is not None and fits(layer.codebook)]
    observers = {layer.name: _Observer(layer) for layer in chosen}
    for layer in chosen:
        layer.observe = observers[layer.name]
    try:
        seen = 0
        for batch in input_batches(data):
            deployed(batch, training=False)
            seen += 1
    finally:
        for layer in chosen:
            layer.observe = None
    if not seen:
        raise ValueError("calibration_data is empty: pass some of the model's inputs")
    for layer in chosen:
        layer.replace_operator(*_with_bytes(layer.codebook, observers[layer.name].inputs()))
    return [layer.name for layer in chosen]


def fits(codebook: CodebookOperator) -> bool:
    """Tell whether a codebook can have tables of 8 bits."""
    size, length = codebook.kernel.codewords.shape[1:]
    by_position = codebook.kernel.order == "position"
    return by_position and size <= MAX_CODEWORDS and 2 <= length <= MAX_SUBVECTOR


@dataclasses.dataclass
class _Inputs:
    """What a layer's inputs are: the range, and some pixels of a group, (n, channels)."""

    low: float
    high: float
    pixels: np.ndarray


class _Observer:
    """Keeps the range of a layer's inputs, and a sample of pixels."""

    def __init__(self, layer: PackedLayer) -> None:
        self._name = layer.name
        geometry = layer.codebook.geometry
        self._groups = 1 if geometry is None else geometry.groups
        self._rng = np.random.default_rng(0)
        self._low, self._high, self._kept = 0.0, 0.0, []

    def __call__(self, x: tf.Tensor) -> None:
        x = np.asarray(x, np.float32)
        if not np.all(np.isfinite(x)):
            raise ValueError(
                f"layer {self._name!r}: its inputs on the calibration data are not finite"
            )
        self._low = min(self._low, float(x.min()))
        self._high = max(self._high, float(x.max()))
        pixels = x.reshape(-1, x.shape[-1] // self._groups)
        count = min(len(pixels), SAMPLES // 8)
        self._kept.append(pixels[self._rng.choice(len(pixels), count, replace=False)])

    def inputs(self) -> _Inputs:
        pixels = np.concatenate(self._kept)
        if len(pixels) > SAMPLES:
            pixels = pixels[self._rng.choice(len(pixels), SAMPLES, replace=False)]
        return _Inputs(self._low, self._high, pixels)


def _with_bytes(codebook: CodebookOperator, inputs: _Inputs) -> tuple[Any, tuple]:
    floats = codebook.kernel.codewords.astype(np.float32)
    codeword_scale = np.float64(np.max(np.abs(floats))) / 127 or 1.0
    codewords = np.round(floats / codeword_scale).astype(np.int8)
    inverse_scale, zero_point = input_grid(inputs.low, inputs.high, inputs.pixels)
    codes = np.clip(
        np.round(inputs.pixels * inverse_scale), -128.0 - zero_point, 127.0 - zero_point
    )
    products = _products(codes, codewords)
    tables = ByteTables(zero_point, *rounding(products))
    unit = 2.0 ** (tables.shift + 15) / tables.multiplier  # of an entry, in products
    scale = codeword_scale / np.float64(inverse_scale) * unit
    return codebook.with_bytes(tables, codewords, inverse_scale, scale)


def _products(codes: np.ndarray, codewords: np.ndarray) -> np.ndarray:
    """Return the products of sampled sub-vectors with all codewords of their sub-space."""
    books, _, length = codewords.shape
    subspaces = -(-codes.shape[1] // length)
    padded = np.pad(codes, [(0, 0), (0, subspaces * length - codes.shape[1])])
    vectors = padded.reshape(len(codes), subspaces, length).astype(np.float32)
    rows = max(1, SAMPLES // subspaces)
    words = (
        np.broadcast_to(codewords, (subspaces, *codewords.shape[1:])) if books == 1 else codewords
    )
    return np.einsum("nmd,mkd->nmk", vectors[:rows], words.astype(np.float32)).ravel()


def input_grid(low: float, high: float, sample: np.ndarray) -> tuple[np.float32, int]:
    """Return the inverse scale and the zero point of codes with the least squared error.

    Codes are ``clip(round(x · inverse_scale) + zero_point, -128, 127)``; the range holds 0.
    """
    if low == high:
        return np.float32(1.0), 0
    best = None
    for cut in _CUTS:
        step = (high - low) * cut / 255
        zero_point = int(np.clip(np.round(-128 - low * cut / step), -128, 127))
        inverse = np.float32(1.0 / step)
        codes = np.clip(np.round(sample * inverse), -128 - zero_point, 127 - zero_point)
        error = float(np.mean((codes * step - sample) ** 2))
        if best is None or error < best[0]:
            best = error, inverse, zero_point
    return best[1], best[2]


def rounding(products: np.ndarray) -> tuple[int, int]:
    """Return shift and multiplier of the entries with the least squared error on products."""
    largest = float(np.max(np.abs(products))) or 1.0
    best = None
    for cut in _CUTS:
        factor = min(127 / (largest * cut), 32767 / 2**15)  # of a product, to give an entry
        shift = max(0, min(24, int(np.floor(-np.log2(factor))) - _GUARD_BITS))
        multiplier = int(np.clip(np.round(factor * 2.0 ** (15 + shift)), 1, 32767))
        entries = np.clip(np.round(products * multiplier / 2.0 ** (15 + shift)), -128, 127)
        error = float(np.mean((entries * 2.0 ** (15 + shift) / multiplier - products) ** 2))
        if best is None or error < best[0]:
            best = error, shift, multiplier
    return best[1], best[2]
