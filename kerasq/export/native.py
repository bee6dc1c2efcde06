"""Kernels on uniform grids as TFLite's own quantized operators.

A grid of whole codes is exact in an int8 tensor (int4 in dense layers): ``scale · (code − zero)``,
and a half zero point becomes whole where the codes are doubled. Two operators of TFLite read it:

- by default DEQUANTIZE and a float CONV_2D or FULLY_CONNECTED: the same numbers as in Keras. The
  runtime dequantizes once, when it loads the model.
- with ``integer=True``, where the inputs are on a grid and the outputs go to another one only, an
  int8 operator. Its bias and its rounding are TFLite's: see :func:`integer_operator`.

The stock converter folds a dequantization of constants into float32 weights. So these layers pass
through it as custom operators, of which :mod:`kerasq.export.lowering` makes TFLite's.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import numpy as np
import tensorflow as tf

from kerasq.export.describe import LayerSpec
from kerasq.export.operators import ACTIVATIONS, ConvAttributes, fused
from kerasq.quantizers import Quantizer
from kerasq.representations import Affine

PREFIX = "KerasqNative"
CONVOLUTION, DEPTHWISE, DENSE = (PREFIX + name for name in ("Conv2D", "DepthwiseConv2D", "Dense"))

# Fewer bits are smaller, and in convolutions faster than TFLite's, in the codebook operator.
_LEAST_BITS = {DENSE: 3, CONVOLUTION: 5, DEPTHWISE: 5}
# A scale is stored as float32, its zero point as int64.
_GRID_BYTES = 12
# Sums of products of int8 codes that an int32 holds, with as much again for the bias.
_MOST_TAPS = 2**30 // (255 * 127)


@dataclasses.dataclass(frozen=True)
class Grid:
    """Activations as int8: ``scale · (q − zero_point)``.

    Attributes:
        scale: of one step.
        zero_point: the int8 code of the value 0.
        clips_below: whether the lowest level is −128, so that int8 itself clips there.
    """

    scale: np.float32
    zero_point: int
    clips_below: bool

    def constant(self) -> np.ndarray:
        """Return scale and zero point as an operator's input."""
        return np.array([self.scale, self.zero_point], np.float32)


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel as TFLite stores it: ``scale · (codes − zero_point)``.

    Attributes:
        operator: one of the three names.
        codes: int8, output channels first (a depthwise kernel (1, kh, kw, channels)).
        scale: float32 (1,) or (Ct,).
        zero_point: float32 of whole numbers, (1,) or (Ct,).
        bits: 4 or 8.
    """

    operator: str
    codes: np.ndarray
    scale: np.ndarray
    zero_point: np.ndarray
    bits: int

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and zero points in a file."""
        return (self.codes.size * self.bits + 7) // 8 + _GRID_BYTES * self.scale.size


@dataclasses.dataclass(frozen=True)
class NativeOperator:
    """A stand-in for one of TFLite's operators.

    Attributes:
        function: passes through the converter, and computes what TFLite's operator computes.
        constants: its inputs after the first.
        nbytes: of codes, scales and bias in the file.
        integer: whether it becomes an int8 operator.
    """

    function: Any
    constants: tuple
    nbytes: int
    integer: bool


def native_operator(
    spec: LayerSpec, geometry: ConvAttributes | None, transform: Any
) -> NativeOperator | None:
    """Return TFLite's float operator on a dequantized kernel; None where it cannot hold the grid.

    Args:
        spec: a layer whose kernel is an ``Affine``.
        geometry: of a convolution, with the padding that is left to the operator.
        transform: the :class:`~kerasq.export.packed.OutputTransform` behind it.
    """
    kernel = _kernel_of(spec, transform.scale)
    if kernel is None:
        return None
    bias = _whole(transform.shift, spec.channels_out, np.float32)
    constants = (kernel.codes, kernel.scale, kernel.zero_point, bias)
    function = _function(spec, geometry, transform.activation, kernel, integer=False)
    return NativeOperator(function, constants, kernel.nbytes + bias.nbytes, False)


