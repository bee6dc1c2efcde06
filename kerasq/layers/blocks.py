"""What the residual blocks share: layers made of layers, and the small layers between them."""

from __future__ import annotations

import abc
from typing import Any, TypeVar

import tensorflow as tf

from kerasq.abstract import AbstractLayer
from kerasq.keras import keras
from kerasq.layers.registry import register_layer
from kerasq.quantizers.base import check_range
from kerasq.quantizers.gradients import with_gradient

_Layer = TypeVar("_Layer", bound=keras.layers.Layer)


class Block(AbstractLayer):
    """Base class of the layers whose whole body is a graph of other Keras layers.

    A subclass makes its parts in ``build`` (with :meth:`part` and :meth:`build_part`) and joins
    them in :meth:`graph`, by calling layers only. Then ``block.graph(x)`` on a symbolic Keras
    tensor replaces the block by its parts, with the same weights. ``convolutions`` is how many
    follow each other in its main path.

    Args:
        **kwargs: as for ``keras.layers.Layer``.
    """

    convolutions = 2

    @abc.abstractmethod
    def graph(self, inputs: Any) -> Any:
        """Return the outputs, by calling the parts of the built block."""

    def call(self, inputs: Any, training: Any = None) -> Any:
        """Return the outputs; Keras hands ``training`` on to the parts."""
        return self.graph(inputs)

    def part(self, cls: type[_Layer], name: str, *args: Any, **kwargs: Any) -> _Layer:
        """Return a layer of this block: its name starts with the block's, so that it is unique."""
        return cls(
            *args,
            name=f"{self.name}_{name}",
            dtype=self.dtype_policy.name,
            trainable=self.trainable,
            **kwargs,
        )

    def build_part(self, layer: keras.layers.Layer, shape: Any) -> tuple:
        """Build a part and return the shape of its output."""
        # Keras 2 names variables by the scope, and h5 files need unique names.
        with tf.name_scope(layer.name):
            layer.build(shape)
        layer.built = True
        return tuple(layer.compute_output_shape(shape))


def chain(layers: list[keras.layers.Layer], inputs: Any) -> Any:
    """Return what the layers, one after the other, make of ``inputs``."""
    for layer in layers:
        inputs = layer(inputs)
    return inputs


def fresh(initializer: keras.initializers.Initializer) -> keras.initializers.Initializer:
    """Return a copy: one unseeded initializer gives every layer the same random values."""
    return type(initializer).from_config(initializer.get_config())


def convolved_shape(shape: Any, strides: int, filters: int) -> tuple:
    """Return the shape of a convolution's output under "same" padding, channels last."""
    batch, *spatial, _ = tuple(shape)
    sizes = [None if size is None else -(-size // strides) for size in spatial]
    return (batch, *sizes, filters)


def check_images(block: keras.layers.Layer, shape: Any) -> int:
    """Return the number of input channels.

    Raises:
        ValueError: the inputs are not images with known channels.
    """
    if len(shape) != 4 or shape[-1] is None:
        raise ValueError(
            f"{type(block).__name__} {block.name!r} takes images (batch, height, width, channels) "
            f"with known channels, got the shape {tuple(shape)}"
        )
    return int(shape[-1])


class _Scalar(keras.layers.Layer):
    """A layer with one trained number, whose gradient is multiplied by ``gradient_scale``."""

    initial = "zeros"

    def __init__(self, gradient_scale: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        what = f"{type(self).__name__} {self.name!r}: gradient_scale"
        self.gradient_scale = check_range(gradient_scale, 0.0, 1.0, what)

    def build(self, input_shape: Any) -> None:
        self.value = self.add_weight(
            name="value", shape=(), initializer=self.initial, trainable=True
        )
        super().build(input_shape)

    def _as(self, x: Any) -> tf.Tensor:
        value = tf.convert_to_tensor(self.value)
        return tf.cast(with_gradient(value, lambda dv: self.gradient_scale * dv), x.dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "gradient_scale": self.gradient_scale}


@register_layer
class ScalarBias(_Scalar):
    """Add one trained number, initially 0, to all elements.

    Args:
        gradient_scale: 0..1, by which the number's gradient is multiplied. Fixup trains its numbers
            with a tenth of the learning rate: for plain and momentum SGD that is 0.1; Adam and its
            kin divide by the gradient's own size, so that it has no effect.
        **kwargs: as for ``keras.layers.Layer``.

    Raises:
        ValueError: a scale outside 0..1.
    """

    def call(self, inputs: Any) -> tf.Tensor:
        """Return ``inputs + value``."""
        return inputs + self._as(inputs)


@register_layer
class ScalarMultiplier(_Scalar):
    """Multiply all elements by one trained number, initially 1.

    Args:
        gradient_scale: 0..1, as for :class:`ScalarBias`.
        **kwargs: as for ``keras.layers.Layer``.

    Raises:
        ValueError: a scale outside 0..1.
    """

    initial = "ones"

    def call(self, inputs: Any) -> tf.Tensor:
        """Return ``inputs * value``."""
        return inputs * self._as(inputs)


@register_layer
class ZeroPadChannels(keras.layers.Layer):
    """Append channels of zeros.

    Args:
        channels: how many there are afterwards.
        **kwargs: as for ``keras.layers.Layer``.
    """

    def __init__(self, channels: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.channels = int(channels)

    def call(self, inputs: Any) -> tf.Tensor:
        """Return the inputs, then zeros."""
        rank, present = len(inputs.shape), inputs.shape[-1]
        return tf.pad(inputs, [[0, 0]] * (rank - 1) + [[0, self.channels - present]])

    def compute_output_shape(self, input_shape: Any) -> tuple:
        """Return the shape with the channels replaced."""
        return (*tuple(input_shape)[:-1], self.channels)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "channels": self.channels}
