"""Kernels as codewords, found after training: one call, `compress`, for every method."""

from kerasq.codebooks.bit_goes_down import BitGoesDown
from kerasq.codebooks.compress import LayerReport, compress
from kerasq.codebooks.correction import ErrorCorrection
from kerasq.codebooks.deep_compression import DeepCompression
from kerasq.codebooks.deep_kmeans import DeepKMeans
from kerasq.codebooks.distillation import Distiller
from kerasq.codebooks.finetuning import FineTuner, Stage, reestimate_batch_normalization
from kerasq.codebooks.fixed_point import FixedPoint
from kerasq.codebooks.hashed_nets import HashedNets
from kerasq.codebooks.kill_the_bits import load_kill_the_bits, save_kill_the_bits
from kerasq.codebooks.kmeans import kmeans
from kerasq.codebooks.layout import KernelLayout
from kerasq.codebooks.method import CodebookSettings, LayerSettings, Method
from kerasq.codebooks.moments import Moments
from kerasq.codebooks.pqf import PQF
from kerasq.codebooks.pqf_files import load_pqf, save_pqf
from kerasq.codebooks.qcnn import QCNN
from kerasq.codebooks.qcnn_files import load_qcnn, save_qcnn
from kerasq.codebooks.reassignment import reassign
from kerasq.codebooks.recipe import compress_in_stages
from kerasq.codebooks.registry import catalogue, get, register_method
from kerasq.codebooks.site import Site, Solution
from kerasq.codebooks.vector_quantization import VectorQuantization

__all__ = [
    "PQF",
    "QCNN",
    "BitGoesDown",
    "CodebookSettings",
    "DeepCompression",
    "DeepKMeans",
    "Distiller",
    "ErrorCorrection",
    "FineTuner",
    "FixedPoint",
    "HashedNets",
    "KernelLayout",
    "LayerReport",
    "LayerSettings",
    "Method",
    "Moments",
    "Site",
    "Solution",
    "Stage",
    "VectorQuantization",
    "catalogue",
    "compress",
    "compress_in_stages",
    "get",
    "kmeans",
    "load_kill_the_bits",
    "load_pqf",
    "load_qcnn",
    "reassign",
    "reestimate_batch_normalization",
    "register_method",
    "save_kill_the_bits",
    "save_pqf",
    "save_qcnn",
]
