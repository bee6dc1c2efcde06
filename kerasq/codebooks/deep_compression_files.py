"""The ``.net`` files in which Deep Compression's networks were published.

Little-endian, without names or shapes: the number of stored entries of each layer (uint32), then
for each layer its codebook (float32, the first value zero), biases (float32), codes (8 bits in a
convolution, 4 in a dense layer) and gaps (4 bits), in each byte the low half first. An entry stands
``gap + 1`` places behind the one before it; what lies between is zero. A longer way takes fillers,
entries of the zero with the largest gap.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from kerasq.files import write_whole

_LARGEST_GAP = 15
_KINDS = ("conv", "fc", "ip")


@dataclasses.dataclass(frozen=True, eq=False)
class NetLayer:
    """A layer of a ``.net`` file.

    Attributes:
        codebook: float32 (256,) of a convolution, (16,) of a dense layer; the first is 0.
        codes: uint8, of Caffe's kernel shape: (Ct, Cs, kh, kw) or (Ct, Cs).
        bias: float32 (Ct,).
    """

    codebook: np.ndarray
    codes: np.ndarray
    bias: np.ndarray

    @property
    def kernel(self) -> np.ndarray:
        """The weights, in Caffe's order."""
        return self.codebook[self.codes]


def read_net(
    path: str | os.PathLike[str], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, NetLayer]:
    """Read a ``.net`` file.

    Args:
        path: of the file.
        shapes: names and kernel shapes, in Caffe's order (Ct, Cs, kh, kw) or (Ct, Cs), of the
            network's layers whose name contains "conv", "fc" or "ip", in the network's order.

    Raises:
        ValueError: a name without these; a file that ends early or late, or is corrupt: the error
            names the byte.
    """
    return decode_net(Path(path).read_bytes(), shapes, str(path))


def write_net(path: str | os.PathLike[str], layers: Mapping[str, NetLayer]) -> None:
    """Write a ``.net`` file, whole or not at all.

    Args:
        path: of the file.
        layers: by name, in the network's order.

    Raises:
        ValueError: as of `encode_net`.
    """
    write_whole(Path(path), encode_net(layers))


def decode_net(
    content: bytes, shapes: Mapping[str, tuple[int, ...]], owner: str = "the file"
) -> dict[str, NetLayer]:
    """Return the layers of a ``.net`` file's content; see `read_net`."""
    bits = {name: _code_bits(name) for name in shapes}
    reader = _Reader(content, owner)
    counts = reader.take("<u4", len(shapes), "the entries of the layers")
    for index, (name, shape) in enumerate(shapes.items()):
        if counts[index] > math.prod(shape):
            reader.refuse(
                4 * index, f"layer {name!r} of {math.prod(shape)} weights has {counts[index]}"
            )
    layers = {
        name: _decode_layer(reader, name, tuple(shape), bits[name], int(count))
        for (name, shape), count in zip(shapes.items(), counts, strict=True)
    }
    if reader.offset < len(content):
        raise ValueError(
            f"{owner} has {len(content) - reader.offset} bytes left at byte {reader.offset}, after "
            "the last layer: it is the file of another network"
        )
    return layers


