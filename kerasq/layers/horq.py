"""The HORQ convolution."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from kerasq.layers.quantized import QuantConv2D
from kerasq.layers.registry import register_block
from kerasq.quantizers import HORQ, clone, get, ste_sign

SCOPES = ("sample", "tensor", "position")


@register_block(
    name="horq_conv",
    paper="Performance Guaranteed Network Acceleration via High-Order Residual Quantization",
    arxiv="1708.08687",
    representation="BitPlanes",
)
class HORQConv2D(QuantConv2D):
    r"""HORQ convolution: inputs of K residual binarizations, a binary kernel.

    Forward: ``y = activation(sum_i beta_i conv(H_i, alpha * sgn(W)) + bias)``, H and beta as in
    ``horq``, alpha as in ``bwn``.

    With the scope "position" beta is a map, the mean ``|R_{i-1}|`` under the window around each
    position, as XNOR-Net's K: ``R_i = R_{i-1} - beta_i H_i`` with the map at the inputs, and each
    convolution is multiplied by the map at its outputs (its strides and padding; zeros around).

    Gradient: inputs by ``horq``, the kernel by ``bwn``. With the scope "position" each H_i passes
    ``1{|R_{i-1}| <= 1}`` to the inputs; the maps are constants.

    Args:
        filters: number of output channels.
        kernel_size: one or two sizes.
        strides: one or two steps.
        order: K; None takes the ``bits`` of the inputs' quantizer.
        scope: what shares a beta: "sample", "tensor" or "position"; None takes the inputs'
            quantizer's.
        input_quantizer: "horq"; a config chooses its options.
        kernel_quantizer: "bwn"; a config chooses another of its gradients.
        **kwargs: as for :class:`kerasq.layers.QuantConv2D`.

    Raises:
        ValueError: an unknown quantizer or scope; the scope "position" with groups, with another
            input quantizer or with its ``differentiate_scales``.

    Paper: Z. Li, B. Ni, W. Zhang, X. Yang, W. Gao, ICCV 2017, arXiv 1708.08687.

    Deviations: the paper binarizes each receptive field by itself, so that an input has another
    residual in each window. Here it has one, by the window around it.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: Any,
        strides: Any = (1, 1),
        *,
        order: int | None = None,
        scope: str | None = None,
        input_quantizer: Any = "horq",
        kernel_quantizer: Any = "bwn",
        **kwargs: Any,
    ) -> None:
        if scope not in (None, *SCOPES):
            raise ValueError(f"HORQConv2D: scope must be one of {SCOPES}, got {scope!r}")
        changes = {"bits": order, "scope": None if scope == "position" else scope}
        changes = {key: value for key, value in changes.items() if value is not None}
        super().__init__(
            filters,
            kernel_size,
            strides,
            input_quantizer=clone(get(input_quantizer), **changes) if changes else input_quantizer,
            kernel_quantizer=kernel_quantizer,
            **kwargs,
        )
        self.scope = scope
        if scope == "position":
            self._check_position()

    def _check_position(self) -> None:
        quantizer = self.input_quantizer
        if not isinstance(quantizer, HORQ) or quantizer.differentiate_scales or self.groups > 1:
            raise ValueError(
                f"HORQConv2D {self.name!r}: the scope 'position' takes the input quantizer 'horq' "
                "without differentiate_scales, and groups=1"
            )

    def call(self, inputs: Any, training: Any = None) -> tf.Tensor:
        """Return the sum of the scaled convolutions, with bias and activation."""
        if self.scope != "position":
            return super().call(inputs, training=training)
        kernel = tf.convert_to_tensor(self.kernel)
        if self.kernel_quantizer is not None:
            kernel = self.kernel_quantizer(kernel, training=training)
        kernel = tf.cast(kernel, self.compute_dtype)
        outputs = [
            self._convolve(tf.cast(signs, self.compute_dtype), kernel) * scales
            for signs, scales in self.binarizations(inputs)
        ]
        return self._with_bias(tf.add_n(outputs), inputs)

    @property
    def binary_terms(self) -> Any:
        """The function of the inputs that gives signs and maps, in the scope "position", or None.

        In the other scopes the quantizer gives them.
        """
        return self.binarizations if self.scope == "position" else None

    def binarizations(self, inputs: Any) -> list[tuple[tf.Tensor, tf.Tensor]]:
        """Return ``H_i`` and its map at the outputs, for each order (scope "position")."""
        residual = tf.cast(tf.convert_to_tensor(inputs), tf.float32)
        found = []
        for _ in range(self.input_quantizer.bits):
            signs = ste_sign(residual)
            size = tf.stop_gradient(tf.abs(residual))
            at_outputs = self._box_mean(size, self.strides, self.padding)
            found.append((signs, tf.cast(at_outputs, self.compute_dtype)))
            residual -= tf.stop_gradient(self._box_mean(size, (1, 1), "same") * signs)
        return found

    def _box_mean(self, x: tf.Tensor, strides: Any, padding: str) -> tf.Tensor:
        """Return the mean over the channels under each window, one channel."""
        channels_first = self.data_format == "channels_first"
        kh, kw = self.kernel_size
        return tf.nn.convolution(
            tf.reduce_mean(x, axis=1 if channels_first else -1, keepdims=True),
            tf.fill([kh, kw, 1, 1], 1.0 / (kh * kw)),
            strides=list(strides),
            padding=padding.upper(),
            data_format="NCHW" if channels_first else "NHWC",
            dilations=list(self.dilation_rate),
        )

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "scope": self.scope}
