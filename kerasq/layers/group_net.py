"""The residual block of Group-Net: a network decomposed into binary branches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from kerasq.keras import keras
from kerasq.layers.blocks import Block, chain, check_images, convolved_shape, fresh
from kerasq.layers.quantized import QuantConv2D
from kerasq.layers.registry import register_block, register_layer
from kerasq.quantizers import get, serialize
from kerasq.quantizers.base import check_choice

DECOMPOSITIONS = ("group", "layer")
GATES = ("branch", "block")
_KERNEL_QUANTIZER = {"class_name": "bwn", "config": {"gradient": "identity", "channel_axes": []}}
_GATE_RANGE = {"class_name": "RandomUniform", "config": {"minval": 0.0, "maxval": 1.0}}


@register_layer
class BranchSum(keras.layers.Layer):
    """Sum K branches with one trained weight each, initially 1/K.

    Args:
        learned: train the weights; otherwise the sum stays the mean.
        **kwargs: as for ``keras.layers.Layer``.
    """

    def __init__(self, learned: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.learned = bool(learned)

    def build(self, input_shape: Any) -> None:
        """Add the weights."""
        count = len(input_shape)
        self.weights_of_branches = self.add_weight(
            name="lambda",
            shape=(count,),
            initializer=keras.initializers.Constant(1.0 / count),
            trainable=self.learned,
        )
        super().build(input_shape)

    def call(self, inputs: Sequence[Any]) -> tf.Tensor:
        """Return the weighted sum."""
        weights = tf.cast(tf.convert_to_tensor(self.weights_of_branches), inputs[0].dtype)
        return tf.add_n([weights[i] * branch for i, branch in enumerate(inputs)])

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape of one branch."""
        return input_shape[0]

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "learned": self.learned}


