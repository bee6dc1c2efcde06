"""Packed constants for the operators, and the Keras layer that holds them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from kerasq.export import operators
from kerasq.export.describe import LayerSpec, Representation, activation_name
from kerasq.export.native import Grid, NativeOperator, integer_operator, native_operator
from kerasq.export.operators import ConvAttributes
from kerasq.export.streams import WORD_BITS
from kerasq.export.thresholds import InputPlanes, bit_planes_of
from kerasq.keras import keras
from kerasq.representations import (
    Affine,
    BitPlanes,
    Codebook,
    HashedKernel,
    SparseCodebook,
    pack_bits,
)

Terms = Callable[[tf.Tensor], list[tuple[tf.Tensor, tf.Tensor]]]
# The sign of the input, as planes of the operator.
_SIGNS = InputPlanes(
    thresholds=np.zeros((1, 1), np.float32),
    direction=np.ones(1, np.float32),
    level_bits=np.array([0, 1], np.uint8),
    basis=np.ones(1, np.float32),
    planes=1,
)


@dataclasses.dataclass
class OutputTransform:
    """What follows a convolution: ``activation(scale · y + shift)``, per channel.

    Attributes:
        scale: float32 (Ct,), or None for 1.
        shift: float32 (Ct,).
        activation: "linear", "relu" or "relu6".
    """

    scale: np.ndarray | None
    shift: np.ndarray
    activation: str


class PackedLayer(keras.layers.Layer):
    """A layer of a deployed model: packed constants, and the operator that reads them.

    Args:
        spec: the layer it stands for.
        operator: one of the functions of :mod:`kerasq.export.operators`.
        constants: the operator's inputs after the first.
        before: applied to the input first (an input quantizer that is no bit planes), or None.
        after: applied to the operator's output, given it and the layer's input, or None.

    Attributes:
        codebook: what the operator is made of where it is one codebook operator, or None.
        observe: is called with the operator's input, where it is set.
    """

    def __init__(
        self, spec: LayerSpec, operator: Any, constants: tuple, before: Any, after: Any
    ) -> None:
        super().__init__(name=spec.name, trainable=False, dtype="float32")
        self.method = spec.method
        self.kernel_shape = spec.kernel.shape
        self.kernel_elements = int(np.prod(spec.kernel.shape))
        self.constants = constants
        self.codebook: CodebookOperator | None = None
        self.observe: Callable[[tf.Tensor], None] | None = None
        self._operator = operator
        self._before = before
        self._after = after

    def replace_operator(self, operator: Any, constants: tuple) -> None:
        """Let another operator compute the layer from now on."""
        self._operator, self.constants = operator, constants

    @property
    def nbytes(self) -> int:
        """Bytes of the packed constants: what the file stores for this layer."""
        return sum(constant.nbytes for constant in self.constants)

    @property
    def bits_per_weight(self) -> float:
        """Stored bits over the number of weights; scales, codebooks and bias included."""
        return 8 * self.nbytes / self.kernel_elements

    def call(self, inputs: Any) -> tf.Tensor:
        """Run the operator's TensorFlow body."""
        x = tf.convert_to_tensor(inputs)
        quantized = x if self._before is None else self._before(x)
        if self.observe is not None:
            self.observe(quantized)
        y = self._operator(quantized, *map(tf.constant, self.constants))
        return y if self._after is None else self._after(y, x)

    def get_config(self) -> dict[str, Any]:
        """Refuse: a deployed model is a step on the way to a file.

        Raises:
            TypeError: always.
        """
        raise TypeError(
            f"the packed layer {self.name!r} is not saved by Keras: save the trained model, and "
            "the deployed one as a .tflite with kerasq.convert"
        )


