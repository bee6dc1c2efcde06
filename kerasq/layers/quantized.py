"""Convolutions and dense layers whose inputs and kernels are quantized."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from kerasq.keras import keras, keras_version
from kerasq.quantizers import (
    Quantizer,
    UniformQuantizer,
    check_target,
    clone_for_depthwise,
    for_use,
    get,
    nice_bias,
    serialize,
)
from kerasq.quantizers.base import build_in_scope, check_bits

FROM_QUANTIZER = "quantizer"
MOST_BIAS_BITS = 24  # whole numbers that float32 holds

# Under the qualified name only: the bare names of these classes are larq's, in saved larq models.
register_layer = keras.utils.register_keras_serializable(package="kerasq")


class QuantizedLayer:
    """Mixed into a Keras layer: its two quantizers, the grid of its bias, and their state.

    ``_kernel_name`` is the name under which the Keras layer adds its kernel.
    """

    _kernel_name = "kernel"

    def _set_quantizers(
        self, input_quantizer: Any, kernel_quantizer: Any, bias_bits: int | None = None
    ) -> None:
        """Give the layer quantizers of its own: a shared one with variables would be built twice.

        Fixed names keep the paths of their variables equal in every copy of a model.
        """
        self.input_quantizer = self._own(input_quantizer, "activations", "input_quantizer")
        self.kernel_quantizer = self._own(kernel_quantizer, "weights", "kernel_quantizer")
        self.bias_bits = None if bias_bits is None else self._checked_bias_bits(bias_bits)

    def _checked_bias_bits(self, bits: int) -> int:
        owner = f"{type(self).__name__} {self.name!r}, bias"
        both = (self.input_quantizer, self.kernel_quantizer)
        uniform = all(isinstance(q, UniformQuantizer) and q.has_step for q in both)
        if not uniform or self.input_quantizer.channel_axes:
            raise ValueError(
                f"{owner}: its step is the inputs', one for all, times the kernel's: give both a "
                "uniform quantizer of 2 bits or more, or leave bias_bits out"
            )
        return check_bits(bits, 2, MOST_BIAS_BITS, owner)

    def _for_kernel(self, quantizer: Quantizer) -> Quantizer:
        """Return the kernel's quantizer with the axes that are filters in this layer's kernel."""
        return quantizer

    def _own(self, identifier: Any, use: str, name: str) -> Quantizer | None:
        owner = f"{type(self).__name__} {self.name!r}, {name}"
        try:
            quantizer = get(identifier)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{owner}: {error}") from None
        if quantizer is None:
            return None
        check_target(quantizer, use, owner)
        own = for_use(quantizer, use, name=name)
        return self._for_kernel(own) if use == "weights" else own

    def add_weight(self, *args: Any, **kwargs: Any) -> Any:
        """Add a weight; what is quantized stays float32 under mixed_float16."""
        name = kwargs.get("name")
        quantizes_kernel = name == self._kernel_name and self.kernel_quantizer is not None
        if quantizes_kernel or (name == "bias" and self.bias_bits is not None):
            kwargs["autocast"] = False
        return super().add_weight(*args, **kwargs)

    def build(self, input_shape: Any) -> None:
        """Build the layer, then its quantizers, so that their variables exist before loading."""
        super().build(input_shape)
        if self.input_quantizer is not None:
            build_in_scope(self.input_quantizer, input_shape)
        if self.kernel_quantizer is not None:
            build_in_scope(self.kernel_quantizer, getattr(self, self._kernel_name).shape)

    def _operands(self, inputs: Any, kernel: Any, training: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the quantized inputs and kernel, in the layer's compute dtype."""
        x, w = tf.convert_to_tensor(inputs), tf.convert_to_tensor(kernel)
        if self.input_quantizer is not None:
            x = self.input_quantizer(x, training=training)
        if self.kernel_quantizer is not None:
            w = self.kernel_quantizer(w, training=training)
        return tf.cast(x, self.compute_dtype), tf.cast(w, self.compute_dtype)

    def _bias_for(self, inputs: Any) -> tf.Tensor:
        """Return the bias, on its grid where it has one; the inputs are those of the layer."""
        bias = tf.convert_to_tensor(self.bias)
        if self.bias_bits is None:
            return bias
        x = tf.cast(tf.convert_to_tensor(inputs), tf.float32)
        return self._on_bias_grid(bias, self.input_quantizer.grid_step(x))

    def _on_bias_grid(self, bias: tf.Tensor, input_step: Any) -> tf.Tensor:
        kernel = tf.convert_to_tensor(getattr(self, self._kernel_name))
        step = input_step * tf.reshape(self.kernel_quantizer.grid_step(kernel), [-1])
        return nice_bias(bias, tf.stop_gradient(step), self.bias_bits)

    def stored_bias(self) -> np.ndarray:
        """Return the bias on the grid that it has at inference.

        Raises:
            ValueError: the inputs' step is not known yet.
        """
        fixed = self.input_quantizer.fixed_grid()
        if fixed is None:
            raise ValueError(
                f"{type(self).__name__} {self.name!r}: the step of its inputs, which that of its "
                "bias follows from, is not known yet: train, or call kerasq.quantizers.calibrate"
            )
        bias = tf.convert_to_tensor(self.bias)
        return self._on_bias_grid(bias, np.float32(fixed[0])).numpy()

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "input_quantizer": serialize(self.input_quantizer),
            "kernel_quantizer": serialize(self.kernel_quantizer),
            "bias_bits": self.bias_bits,
        }


