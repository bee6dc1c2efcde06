"""Kernels as codewords, found after training: one call, `compress`, for every method."""

from kerasq.codebooks.compress import LayerReport, compress
from kerasq.codebooks.correction import ErrorCorrection
from kerasq.codebooks.finetuning import FineTuner, Stage, reestimate_batch_normalization
from kerasq.codebooks.kmeans import kmeans
from kerasq.codebooks.layout import KernelLayout
from kerasq.codebooks.method import CodebookSettings, LayerSettings, Method
from kerasq.codebooks.moments import Moments
from kerasq.codebooks.qcnn import QCNN
from kerasq.codebooks.registry import catalogue, get, register_method
from kerasq.codebooks.site import Site, Solution

__all__ = [
    "QCNN",
    "CodebookSettings",
    "ErrorCorrection",
    "FineTuner",
    "KernelLayout",
    "LayerReport",
    "LayerSettings",
    "Method",
    "Moments",
    "Site",
    "Solution",
    "Stage",
    "catalogue",
    "compress",
    "get",
    "kmeans",
    "reestimate_batch_normalization",
    "register_method",
]