class NativeLayer(PackedLayer):
    """A layer of a deployed model whose kernel leaves in TFLite's own integers.

    Args:
        spec: the layer it stands for.
        native: its operator and constants.
        before: applied to the input first, or None.
        after: applied to the operator's output, given it and the layer's input, or None.
    """

    def __init__(self, spec: LayerSpec, native: NativeOperator, before: Any, after: Any) -> None:
        super().__init__(spec, native.function, native.constants, before, after)
        self.integer = native.integer
        self._native = native

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and bias: what the file stores for this layer."""
        return self._native.nbytes


@dataclasses.dataclass(frozen=True)
class BitOutput:
    """What makes bits of a layer's integer sums: ``direction · sum ≥ thresholds``.

    Attributes:
        thresholds: int32 (Ct or 1,).
        direction: int8 (Ct or 1,), each +1 or −1.
    """

    thresholds: np.ndarray
    direction: np.ndarray


class BitPool(keras.layers.Layer):
    """Max pooling in a deployed model, of bits: of those it gets, or of floats that it packs.

    Args:
        pool: the MaxPooling2D that it stands for.
        falls: bool (C,), the channels whose bits fall where the pooled values rise.
        planes: the one plane to which floats are packed, or None for bits.
    """

    def __init__(self, pool: Any, falls: np.ndarray, planes: InputPlanes | None = None) -> None:
        super().__init__(name=pool.name, trainable=False, dtype="float32")
        channels = len(falls)
        self.operators = 1 if planes is None else 2
        self._minimum = _words(falls)
        self._planes = planes
        self._bitpack = None if planes is None else operators.bitpack(channels)
        self._pool = operators.bitpack_max_pool2d(
            channels, tuple(pool.pool_size), tuple(pool.strides), pool.padding.lower()
        )

    def call(self, inputs: Any) -> tf.Tensor:
        """Run the TensorFlow bodies of the operators."""
        x = tf.convert_to_tensor(inputs)
        if self._bitpack is not None:
            thresholds = tf.constant(self._planes.thresholds[:, 0])
            x = self._bitpack(x, thresholds, tf.constant(self._planes.direction))
        return self._pool(x, tf.constant(self._minimum))


def _words(bits: np.ndarray) -> np.ndarray:
    """Pack bits into int32, the lowest first."""
    padded = np.pad(bits, (0, -len(bits) % WORD_BITS))
    return np.packbits(padded, bitorder="little").view(np.int32)


class FoldedLayer(keras.layers.Layer):
    """A layer that a packed neighbour computes: it passes on what it gets."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name, trainable=False, dtype="float32")
        self.supports_masking = True

    def call(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        """Return the inputs; the arguments are those of a BatchNormalization."""
        return inputs


def pack(
    spec: LayerSpec,
    planes: InputPlanes | None,
    transform: OutputTransform,
    bits_in: int = 0,
    bits_out: BitOutput | None = None,
) -> PackedLayer:
    """Choose the operator for a layer and pack its constants.

    Args:
        spec: the layer.
        planes: its input quantizer as bit planes, or None.
        transform: what is fused behind the convolution. The layer's own bias is in its shift.
        bits_in: its input channels where they arrive as bits, of the only plane, or 0.
        bits_out: what its output becomes bits by, instead of the transform; or None.

    Raises:
        ValueError: a kernel that no operator can store.
    """
    kernel = spec.kernel
    if not packs_planes(kernel):
        planes = None  # the other operators take the quantized inputs as floats
    elif planes is not None and isinstance(kernel, Affine):
        kernel = bit_planes_of(kernel)
    terms = binary_terms(spec) if isinstance(kernel, BitPlanes) else None
    before = spec.input_quantizer if planes is None and terms is None else None
    after = None
    if spec.k_map is not None or terms is not None:
        after, transform = _shifted_after(spec.k_map, transform)
    if activation_name(spec.activation) is None and bits_out is None:
        after = _then(after, spec.activation)
    if terms is not None:
        operator, constants = _bitplanes(spec, kernel, _SIGNS, transform)
        operator = _sum_of_terms(operator, terms)
    elif isinstance(kernel, BitPlanes):
        operator, constants = _bitplanes(spec, kernel, planes, transform, bits_in, bits_out)
    else:
        before, geometry = _explicit_padding(spec, before)
        native = native_operator(spec, geometry, transform) if isinstance(kernel, Affine) else None
        if native is not None:
            return NativeLayer(spec, native, before, after)
        if isinstance(kernel, Codebook) and not spec.residuals:
            return _codebook_layer(
                spec, _codebook(spec, kernel, geometry, transform), before, after
            )
        kernels = (kernel, *spec.residuals)
        operator, constants = _sum_of_kernels(spec, kernels, geometry, transform)
    return PackedLayer(spec, operator, constants, before, after)


def _codebook_layer(
    spec: LayerSpec, codebook: CodebookOperator, before: Any, after: Any
) -> PackedLayer:
    layer = PackedLayer(spec, *codebook.with_floats(), before, after)
    layer.codebook = codebook
    return layer


def packs_planes(kernel: Representation) -> bool:
    """Tell whether a kernel is bit planes where the inputs are."""
    if isinstance(kernel, Affine):
        return kernel.bits <= 3 and kernel.outlier_index is None
    return isinstance(kernel, BitPlanes)


def pack_integers(
    spec: LayerSpec, transform: OutputTransform, grids: tuple[Grid, Grid], quantized: bool
) -> NativeLayer | None:
    """Pack a layer between two grids of activations for int8 arithmetic, or return None.

    Args:
        spec: the layer.
        transform: what is fused behind it.
        grids: of its input and of its output.
        quantized: whether its input is on the grid already.
    """
    padded = spec.geometry is not None and spec.geometry.padding != "valid" and spec.pad_value == 1
    more = spec.k_map is not None or spec.binary_terms is not None
    if padded or more or activation_name(spec.activation) is None:
        return None
    native = integer_operator(spec, transform, grids)
    if native is None:
        return None
    return NativeLayer(spec, native, None if quantized else spec.input_quantizer, None)


def binary_terms(spec: LayerSpec) -> Terms | None:
    """Return the function that writes the input as scaled signs, where their scales are data.

    It gives pairs (residual, scale): the convolution is the sum of ``scale * conv(sgn(residual))``.
    """
    if spec.binary_terms is not None:
        return spec.binary_terms
    if spec.pad_value == 1:
        return None  # the operator's padded +1 would be scaled too
    return getattr(spec.input_quantizer, "binary_terms", None)


def _sum_of_terms(operator: Any, terms: Terms) -> Any:
    def run(x: tf.Tensor, *constants: tf.Tensor) -> tf.Tensor:
        return tf.add_n([scale * operator(part, *constants) for part, scale in terms(x)])

    return run


def _shifted_after(k_map: Any, transform: OutputTransform) -> tuple[Any, OutputTransform]:
    """Let shift and activation leave the operator, behind the XNOR-Net map where there is one."""
    shift = transform.shift

    def after(y: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        return operators.activate(
            transform.activation, (y if k_map is None else y * k_map(x)) + shift
        )

    return after, OutputTransform(transform.scale, np.zeros(1, np.float32), "linear")


def _then(first: Any, function: Any) -> Any:
    """Apply a function behind what else follows the operator."""
    if first is None:
        return lambda y, x: function(y)
    return lambda y, x: function(first(y, x))


def _bitplanes(
    spec: LayerSpec,
    kernel: BitPlanes,
    planes: InputPlanes | None,
    transform: OutputTransform,
    bits_in: int = 0,
    bits_out: BitOutput | None = None,
) -> tuple[Any, tuple]:
    count, channels = len(kernel.packed), spec.channels_out
    constants: tuple[np.ndarray, ...] = (_rows_by_channel(kernel, channels),)
    if bits_out is None:
        constants += (_weight_basis(kernel, transform.scale), _shrunk(transform.shift))
    if planes is not None and not bits_in:
        constants += (planes.thresholds, planes.direction, planes.level_bits)
    if bits_out is not None:
        constants += (bits_out.thresholds, bits_out.direction)
    elif planes is not None:
        constants += (planes.basis,)
    input_planes = 0 if planes is None else planes.planes
    bits = {"bits_in": bits_in, "bits_out": bits_out is not None}
    if spec.geometry is None:
        operator = operators.bitplane_dense(
            channels, count, input_planes, transform.activation, **bits
        )
    else:
        geometry = dataclasses.replace(spec.geometry, activation=transform.activation)
        operator = operators.bitplane_conv2d(geometry, count, input_planes, spec.pad_value, **bits)
    return operator, constants


def _weight_basis(kernel: BitPlanes, scale: np.ndarray | None) -> np.ndarray:
    """Return the scales of the planes, then the offset where there is one."""
    basis = kernel.scales
    if kernel.offset is not None:
        width = max(basis.shape[1], len(kernel.offset))
        basis = np.stack([np.broadcast_to(row, (width,)) for row in (*basis, kernel.offset)])
    return np.ascontiguousarray(basis if scale is None else basis * scale, np.float32)


def _rows_by_channel(kernel: BitPlanes, channels: int) -> np.ndarray:
    """Return the planes with a row for each output channel, also where they share a scale."""
    if kernel.packed.shape[1] == channels and kernel.channel_axes:
        return kernel.packed
    signs = kernel.signs().reshape(len(kernel.packed), -1, channels)
    return pack_bits(signs.transpose(0, 2, 1) > 0, 1)


def _explicit_padding(spec: LayerSpec, before: Any) -> tuple[Any, ConvAttributes | None]:
    """Pad with ones ahead of the codebook operator, which pads with zeros only."""
    if spec.pad_value == 0 or spec.geometry is None:
        return before, spec.geometry
    geometry = spec.geometry

    def padded(x: tf.Tensor) -> tf.Tensor:
        quantized = x if before is None else before(x)
        return operators.pad_with(geometry, quantized, tf.ones([1]))

    return padded, dataclasses.replace(geometry, padding="valid")


def _sum_of_kernels(
    spec: LayerSpec,
    kernels: tuple[Representation, ...],
    geometry: ConvAttributes | None,
    transform: OutputTransform,
) -> tuple[Any, tuple]:
    """Add the outputs of an operator for each kernel; the shift is the first one's."""
    if len(kernels) == 1:
        return _decoded(spec, kernels[0], geometry, transform)
    none = np.zeros_like(transform.shift)
    transforms = [OutputTransform(transform.scale, transform.shift, "linear")]
    transforms += [OutputTransform(transform.scale, none, "linear")] * (len(kernels) - 1)
    parts = [
        _decoded(spec, kernel, geometry, own)
        for kernel, own in zip(kernels, transforms, strict=True)
    ]

    def run(x: tf.Tensor, *constants: tf.Tensor) -> tf.Tensor:
        rest = iter(constants)
        terms = [operator(x, *(next(rest) for _ in stored)) for operator, stored in parts]
        return operators.activate(transform.activation, tf.add_n(terms))

    return run, tuple(constant for _, stored in parts for constant in stored)


def _decoded(
    spec: LayerSpec,
    kernel: Representation,
    geometry: ConvAttributes | None,
    transform: OutputTransform,
) -> tuple[Any, tuple]:
    """Choose the operator of a kernel whose inputs are floats."""
    if isinstance(kernel, SparseCodebook):
        return _sparse(spec, kernel, geometry, transform)
    if isinstance(kernel, HashedKernel):
        return _hashed(kernel, transform)
    return _codebook(spec, kernel, geometry, transform).with_floats()


def _sparse(
    spec: LayerSpec,
    kernel: SparseCodebook,
    geometry: ConvAttributes | None,
    transform: OutputTransform,
) -> tuple[Any, tuple]:
    sizes = (kernel.shape[-2], len(kernel.codewords), kernel.entries, kernel.gap_bits)
    if geometry is None:
        operator = operators.sparse_dense(spec.channels_out, *sizes, transform.activation)
    else:
        geometry = dataclasses.replace(geometry, activation=transform.activation)
        operator = operators.sparse_conv2d(geometry, *sizes)
    streams = (kernel.gaps, kernel.gap_lengths, kernel.codes, kernel.code_lengths)
    return operator, (kernel.codewords, *streams, *_output(transform.scale, transform))


def _hashed(kernel: HashedKernel, transform: OutputTransform) -> tuple[Any, tuple]:
    inputs, outputs = kernel.shape
    operator = operators.hashed_dense(
        outputs, inputs, len(kernel.values), kernel.seed, transform.activation
    )
    return operator, (kernel.values, *_output(transform.scale, transform))


def _output(scale: np.ndarray | None, transform: OutputTransform) -> tuple[np.ndarray, np.ndarray]:
    """Return the multiplier and the bias of an operator."""
    multiplier = np.ones(1, np.float32) if scale is None else scale
    return np.ascontiguousarray(multiplier, np.float32), _shrunk(transform.shift)


@dataclasses.dataclass(frozen=True)
class CodebookOperator:
    """What a codebook operator is made of.

    Attributes:
        geometry: of the convolution, with its activation; None for a dense layer.
        channels_out: Ct.
        activation: "linear", "relu" or "relu6".
        kernel: codewords and assignments.
        multiplier: float32 (1 or Ct,).
        bias: float32 (1 or Ct,).
    """

    geometry: ConvAttributes | None
    channels_out: int
    activation: str
    kernel: Codebook
    multiplier: np.ndarray
    bias: np.ndarray

    def with_floats(self) -> tuple[Any, tuple]:
        """Return the operator whose tables are floats, and its constants."""
        kernel, (size, length) = self.kernel, self.kernel.codewords.shape[1:]
        if self.geometry is None:
            operator = operators.codebook_dense(
                self.channels_out, length, size, kernel.bits, self.activation
            )
        else:
            operator = operators.codebook_conv2d(
                self.geometry, length, size, kernel.bits, kernel.order
            )
        return operator, (kernel.codewords, kernel.packed, self.multiplier, self.bias)

    def with_bytes(
        self,
        tables: operators.ByteTables,
        codewords: np.ndarray,
        inverse_scale: np.float32,
        scale: float,
    ) -> tuple[Any, tuple]:
        """Return the operator whose tables are of 8 bits, and its constants.

        Args:
            tables: their arithmetic.
            codewords: int8, of the kernel's shape.
            inverse_scale: of the input's codes.
            scale: what an entry of 1 stands for.
        """
        kernel, (size, length) = self.kernel, self.kernel.codewords.shape[1:]
        if self.geometry is None:
            operator = operators.byte_codebook_dense(
                self.channels_out, length, size, kernel.bits, tables, self.activation
            )
        else:
            operator = operators.byte_codebook_conv2d(
                self.geometry, length, size, kernel.bits, tables
            )
        multiplier = (self.multiplier * np.float32(scale)).astype(np.float32)
        inverse = np.array([inverse_scale], np.float32)
        return operator, (codewords, kernel.packed, multiplier, self.bias, inverse)


def _codebook(
    spec: LayerSpec,
    kernel: Affine | Codebook,
    geometry: ConvAttributes | None,
    transform: OutputTransform,
) -> CodebookOperator:
    scale = transform.scale
    if isinstance(kernel, Affine):
        kernel, channel_scale = _codebook_of(spec, kernel)
        if channel_scale is not None:
            scale = channel_scale if scale is None else channel_scale * scale
    if geometry is not None:
        geometry = dataclasses.replace(geometry, activation=transform.activation)
    return CodebookOperator(
        geometry, spec.channels_out, transform.activation, kernel, *_output(scale, transform)
    )


def _codebook_of(spec: LayerSpec, kernel: Affine) -> tuple[Codebook, np.ndarray | None]:
    """Write a uniform grid as one codebook of scalars, and a scale per channel where it has one.

    Channels with zero points of their own share a codebook of all their steps. Outliers have
    codewords of their own, in a codebook for each input channel.
    """
    groups = 1 if spec.geometry is None else spec.geometry.groups
    shape = kernel.shape
    if groups > 1 and shape[-2] == groups:  # depthwise: (kh, kw, channels, multiplier)
        shape = (*shape[:2], 1, spec.channels_out)
    # A channel's codes start at -zero_point: count the steps from the lowest of all.
    steps = np.max(kernel.zero_point) - kernel.zero_point
    step = 0.5 if np.any(steps != np.round(steps)) else 1.0
    codes = kernel.codes().reshape(-1, len(steps)).astype(np.int64)
    codes = ((codes + steps) / step).astype(np.int64).reshape(shape)
    size = int(((1 << kernel.bits) - 1 + np.max(steps)) / step) + 1
    grid = (np.arange(size) * step - np.max(kernel.zero_point)).astype(np.float32)
    per_channel = len(kernel.scale) > 1
    codewords = (grid if per_channel else kernel.scale * grid).astype(np.float32)[None]
    if kernel.outlier_index is not None:
        codes, codewords = _with_outliers(kernel, codes, codewords[0])
    book = Codebook.from_assignments(codewords[..., None], codes, shape)
    return book, kernel.scale if per_channel else None


def _with_outliers(
    kernel: Affine, codes: np.ndarray, grid: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Give each input channel a codebook: the grid, then its distinct outliers."""
    where = np.unravel_index(kernel.outlier_index, codes.shape)
    values = kernel.outlier_value
    if len(kernel.scale) > 1:  # the operator multiplies by the scale of the output channel
        values = values / kernel.scale[where[-1]]
    books = []
    for channel in range(codes.shape[-2]):
        mine = where[-2] == channel
        distinct, index = np.unique(values[mine], return_inverse=True)
        codes[tuple(axis[mine] for axis in where)] = len(grid) + index
        books.append(np.concatenate([grid, distinct]))
    size = max(map(len, books))
    return codes, np.stack([np.pad(book, (0, size - len(book))) for book in books])


def _shrunk(shift: np.ndarray) -> np.ndarray:
    """Store one number where all channels have the same."""
    shift = np.ascontiguousarray(shift, np.float32)
    return shift[:1] if np.all(shift == shift[0]) else shift
