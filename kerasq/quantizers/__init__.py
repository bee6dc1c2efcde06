"""Published quantizers: ``catalogue()`` lists them, ``get(name)`` makes one."""

from kerasq.quantizers import larq_layers as _larq_layers
from kerasq.quantizers.base import Quantizer, UniformQuantizer
from kerasq.quantizers.binary import BWN, BNNSign, bwn, ste_sign
from kerasq.quantizers.constraints import LatentClip, XnorConditioning
from kerasq.quantizers.registry import (
    Entry,
    catalogue,
    check_target,
    clone,
    clone_for_depthwise,
    for_use,
    get,
    register_quantizer,
    serialize,
)
from kerasq.quantizers.ternary import TWN, twn
from kerasq.quantizers.uniform import (
    DoReFaActivations,
    DoReFaWeights,
    dorefa_activations,
    dorefa_weights,
)

_larq_layers.attach()

__all__ = [
    "BWN",
    "BNNSign",
    "DoReFaActivations",
    "DoReFaWeights",
    "Entry",
    "LatentClip",
    "Quantizer",
    "TWN",
    "UniformQuantizer",
    "XnorConditioning",
    "bwn",
    "catalogue",
    "check_target",
    "clone",
    "clone_for_depthwise",
    "dorefa_activations",
    "dorefa_weights",
    "for_use",
    "get",
    "register_quantizer",
    "serialize",
    "ste_sign",
    "twn",
]