def _decode_layer(
    reader: _Reader, name: str, shape: tuple[int, ...], bits: int, count: int
) -> NetLayer:
    owner, size = f"layer {name!r}", math.prod(shape)
    at = reader.offset
    codebook = reader.floats(2**bits, f"the codebook of {owner}")
    if codebook[0] != 0:
        reader.refuse(at, f"the first codeword of {owner} is {codebook[0]:.6g}, not 0")
    bias = reader.floats(shape[0], f"the biases of {owner}")
    codes = reader.entries(count, bits, f"the codes of {owner}")
    at = reader.offset
    gaps = reader.entries(count, 4, f"the gaps of {owner}")
    positions = np.cumsum(gaps.astype(np.int64) + 1) - 1
    beyond = int(np.searchsorted(positions, size))
    if beyond < count:
        reader.refuse(at + beyond // 2, f"entry {beyond} of {owner} lies beyond its {size} weights")
    full = np.zeros(size, np.uint8)
    full[positions] = codes
    return NetLayer(codebook, full.reshape(shape), bias)


def encode_net(layers: Mapping[str, NetLayer]) -> bytes:
    """Return the content of a ``.net`` file.

    Args:
        layers: by name, in the network's order.

    Raises:
        ValueError: a name without "conv", "fc" or "ip"; a codebook of another size, or whose first
            value is not 0; a code beyond the codebook; another number of biases.
    """
    counts, parts = [], []
    for name, layer in layers.items():
        bits = _code_bits(name)
        _check_layer(name, layer, 2**bits)
        gaps, codes = gap_entries(layer.codes.ravel())
        counts.append(len(gaps))
        parts += [layer.codebook.astype("<f4").tobytes(), layer.bias.astype("<f4").tobytes()]
        parts += [codes.tobytes() if bits == 8 else _pack_nibbles(codes), _pack_nibbles(gaps)]
    return np.array(counts, "<u4").tobytes() + b"".join(parts)


def gap_entries(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the gaps and codes of the entries that store a row of codes.

    Args:
        codes: uint8 (n,); zeros are not stored but where a filler has to stand.

    Returns:
        Gaps, 0 to 15, and codes of the entries, both uint8.
    """
    positions = np.flatnonzero(codes)
    steps = np.diff(positions, prepend=-1) - 1
    fillers = steps // (_LARGEST_GAP + 1)
    entries = np.cumsum(fillers + 1) - 1  # where the codes stand, each after its fillers
    count = len(codes[positions]) + int(fillers.sum())
    gaps = np.full(count, _LARGEST_GAP, np.uint8)
    stored = np.zeros(count, np.uint8)
    gaps[entries] = steps % (_LARGEST_GAP + 1)
    stored[entries] = codes[positions]
    return gaps, stored


def _check_layer(name: str, layer: NetLayer, size: int) -> None:
    if layer.codebook.shape != (size,) or layer.codebook[0] != 0:
        raise ValueError(
            f"layer {name!r}: a .net file takes {size} codewords of which the first is 0, not "
            f"{layer.codebook.shape} from {layer.codebook.ravel()[:1]}"
        )
    if layer.codes.size and int(layer.codes.max()) >= size:
        raise ValueError(
            f"layer {name!r}: code {layer.codes.max()} in a codebook of {size} codewords"
        )
    if layer.bias.shape != layer.codes.shape[:1]:
        raise ValueError(
            f"layer {name!r}: {layer.codes.shape[0]} outputs take as many biases, not "
            f"{layer.bias.shape}"
        )


def _code_bits(name: str) -> int:
    if not any(kind in name for kind in _KINDS):
        raise ValueError(
            f"layer {name!r}: a .net file holds layers whose name contains one of {_KINDS}: rename "
            "it, or leave it out"
        )
    return 8 if "conv" in name else 4


def _pack_nibbles(values: np.ndarray) -> bytes:
    padded = np.append(values, np.zeros(len(values) % 2, np.uint8))
    return (padded[::2] | padded[1::2] << 4).tobytes()


class _Reader:
    """Takes one array after the other from a file, and says where it cannot.

    Attributes:
        offset: of the next byte.
    """

    def __init__(self, content: bytes, owner: str):
        self._content, self._owner, self.offset = content, owner, 0

    def refuse(self, offset: int, reason: str) -> None:
        raise ValueError(f"{self._owner} is corrupt at byte {offset}: {reason}")

    def take(self, dtype: str, count: int, what: str) -> np.ndarray:
        needed = np.dtype(dtype).itemsize * count
        left = len(self._content) - self.offset
        if left < needed:
            raise ValueError(
                f"{self._owner} ends at byte {len(self._content)}, before byte "
                f"{self.offset + needed}: it lacks {what}, from byte {self.offset} on"
            )
        values = np.frombuffer(self._content, dtype, count, self.offset)
        self.offset += needed
        return values

    def floats(self, count: int, what: str) -> np.ndarray:
        at = self.offset
        values = self.take("<f4", count, what).astype(np.float32)
        if not np.isfinite(values).all():
            first = int(np.argmin(np.isfinite(values)))
            self.refuse(at + 4 * first, f"{values[first]} in {what}")
        return values

    def entries(self, count: int, bits: int, what: str) -> np.ndarray:
        """Take numbers of 8 or 4 bits."""
        packed = self.take("u1", -(-count * bits // 8), what)
        if bits == 8:
            return packed
        values = np.stack([packed & 15, packed >> 4], 1).ravel()
        if values[count:].any():
            self.refuse(self.offset - 1, f"half a byte is left behind {what} and is not 0")
        return values[:count]
