"""The residual block of Fixup: training without normalization."""

from __future__ import annotations

from typing import Any, TypeVar

from kerasq.keras import keras
from kerasq.layers.blocks import (
    Block,
    ScalarBias,
    ScalarMultiplier,
    ZeroPadChannels,
    chain,
    check_images,
    convolved_shape,
)
from kerasq.layers.quantized import QuantConv2D
from kerasq.layers.registry import register_block
from kerasq.quantizers import get, serialize
from kerasq.quantizers.base import check_choice, check_range

SHORTCUTS = ("subsample", "average_pool", "conv")
_ScalarLayer = TypeVar("_ScalarLayer", ScalarBias, ScalarMultiplier)
_EXPANSION = 4  # of the bottleneck, as in ResNet-50


def fixup_gain(num_blocks: int, branch_layers: int) -> float:
    """Return ``L^(-1 / (2m - 2))``, by which a branch's He initialization is multiplied."""
    return float(num_blocks) ** (-1.0 / (2 * branch_layers - 2))


@register_block(
    name="fixup_block",
    paper="Fixup Initialization: Residual Learning Without Normalization",
    arxiv="1901.09321",
    role="block",
)
class FixupBlock(Block):
    r"""Fixup residual block: scalars and an initialization in place of normalization.

    Forward, with m = 2 layers in the branch::

        out = conv1(x + b1a)
        out = conv2(relu(out + b1b) + b2a) * scale + b2b
        y = relu(out + shortcut)

    and, with m = 3, a bottleneck of 1x1, 3x3 (which strides) and 1x1 convolutions, the inner ones
    with ``filters / 4`` channels. The shortcut is x; where the block strides or changes the
    channels it is made of ``x + b1a``.

    At the start the last convolution is 0, the others are He normal (std ``sqrt(2 / (kh kw
    c_out))``) times ``L^(-1 / (2m - 2))``, biases are 0 and the multiplier is 1: the block is
    ``relu(shortcut)``. The network's last dense layer starts at zero too, and a scalar bias
    (``ScalarBias``) stands before it.

    Gradient: true derivatives, those of biases and multiplier times ``gradient_scale``; through
    quantizers, by each one's own rule.

    Args:
        filters: number of output channels.
        strides: one step.
        num_blocks: L, the residual blocks in the whole network.
        branch_layers: m, 2 or 3.
        shortcut: where it cannot be the identity, "subsample" (CIFAR) or "average_pool", both with
            channels of zeros appended, or "conv" (ImageNet), a 1x1 convolution in float.
        input_quantizer: of the convolutions' inputs, or None.
        kernel_quantizer: of the branch's kernels, or None. One that maps 0 to 0 keeps the block an
            identity at the start: ``ste_sign`` does not.
        pad_values: what surrounds the quantized inputs, 0.0 or 1.0.
        kernel_regularizer: of all kernels.
        gradient_scale: of biases and multiplier, 0..1. The release trains them with a tenth of the
            learning rate: 0.1 is that for plain and momentum SGD, with ``ScalarBias`` too. Adam and
            its kin divide by the gradient's own size, so that it has no effect: give ``scalars`` an
            optimizer of their own (larq's ``CaseOptimizer``).
        **kwargs: as for ``keras.layers.Layer``.

    Raises:
        ValueError: a setting out of range, or channels that the shortcut cannot reach.

    Paper: H. Zhang, Y. N. Dauphin, T. Ma, "Fixup Initialization: Residual Learning Without
    Normalization", ICLR 2019, arXiv 1901.09321.

    Deviations: a strided convolution pads as TensorFlow does, below and to the right, where the
    release pads all sides. The scalars' slower learning is a property of the layer, not of the
    optimizer, is off by default, and does not slow a decay of weights. Channels come last.
    """

    def __init__(
        self,
        filters: int,
        strides: int = 1,
        *,
        num_blocks: int,
        branch_layers: int = 2,
        shortcut: str = "subsample",
        input_quantizer: Any = None,
        kernel_quantizer: Any = None,
        pad_values: float = 0.0,
        kernel_regularizer: Any = None,
        gradient_scale: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        owner = f"FixupBlock {self.name!r}"
        if num_blocks < 1:
            raise ValueError(f"{owner}: num_blocks must be at least 1, got {num_blocks!r}")
        self.branch_layers = check_choice(branch_layers, (2, 3), f"{owner}: branch_layers")
        if branch_layers == 3 and filters % _EXPANSION:
            raise ValueError(
                f"{owner}: a bottleneck's filters must be a multiple of {_EXPANSION}, got {filters}"
            )
        self.filters, self.strides, self.num_blocks = int(filters), int(strides), int(num_blocks)
        self.shortcut = check_choice(shortcut, SHORTCUTS, f"{owner}: shortcut")
        self.input_quantizer = serialize(get(input_quantizer))
        self.kernel_quantizer = serialize(get(kernel_quantizer))
        self.pad_values = float(pad_values)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.gradient_scale = check_range(gradient_scale, 0.0, 1.0, f"{owner}: gradient_scale")

    def build(self, input_shape: Any) -> None:
        """Add convolutions, scalars and what the shortcut needs."""
        channels = check_images(self, input_shape)
        m = self.branch_layers
        self.convs = [self._conv(i) for i in range(m)]
        self.biases_before = [self._scalar(ScalarBias, f"bias{i + 1}a") for i in range(m)]
        self.biases_after = [self._scalar(ScalarBias, f"bias{i + 1}b") for i in range(m)]
        self.relus = [self.part(keras.layers.ReLU, f"relu{i + 1}") for i in range(m)]
        self.multiplier = self._scalar(ScalarMultiplier, "scale")
        self.merge = self.part(keras.layers.Add, "add")
        self.shortcut_layers = self._shortcut_layers(channels)
        shape = input_shape
        for layer in self.shortcut_layers:
            shape = self.build_part(layer, shape)
        shape = input_shape
        for i in range(m):
            self.build_part(self.biases_before[i], shape)
            shape = self.build_part(self.convs[i], shape)
            self.build_part(self.biases_after[i], shape)
            self.build_part(self.relus[i], shape)
        self.build_part(self.multiplier, shape)
        self.build_part(self.merge, [shape, shape])
        super().build(input_shape)

    def _conv(self, index: int) -> QuantConv2D:
        """Return the branch's convolution; the 3x3 one strides, of two the first."""
        last = index == self.branch_layers - 1
        bottleneck = self.branch_layers == 3
        gain = fixup_gain(self.num_blocks, self.branch_layers)
        return self.part(
            QuantConv2D,
            f"conv{index + 1}",
            self.filters // _EXPANSION if bottleneck and not last else self.filters,
            3 if not bottleneck or index == 1 else 1,
            self.strides if index == (1 if bottleneck else 0) else 1,
            padding="same",
            use_bias=False,
            input_quantizer=self.input_quantizer,
            kernel_quantizer=self.kernel_quantizer,
            pad_values=self.pad_values,
            kernel_initializer="zeros" if last else _he_normal(gain),
            kernel_regularizer=self.kernel_regularizer,
        )

    def _scalar(self, cls: type[_ScalarLayer], name: str) -> _ScalarLayer:
        return self.part(cls, name, gradient_scale=self.gradient_scale)

    def _shortcut_layers(self, channels: int) -> list[keras.layers.Layer]:
        if self.strides == 1 and channels == self.filters:
            return []
        if self.shortcut == "conv":
            conv = self.part(
                keras.layers.Conv2D,
                "shortcut_conv",
                self.filters,
                1,
                self.strides,
                use_bias=False,
                kernel_initializer=_he_normal(1.0),
                kernel_regularizer=self.kernel_regularizer,
            )
            return [conv]
        if channels > self.filters:
            raise ValueError(
                f"FixupBlock {self.name!r}: a shortcut by {self.shortcut!r} cannot reduce "
                f"{channels} channels to {self.filters}: use shortcut='conv'"
            )
        layers = []
        if self.strides > 1:
            window = 1 if self.shortcut == "subsample" else self.strides
            pool = self.part(
                keras.layers.AveragePooling2D, "pool", window, self.strides, padding="same"
            )
            layers.append(pool)
        if channels < self.filters:
            layers.append(self.part(ZeroPadChannels, "zeros", self.filters))
        return layers

    def graph(self, inputs: Any) -> Any:
        """Return the rectified sum of shortcut and branch."""
        shifted = self.biases_before[0](inputs)
        shortcut = chain(self.shortcut_layers, shifted) if self.shortcut_layers else inputs
        out = self.convs[0](shifted)
        for i in range(1, self.branch_layers):
            out = self.relus[i - 1](self.biases_after[i - 1](out))
            out = self.convs[i](self.biases_before[i](out))
        out = self.biases_after[-1](self.multiplier(out))
        return self.relus[-1](self.merge([out, shortcut]))

    @property
    def scalars(self) -> list[Any]:
        """The variables of biases and multiplier."""
        layers = [*self.biases_before, *self.biases_after, self.multiplier]
        return [layer.value for layer in layers]

    def compute_output_shape(self, input_shape: Any) -> tuple:
        """Return (batch, height / strides, width / strides, filters)."""
        return convolved_shape(input_shape, self.strides, self.filters)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "filters": self.filters,
            "strides": self.strides,
            "num_blocks": self.num_blocks,
            "branch_layers": self.branch_layers,
            "shortcut": self.shortcut,
            "input_quantizer": serialize(get(self.input_quantizer)),
            "kernel_quantizer": serialize(get(self.kernel_quantizer)),
            "pad_values": self.pad_values,
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "gradient_scale": self.gradient_scale,
        }


def _he_normal(gain: float) -> keras.initializers.Initializer:
    """Return He's initializer as the release has it: by fan out, not truncated, times a gain."""
    return keras.initializers.VarianceScaling(2.0 * gain**2, "fan_out", "untruncated_normal")
