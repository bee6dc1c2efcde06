"""Published quantizers: ``catalogue()`` lists them, ``get(name)`` makes one."""

from kerasq.quantizers import larq_layers as _larq_layers
from kerasq.quantizers.abc_net import ABCActivations, ABCWeights, abc_activations, abc_weights
from kerasq.quantizers.balanced import Balanced, balanced
from kerasq.quantizers.base import Quantizer, UniformQuantizer
from kerasq.quantizers.binary import (
    BWN,
    BinaryConnect,
    BNNSign,
    GlorotClip,
    binary_connect,
    bwn,
    ste_sign,
)
from kerasq.quantizers.calibration import (
    CalibrateKL,
    CalibrateMax,
    CalibratePercentile,
    max_threshold,
    saturate,
)
from kerasq.quantizers.constraints import LatentClip, XnorConditioning
from kerasq.quantizers.dsq import DSQ, dsq
from kerasq.quantizers.exponents import ap2
from kerasq.quantizers.gradients import DoReFaGradients, dorefa_gradients, log_gradients
from kerasq.quantizers.histograms import kl_threshold
from kerasq.quantizers.horq import HORQ, horq
from kerasq.quantizers.hwgq import HWGQ, hwgq
from kerasq.quantizers.int8 import Int8Gemmlowp, gemmlowp
from kerasq.quantizers.lq_nets import LQNets, lq_nets
from kerasq.quantizers.lsq import LSQ, lsq
from kerasq.quantizers.nice import NICE, nice_activations, nice_bias
from kerasq.quantizers.observation import calibrate
from kerasq.quantizers.pact import PACT, pact
from kerasq.quantizers.powers_of_two import PowersOfTwo, QNNLog, powers_of_two, qnn_log
from kerasq.quantizers.qil import QIL, qil
from kerasq.quantizers.quantization_networks import QuantizationNetworks, quantization_networks
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
from kerasq.quantizers.sawb import SAWB, sawb
from kerasq.quantizers.signs import (
    BiRealSign,
    BiRealWeights,
    FTPropSign,
    ReActSign,
    SignSwish,
    approx_sign,
    ftprop_sign,
    magnitude_aware_sign,
    react_sign,
    swish_sign,
)
from kerasq.quantizers.ternary import TNN, TTQ, TWN, tnn, ttq, twn
from kerasq.quantizers.uniform import (
    WRPN,
    DoReFaActivations,
    DoReFaWeights,
    LatentRange,
    QNNLinear,
    dorefa_activations,
    dorefa_weights,
    qnn_linear,
    wrpn,
)
from kerasq.quantizers.value_aware import ValueAware, value_aware

_larq_layers.attach()

__all__ = [
    "ABCActivations",
    "ABCWeights",
    "BNNSign",
    "BWN",
    "Balanced",
    "BiRealSign",
    "BiRealWeights",
    "BinaryConnect",
    "CalibrateKL",
    "CalibrateMax",
    "CalibratePercentile",
    "DSQ",
    "DoReFaActivations",
    "DoReFaGradients",
    "DoReFaWeights",
    "Entry",
    "FTPropSign",
    "GlorotClip",
    "HORQ",
    "HWGQ",
    "Int8Gemmlowp",
    "LQNets",
    "LSQ",
    "LatentClip",
    "LatentRange",
    "NICE",
    "PACT",
    "PowersOfTwo",
    "QIL",
    "QNNLinear",
    "QNNLog",
    "QuantizationNetworks",
    "Quantizer",
    "ReActSign",
    "SAWB",
    "SignSwish",
    "TNN",
    "TTQ",
    "TWN",
    "UniformQuantizer",
    "ValueAware",
    "WRPN",
    "XnorConditioning",
    "abc_activations",
    "abc_weights",
    "ap2",
    "approx_sign",
    "balanced",
    "binary_connect",
    "bwn",
    "calibrate",
    "catalogue",
    "check_target",
    "clone",
    "clone_for_depthwise",
    "dorefa_activations",
    "dorefa_gradients",
    "dorefa_weights",
    "dsq",
    "for_use",
    "ftprop_sign",
    "gemmlowp",
    "get",
    "horq",
    "hwgq",
    "kl_threshold",
    "log_gradients",
    "lq_nets",
    "lsq",
    "magnitude_aware_sign",
    "max_threshold",
    "nice_activations",
    "nice_bias",
    "pact",
    "powers_of_two",
    "qil",
    "qnn_linear",
    "qnn_log",
    "quantization_networks",
    "react_sign",
    "register_quantizer",
    "saturate",
    "sawb",
    "serialize",
    "ste_sign",
    "swish_sign",
    "tnn",
    "ttq",
    "twn",
    "value_aware",
    "wrpn",
]
