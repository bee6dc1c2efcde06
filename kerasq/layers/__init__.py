"""Keras layers that quantize: subclasses of the active Keras's own."""

from kerasq.layers.codebook import CodebookConv2D, CodebookDense
from kerasq.layers.quantized import QuantConv2D, QuantDense, QuantDepthwiseConv2D
from kerasq.layers.xnor import XnorConv2D

__all__ = [
    "CodebookConv2D",
    "CodebookDense",
    "QuantConv2D",
    "QuantDense",
    "QuantDepthwiseConv2D",
    "XnorConv2D",
]
