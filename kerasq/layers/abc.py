"""The ABC-Net convolution."""

from __future__ import annotations

from typing import Any

from kerasq.layers.quantized import QuantConv2D
from kerasq.layers.registry import register_block
from kerasq.quantizers import clone, get


@register_block(
    name="abc_conv",
    paper="Towards Accurate Binary Convolutional Neural Network",
    arxiv="1711.11294",
    representation="BitPlanes",
)
class ABCConv2D(QuantConv2D):
    r"""ABC-Net convolution: M binary kernels meet N binary inputs.

    Forward: ``y = activation(sum_m sum_n alpha_m beta_n conv(H_n(x), B_m) + bias)``, which is one
    convolution of the two sums. B and alpha are those of ``abc_weights``, H and beta those of
    ``abc_activations``.

    Gradient: through the two quantizers. The shifts and the scales of the inputs are trained.

    Args:
        filters: number of output channels.
        kernel_size: one or two sizes.
        strides: one or two steps.
        weight_bases: M; None takes the ``bits`` of the kernel's quantizer.
        activation_bases: N; None takes the ``bits`` of the inputs' quantizer.
        input_quantizer: "abc_activations".
        kernel_quantizer: "abc_weights"; a config chooses its gradient and its axes.
        **kwargs: as for :class:`kerasq.layers.QuantConv2D`.

    Raises:
        ValueError: an unknown quantizer, or a number of bases outside 1..8.

    Paper: X. Lin, C. Zhao, W. Pan, NIPS 2017, arXiv 1711.11294.

    Deviations: those of the two quantizers.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: Any,
        strides: Any = (1, 1),
        *,
        weight_bases: int | None = None,
        activation_bases: int | None = None,
        input_quantizer: Any = "abc_activations",
        kernel_quantizer: Any = "abc_weights",
        **kwargs: Any,
    ) -> None:
        if weight_bases is not None:
            kernel_quantizer = clone(get(kernel_quantizer), bits=weight_bases)
        if activation_bases is not None:
            input_quantizer = clone(get(input_quantizer), bits=activation_bases)
        super().__init__(
            filters,
            kernel_size,
            strides,
            input_quantizer=input_quantizer,
            kernel_quantizer=kernel_quantizer,
            **kwargs,
        )
