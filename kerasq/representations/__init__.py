"""How a quantized tensor is stored: in one of five forms, numpy only."""

from kerasq.representations.affine import Affine
from kerasq.representations.base import Representation, load
from kerasq.representations.bit_planes import BitPlanes
from kerasq.representations.codebook import Codebook, index_bits
from kerasq.representations.hashed import HashedKernel, hash_buckets, hash_signs
from kerasq.representations.packing import pack_bits, row_bytes, unpack_bits
from kerasq.representations.sparse import SparseCodebook

__all__ = [
    "Affine",
    "BitPlanes",
    "Codebook",
    "HashedKernel",
    "Representation",
    "SparseCodebook",
    "hash_buckets",
    "hash_signs",
    "index_bits",
    "load",
    "pack_bits",
    "row_bytes",
    "unpack_bits",
]