class QuantizedConvolution(QuantizedLayer):
    """The two-dimensional convolutions' part: padding by a value, then the bias."""

    def _set_padding(self, pad_values: float) -> None:
        if float(pad_values) not in (0.0, 1.0):
            raise ValueError(
                f"{type(self).__name__} {self.name!r}: pad_values must be 0.0 or 1.0, got "
                f"{pad_values!r}: the exported operators know no other"
            )
        self.pad_values = float(pad_values)

    def _padded(self, x: tf.Tensor) -> tuple[tf.Tensor, str]:
        """Return the quantized inputs and the padding that is left to the convolution."""
        if self.padding != "same" or self.pad_values == 0.0:
            return x, self.padding.upper()
        first = self.data_format == "channels_first"
        spatial = range(2, 4) if first else range(1, 3)
        pads = [[0, 0]] * 4
        for i, axis in enumerate(spatial):
            size = x.shape[axis] if x.shape[axis] is not None else tf.shape(x)[axis]
            pads[axis] = same_padding(
                size, self.kernel_size[i], self.strides[i], self.dilation_rate[i]
            )
        return tf.pad(x, pads, constant_values=self.pad_values), "VALID"

    def _with_bias(self, outputs: tf.Tensor, inputs: Any) -> tf.Tensor:
        if self.use_bias:
            data_format = "NCHW" if self.data_format == "channels_first" else "NHWC"
            bias = tf.cast(self._bias_for(inputs), outputs.dtype)
            outputs = tf.nn.bias_add(outputs, bias, data_format=data_format)
        return outputs if self.activation is None else self.activation(outputs)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "pad_values": self.pad_values}


