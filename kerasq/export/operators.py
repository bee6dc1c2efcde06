"""The operators as TensorFlow functions: their exact meaning, and how they enter a file.

Each function is ordinary TensorFlow that unpacks and computes. Decorated by :func:`fused`, the
stock converter turns a call of it into one custom operator whose inputs are the arguments, whose
options are the attributes, and which the kernels of ``tflite_kernels`` execute. The same functions
are the oracle that the kernels are tested against.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from kerasq.export.streams import pack_words, sparse_kernel, unpack_stream, unpack_words
from kerasq.layers.quantized import same_padding
from kerasq.representations.codebook import ORDERS
from kerasq.representations.hashed import hash_buckets, hash_signs

VERSION = 1
ACTIVATIONS = ("linear", "relu", "relu6")
PADDINGS = ("same", "valid", "explicit")


@dataclasses.dataclass(frozen=True)
class ConvAttributes:
    """Geometry of a convolution; ``explicit_padding`` is (top, bottom, left, right)."""

    kernel_size: tuple[int, int]
    channels_out: int
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    padding: str = "valid"
    explicit_padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    groups: int = 1
    activation: str = "linear"

    def options(self) -> dict[str, int]:
        """Return the options the operator stores."""
        options = {
            "kernel_h": self.kernel_size[0],
            "kernel_w": self.kernel_size[1],
            "stride_h": self.strides[0],
            "stride_w": self.strides[1],
            "dilation_h": self.dilations[0],
            "dilation_w": self.dilations[1],
            "padding": PADDINGS.index(self.padding),
            "groups": self.groups,
            "channels_out": self.channels_out,
            "activation": ACTIVATIONS.index(self.activation),
        }
        if self.padding == "explicit":
            sides = ("pad_top", "pad_bottom", "pad_left", "pad_right")
            options |= dict(zip(sides, self.explicit_padding, strict=True))
        return options


def fused(name: str, options: Mapping[str, int], body: Callable[..., tf.Tensor]) -> Any:
    """Make ``body`` one custom operator of the exported file.

    Args:
        name: the operator's name in the file.
        options: integers stored with it.
        body: what it computes, a function of tensors.

    Returns:
        A ``tf.function`` with the same arguments.
    """
    attributes = "".join(
        f' attr {{ key: "{key}" value {{ i: {value} }} }}'
        for key, value in {"version": VERSION, **options}.items()
    )
    implements = f'name: "{name}" attr {{ key: "tfl_fusable_op" value {{ b: true }} }}{attributes}'
    return tf.function(body, experimental_implements=implements, autograph=False)


def bitplane_conv2d(
    attributes: ConvAttributes,
    weight_planes: int,
    input_planes: int,
    pad_value: int,
    bits_in: int = 0,
    bits_out: bool = False,
) -> Any:
    """Convolution of bit planes: ``y = act(conv(a, Σᵢ uᵢ·bᵢ + u_off) + bias)``.

    With ``input_planes`` = 0 the input is used as it is: ``a = x``. Otherwise it is quantized:
    ``code = #{j : direction · x ≥ thresholds[j]}``, ``a = Σⱼ vⱼ·hⱼ(code) + v_off``; or x is the
    bits of its only plane h already. Of one plane each, the output can be bits, too:
    ``output_direction · conv(h, b) ≥ output_thresholds``.

    Args:
        attributes: geometry.
        weight_planes: planes of the kernel, at least 1.
        input_planes: planes of the input, 0 to 8.
        pad_value: what a padded tap contributes: 0 nothing, 1 the input +1.
        bits_in: 0 for an input of floats, or the Cin of an input of bits.
        bits_out: whether the output is bits.

    Returns:
        A function of the tensors, in the operator's order: x (N, H, W, Cin), of bits int32
        (N, H, W, ceil(Cin / 32)); planes, uint8 (weight_planes, Ct, bytes of kh·kw·Cin/groups
        bits); for an output of floats weight_basis (planes or one more for the offset, 1 or Ct)
        and bias (1 or Ct,); where floats are quantized, L < 2**planes thresholds (1 or Cin, L),
        direction (1 or Cin,) of ±1 and level_bits, uint8 (L + 1,); where inputs are planes and the
        output is floats, input_basis (input_planes, or one more for the offset); for an output of
        bits output_thresholds, int32 (1 or Ct,), and output_direction, int8 (1 or Ct,) of ±1.
    """
    options = attributes.options() | {
        "weight_planes": weight_planes,
        "input_planes": input_planes,
        "pad_value": pad_value,
        **_bit_options(bits_in, bits_out),
    }
    planes = _Planes(weight_planes, input_planes, pad_value, bits_in, bits_out)

    def body(x, *constants):
        return _bitplane_convolution(attributes, planes, x, *constants)

    return fused("KerasqBitplaneConv2D", options, body)


def bitplane_dense(
    channels_out: int,
    weight_planes: int,
    input_planes: int,
    activation: str = "linear",
    bits_in: int = 0,
    bits_out: bool = False,
) -> Any:
    """Dense layer of bit planes, as :func:`bitplane_conv2d` on the last axis of x (..., Cin)."""
    attributes = ConvAttributes((1, 1), channels_out, activation=activation)
    options = {
        "channels_out": channels_out,
        "activation": ACTIVATIONS.index(activation),
        "weight_planes": weight_planes,
        "input_planes": input_planes,
        **_bit_options(bits_in, bits_out),
    }
    planes = _Planes(weight_planes, input_planes, 0, bits_in, bits_out)

    def body(x, *constants):
        return _as_rows(x, lambda rows: _bitplane_convolution(attributes, planes, rows, *constants))

    return fused("KerasqBitplaneDense", options, body)


def bitpack(channels: int) -> Any:
    """Floats to bits: bit c of a pixel is ``direction[c] · x[c] ≥ thresholds[c]``.

    Args:
        channels: C, the last axis of x.

    Returns:
        A function of the tensors, in the operator's order: x (..., C); thresholds and direction,
        float32 (1 or C,), the latter of ±1. It gives int32 (..., ceil(C / 32)).
    """
    options = {"channels_out": channels, "activation": 0}

    def body(x, thresholds, direction):
        return pack_words(direction * x >= thresholds)

    return fused("KerasqBitpack", options, body)


def bitpack_max_pool2d(
    channels: int, window: tuple[int, int], strides: tuple[int, int], padding: str
) -> Any:
    """Max pooling of bits; the smallest bit of the channels whose bit of ``minimum`` is 1.

    Args:
        channels: C.
        window: height and width.
        strides: of the window.
        padding: "same" or "valid"; what is padded takes no part.

    Returns:
        A function of the tensors, in the operator's order: x, int32 (N, H, W, ceil(C / 32));
        minimum, int32 (ceil(C / 32),).
    """
    geometry = ConvAttributes(window, channels, strides, padding=padding, groups=channels)

    def body(x, minimum):
        flipped = unpack_words(minimum, channels)
        bits = tf.cast(tf.bitwise.bitwise_xor(unpack_words(x, channels), flipped), tf.float32)
        pooled = tf.nn.max_pool2d(bits, window, strides, padding.upper())
        return pack_words(tf.bitwise.bitwise_xor(tf.cast(pooled, tf.int32), flipped))

    return fused("KerasqBitpackMaxPool2D", geometry.options(), body)


def codebook_conv2d(
    attributes: ConvAttributes, subvector: int, codewords: int, bits: int, order: str = "position"
) -> Any:
    """Convolution of codewords: ``y = act(multiplier · conv(x, decode(indices)) + bias)``.

    Args:
        attributes: geometry.
        subvector: length d of a codeword.
        codewords: K, 1 to 65536.
        bits: bits of one index.
        order: of the weights that sub-vectors cut, as of :class:`kerasq.representations.Codebook`.

    Returns:
        A function of the tensors, in the operator's order: x (N, H, W, Cin); codewords, float32 or
        float16 (M or 1, K, d); indices, uint8 (kh·kw, M, bytes of Ct indices) with
        M = ceil(Cin / groups / d), by channel (1, M, bytes) with M = ceil(kh·kw·Cin / groups / d);
        multiplier and bias (1 or Ct,).
    """
    options = attributes.options() | _codebook_options(subvector, codewords, bits, order)

    def body(x, codebook, indices, multiplier, bias):
        kernel = _codebook_kernel(attributes, bits, order, x, codebook, indices)
        return _convolve(attributes, x, kernel, multiplier, bias)

    return fused("KerasqCodebookConv2D", options, body)


def codebook_dense(
    channels_out: int, subvector: int, codewords: int, bits: int, activation: str = "linear"
) -> Any:
    """Dense layer of codewords, as :func:`codebook_conv2d` on the last axis of x (..., Cin)."""
    attributes = ConvAttributes((1, 1), channels_out, activation=activation)
    options = {
        "channels_out": channels_out,
        "activation": ACTIVATIONS.index(activation),
        **_codebook_options(subvector, codewords, bits, "position"),
    }

    def body(x, codebook, indices, multiplier, bias):
        kernel = _codebook_kernel(attributes, bits, "position", x, codebook, indices)
        return _as_rows(x, lambda rows: _convolve(attributes, rows, kernel, multiplier, bias))

    return fused("KerasqCodebookDense", options, body)


@dataclasses.dataclass(frozen=True)
class ByteTables:
    """Arithmetic of look-up tables of 8 bits: ``round(codeword · code / 2^s · f / 2^15)``, kept.

    Attributes:
        zero_point: of the input's codes, -128 to 127.
        shift: s; what is left is rounded and kept in 16 bits.
        multiplier: f, 1 to 32767; the product is rounded and kept in 8 bits.
    """

    zero_point: int
    shift: int
    multiplier: int

    def options(self) -> dict[str, int]:
        """Return the options the operator stores."""
        return {
            "tables": 1,
            "input_zero_point": self.zero_point + 128,
            "table_shift": self.shift,
            "table_multiplier": self.multiplier,
        }

    def codes(self, x: tf.Tensor, inverse_scale: tf.Tensor) -> tf.Tensor:
        """Return the codes of inputs without their zero point, as floats."""
        lowest, highest = -128.0 - self.zero_point, 127.0 - self.zero_point
        scaled = x * inverse_scale
        below = tf.where(scaled < highest, scaled, highest)  # also NaN becomes the highest
        return tf.round(tf.maximum(below, lowest))

    def entries(self, products: tf.Tensor) -> tf.Tensor:
        """Return the entries, int32, of sums of products of codewords and codes."""
        half = (1 << self.shift) >> 1
        scaled = tf.bitwise.right_shift(tf.cast(products, tf.int32) + half, self.shift)
        scaled = tf.clip_by_value(scaled, -(1 << 15), (1 << 15) - 1) * self.multiplier
        rounded = tf.bitwise.right_shift(scaled + (1 << 14), 15)
        return tf.clip_by_value(rounded, -128, 127)


def byte_codebook_conv2d(
    attributes: ConvAttributes, subvector: int, codewords: int, bits: int, tables: ByteTables
) -> Any:
    """Convolution by look-up tables of 8 bits: ``y = act(multiplier · Σ table[m][index] + bias)``.

    The sum runs over taps and sub-spaces m, and is an integer. A padded tap gives 0.

    Args:
        attributes: geometry.
        subvector: length d of a codeword, at most 512.
        codewords: K, 1 to 256.
        bits: bits of one index.
        tables: arithmetic of the tables.

    Returns:
        A function of the tensors, in the operator's order: x (N, H, W, Cin); codewords, int8 (M or
        1, K, d); indices, uint8 (kh·kw, M, bytes of Ct indices); multiplier and bias (1 or Ct,);
        inverse_scale (1,) of the input's codes.
    """
    options = attributes.options() | _codebook_options(subvector, codewords, bits, "position")

    def body(x, codebook, indices, multiplier, bias, inverse_scale):
        assigned = unpack_stream(indices, bits, attributes.channels_out)
        codes = tables.codes(x, inverse_scale)
        total = _sum_of_entries(attributes, tables, codes, codebook, assigned)
        return activate(attributes.activation, multiplier * tf.cast(total, tf.float32) + bias)

    return fused("KerasqCodebookConv2D", options | tables.options(), body)


def byte_codebook_dense(
    channels_out: int,
    subvector: int,
    codewords: int,
    bits: int,
    tables: ByteTables,
    activation: str = "linear",
) -> Any:
    """Dense layer by tables of 8 bits, as :func:`byte_codebook_conv2d` on the last axis of x."""
    attributes = ConvAttributes((1, 1), channels_out, activation=activation)
    options = {
        "channels_out": channels_out,
        "activation": ACTIVATIONS.index(activation),
        **_codebook_options(subvector, codewords, bits, "position"),
        **tables.options(),
    }

    def body(x, codebook, indices, multiplier, bias, inverse_scale):
        assigned = unpack_stream(indices, bits, channels_out)

        def run(rows: tf.Tensor) -> tf.Tensor:
            codes = tables.codes(rows, inverse_scale)
            total = _sum_of_entries(attributes, tables, codes, codebook, assigned)
            return activate(activation, multiplier * tf.cast(total, tf.float32) + bias)

        return _as_rows(x, run)

    return fused("KerasqCodebookDense", options, body)


def sparse_conv2d(
    attributes: ConvAttributes, channels_in: int, codewords: int, entries: int, gap_bits: int
) -> Any:
    """Convolution of an entropy-coded sparse kernel: ``y = act(multiplier · conv(x, W) + bias)``.

    Args:
        attributes: geometry.
        channels_in: input channels of a group.
        codewords: K, 2 to 256.
        entries: stored entries, fillers included.
        gap_bits: width of a gap, 2 to 8.

    Returns:
        A function of the tensors, in the operator's order: x (N, H, W, Cin); what
        :class:`kerasq.representations.SparseCodebook` stores, that is codewords, float32 or
        float16 (K,), and uint8 gaps, gap_lengths, codes and code_lengths; multiplier and bias (1
        or Ct,).
    """
    options = attributes.options() | _sparse_options(channels_in, codewords, entries, gap_bits)
    shape = (*attributes.kernel_size, channels_in, attributes.channels_out)

    def body(x, codebook, gaps, gap_lengths, codes, code_lengths, multiplier, bias):
        stored = (codebook, gaps, gap_lengths, codes, code_lengths)
        kernel = sparse_kernel(shape, entries, gap_bits, stored)
        return _convolve(attributes, x, kernel, multiplier, bias)

    return fused("KerasqSparseConv2D", options, body)


def sparse_dense(
    channels_out: int,
    channels_in: int,
    codewords: int,
    entries: int,
    gap_bits: int,
    activation: str = "linear",
) -> Any:
    """Dense layer of a sparse kernel, as :func:`sparse_conv2d` on the last axis of x (..., Cin)."""
    attributes = ConvAttributes((1, 1), channels_out, activation=activation)
    options = {
        "channels_out": channels_out,
        "activation": ACTIVATIONS.index(activation),
        **_sparse_options(channels_in, codewords, entries, gap_bits),
    }
    shape = (1, 1, channels_in, channels_out)

    def body(x, codebook, gaps, gap_lengths, codes, code_lengths, multiplier, bias):
        stored = (codebook, gaps, gap_lengths, codes, code_lengths)
        kernel = sparse_kernel(shape, entries, gap_bits, stored)
        return _as_rows(x, lambda rows: _convolve(attributes, rows, kernel, multiplier, bias))

    return fused("KerasqSparseDense", options, body)


def hashed_dense(
    channels_out: int, channels_in: int, buckets: int, seed: int, activation: str = "linear"
) -> Any:
    """Dense layer of hashed weights: ``y = act(multiplier · (x @ W) + bias)``.

    The hashes are not stored: they follow from the options.

    Args:
        channels_out: outputs.
        channels_in: inputs.
        buckets: N, real weights.
        seed: of the hashes.
        activation: "linear", "relu" or "relu6".

    Returns:
        A function of the tensors, in the operator's order: x (..., Cin); values, float32 or float16
        (N,); multiplier and bias (1 or Ct,).
    """
    attributes = ConvAttributes((1, 1), channels_out, activation=activation)
    options = {
        "channels_out": channels_out,
        "activation": ACTIVATIONS.index(activation),
        "channels_in": channels_in,
        "buckets": buckets,
        "seed": seed,
    }

    def body(x, values, multiplier, bias):
        shape = (channels_in, channels_out)
        index = np.where(hash_signs(shape, seed) > 0, 0, buckets) + hash_buckets(
            shape, buckets, seed
        )
        values = tf.cast(values, tf.float32)
        signed = tf.concat([values, -values], axis=0)
        kernel = tf.gather(signed, index.astype(np.int32))[None, None]
        return _as_rows(x, lambda rows: _convolve(attributes, rows, kernel, multiplier, bias))

    return fused("KerasqHashedDense", options, body)


def _sparse_options(
    channels_in: int, codewords: int, entries: int, gap_bits: int
) -> dict[str, int]:
    return {
        "channels_in": channels_in,
        "codewords": codewords,
        "entries": entries,
        "gap_bits": gap_bits,
    }


def _codebook_options(subvector: int, codewords: int, bits: int, order: str) -> dict[str, int]:
    return {
        "subvector": subvector,
        "codewords": codewords,
        "bits": bits,
        "order": ORDERS.index(order),
        "tables": 0,
    }


def _as_rows(x: tf.Tensor, convolve: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
    """Apply a 1x1 convolution to the last axis of a tensor of any rank."""
    leading = tf.shape(x)[:-1]
    y = convolve(tf.reshape(x, [-1, 1, 1, x.shape[-1]]))
    y_channels = y.shape[-1]
    shaped = tf.reshape(y, tf.concat([leading, [y_channels]], axis=0))
    return tf.ensure_shape(shaped, [*x.shape[:-1], y_channels])


@dataclasses.dataclass(frozen=True)
class _Planes:
    """The options of an operator of bit planes."""

    weight: int
    input: int
    pad_value: int
    bits_in: int
    bits_out: bool


def _bit_options(bits_in: int, bits_out: bool) -> dict[str, int]:
    """Return the options of bits, which an operator from floats to floats lacks."""
    return {"bits_in": bits_in, "bits_out": int(bits_out)} if bits_in or bits_out else {}


def _bitplane_convolution(
    attributes: ConvAttributes, planes: _Planes, x: tf.Tensor, packed: tf.Tensor, *constants: Any
) -> tf.Tensor:
    """Sum the convolutions of all pairs of planes, each an exact integer where x is quantized."""
    rest = iter(constants)
    scales = None if planes.bits_out else (next(rest), next(rest))
    quantized = planes.input > 0 and not planes.bits_in
    quantizer = tuple(next(rest) for _ in range(3)) if quantized else None
    inputs, ones = _input_planes(planes, x, quantizer)
    if planes.pad_value == 1:
        inputs = [pad_with(attributes, p, one) for p, one in zip(inputs, ones, strict=True)]
        attributes = dataclasses.replace(attributes, padding="valid")
    kernels = _plane_kernels(attributes, planes.weight, packed, inputs[0].shape[-1])
    if planes.bits_out:
        thresholds, direction = rest
        sums = tf.cast(_conv2d(attributes, inputs[0], kernels[0]), tf.int32)
        return pack_words(tf.cast(direction, tf.int32) * sums >= thresholds)
    weight_basis, bias = scales
    basis = [1.0] if planes.input == 0 else tf.unstack(next(rest))
    if len(basis) > len(inputs):  # the offsets: planes of +1
        inputs.append(tf.ones_like(inputs[0]))
    if weight_basis.shape[0] > planes.weight:
        kernels.append(tf.ones_like(kernels[0]))
    total = tf.add_n(
        [
            (weight_basis[i] * v) * _conv2d(attributes, plane, kernel)
            for i, kernel in enumerate(kernels)
            for v, plane in zip(basis, inputs, strict=True)
        ]
    )
    return activate(attributes.activation, total + bias)


def _input_planes(
    planes: _Planes, x: tf.Tensor, quantizer: tuple[tf.Tensor, ...] | None
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """Return the planes of the input, and what an input of +1 is in each."""
    if planes.input == 0:
        return [x], [tf.ones([1])]
    if quantizer is None:
        return [_signs(unpack_words(x, planes.bits_in))], [tf.ones([1])]
    thresholds, direction, level_bits = quantizer
    codes = tf.reduce_sum(tf.cast((direction * x)[..., None] >= thresholds, tf.int32), axis=-1)
    one = tf.reduce_sum(tf.cast(direction[:, None] >= thresholds, tf.int32), axis=-1)
    levels = [_signs(_bit(level_bits, j)) for j in range(planes.input)]
    return [tf.gather(h, codes) for h in levels], [tf.gather(h, one) for h in levels]


def _plane_kernels(
    attributes: ConvAttributes, count: int, packed: tf.Tensor, channels: int
) -> list[tf.Tensor]:
    """Unpack the planes of a kernel (kh, kw, Cin / groups, Ct), of -1 and +1."""
    shape = (*attributes.kernel_size, channels // attributes.groups, attributes.channels_out)
    signs = _signs(unpack_stream(packed, 1, math.prod(shape[:-1])))  # (planes, Ct, kh·kw·Cg)
    return [tf.reshape(tf.transpose(signs[i]), shape) for i in range(count)]


def _signs(bits: tf.Tensor) -> tf.Tensor:
    return tf.cast(2 * bits - 1, tf.float32)


def _bit(level_bits: tf.Tensor, plane: int) -> tf.Tensor:
    return tf.cast(tf.bitwise.right_shift(level_bits, tf.cast(plane, tf.uint8)) & 1, tf.int32)


def _codebook_kernel(
    attributes: ConvAttributes,
    bits: int,
    order: str,
    x: tf.Tensor,
    codebook: tf.Tensor,
    indices: tf.Tensor,
) -> tf.Tensor:
    """Decode the kernel (kh, kw, Cin / groups, Ct)."""
    group_channels = x.shape[-1] // attributes.groups
    taps, outputs = math.prod(attributes.kernel_size), attributes.channels_out
    books, size, length = codebook.shape
    subspaces = indices.shape[1]
    assigned = unpack_stream(indices, bits, attributes.channels_out)  # (positions, M, Ct)
    if books > 1:
        assigned += size * tf.range(subspaces)[:, None]
    codewords = tf.reshape(tf.cast(codebook, tf.float32), [-1, length])
    vectors = tf.transpose(tf.gather(codewords, assigned), [0, 1, 3, 2])  # (positions, M, d, Ct)
    if order == "channel":
        rows = tf.reshape(vectors, [subspaces * length, outputs])[: taps * group_channels]
        kernel = tf.transpose(tf.reshape(rows, [group_channels, taps, outputs]), [1, 0, 2])
    else:
        kernel = tf.reshape(vectors, [taps, subspaces * length, outputs])[:, :group_channels]
    return tf.reshape(kernel, [*attributes.kernel_size, group_channels, outputs])


def _sum_of_entries(
    attributes: ConvAttributes,
    tables: ByteTables,
    codes: tf.Tensor,
    codebook: tf.Tensor,
    assigned: tf.Tensor,
) -> tf.Tensor:
    """Look the table of every input pixel up at the indices (taps, M, Ct); add, as int32."""
    books, size, length = codebook.shape
    subspaces = assigned.shape[1]
    group_channels = codes.shape[-1] // attributes.groups
    codewords = tf.broadcast_to(tf.cast(codebook, tf.float32), [subspaces, size, length])
    flat = assigned + size * tf.range(subspaces)[:, None]
    padded = tf.pad(codes, _sides(attributes, codes))
    outputs = []
    for part, index in zip(
        tf.split(padded, attributes.groups, axis=-1),
        tf.split(flat, attributes.groups, axis=-1),
        strict=True,
    ):
        filled = tf.pad(part, [[0, 0]] * 3 + [[0, subspaces * length - group_channels]])
        shape = tf.concat([tf.shape(part)[:3], [subspaces, length]], axis=0)
        table = tables.entries(tf.einsum("nhwmd,mkd->nhwmk", tf.reshape(filled, shape), codewords))
        shape = tf.concat([tf.shape(part)[:3], [subspaces * size]], axis=0)
        outputs.append(_look_up(attributes, tf.reshape(table, shape), index))
    return tf.concat(outputs, axis=-1)


def _look_up(attributes: ConvAttributes, table: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
    """Sum the entries (N, H, W, M·K) of each tap, of a padded map, at its indices (taps, M, Ct)."""
    (kernel_h, kernel_w), (stride_h, stride_w) = attributes.kernel_size, attributes.strides
    dilation_h, dilation_w = attributes.dilations
    rows = tf.shape(table)[1] - (kernel_h - 1) * dilation_h
    columns = tf.shape(table)[2] - (kernel_w - 1) * dilation_w
    total = 0
    for tap in range(kernel_h * kernel_w):
        y, x = tap // kernel_w * dilation_h, tap % kernel_w * dilation_w
        read = table[:, y : y + rows : stride_h, x : x + columns : stride_w]
        total += tf.reduce_sum(tf.gather(read, index[tap], axis=-1), axis=-2)
    return total


def _convolve(
    attributes: ConvAttributes,
    x: tf.Tensor,
    kernel: tf.Tensor,
    multiplier: tf.Tensor,
    bias: tf.Tensor,
) -> tf.Tensor:
    y = _conv2d(attributes, x, kernel)
    return activate(attributes.activation, multiplier * y + bias)


def _conv2d(attributes: ConvAttributes, x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Convolve, with groups as slices: grouped convolution has no kernel on every CPU path."""
    padding: Any = attributes.padding.upper()
    if attributes.padding == "explicit":
        top, bottom, left, right = attributes.explicit_padding
        padding = [[0, 0], [top, bottom], [left, right], [0, 0]]
    inputs = tf.split(x, attributes.groups, axis=-1)
    kernels = tf.split(kernel, attributes.groups, axis=-1)
    outputs = [
        tf.nn.conv2d(i, k, attributes.strides, padding, dilations=attributes.dilations)
        for i, k in zip(inputs, kernels, strict=True)
    ]
    return tf.concat(outputs, axis=-1)