@register_layer
class SoftConnection(keras.layers.Layer):
    """Mix a branch and the sum of all: ``c * branch + (1 - c) * sum``, ``c = sigmoid(theta)``.

    Args:
        initializer: of theta; the release's uniform [0, 1).
        **kwargs: as for ``keras.layers.Layer``.
    """

    def __init__(self, initializer: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.initializer = keras.initializers.get(initializer or _GATE_RANGE)

    def build(self, input_shape: Any) -> None:
        """Add theta."""
        self.theta = self.add_weight(
            name="theta", shape=(), initializer=self.initializer, trainable=True
        )
        super().build(input_shape)

    def call(self, inputs: Sequence[Any]) -> tf.Tensor:
        """Return the mixture of ``inputs = [branch, sum]``."""
        branch, total = inputs
        gate = tf.cast(tf.sigmoid(tf.convert_to_tensor(self.theta)), branch.dtype)
        return gate * branch + (1.0 - gate) * total

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape of the branch."""
        return input_shape[0]

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        initializer = keras.initializers.serialize(self.initializer)
        return {**super().get_config(), "initializer": initializer}


class BinaryUnit(Block):
    """Part of a Group-Net block: ``BN(relu(sum_i lambda_i * (B_i conv sgn(x))))``.

    Args:
        filters: number of output channels.
        kernel_size: one size.
        strides: one step.
        bases: binary convolutions in the sum; one stands alone, with no lambda.
        rectified: with the ReLU.
        learn_scales: train lambda.
        convolution: quantizers, padding and regularizer of the convolutions.
        kernel_initializer: of the latent weights.
        normalization: arguments of BN.
        **kwargs: as for ``keras.layers.Layer``.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int,
        strides: int,
        *,
        bases: int,
        rectified: bool,
        learn_scales: bool,
        convolution: dict[str, Any],
        kernel_initializer: keras.initializers.Initializer,
        normalization: dict[str, Any],
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.convs = [
            self.part(
                QuantConv2D,
                f"base{i + 1}" if bases > 1 else "conv",
                filters,
                kernel_size,
                strides,
                padding="same",
                use_bias=False,
                kernel_initializer=fresh(kernel_initializer),
                **convolution,
            )
            for i in range(bases)
        ]
        self.total = self.part(BranchSum, "sum", learn_scales) if bases > 1 else None
        self.after = [self.part(keras.layers.ReLU, "relu")] if rectified else []
        self.after.append(self.part(keras.layers.BatchNormalization, "batch_norm", **normalization))

    def build(self, input_shape: Any) -> None:
        """Build the parts."""
        for conv in self.convs:
            shape = self.build_part(conv, input_shape)
        if self.total is not None:
            self.build_part(self.total, [shape] * len(self.convs))
        for layer in self.after:
            self.build_part(layer, shape)
        super().build(input_shape)

    def graph(self, inputs: Any) -> Any:
        """Return the normalized sum."""
        outputs = [conv(inputs) for conv in self.convs]
        return chain(self.after, outputs[0] if self.total is None else self.total(outputs))

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape of one convolution."""
        return self.convs[0].compute_output_shape(input_shape)


@register_block(
    name="group_net_block",
    paper="Structured Binary Neural Networks for Accurate Image Classification and Semantic "
    "Segmentation",
    arxiv="1811.10413",
    representation="BitPlanes",
    role="block",
)
class GroupNetBlock(Block):
    r"""Group-Net residual block: K binary branches in place of one float block.

    Forward, ``decomposition="group"``: ``y = sum_i lambda_i * G_i(F_i)``, where ``G_i`` is a whole
    binary residual block with its own weights::

        out = BN(relu(conv1(sgn(F)))) + residual
        G = BN(relu(conv2(sgn(out)))) + out

    The residual is F, or ``BN(conv1x1(sgn(F)))``, binary too, where the block strides or changes
    the channels. ``decomposition="layer"``: one such block whose convolutions are ``sum_i lambda_i
    * (B_i conv sgn(x))``. Binary inputs are padded with +1.

    Soft connections: a block with ``return_branches`` returns ``[y, G_1, .., G_K]``, the weighted
    sum and the branches. A block that is given this list has the inputs ``F_i = c_i * G_i + (1 -
    c_i) * y``, ``c_i = sigmoid(theta_i)``; one that is given a tensor x, as the first is, has
    ``F_i = x``::

        x = GroupNetBlock(64, return_branches=True)(x)
        x = GroupNetBlock(128, 2, return_branches=True)(x)
        x = GroupNetBlock(128)(x)

    Gradient: the sign of inputs by ``approx_sign``, kernels by the identity; lambda and theta by
    the true derivative.

    Args:
        filters: number of output channels.
        strides: one step.
        branches: K.
        decomposition: "group" or "layer".
        return_branches: return the list of K + 1 tensors ("group" only).
        learn_scales: train lambda, initially 1/K; otherwise the sum is the mean.
        gates: a theta per "branch", as in the paper, or one per "block", as in the release.
        gate_initializer: of theta; None is the release's uniform [0, 1).
        input_quantizer: of the inputs of all convolutions.
        kernel_quantizer: of all kernels; ``bwn`` with one scale per layer and the identity.
        pad_values: what surrounds the binary inputs, 1.0 or 0.0.
        kernel_initializer: of the latent weights; without a seed, or all branches start alike.
        kernel_regularizer: of the latent weights.
        momentum: of the moving averages in BN.
        epsilon: of BN.
        **kwargs: as for ``keras.layers.Layer``.

    Raises:
        ValueError: a setting out of range, or a list of another length than K + 1.

    Paper: B. Zhuang, C. Shen, M. Tan, L. Liu, I. Reid, "Structured Binary Neural Networks for
    Accurate Image Classification and Semantic Segmentation", CVPR 2019, arXiv 1811.10413.

    Deviations: the release starts lambda in [0, 1), and its branches share one downsampling
    residual: here each has its own, as each has its own convolutions and BN. A strided convolution
    pads as TensorFlow does, below and to the right, where the release pads all sides.
    """

    def __init__(
        self,
        filters: int,
        strides: int = 1,
        *,
        branches: int = 5,
        decomposition: str = "group",
        return_branches: bool = False,
        learn_scales: bool = True,
        gates: str = "branch",
        gate_initializer: Any = None,
        input_quantizer: Any = "approx_sign",
        kernel_quantizer: Any = None,
        pad_values: float = 1.0,
        kernel_initializer: Any = "glorot_uniform",
        kernel_regularizer: Any = None,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        owner = f"GroupNetBlock {self.name!r}"
        if branches < 1:
            raise ValueError(f"{owner}: branches must be at least 1, got {branches!r}")
        self.decomposition = check_choice(decomposition, DECOMPOSITIONS, f"{owner}: decomposition")
        if return_branches and decomposition == "layer":
            raise ValueError(f"{owner}: a layer-wise block has no branches to return")
        self.filters, self.strides, self.branches = int(filters), int(strides), int(branches)
        self.return_branches, self.learn_scales = bool(return_branches), bool(learn_scales)
        self.gates = check_choice(gates, GATES, f"{owner}: gates")
        self.gate_initializer = keras.initializers.get(gate_initializer or _GATE_RANGE)
        self.input_quantizer = serialize(get(input_quantizer))
        self.kernel_quantizer = serialize(get(kernel_quantizer or _KERNEL_QUANTIZER))
        self.pad_values = float(pad_values)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.momentum, self.epsilon = float(momentum), float(epsilon)

    def build(self, input_shape: Any) -> None:
        """Add the branches, their weights in the sum, and the gates."""
        soft = not isinstance(input_shape[0], int | type(None))
        shape = tuple(self._checked_list(input_shape)[0] if soft else input_shape)
        resized = check_images(self, shape) != self.filters or self.strides > 1
        outputs = convolved_shape(shape, self.strides, self.filters)
        count = 1 if self.decomposition == "layer" else self.branches
        self.first = [self._unit(i, "conv1", 3, self.strides) for i in range(count)]
        self.second = [self._unit(i, "conv2", 3) for i in range(count)]
        self.downsample = []
        if resized:
            self.downsample = [
                self._unit(i, "downsample", 1, self.strides, rectified=False) for i in range(count)
            ]
        self.merges = [self.part(keras.layers.Add, f"add{i + 1}") for i in range(2 * count)]
        for unit in (*self.first, *self.downsample):
            self.build_part(unit, shape)
        for unit in self.second:
            self.build_part(unit, outputs)
        for merge in self.merges:
            self.build_part(merge, [outputs, outputs])
        self.total = None
        if self.decomposition == "group":
            self.total = self.part(BranchSum, "sum", self.learn_scales)
            self.build_part(self.total, [outputs] * self.branches)
        gates = 0 if not soft else self.branches if self.gates == "branch" else 1
        self.soft_connections = [
            self.part(SoftConnection, f"gate{i + 1}", fresh(self.gate_initializer))
            for i in range(gates)
        ]
        for gate in self.soft_connections:
            self.build_part(gate, [shape, shape])
        super().build(input_shape)

    def _checked_list(self, shapes: Any) -> Any:
        owner = f"GroupNetBlock {self.name!r}"
        if self.decomposition == "layer":
            raise ValueError(f"{owner}: a layer-wise block takes one tensor, got {len(shapes)}")
        if len(shapes) != self.branches + 1:
            raise ValueError(
                f"{owner}: {self.branches} branches take {self.branches + 1} tensors, the sum and "
                f"each branch, as a block with return_branches gives them; got {len(shapes)}"
            )
        return shapes

    def _unit(
        self, branch: int, name: str, kernel_size: int, strides: int = 1, rectified: bool = True
    ) -> BinaryUnit:
        by_layer = self.decomposition == "layer"
        return self.part(
            BinaryUnit,
            name if by_layer else f"branch{branch + 1}_{name}",
            self.filters,
            kernel_size,
            strides,
            bases=self.branches if by_layer else 1,
            rectified=rectified,
            learn_scales=self.learn_scales,
            convolution={
                "input_quantizer": self.input_quantizer,
                "kernel_quantizer": self.kernel_quantizer,
                "pad_values": self.pad_values,
                "kernel_regularizer": self.kernel_regularizer,
            },
            kernel_initializer=self.kernel_initializer,
            normalization={"momentum": self.momentum, "epsilon": self.epsilon},
        )

    def graph(self, inputs: Any) -> Any:
        """Return the weighted sum of the branches, and the branches where they are wanted."""
        outputs = [self._branch(i, x) for i, x in enumerate(self._branch_inputs(inputs))]
        if self.total is None:
            return outputs[0]
        total = self.total(outputs)
        return [total, *outputs] if self.return_branches else total

    def _branch_inputs(self, inputs: Any) -> list[Any]:
        gates = self.soft_connections
        if not gates:
            return [inputs] * len(self.first)
        total, *branches = inputs
        return [gates[i % len(gates)]([x, total]) for i, x in enumerate(branches)]

    def _branch(self, i: int, x: Any) -> Any:
        residual = self.downsample[i].graph(x) if self.downsample else x
        out = self.merges[2 * i]([self.first[i].graph(x), residual])
        return self.merges[2 * i + 1]([self.second[i].graph(out), out])

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return (batch, height / strides, width / strides, filters), or a list of K + 1."""
        soft = not isinstance(input_shape[0], int | type(None))
        shape = convolved_shape(input_shape[0] if soft else input_shape, self.strides, self.filters)
        return [shape] * (self.branches + 1) if self.return_branches else shape

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "filters": self.filters,
            "strides": self.strides,
            "branches": self.branches,
            "decomposition": self.decomposition,
            "return_branches": self.return_branches,
            "learn_scales": self.learn_scales,
            "gates": self.gates,
            "gate_initializer": keras.initializers.serialize(self.gate_initializer),
            "input_quantizer": serialize(get(self.input_quantizer)),
            "kernel_quantizer": serialize(get(self.kernel_quantizer)),
            "pad_values": self.pad_values,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "momentum": self.momentum,
            "epsilon": self.epsilon,
        }