def same_padding(size: Any, kernel: int, stride: int, dilation: int) -> list[Any]:
    """Return TensorFlow's "SAME" padding before and after; ``size`` may be a tensor."""
    reach = (kernel - 1) * dilation + 1
    excess = (-(-size // stride) - 1) * stride + reach - size
    total = tf.maximum(excess, 0) if tf.is_tensor(size) else max(excess, 0)
    return [total // 2, total - total // 2]


def _constraint(given: Any, quantizer: Quantizer | None) -> Any:
    if isinstance(given, str) and given == FROM_QUANTIZER:
        return None if quantizer is None else quantizer.kernel_constraint()
    return keras.constraints.get(given)


@tf.function(jit_compile=True)
def _grouped(x: tf.Tensor, kernel: tf.Tensor, **attributes: Any) -> tf.Tensor:
    # TensorFlow's CPU kernels lack the gradient of grouped convolutions: XLA has it.
    return tf.nn.convolution(x, kernel, **attributes)


@register_layer
class QuantConv2D(QuantizedConvolution, keras.layers.Conv2D):
    r"""Two-dimensional convolution of quantized inputs with a quantized kernel.

    Forward: ``y = activation(conv(q_in(x), q_k(kernel)) + bias)``.

    Gradient: through the quantizers, by each one's own rule.

    Args:
        filters: number of output channels.
        kernel_size: one or two sizes.
        strides: one or two steps.
        input_quantizer: a quantizer of activations by name, config, class or instance (copied);
            None leaves the inputs as they are.
        kernel_quantizer: the same for the kernel (kh, kw, input channels / groups, filters).
        pad_values: what surrounds the quantized inputs under ``padding="same"``: 0.0 or 1.0.
        bias_bits: puts the bias on whole steps of the inputs' grid times the kernel's, at most
            ``2^(bits-1) - 1`` of them to each side, with the identity gradient: 16 is NICE's. None
            leaves it in float.
        kernel_constraint: "quantizer", the default, takes the constraint that the kernel's
            quantizer requires, if any; None is no constraint.
        **kwargs: as for ``keras.layers.Conv2D``: padding, dilation_rate, groups, ...

    Raises:
        ValueError: an unknown quantizer, one that is not for this use, other pad_values, or
            bias_bits without two uniform quantizers of at least 2 bits.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = (1, 1),
        *,
        input_quantizer: Any = None,
        kernel_quantizer: Any = None,
        pad_values: float = 0.0,
        bias_bits: int | None = None,
        kernel_constraint: Any = FROM_QUANTIZER,
        **kwargs: Any,
    ) -> None:
        super().__init__(filters, kernel_size, strides, **kwargs)
        self._set_quantizers(input_quantizer, kernel_quantizer, bias_bits)
        self._set_padding(pad_values)
        self.kernel_constraint = _constraint(kernel_constraint, self.kernel_quantizer)

    def call(self, inputs: Any, training: Any = None) -> tf.Tensor:
        """Return the convolution, with bias and activation."""
        x, kernel = self._operands(inputs, self.kernel, training)
        return self._with_bias(self._convolve(x, kernel), inputs)

    def _convolve(self, x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        x, padding = self._padded(x)
        convolution = _grouped if self.groups > 1 else tf.nn.convolution
        return convolution(
            x,
            kernel,
            strides=list(self.strides),
            padding=padding,
            data_format="NCHW" if self.data_format == "channels_first" else "NHWC",
            dilations=list(self.dilation_rate),
        )


@register_layer
class QuantDepthwiseConv2D(QuantizedConvolution, keras.layers.DepthwiseConv2D):
    r"""Depthwise convolution of quantized inputs with a quantized kernel.

    Forward: ``y = activation(depthwise_conv(q_in(x), q_k(kernel)) + bias)``.

    Gradient: through the quantizers, by each one's own rule.

    A quantizer with a scale per filter has one for each channel and multiple: its axes are (-2,
    -1) here.

    Args:
        kernel_size: one or two sizes.
        strides: one or two equal steps.
        input_quantizer: a quantizer of activations by name, config, class or instance (copied).
        kernel_quantizer: the same for the kernel (kh, kw, channels, depth_multiplier).
        pad_values: what surrounds the quantized inputs under ``padding="same"``: 0.0 or 1.0.
        bias_bits: puts the bias on whole steps of the inputs' grid times the kernel's, at most
            ``2^(bits-1) - 1`` of them to each side, with the identity gradient: 16 is NICE's. None
            leaves it in float.
        depthwise_constraint: "quantizer", the default, takes the constraint that the kernel's
            quantizer requires, if any; None is no constraint.
        **kwargs: as for ``keras.layers.DepthwiseConv2D``.

    Raises:
        ValueError: an unknown quantizer, one that is not for this use, other pad_values, or
            bias_bits without two uniform quantizers of at least 2 bits.
    """

    _kernel_name = "depthwise_kernel" if keras_version() == 2 else "kernel"
    _for_kernel = staticmethod(clone_for_depthwise)

    def __init__(
        self,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = (1, 1),
        *,
        input_quantizer: Any = None,
        kernel_quantizer: Any = None,
        pad_values: float = 0.0,
        bias_bits: int | None = None,
        depthwise_constraint: Any = FROM_QUANTIZER,
        **kwargs: Any,
    ) -> None:
        super().__init__(kernel_size, strides, **kwargs)
        self._set_quantizers(input_quantizer, kernel_quantizer, bias_bits)
        self._set_padding(pad_values)
        self.depthwise_constraint = _constraint(depthwise_constraint, self.kernel_quantizer)

    def call(self, inputs: Any, training: Any = None) -> tf.Tensor:
        """Return the depthwise convolution, with bias and activation."""
        x, kernel = self._operands(inputs, getattr(self, self._kernel_name), training)
        x, padding = self._padded(x)
        first = self.data_format == "channels_first"
        outputs = tf.nn.depthwise_conv2d(
            x,
            kernel,
            strides=[1, 1, *self.strides] if first else [1, *self.strides, 1],
            padding=padding,
            data_format="NCHW" if first else "NHWC",
            dilations=list(self.dilation_rate),
        )
        return self._with_bias(outputs, inputs)


@register_layer
class QuantDense(QuantizedLayer, keras.layers.Dense):
    r"""Dense layer of quantized inputs with a quantized kernel.

    Forward: ``y = activation(q_in(x) @ q_k(kernel) + bias)``, over the last axis of ``x``.

    Gradient: through the quantizers, by each one's own rule.

    Args:
        units: number of output features.
        input_quantizer: a quantizer of activations by name, config, class or instance (copied).
        kernel_quantizer: the same for the kernel (input features, units).
        bias_bits: puts the bias on whole steps of the inputs' grid times the kernel's, at most
            ``2^(bits-1) - 1`` of them to each side, with the identity gradient: 16 is NICE's. None
            leaves it in float.
        kernel_constraint: "quantizer", the default, takes the constraint that the kernel's
            quantizer requires, if any; None is no constraint.
        **kwargs: as for ``keras.layers.Dense``.

    Raises:
        ValueError: an unknown quantizer, one that is not for this use, or bias_bits without two
            uniform quantizers of at least 2 bits.
    """

    def __init__(
        self,
        units: int,
        *,
        input_quantizer: Any = None,
        kernel_quantizer: Any = None,
        bias_bits: int | None = None,
        kernel_constraint: Any = FROM_QUANTIZER,
        **kwargs: Any,
    ) -> None:
        super().__init__(units, **kwargs)
        self._set_quantizers(input_quantizer, kernel_quantizer, bias_bits)
        self.kernel_constraint = _constraint(kernel_constraint, self.kernel_quantizer)

    def call(self, inputs: Any, training: Any = None) -> tf.Tensor:
        """Return the product, with bias and activation."""
        x, kernel = self._operands(inputs, self.kernel, training)
        outputs = tf.tensordot(x, kernel, 1) if x.shape.rank != 2 else tf.matmul(x, kernel)
        if self.use_bias:
            outputs += tf.cast(self._bias_for(inputs), outputs.dtype)
        return outputs if self.activation is None else self.activation(outputs)
