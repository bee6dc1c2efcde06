"""ReActNet's activation function."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from kerasq.keras import keras
from kerasq.layers.registry import register_block


@tf.custom_gradient
def prelu(x: tf.Tensor, slope: tf.Tensor) -> tf.Tensor:
    """Return ``x`` where it is positive, else ``slope * x``.

    The value is written in the form that the converter makes one PRELU operator. Its automatic
    gradient would be 0 at 0, where it is the slope.

    Args:
        x: (batch, ...).
        slope: the shape of ``x`` without the batch, with 1 where it is shared.
    """

    def grad(dy: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        shared = [0, *(i + 1 for i, size in enumerate(slope.shape) if size == 1)]
        at_slope = tf.reduce_sum(dy * tf.minimum(x, 0), axis=shared)
        return tf.where(x > 0, dy, slope * dy), tf.reshape(at_slope, slope.shape)

    return tf.nn.relu(x) + -slope * tf.nn.relu(-x), grad


@register_block(
    name="rprelu",
    paper="ReActNet: Towards Precise Binary Neural Network with Generalized Activation Functions",
    arxiv="2003.03488",
    role="activation",
)
class RPReLU(keras.layers.Layer):
    r"""RPReLU of ReActNet (``rprelu``): a PReLU whose corner is learned, per channel.

    Forward: ``y = x - gamma + zeta if x > gamma else beta * (x - gamma) + zeta``; gamma and zeta
    are 0 at first.

    Gradient: the derivative, at ``x = gamma`` that of the second case.

    Args:
        axis: the axis of the channels; 1 for channels first.
        slope: the initial value of beta.
        **kwargs: as for any Keras layer.

    Raises:
        ValueError: the axis is the batch's or outside the input, or its size is not known.

    Paper: Z. Liu, Z. Shen, M. Savvides, K.-T. Cheng, "ReActNet: Towards Precise Binary Neural
    Network with Generalized Activation Functions", ECCV 2020, arXiv 2003.03488.

    Deviations: none; 0.25 is the initial slope of the release.
    """

    def __init__(self, axis: int = -1, slope: float = 0.25, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.axis = int(axis)
        self.slope = float(slope)
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        """Add the parameters."""
        shape = tuple(input_shape)
        rank = len(shape)
        if not -rank <= self.axis < rank or self.axis % rank == 0 or shape[self.axis] is None:
            raise ValueError(
                f"RPReLU {self.name!r}: axis {self.axis} of its input {shape} must be one of "
                "channels, of known size"
            )
        for name, value in (("gamma", 0.0), ("zeta", 0.0), ("beta", self.slope)):
            start = keras.initializers.Constant(value)
            weight = self.add_weight(name=name, shape=(shape[self.axis],), initializer=start)
            setattr(self, name, weight)
        super().build(input_shape)

    def call(self, inputs: Any) -> tf.Tensor:
        """Return the activations."""
        x = tf.convert_to_tensor(inputs)
        shape = [1] * (x.shape.rank - 1)
        shape[self.axis % x.shape.rank - 1] = -1
        gamma, zeta, beta = (
            tf.reshape(tf.convert_to_tensor(v), shape) for v in (self.gamma, self.zeta, self.beta)
        )
        return prelu(x - gamma, beta) + zeta

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return ``input_shape``."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "axis": self.axis, "slope": self.slope}
