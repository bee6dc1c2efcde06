"""What every quantizer is: a layer of the active Keras whose arithmetic is float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from kerasq.keras import keras
from kerasq.representations import Affine, BitPlanes, Codebook

Representation = BitPlanes | Affine | Codebook


class Quantizer(keras.layers.Layer):
    """Base class of the quantizers.

    A subclass states ``precision`` (bits per value), implements :meth:`forward` (the value
    and the paper's gradient, float32) and :meth:`pack` (the stored form of the same value).
    A method with learned or averaged state adds it in ``build``, as any Keras layer; one that
    updates averages in training overrides ``call(inputs, training=None)``.

    Args:
        channel_axes: axes of a weight tensor that keep a scale of their own, ``()`` for one scale
            per layer. Conv and dense kernels: ``(-1,)``; depthwise kernels: ``(-2, -1)``.
        **kwargs: name and trainable, as for any Keras layer.
    """

    precision: int = 32
    method: str = "quantizer"

    def __init__(self, *, channel_axes: Sequence[int] = (), **kwargs: Any) -> None:
        # Under mixed_float16 a layer's inputs and variables turn to float16 before `call`; a
        # quantizer's arithmetic stays in float32, so that decode(represent(w)) can equal q(w).
        kwargs["dtype"] = "float32"
        super().__init__(autocast=False, **kwargs)
        self.channel_axes = tuple(int(axis) for axis in channel_axes)

    def call(self, inputs: Any) -> tf.Tensor:
        """Return the quantized values in the dtype of ``inputs`` (float32 for integers)."""
        x = tf.convert_to_tensor(inputs)
        quantized = self.forward(tf.cast(x, tf.float32))
        return tf.cast(quantized, x.dtype) if x.dtype.is_floating else quantized

    def forward(self, x: tf.Tensor) -> tf.Tensor:
        """Return the quantized float32 ``x``, with the method's gradient."""
        raise NotImplementedError(f"{type(self).__name__} does not implement forward(x)")

    def represent(self, w: Any) -> Representation:
        """Return the packed form of ``q(w)``: ``represent(w).decode() == q(w)`` in float32.

        Args:
            w: finite array or variable of any floating type and of the shape that is quantized.

        Raises:
            ValueError: ``w`` is empty or holds NaN or infinity.
        """
        values = np.asarray(w, dtype=np.float32)
        if values.size == 0:
            raise ValueError(f"{self.method} cannot represent an empty tensor")
        if not np.isfinite(values).all():
            bad = int(values.size - np.isfinite(values).sum())
            raise ValueError(
                f"{self.method} cannot represent {bad} NaN or infinite values (of "
                f"{values.size}): the training diverged, or the weights were not loaded"
            )
        return self.pack(tf.constant(values))

    def pack(self, w: tf.Tensor) -> Representation:
        """Return the representation of the finite float32 tensor ``w``."""
        raise NotImplementedError(f"{type(self).__name__} does not implement pack(w)")

    def levels(self) -> np.ndarray | None:
        """Return the sorted output values of an activation quantizer with at most 8, or None."""
        return None

    def kernel_constraint(self) -> keras.constraints.Constraint | None:
        """Return the constraint on the latent weights that the method requires, or None."""
        return None

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return ``input_shape``: a quantizer keeps shapes."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments; a list of axes, since JSON has no tuple."""
        config = super().get_config()
        return {
            "name": config["name"],
            "trainable": config["trainable"],
            "channel_axes": list(self.channel_axes),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Quantizer:
        """Return a quantizer made of its config; Keras 3 would hide what is wrong with it."""
        return cls(**config)


def reduced_axes(rank: int, channel_axes: Sequence[int]) -> list[int]:
    """Return the axes that share one scale: all but ``channel_axes``.

    Raises:
        ValueError: an axis lies outside a tensor of that rank.
    """
    bad = [axis for axis in channel_axes if not -rank <= axis < rank]
    if bad:
        raise ValueError(
            f"channel_axes {tuple(channel_axes)} do not fit a tensor of rank {rank}: "
            f"{bad[0]} is outside it"
        )
    kept = {axis % rank for axis in channel_axes}
    return [axis for axis in range(rank) if axis not in kept]


def group_size(x: tf.Tensor, axes: Sequence[int]) -> int:
    """Return how many elements share one scale, from static shapes (kernels have them)."""
    return int(np.prod([x.shape[axis] for axis in axes], dtype=np.int64))


def plane_scales(scale: tf.Tensor, planes: int, channel_axes: Sequence[int]) -> np.ndarray:
    """Return ``scale`` (kept dimensions) repeated for each plane: (P,) per layer, else (P, C)."""
    values = np.asarray(scale, dtype=np.float32).reshape(-1)
    return np.repeat(values[None, :] if channel_axes else values, planes, axis=0)


def check_bits(bits: int, low: int, high: int, method: str) -> int:
    """Return ``bits`` as an int.

    Raises:
        ValueError: it is not a whole number in ``low..high``.
    """
    if isinstance(bits, bool) or int(bits) != bits or not low <= bits <= high:
        raise ValueError(f"{method}: bits must be a whole number in {low}..{high}, got {bits!r}")
    return int(bits)
