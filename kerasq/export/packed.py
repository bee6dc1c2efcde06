"""Packed constants for the operators, and the Keras layer that holds them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from kerasq.export import operators
from kerasq.export.describe import LayerSpec, activation_name
from kerasq.export.operators import ConvAttributes
from kerasq.export.thresholds import InputPlanes, bit_planes_of
from kerasq.keras import keras
from kerasq.representations import Affine, BitPlanes, Codebook, pack_bits


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
    """

    def __init__(
        self, spec: LayerSpec, operator: Any, constants: tuple, before: Any, after: Any
    ) -> None:
        super().__init__(name=spec.name, trainable=False, dtype="float32")
        self.method = spec.method
        self.kernel_shape = spec.kernel.shape
        self.kernel_elements = int(np.prod(spec.kernel.shape))
        self.constants = constants
        self._operator = operator
        self._before = before
        self._after = after

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
        y = self._operator(
            x if self._before is None else self._before(x), *map(tf.constant, self.constants)
        )
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


class FoldedLayer(keras.layers.Layer):
    """A layer that a packed neighbour computes: it passes on what it gets."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name, trainable=False, dtype="float32")
        self.supports_masking = True

    def call(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        """Return the inputs; the arguments are those of a BatchNormalization."""
        return inputs


def pack(spec: LayerSpec, planes: InputPlanes | None, transform: OutputTransform) -> PackedLayer:
    """Choose the operator for a layer and pack its constants.

    Args:
        spec: the layer.
        planes: its input quantizer as bit planes, or None.
        transform: what is fused behind the convolution. The layer's own bias is in its shift.

    Raises:
        ValueError: a kernel that no operator can store.
    """
    kernel = spec.kernel
    if planes is not None and isinstance(kernel, Affine) and kernel.bits <= 3:
        kernel = bit_planes_of(kernel)
    if planes is not None and not isinstance(kernel, BitPlanes):
        planes = None  # the codebook operator takes the quantized inputs as floats
    before = spec.input_quantizer if planes is None else None
    after = None
    if spec.k_map is not None:
        after, transform = _scale_map(spec, transform)
    if activation_name(spec.activation) is None:
        after = _then(after, spec.activation)
    if isinstance(kernel, BitPlanes):
        operator, constants = _bitplanes(spec, kernel, planes, transform)
    else:
        before, geometry = _explicit_padding(spec, before)
        operator, constants = _codebook(spec, kernel, geometry, transform)
    return PackedLayer(spec, operator, constants, before, after)


def _scale_map(spec: LayerSpec, transform: OutputTransform) -> tuple[Any, OutputTransform]:
    """Multiply by the XNOR-Net map before the shift, which then leaves the operator."""
    k_map, shift = spec.k_map, transform.shift
    activate = {"linear": tf.identity, "relu": tf.nn.relu, "relu6": tf.nn.relu6}
    activate = activate[transform.activation]

    def after(y: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        return activate(y * k_map(x) + shift)

    return after, OutputTransform(transform.scale, np.zeros(1, np.float32), "linear")


def _then(first: Any, function: Any) -> Any:
    """Apply a function behind what else follows the operator."""
    if first is None:
        return lambda y, x: function(y)
    return lambda y, x: function(first(y, x))


def _bitplanes(
    spec: LayerSpec, kernel: BitPlanes, planes: InputPlanes | None, transform: OutputTransform
) -> tuple[Any, tuple]:
    count, channels = len(kernel.packed), spec.channels_out
    basis = kernel.scales
    if kernel.offset is not None:
        width = max(basis.shape[1], len(kernel.offset))
        rows = [np.broadcast_to(row, (width,)) for row in (*basis, kernel.offset)]
        basis = np.stack(rows)
    if transform.scale is not None:
        basis = basis * transform.scale
    constants = (
        _rows_by_channel(kernel, channels),
        np.ascontiguousarray(basis, np.float32),
        _shrunk(transform.shift),
    )
    input_planes = 0
    if planes is not None:
        input_planes = planes.planes
        constants += (planes.thresholds, planes.direction, planes.level_bits, planes.basis)
    if spec.geometry is None:
        operator = operators.bitplane_dense(channels, count, input_planes, transform.activation)
    else:
        geometry = dataclasses.replace(spec.geometry, activation=transform.activation)
        operator = operators.bitplane_conv2d(geometry, count, input_planes, spec.pad_value)
    return operator, constants


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


def _codebook(
    spec: LayerSpec,
    kernel: Affine | Codebook,
    geometry: ConvAttributes | None,
    transform: OutputTransform,
) -> tuple[Any, tuple]:
    scale = transform.scale
    if isinstance(kernel, Affine):
        kernel, channel_scale = _codebook_of(spec, kernel)
        if channel_scale is not None:
            scale = channel_scale if scale is None else channel_scale * scale
    size, length = kernel.codewords.shape[1:]
    if size > 256:
        raise ValueError(
            f"layer {spec.name!r} has codebooks of {size} codewords: the operators take 256 at most"
        )
    positions = int(np.prod(kernel.shape[:-2]))
    constants = (
        kernel.codewords,
        kernel.packed.reshape(positions, *kernel.packed.shape[-2:]),
        np.ones(1, np.float32) if scale is None else np.ascontiguousarray(scale, np.float32),
        _shrunk(transform.shift),
    )
    if geometry is None:
        operator = operators.codebook_dense(
            spec.channels_out, length, size, kernel.bits, transform.activation
        )
    else:
        geometry = dataclasses.replace(geometry, activation=transform.activation)
        operator = operators.codebook_conv2d(geometry, length, size, kernel.bits)
    return operator, constants


def _codebook_of(spec: LayerSpec, kernel: Affine) -> tuple[Codebook, np.ndarray | None]:
    """Write a uniform grid as one codebook of scalars, and a scale per channel where it has one."""
    if len(kernel.zero_point) > 1:
        raise ValueError(
            f"layer {spec.name!r} has a zero point of its own for each channel: the operators take "
            "one for the layer"
        )
    grid = np.arange(1 << kernel.bits, dtype=np.float32) - kernel.zero_point
    per_channel = len(kernel.scale) > 1
    codewords = grid if per_channel else (kernel.scale * grid).astype(np.float32)
    codes = kernel.codes()
    groups = 1 if spec.geometry is None else spec.geometry.groups
    if groups > 1 and kernel.shape[-2] == groups:  # depthwise: (kh, kw, channels, multiplier)
        codes = codes.reshape(*kernel.shape[:2], 1, spec.channels_out)
    book = Codebook.from_assignments(codewords.reshape(1, -1, 1), codes, codes.shape)
    return book, kernel.scale if per_channel else None


def _shrunk(shift: np.ndarray) -> np.ndarray:
    """Store one number where all channels have the same."""
    shift = np.ascontiguousarray(shift, np.float32)
    return shift[:1] if np.all(shift == shift[0]) else shift
