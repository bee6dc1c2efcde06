"""What every quantizer is: a layer of the active Keras whose arithmetic is float32."""

from __future__ import annotations

import abc
import contextlib
import contextvars
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from kerasq.abstract import AbstractLayer
from kerasq.keras import keras, keras_version
from kerasq.representations import Affine, BitPlanes, Codebook

Representation = BitPlanes | Affine | Codebook
USES = ("weights", "activations")
DECAY = 0.9  # of moving averages

_observers: contextvars.ContextVar[list[Quantizer] | None] = contextvars.ContextVar(
    "observers", default=None
)


@contextlib.contextmanager
def observing() -> Iterator[list[Quantizer]]:
    """Let quantizers gather their state as in training; yields the list of those that did."""
    token = _observers.set([])
    try:
        yield _observers.get()
    finally:
        _observers.reset(token)


def is_observing() -> bool:
    """Tell whether this runs inside of :func:`observing`."""
    return _observers.get() is not None


class Quantizer(AbstractLayer):
    """Base class of the quantizers.

    A subclass states ``precision`` (bits per value), implements :meth:`forward` (the value
    and the paper's gradient, float32) and :meth:`pack` (the stored form of the same value).
    A method with learned or averaged state adds it in ``build`` with :meth:`add_state`. One whose
    scale is the layer's by its paper sets ``per_channel = False``. Registration sets ``method``,
    its name, and ``uses``, what it quantizes.

    Args:
        channel_axes: axes of a weight tensor that keep a scale of their own, ``()`` for one scale
            per layer. Conv and dense kernels: ``(-1,)``; depthwise kernels: ``(-2, -1)``.
        target: "weights" or "activations", for the methods that quantize both; None leaves it to
            the layer that uses the quantizer, and means weights outside of layers.
        **kwargs: name and trainable, as for any Keras layer.

    Raises:
        ValueError: a target that the method does not have, or axes where it has one scale.
    """

    precision: int = 32
    method: str = "quantizer"
    uses: str = "both"
    per_channel: bool = True

    def __init__(
        self, *, channel_axes: Sequence[int] = (), target: str | None = None, **kwargs: Any
    ) -> None:
        # Under mixed_float16 a layer's inputs and variables turn to float16 before `call`; a
        # quantizer's arithmetic stays in float32, so that decode(represent(w)) can equal q(w).
        kwargs["dtype"] = "float32"
        super().__init__(autocast=False, **kwargs)
        self.supports_masking = True
        possible = (None, *USES) if self.uses == "both" else (None, self.uses)
        check_choice(target, possible, f"{self.method}: target")
        self.channel_axes = tuple(int(axis) for axis in channel_axes)
        if self.channel_axes and not self.per_channel:
            raise ValueError(
                f"{self.method} has one scale for the whole tensor: channel_axes must be empty, "
                f"got {self.channel_axes}"
            )
        self.target = target if self.uses == "both" else self.uses

    @property
    def for_activations(self) -> bool:
        """Tell whether activations are quantized, not weights."""
        return self.target == "activations"

    def call(self, inputs: Any, training: Any = None) -> tf.Tensor:
        """Return the quantized values in the dtype of ``inputs`` (float32 for integers)."""
        x = tf.convert_to_tensor(inputs)
        full = tf.cast(x, tf.float32)
        if is_observing():
            _observers.get().append(self)
            training = True
        if tf.is_tensor(training):
            quantized = tf.cond(
                tf.cast(training, tf.bool),
                lambda: self.forward(full, True),
                lambda: self.forward(full, False),
            )
        else:
            quantized = self.forward(full, bool(training))
        return tf.cast(quantized, x.dtype) if x.dtype.is_floating else quantized

    @abc.abstractmethod
    def forward(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return the quantized float32 ``x``, with the method's gradient.

        Averages and initial values are updated, and noise is drawn, where ``training`` is true.
        """

    def add_state(
        self, name: str, shape: Sequence[int] = (), initial: float = 0.0, trainable: bool = False
    ) -> Any:
        """Add a float32 variable; replicas of ``tf.distribute`` that assign it keep their mean.

        Args:
            name: of the variable.
            shape: its shape.
            initial: a number, or an array of that shape.
            trainable: a learned parameter, not an average.
        """
        mean = tf.VariableAggregation.MEAN if keras_version() == 2 else "mean"
        value = np.broadcast_to(np.asarray(initial, np.float32), tuple(shape))
        return self.add_weight(
            name=name,
            shape=tuple(shape),
            initializer=lambda *_, **__: tf.constant(value),
            trainable=trainable,
            dtype="float32",
            autocast=False,
            aggregation=mean,
        )

    def first_value(
        self, variable: Any, unset: Any, estimate: Callable[[], tf.Tensor], training: bool
    ) -> tf.Tensor:
        """Return a learned parameter; what of it has no value yet gets an estimate from the data.

        Args:
            variable: made by :meth:`add_state`.
            unset: bool, of its shape: where it has no value yet.
            estimate: computes the initial value from the data at hand.
            training: keep the estimate in the variable; otherwise it serves this call only.
        """
        current = tf.convert_to_tensor(variable)

        def filled() -> tf.Tensor:
            first = tf.reshape(tf.stop_gradient(estimate()), current.shape)
            # A replica may get an empty batch, which tells nothing.
            return tf.where(unset & tf.math.is_finite(first), first, current)

        value = tf.cond(tf.reduce_any(unset), filled, lambda: current)
        if not training:
            return value
        variable.assign(value)
        return tf.convert_to_tensor(variable)  # so that a gradient reaches it

    def averaged(
        self,
        variables: Sequence[Any],
        seen: Any,
        batch: Callable[[], Sequence[tf.Tensor]],
        training: bool,
    ) -> Sequence[tf.Tensor]:
        """Return what describes a batch; at inference the average of what batches gave in training.

        ``new = .9 * old + .1 * batch``, at first the first batch's. Where there is no average yet,
        inference uses the batch at hand.

        Args:
            variables: of the averages, made by :meth:`add_state`.
            seen: another variable, 0 until the first batch.
            batch: computes the values of the batch at hand.
            training: use the batch's, and update the averages unless the quantizer is frozen.
        """
        old, has_old = [tf.convert_to_tensor(v) for v in variables], seen > 0.0
        if not training:
            return tf.cond(has_old, lambda: old, lambda: list(batch()))
        values = batch()
        if self.trainable or is_observing():
            for variable, before, new in zip(variables, old, values, strict=True):
                average = DECAY * before + (1.0 - DECAY) * new
                variable.assign(tf.where(has_old, average, new))
            seen.assign(1.0)
        return values

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
        if not self.built:
            self.build(values.shape)
            self.built = True
        return self.pack(tf.constant(values))

    def pack(self, w: tf.Tensor) -> Representation:
        """Return the representation of the finite float32 tensor ``w``.

        Raises:
            TypeError: a quantizer that is for training only.
        """
        raise TypeError(f"{type(self).__name__} has no stored form: define its pack(w)")

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
            "target": self.target,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Quantizer:
        """Return a quantizer made of its config; Keras 3 would hide what is wrong with it."""
        return cls(**config)


class UniformQuantizer(Quantizer):
    """Base class of the quantizers whose values are ``scale * (code - zero_point)``.

    A subclass sets ``bits``, implements :meth:`grid`, and computes its values in ``forward`` by
    :func:`grid_values`, so that they equal those of the packed codes to the last bit.
    """

    bits: int = 8

    @abc.abstractmethod
    def grid(self, x: tf.Tensor) -> tuple[tf.Tensor, Any, Any]:
        """Return codes (float32 whole numbers 0..2^bits - 1), scale and zero point at inference.

        The scale and the zero point are scalars, or have kept dimensions of ``channel_axes``; the
        zero point is a whole or half number.
        """

    @property
    def has_step(self) -> bool:
        """Tell whether values are multiples of :meth:`grid_step`; those of 1 bit may be signs."""
        return self.bits > 1

    def grid_step(self, x: tf.Tensor) -> tf.Tensor:
        """Return the scale of :meth:`grid`, and 0 while values are not put on it."""
        return self.grid(x)[1]

    def fixed_grid(self) -> tuple[float, float] | None:
        """Return scale and zero point of activations where they do not depend on the tensor."""
        return None

    def pack(self, w: tf.Tensor) -> Affine:
        """Return the codes."""
        codes, scale, zero_point = self.grid(w)
        return Affine.from_codes(
            np.asarray(codes).astype(np.uint8),
            self.bits,
            np.asarray(scale, np.float32).reshape(-1),
            np.asarray(zero_point, np.float32).reshape(-1),
            channel_axes=self.channel_axes,
        )

    def levels(self) -> np.ndarray | None:
        """Return the values of all codes of activations of at most 4 bits on a fixed grid."""
        fixed = self.fixed_grid() if self.bits <= 4 else None
        if fixed is None:
            return None
        scale, zero_point = np.float32(fixed[0]), np.float32(fixed[1])
        return scale * (np.arange(2**self.bits, dtype=np.float32) - zero_point)


def build_in_scope(quantizer: Quantizer, shape: Any) -> None:
    """Build a quantizer in the scope of its name, unless it is built.

    Keras 2 names variables by the scope: those of two quantizers of one layer must not share a
    path in an h5 file.
    """
    if not quantizer.built:
        with tf.name_scope(quantizer.name):
            quantizer.build(shape)
        quantizer.built = True


def grid_values(codes: tf.Tensor, scale: Any, zero_point: Any) -> tf.Tensor:
    """Return ``scale * (codes - zero_point)``, as ``Affine.decode`` computes it."""
    return scale * (codes - zero_point)


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


def scalar_codebook(codes: np.ndarray, levels: np.ndarray) -> Codebook:
    """Return the codebook of a tensor whose element is ``levels[code]``: single codewords.

    Args:
        codes: whole numbers below the number of levels, of the tensor's shape.
        levels: float32, at most 256.
    """
    codes = np.asarray(codes).astype(np.uint8)
    assignments = codes.reshape(*(1,) * (2 - codes.ndim), *codes.shape)
    return Codebook.from_assignments(
        np.asarray(levels, np.float32).reshape(1, -1, 1), assignments, codes.shape
    )


def check_choice(value: Any, choices: Sequence[Any], what: str) -> Any:
    """Return ``value``.

    Args:
        value: what was given.
        choices: what may be given.
        what: the method and its parameter, for the message ("bwn: gradient").

    Raises:
        ValueError: it is none of the choices.
    """
    if value not in choices:
        raise ValueError(f"{what} must be one of {tuple(choices)}, got {value!r}")
    return value


def check_range(value: float, low: float, high: float, what: str) -> float:
    """Return ``value`` as a float.

    Args:
        value: what was given.
        low: the least value that may be given.
        high: the greatest.
        what: the method and its parameter, for the message ("ttq: t").

    Raises:
        ValueError: it is no number in ``low..high``.
    """
    if isinstance(value, bool) or not low <= float(value) <= high:
        raise ValueError(f"{what} must be a number in {low}..{high}, got {value!r}")
    return float(value)
