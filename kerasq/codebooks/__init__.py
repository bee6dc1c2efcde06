"""Kernels as codewords, found after training: one call, `compress`, for every method."""

from kerasq.codebooks.compress import LayerReport, compress
from kerasq.codebooks.correction import ErrorCorrection
from kerasq.codebooks.kmeans import kmeans
from kerasq.codebooks.layout import KernelLayout
from kerasq.codebooks.method import LayerSettings, Method, Solution
from kerasq.codebooks.moments import Moments
from kerasq.codebooks.qcnn import QCNN

__all__ = [
    "QCNN",
    "ErrorCorrection",
    "KernelLayout",
    "LayerReport",
    "LayerSettings",
    "Method",
    "Moments",
    "Solution",
    "compress",
    "kmeans",
]
