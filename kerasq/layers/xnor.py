"""The XNOR-Net convolution."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from kerasq.layers.quantized import FROM_QUANTIZER, QuantConv2D
from kerasq.layers.registry import register_block
from kerasq.quantizers import XnorConditioning


@register_block(
    name="xnor_conv",
    paper="XNOR-Net: ImageNet Classification Using Binary Convolutional Neural Networks",
    arxiv="1603.05279",
    representation="BitPlanes",
)
class XnorConv2D(QuantConv2D):
    r"""XNOR-Net convolution (``xnor_conv``): binary inputs and weights, with the scale map K.

    Forward: ``y = activation(conv(sgn(x), alpha * sgn(W)) * K + bias)``, alpha = mean|W| per
    filter. ``K = conv(A, k)`` with A = the mean of ``|x|`` over the channels and k a box of
    ``1 / (kh * kw)``, of the convolution's own strides, dilation and (zero) padding. Without the
    map, ``K = 1``.

    Gradient: inputs by ``ste_sign`` (1{|x| <= 1}), the kernel by ``bwn``'s "paper" rule. K is a
    constant in the backward pass; ``exact_k_gradient`` differentiates it through ``|x|``.

    Args:
        filters: number of output channels.
        kernel_size: one or two sizes.
        strides: one or two steps.
        use_k_map: multiply by K, as the paper's text does; the official release does not.
        exact_k_gradient: differentiate K.
        input_quantizer: "ste_sign".
        kernel_quantizer: "bwn"; a config chooses another of its gradients.
        kernel_constraint: "quantizer" conditions the latent weights after each step as the
            release does (:class:`kerasq.quantizers.XnorConditioning`); None leaves them.
        **kwargs: as for :class:`kerasq.layers.QuantConv2D`.

    Raises:
        ValueError: an unknown quantizer, or the map together with groups.

    Paper: M. Rastegari, V. Ordonez, J. Redmon, A. Farhadi, "XNOR-Net: ImageNet Classification
    Using Binary Convolutional Neural Networks", ECCV 2016, arXiv 1603.05279.

    Deviations: the map is off by default, as in the release. The paper gives K no gradient rule:
    the constant is a reading. The release masks inputs strictly, 1{|x| < 1}.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: Any,
        strides: Any = (1, 1),
        *,
        use_k_map: bool = False,
        exact_k_gradient: bool = False,
        input_quantizer: Any = "ste_sign",
        kernel_quantizer: Any = "bwn",
        kernel_constraint: Any = FROM_QUANTIZER,
        **kwargs: Any,
    ) -> None:
        if isinstance(kernel_constraint, str) and kernel_constraint == FROM_QUANTIZER:
            kernel_constraint = XnorConditioning()
        super().__init__(
            filters,
            kernel_size,
            strides,
            input_quantizer=input_quantizer,
            kernel_quantizer=kernel_quantizer,
            kernel_constraint=kernel_constraint,
            **kwargs,
        )
        if use_k_map and self.groups > 1:
            raise ValueError(
                f"XnorConv2D {self.name!r}: the paper defines K for one group; use groups=1 or "
                "use_k_map=False"
            )
        self.use_k_map = bool(use_k_map)
        self.exact_k_gradient = bool(exact_k_gradient)

    def call(self, inputs: Any, training: Any = None) -> tf.Tensor:
        """Return the scaled convolution, with bias and activation."""
        x, kernel = self._operands(inputs, self.kernel, training)
        outputs = self._convolve(x, kernel)
        if self.use_k_map:
            outputs *= self.k_map(inputs)
        return self._with_bias(outputs, inputs)

    def k_map(self, inputs: Any) -> tf.Tensor:
        """Return K, one channel of the size of the output: the mean ``|x|`` under each window."""
        x = tf.cast(tf.convert_to_tensor(inputs), tf.float32)
        if not self.exact_k_gradient:
            x = tf.stop_gradient(x)
        channels = 1 if self.data_format == "channels_first" else -1
        kh, kw = self.kernel_size
        box = tf.fill([kh, kw, 1, 1], 1.0 / (kh * kw))
        k = tf.nn.convolution(
            tf.reduce_mean(tf.abs(x), axis=channels, keepdims=True),
            box,
            strides=list(self.strides),
            padding=self.padding.upper(),
            data_format="NCHW" if self.data_format == "channels_first" else "NHWC",
            dilations=list(self.dilation_rate),
        )
        return tf.cast(k, self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "use_k_map": self.use_k_map,
            "exact_k_gradient": self.exact_k_gradient,
        }