def integer_operator(
    spec: LayerSpec, transform: Any, grids: tuple[Grid, Grid]
) -> NativeOperator | None:
    """Return TFLite's int8 operator between two grids of activations, or None where it has none.

    The sums are exact integers. The bias is rounded to whole units of ``s_in · s_kernel``, which
    moves an output by one step where the sum lies within half a unit of the middle between two
    levels. A kernel of few bits has its codes multiplied by a power of two, for finer units.

    Args:
        spec: a layer whose kernel is an ``Affine``.
        transform: the :class:`~kerasq.export.packed.OutputTransform` behind it.
        grids: of the layer's input, and of the only quantizer that its output goes to.
    """
    source, target = grids
    kernel = _kernel_of(spec, transform.scale) if isinstance(spec.kernel, Affine) else None
    if kernel is None or kernel.bits != 8 or np.any(kernel.zero_point):
        return None
    if kernel.codes.size // (kernel.codes.shape[-1 if _is_depthwise(spec) else 0]) > _MOST_TAPS:
        return None
    largest = max(1, int(np.abs(kernel.codes.astype(np.int32)).max()))
    finer = 1 << int(math.log2(127 / largest)) if largest <= 127 else 1
    kernel = dataclasses.replace(
        kernel, codes=kernel.codes * np.int8(finer), scale=kernel.scale / np.float32(finer)
    )
    bias = transform.shift.astype(np.float64) / (source.scale * kernel.scale.astype(np.float64))
    if np.abs(bias).max() >= 2**30:
        return None
    bias = _whole(np.round(bias), spec.channels_out, np.int32)
    activation = transform.activation
    if activation == "linear" and not target.clips_below:
        activation = "relu"  # the lowest level is 0
    constants = (kernel.codes, kernel.scale, bias, source.constant(), target.constant())
    function = _function(spec, spec.geometry, activation, kernel, integer=True)
    nbytes = kernel.nbytes + bias.nbytes + _GRID_BYTES * kernel.scale.size  # the bias has scales
    return NativeOperator(function, constants, nbytes, True)


def grid_of(quantizer: Any) -> Grid | None:
    """Return the int8 grid of an input quantizer, or None where int8 cannot stand for it.

    It must be fixed (the same for every input), round to the nearest level, and be clipped by int8
    or by a ReLU: unsigned codes end at 127, others take all of int8.
    """
    if not isinstance(quantizer, Quantizer):
        return None
    stored = [quantizer.represent(np.float32([-1, 0, 1]) * reach) for reach in (1e-2, 1e2)]
    if not all(isinstance(s, Affine) and len(s.scale) == len(s.zero_point) == 1 for s in stored):
        return None
    first, second = stored
    scale, zero, steps = first.scale[0], first.zero_point[0], 2**first.bits - 1
    if scale != second.scale[0] or zero != second.zero_point[0] or scale < np.finfo("f").tiny:
        return None
    if zero != np.round(zero) or not (zero == 0 or steps == 255):
        return None
    if not _rounds_to_nearest(quantizer, scale, zero, steps):
        return None
    return Grid(scale, int(zero) + 127 - steps, steps == 255)


def _rounds_to_nearest(quantizer: Quantizer, scale: float, zero: float, steps: int) -> bool:
    codes = np.arange(-2.0, steps + 2)
    near = np.stack([codes - 0.499, codes, codes + 0.499])
    values = np.asarray(quantizer(np.float32(scale * (near - zero))))
    levels = scale * (np.clip(codes, 0, steps).astype(np.float32) - zero)
    return bool(np.all(values == levels))


def _is_depthwise(spec: LayerSpec) -> bool:
    return spec.geometry is not None and 1 < spec.geometry.groups == spec.kernel.shape[-2]


def _kernel_of(spec: LayerSpec, scale: np.ndarray | None) -> Kernel | None:
    """Return a kernel, multiplied by ``scale``, as TFLite stores it; None where it cannot."""
    affine, channels = spec.kernel, spec.channels_out
    name = DENSE if spec.geometry is None else DEPTHWISE if _is_depthwise(spec) else CONVOLUTION
    if affine.bits < _LEAST_BITS[name]:
        return None
    if name == CONVOLUTION and spec.geometry.groups > 1:
        return None
    if getattr(affine, "outlier_index", None) is not None:
        return None
    scales, zeros = (_by_channel(affine, a, channels) for a in (affine.scale, affine.zero_point))
    if scales is None or zeros is None:
        return None
    bits = 4 if affine.bits <= 4 else 8  # what needs more than 4 is smaller as a codebook
    fitted = _fit(affine, zeros, channels, bits)
    if fitted is None:
        return None
    codes, zeros, doubled = fitted
    scales = scales / np.float32(2 if doubled else 1)
    if scale is not None:
        scales = np.broadcast_to(scales * scale, (channels,))
        codes, scales = _positive(codes, scales, zeros, bits)
    if codes is None or not np.all(scales >= np.finfo(np.float32).tiny):
        return None
    kernel_shape = affine.shape if name != DEPTHWISE else (*affine.shape[:2], 1, channels)
    codes = codes.reshape(kernel_shape).astype(np.int8)
    order = {DENSE: (1, 0), CONVOLUTION: (3, 0, 1, 2), DEPTHWISE: (2, 0, 1, 3)}[name]
    codes = np.ascontiguousarray(codes.transpose(order))
    return Kernel(name, codes, scales, zeros, bits)


