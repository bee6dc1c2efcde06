"""How a quantized tensor is stored: three forms, numpy only."""

from kerasq.representations.affine import Affine
from kerasq.representations.base import Representation, load
from kerasq.representations.bit_planes import BitPlanes
from kerasq.representations.codebook import Codebook, index_bits
from kerasq.representations.packing import pack_bits, row_bytes, unpack_bits

__all__ = [
    "Affine",
    "BitPlanes",
    "Codebook",
    "Representation",
    "index_bits",
    "load",
    "pack_bits",
    "row_bytes",
    "unpack_bits",
]
