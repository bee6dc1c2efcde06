"""What a quantized layer computes, whichever front end it comes from."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from kerasq.export.larq_quantizers import represent_with
from kerasq.export.operators import ConvAttributes
from kerasq.keras import keras
from kerasq.quantizers import Quantizer
from kerasq.representations import Affine, BitPlanes, Codebook, HashedKernel, SparseCodebook

Representation = BitPlanes | Affine | Codebook | SparseCodebook | HashedKernel


@dataclasses.dataclass
class LayerSpec:
    """A layer with a quantized kernel, as the exporter sees it.

    Attributes:
        name: the layer's name.
        method: the quantizer or codebook method, for people.
        kernel: representation of the kernel: HWIO with a group's inputs, or (inputs, outputs).
        geometry: of a convolution; None for a dense layer.
        channels_out: output channels.
        bias: float32 (Ct,), zeros where there is none.
        activation: the layer's activation, a function of tensors.
        input_quantizer: what quantizes the input, or None.
        pad_value: 0 or 1.
        k_map: the XNOR-Net scale map, a function of the input, or None.
        binary_terms: for inputs binarized by scales that are data, a function of the input that
            gives pairs (residual, scale of the output); else None.
        residuals: more kernels of the same shape, added to the first.
    """

    name: str
    method: str
    kernel: Representation
    geometry: ConvAttributes | None
    channels_out: int
    bias: np.ndarray
    activation: Any
    input_quantizer: Any = None
    pad_value: int = 0
    k_map: Any = None
    binary_terms: Any = None
    residuals: tuple[Codebook, ...] = ()


def describe(layer: Any) -> LayerSpec | None:
    """Return what a layer with a quantized kernel computes; None for any other layer.

    Raises:
        ValueError: the layer is quantized in a way that the operators cannot store.
    """
    spec = _codebook_layer(layer)
    if spec is not None:
        return spec
    if isinstance(layer, keras.layers.Layer) and hasattr(layer, "quantize_config"):
        return _tfmot(layer)
    depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
    if not isinstance(layer, keras.layers.Conv2D | keras.layers.Dense) and not depthwise:
        return None
    if isinstance(layer, keras.layers.Conv2DTranspose):  # a Conv2D to Keras 2
        return None
    quantizer = getattr(layer, "kernel_quantizer", None) or getattr(
        layer, "depthwise_quantizer", None
    )
    if quantizer is None:
        return None
    kernel = kernel_of(layer)
    spec = _with_kernel(layer, _method(quantizer), _represent(layer, quantizer, kernel), kernel)
    spec.input_quantizer = getattr(layer, "input_quantizer", None)
    spec.pad_value = int(getattr(layer, "pad_values", 0.0))
    if getattr(layer, "use_k_map", False):
        spec.k_map = layer.k_map
    if getattr(layer, "binary_terms", None) is not None:
        spec.binary_terms = layer.binary_terms
    return spec


def _codebook_layer(layer: Any) -> LayerSpec | None:
    """A layer that offers its kernel as it is shipped: of codewords, a sum of such, or hashed."""
    if callable(getattr(layer, "codebook", None)):
        codebook = layer.codebook()
        _check_finite(layer, codebook.codewords)
        return _with_kernel(layer, "codebook", _smaller(layer, codebook))
    if callable(getattr(layer, "codebooks", None)):
        codebooks = layer.codebooks()
        for codebook in codebooks:
            _check_finite(layer, codebook.codewords)
        spec = _with_kernel(layer, "codebooks", codebooks[0])
        return dataclasses.replace(spec, residuals=tuple(codebooks[1:]))
    if callable(getattr(layer, "hashed_kernel", None)):
        kernel = layer.hashed_kernel()
        _check_finite(layer, kernel.values)
        return _with_kernel(layer, "hashed", kernel)
    return None


def _smaller(layer: Any, codebook: Codebook) -> Codebook | SparseCodebook:
    """Return one codebook of scalars with a fixed zero entropy-coded, where that is smaller."""
    books, size, length = codebook.codewords.shape
    if not getattr(layer, "fixed_zero", False) or (books, length) != (1, 1):
        return codebook
    if not 2 <= size <= 256:
        return codebook
    sparse = SparseCodebook.from_codebook(codebook)
    return sparse if sparse.nbytes < codebook.nbytes else codebook


def kernel_of(layer: Any) -> np.ndarray:
    """Return the float kernel of a layer; a depthwise kernel as (kh, kw, channels, multiplier)."""
    depthwise = getattr(layer, "depthwise_kernel", None)
    return np.asarray(depthwise if depthwise is not None else layer.kernel, np.float32)


def geometry_of(layer: Any, kernel: np.ndarray | None) -> ConvAttributes | None:
    """Return the geometry of a convolution (its kernel tells a depthwise one's channels).

    A dense layer has none.

    Raises:
        ValueError: channels first, or a causal padding.
    """
    if isinstance(layer, keras.layers.Dense):
        return None
    if layer.data_format != "channels_last":
        raise ValueError(
            f"layer {layer.name!r} has data_format {layer.data_format!r}: the operators of kerasq "
            "take channels last. Rebuild the model with data_format='channels_last'"
        )
    depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
    return ConvAttributes(
        kernel_size=tuple(layer.kernel_size),
        channels_out=kernel.shape[2] * kernel.shape[3] if depthwise else layer.filters,
        strides=tuple(layer.strides),
        dilations=tuple(layer.dilation_rate),
        padding=layer.padding.lower(),
        groups=kernel.shape[2] if depthwise else layer.groups,
    )


def activation_name(activation: Any) -> str | None:
    """Return "linear", "relu" or "relu6"; None for any other activation."""
    if activation is None:
        return "linear"
    name = getattr(activation, "__name__", "")
    return name if name in ("linear", "relu", "relu6") else None


def _with_kernel(
    layer: Any, method: str, representation: Representation, kernel: np.ndarray | None = None
) -> LayerSpec:
    geometry = geometry_of(layer, kernel)
    channels = layer.units if geometry is None else geometry.channels_out
    bias = _bias_of(layer) if layer.use_bias else np.zeros(channels, np.float32)
    return LayerSpec(layer.name, method, representation, geometry, channels, bias, layer.activation)


def _bias_of(layer: Any) -> np.ndarray:
    """Return the bias that a layer adds at inference: a quantized one where it has such."""
    quantized = getattr(layer, "bias_bits", None) is not None
    return layer.stored_bias() if quantized else np.asarray(layer.bias, np.float32)


def _represent(layer: Any, quantizer: Any, kernel: np.ndarray) -> Representation:
    _check_finite(layer, kernel)
    if isinstance(quantizer, Quantizer):
        return quantizer.represent(kernel)
    return represent_with(layer, quantizer, kernel)


def _check_finite(layer: Any, weights: np.ndarray) -> None:
    if not np.isfinite(weights).all():
        raise ValueError(
            f"layer {layer.name!r} has {np.count_nonzero(~np.isfinite(weights))} weights that are "
            "NaN or infinite: the training diverged, or the weights were not loaded"
        )


def _method(quantizer: Any) -> str:
    return getattr(type(quantizer), "registered_name", type(quantizer).__name__)


def _tfmot(wrapper: Any) -> LayerSpec | None:
    """A TFMOT wrapper with a weight quantizer of kerasq; others export as TFMOT made them."""
    layer = wrapper.layer
    if not isinstance(getattr(wrapper.quantize_config, "weight", None), Quantizer):
        return None
    if not isinstance(
        layer, keras.layers.Conv2D | keras.layers.Dense | keras.layers.DepthwiseConv2D
    ) or isinstance(layer, keras.layers.Conv2DTranspose):
        raise ValueError(
            f"layer {layer.name!r} ({type(layer).__name__}) is quantized by kerasq.tfmot, but the "
            "operators of kerasq know only 2-d convolutions, depthwise convolutions and dense "
            "layers: leave it out of quantize_annotate_layer"
        )
    # The wrapped layer's own attribute holds the quantized tensor of the last call.
    ((variable, _, state),) = wrapper._weight_vars
    kernel, quantizer = np.asarray(variable, np.float32), state["quantizer"]
    spec = _with_kernel(layer, _method(quantizer), _represent(layer, quantizer, kernel), kernel)
    spec.name = wrapper.name
    return spec