def _by_channel(affine: Affine, values: np.ndarray, channels: int) -> np.ndarray | None:
    """Return one number, or one for each output channel; None where a channel has several."""
    if len(values) == 1:
        return values
    spread = np.broadcast_to(values, (affine.codes().size // len(values), len(values)))
    rows = spread.reshape(-1, channels)
    return rows[0] if np.all(rows == rows[0]) else None


def _fit(
    affine: Affine, zeros: np.ndarray, channels: int, bits: int
) -> tuple[np.ndarray, np.ndarray, bool] | None:
    """Return int codes (-1, channels), whole zero points, and whether both were doubled."""
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    doubled = bool(np.any(zeros != np.round(zeros)))
    factor = 2 if doubled else 1
    codes = factor * affine.codes().reshape(-1, channels).astype(np.int32)
    zeros = factor * zeros
    if np.any(zeros != np.round(zeros)):
        return None
    end = factor * (2**affine.bits - 1)
    if np.all((-zeros >= low) & (end - zeros <= high)):  # around a zero point of 0
        return codes - zeros.astype(np.int32), np.zeros(1, np.float32), doubled
    if end <= high - low and np.all((zeros >= 0) & (zeros <= high - low)):
        return codes + low, zeros + np.float32(low), doubled
    return None


def _positive(
    codes: np.ndarray, scales: np.ndarray, zeros: np.ndarray, bits: int
) -> tuple[np.ndarray | None, np.ndarray]:
    """Turn the codes of channels with a negative scale round: TFLite's scales are positive."""
    lowest = -(2 ** (bits - 1))
    negative = scales < 0
    if np.any(negative) and (np.any(zeros) or np.any(codes[:, negative] == lowest)):
        return None, scales
    codes = codes * np.where(negative, -1, 1)
    if np.any(scales == 0):
        zero = np.broadcast_to(zeros, scales.shape)
        codes = np.where(scales == 0, zero.astype(codes.dtype), codes)
    return codes, np.where(scales == 0, np.float32(1), np.abs(scales))


def _whole(bias: np.ndarray, channels: int, dtype: type) -> np.ndarray:
    return np.ascontiguousarray(np.broadcast_to(bias, (channels,)), dtype)


def _function(
    spec: LayerSpec,
    geometry: ConvAttributes | None,
    activation: str,
    kernel: Kernel,
    integer: bool,
) -> Any:
    """Return what passes through the converter, and computes what TFLite's operator computes."""
    if geometry is None:
        attributes = ConvAttributes((1, 1), spec.channels_out)
        options = {"channels_out": spec.channels_out, "activation": ACTIVATIONS.index(activation)}
    else:
        attributes = dataclasses.replace(geometry, activation=activation)
        options = attributes.options()
    convolve = functools.partial(_convolve, kernel.operator, attributes)

    def float_body(x, codes, scale, zero_point, bias):
        weights = tf.cast(codes, tf.float32) - _as_column(kernel.operator, zero_point)
        y = convolve(x, _as_column(kernel.operator, scale) * weights) + bias
        return _activate(activation, y, tf.constant(0.0), tf.constant(6.0))

    def integer_body(x, codes, scale, bias, source, target):
        whole = tf.cast(tf.round(x / source[0]), tf.float64)  # float64 holds sums of an int32
        sums = convolve(whole, tf.cast(codes, tf.float64)) + tf.cast(bias, tf.float64)
        multiplier = source[0] * scale / target[0]
        steps = tf.round(tf.cast(sums, tf.float32) * multiplier)
        low, high = -128 - target[1], 127 - target[1]
        six = tf.round(6.0 / target[0])
        steps = _activate(activation, steps, tf.constant(0.0), six)
        return target[0] * tf.clip_by_value(steps, low, high)

    body = integer_body if integer else float_body
    options |= {"kernel_bits": kernel.bits, "integer": int(integer)}
    return fused(kernel.operator, options, body)


def _as_column(operator: str, values: tf.Tensor) -> tf.Tensor:
    """Shape numbers of channels for a kernel as TFLite stores it."""
    if operator == DEPTHWISE:
        return values
    return tf.reshape(values, [-1, 1] if operator == DENSE else [-1, 1, 1, 1])


def _convolve(
    operator: str, attributes: ConvAttributes, x: tf.Tensor, kernel: tf.Tensor
) -> tf.Tensor:
    if operator == DENSE:
        return tf.tensordot(x, kernel, [[-1], [1]])
    padding, (stride_h, stride_w) = attributes.padding.upper(), attributes.strides
    if operator == CONVOLUTION:
        kernel = tf.transpose(kernel, [1, 2, 3, 0])
        return tf.nn.conv2d(x, kernel, attributes.strides, padding, dilations=attributes.dilations)
    kernel = tf.reshape(kernel, [*attributes.kernel_size, x.shape[-1], -1])
    return tf.nn.depthwise_conv2d(
        x, kernel, [1, stride_h, stride_w, 1], padding, dilations=attributes.dilations
    )


def _activate(activation: str, y: tf.Tensor, low: tf.Tensor, high: tf.Tensor) -> tf.Tensor:
    if activation == "linear":
        return y
    y = tf.maximum(y, low)
    return tf.minimum(y, high) if activation == "relu6" else y
