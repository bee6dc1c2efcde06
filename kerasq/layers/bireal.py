"""The residual block of Bi-Real Net."""

from __future__ import annotations

from typing import Any

from kerasq.keras import keras
from kerasq.layers.blocks import Block, chain, check_images, convolved_shape
from kerasq.layers.quantized import QuantConv2D
from kerasq.layers.registry import register_block
from kerasq.quantizers import get, serialize

# The release draws latent weights from [0, 0.001): all positive at first.
_INITIAL_RANGE = {"class_name": "RandomUniform", "config": {"minval": 0.0, "maxval": 0.001}}


@register_block(
    name="bireal_block",
    paper="Bi-Real Net: Enhancing the Performance of 1-bit CNNs",
    arxiv="1808.00278",
    representation="BitPlanes",
    role="block",
)
class BiRealBlock(Block):
    r"""Bi-Real block: one binary convolution beside a real-valued shortcut.

    Forward: ``y = shortcut(x) + BN(conv(sgn(x), s * sgn(W)))``, ``s = mean|W|`` per filter; there
    is no ReLU. The shortcut is the identity; where the block strides or changes the channels it is
    an average pool (2x2 with stride 2), a 1x1 convolution in float and BN.

    Gradient: inputs by ``approx_sign`` (``2 - 2|x|`` on [-1, 1]), the kernel by
    ``magnitude_aware_sign`` (``s`` on [-1, 1]).

    A Bi-Real-18 is a float stem, then 4, 4, 4, 4 of these blocks.

    Args:
        filters: number of output channels.
        kernel_size: of the binary convolution.
        strides: 1 or 2.
        input_quantizer: of the inputs.
        kernel_quantizer: of the binary kernel.
        pad_values: what surrounds the binary inputs, 0.0 or 1.0.
        kernel_initializer: of the latent weights; the release's uniform [0, 0.001).
        kernel_regularizer: of the latent weights; none, as in the paper (weight decay 0).
        shortcut_initializer: of the shortcut's 1x1 kernel.
        shortcut_regularizer: of the shortcut's 1x1 kernel.
        momentum: of the moving averages in BN.
        epsilon: of BN.
        **kwargs: as for ``keras.layers.Layer``.

    Raises:
        ValueError: other strides, an unknown quantizer, or inputs that are no images.

    Paper: Z. Liu, B. Wu, W. Luo, X. Yang, W. Liu, K.-T. Cheng, "Bi-Real Net: Enhancing the
    Performance of 1-bit CNNs With Improved Representational Capability and Advanced Training
    Algorithm", ECCV 2018, arXiv 1808.00278.

    Deviations: a strided convolution pads as TensorFlow does, below and to the right, where the
    release pads all sides; its kernel gradient is masked but not scaled. Channels come last.
    """

    convolutions = 1

    def __init__(
        self,
        filters: int,
        kernel_size: int = 3,
        strides: int = 1,
        *,
        input_quantizer: Any = "approx_sign",
        kernel_quantizer: Any = "magnitude_aware_sign",
        pad_values: float = 0.0,
        kernel_initializer: Any = None,
        kernel_regularizer: Any = None,
        shortcut_initializer: Any = "glorot_uniform",
        shortcut_regularizer: Any = None,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if strides not in (1, 2):
            raise ValueError(f"BiRealBlock {self.name!r}: strides must be 1 or 2, got {strides!r}")
        self.filters, self.kernel_size, self.strides = int(filters), kernel_size, int(strides)
        self.input_quantizer = serialize(get(input_quantizer))
        self.kernel_quantizer = serialize(get(kernel_quantizer))
        self.pad_values = float(pad_values)
        self.kernel_initializer = keras.initializers.get(kernel_initializer or _INITIAL_RANGE)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.shortcut_initializer = keras.initializers.get(shortcut_initializer)
        self.shortcut_regularizer = keras.regularizers.get(shortcut_regularizer)
        self.momentum, self.epsilon = float(momentum), float(epsilon)

    def build(self, input_shape: Any) -> None:
        """Add the convolution, BN, and what the shortcut needs."""
        channels = check_images(self, input_shape)
        self.conv = self.part(
            QuantConv2D,
            "conv",
            self.filters,
            self.kernel_size,
            self.strides,
            padding="same",
            use_bias=False,
            input_quantizer=self.input_quantizer,
            kernel_quantizer=self.kernel_quantizer,
            pad_values=self.pad_values,
            kernel_initializer=self.kernel_initializer,
            kernel_regularizer=self.kernel_regularizer,
        )
        self.batch_norm = self._batch_norm("batch_norm")
        self.merge = self.part(keras.layers.Add, "add")
        self.shortcut = self._shortcut(channels)
        shape = input_shape
        for layer in self.shortcut:
            shape = self.build_part(layer, shape)
        shape = self.build_part(self.conv, input_shape)
        self.build_part(self.batch_norm, shape)
        self.build_part(self.merge, [shape, shape])
        super().build(input_shape)

    def _shortcut(self, channels: int) -> list[keras.layers.Layer]:
        layers = []
        if self.strides > 1:
            pool = self.part(keras.layers.AveragePooling2D, "pool", self.strides, padding="same")
            layers.append(pool)
        if self.strides > 1 or channels != self.filters:
            conv = self.part(
                keras.layers.Conv2D,
                "shortcut_conv",
                self.filters,
                1,
                use_bias=False,
                kernel_initializer=self.shortcut_initializer,
                kernel_regularizer=self.shortcut_regularizer,
            )
            layers += [conv, self._batch_norm("shortcut_batch_norm")]
        return layers

    def _batch_norm(self, name: str) -> keras.layers.Layer:
        return self.part(
            keras.layers.BatchNormalization, name, momentum=self.momentum, epsilon=self.epsilon
        )

    def graph(self, inputs: Any) -> Any:
        """Return the sum of shortcut and normalized convolution."""
        return self.merge([chain(self.shortcut, inputs), self.batch_norm(self.conv(inputs))])

    def compute_output_shape(self, input_shape: Any) -> tuple:
        """Return (batch, height / strides, width / strides, filters)."""
        return convolved_shape(input_shape, self.strides, self.filters)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "input_quantizer": serialize(get(self.input_quantizer)),
            "kernel_quantizer": serialize(get(self.kernel_quantizer)),
            "pad_values": self.pad_values,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "shortcut_initializer": keras.initializers.serialize(self.shortcut_initializer),
            "shortcut_regularizer": keras.regularizers.serialize(self.shortcut_regularizer),
            "momentum": self.momentum,
            "epsilon": self.epsilon,
        }