def pad_with(attributes: ConvAttributes, x: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
    """Pad as the convolution would, with ``value`` (one, or one a channel) in place of zeros."""
    if attributes.padding == "valid":
        return x
    sides = _sides(attributes, x)
    inside = tf.pad(tf.ones_like(x[..., :1]), sides)
    return tf.pad(x, sides) + (1.0 - inside) * value


def _sides(attributes: ConvAttributes, x: tf.Tensor) -> list[list[Any]]:
    """Return what the convolution pads before and after each axis of x."""
    if attributes.padding == "valid":
        return [[0, 0]] * 4
    if attributes.padding == "explicit":
        top, bottom, left, right = attributes.explicit_padding
    else:
        height, width = tf.shape(x)[1], tf.shape(x)[2]
        (kernel_h, kernel_w), (stride_h, stride_w) = attributes.kernel_size, attributes.strides
        dilation_h, dilation_w = attributes.dilations
        top, bottom = same_padding(height, kernel_h, stride_h, dilation_h)
        left, right = same_padding(width, kernel_w, stride_w, dilation_w)
    return [[0, 0], [top, bottom], [left, right], [0, 0]]


def activate(activation: str, y: tf.Tensor) -> tf.Tensor:
    """Apply an activation by its name."""
    return {"linear": tf.identity, "relu": tf.nn.relu, "relu6": tf.nn.relu6}[activation](y)
