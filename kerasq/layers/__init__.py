"""Keras layers that quantize: subclasses of the active Keras's own."""

from kerasq.layers.abc import ABCConv2D
from kerasq.layers.bireal import BiRealBlock
from kerasq.layers.blocks import Block, ScalarBias, ScalarMultiplier
from kerasq.layers.codebook import CodebookConv2D, CodebookDense
from kerasq.layers.fixup import FixupBlock
from kerasq.layers.group_net import GroupNetBlock
from kerasq.layers.hashed import HashedDense
from kerasq.layers.horq import HORQConv2D
from kerasq.layers.normalization import RangeBatchNormalization, ShiftBatchNormalization
from kerasq.layers.quantized import QuantConv2D, QuantDense, QuantDepthwiseConv2D
from kerasq.layers.registry import Entry, catalogue, get, register_block
from kerasq.layers.residual_codebook import ResidualCodebookConv2D, ResidualCodebookDense
from kerasq.layers.rprelu import RPReLU
from kerasq.layers.xnor import XnorConv2D

__all__ = [
    "ABCConv2D",
    "BiRealBlock",
    "Block",
    "CodebookConv2D",
    "CodebookDense",
    "Entry",
    "FixupBlock",
    "GroupNetBlock",
    "HORQConv2D",
    "HashedDense",
    "QuantConv2D",
    "QuantDense",
    "QuantDepthwiseConv2D",
    "RPReLU",
    "RangeBatchNormalization",
    "ResidualCodebookConv2D",
    "ResidualCodebookDense",
    "ScalarBias",
    "ScalarMultiplier",
    "ShiftBatchNormalization",
    "XnorConv2D",
    "catalogue",
    "get",
    "register_block",
]
