"""Batch normalizations for low precision: by shifts, and by the range of the batch."""

from __future__ import annotations

import abc
import math
from typing import Any

import numpy as np
import tensorflow as tf

from kerasq.abstract import AbstractLayer
from kerasq.keras import keras, keras_version
from kerasq.layers.registry import register_block
from kerasq.quantizers import check_target, for_use, get, serialize
from kerasq.quantizers.base import check_choice, check_range
from kerasq.quantizers.exponents import ap2


class _BatchNormalization(AbstractLayer):
    """Base class: ``y = gamma * (x - mean) * inverse + beta`` over the last axis, in float32.

    The moving averages are those of the mean and of the inverse scale.
    """

    def __init__(
        self,
        momentum: float,
        epsilon: float,
        gamma_initializer: Any,
        beta_initializer: Any,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        owner = f"{type(self).__name__} {self.name!r}"
        self.momentum = check_range(momentum, 0.0, 1.0, f"{owner}: momentum")
        self.epsilon = check_range(epsilon, 0.0, 1.0, f"{owner}: epsilon")
        self.gamma_initializer = keras.initializers.get(gamma_initializer)
        self.beta_initializer = keras.initializers.get(beta_initializer)

    def build(self, input_shape: Any) -> None:
        """Add gamma, beta and the moving averages."""
        channels = input_shape[-1]
        if channels is None:
            raise ValueError(f"layer {self.name!r}: the last axis of its input must be known")
        self.gamma = self._variable("gamma", channels, self.gamma_initializer, True)
        self.beta = self._variable("beta", channels, self.beta_initializer, True)
        self.moving_mean = self._variable("moving_mean", channels, "zeros", False)
        self.moving_inverse = self._variable("moving_inverse", channels, "ones", False)
        super().build(input_shape)

    def _variable(self, name: str, channels: int, initializer: Any, trainable: bool) -> Any:
        return self.add_weight(
            name=name,
            shape=(channels,),
            initializer=initializer,
            trainable=trainable,
            dtype="float32",
            autocast=False,
            aggregation=tf.VariableAggregation.MEAN if keras_version() == 2 else "mean",
        )

    def call(self, inputs: Any, training: Any = None) -> tf.Tensor:
        """Return the normalized inputs; with the batch's statistics where ``training`` is true."""
        x = tf.cast(inputs, tf.float32)
        if tf.is_tensor(training) and self.trainable:
            y = tf.cond(tf.cast(training, tf.bool), lambda: self._train(x), lambda: self._infer(x))
        else:
            y = self._train(x) if training and self.trainable else self._infer(x)
        return tf.cast(y, self.compute_dtype)

    def _train(self, x: tf.Tensor) -> tf.Tensor:
        mean, inverse = self.statistics(x)
        for moving, batch in ((self.moving_mean, mean), (self.moving_inverse, inverse)):
            old = tf.convert_to_tensor(moving)
            moving.assign(self.momentum * old + (1.0 - self.momentum) * tf.stop_gradient(batch))
        return self.normalize(x, mean, inverse, True)

    def _infer(self, x: tf.Tensor) -> tf.Tensor:
        mean = tf.convert_to_tensor(self.moving_mean)
        return self.normalize(x, mean, tf.convert_to_tensor(self.moving_inverse), False)

    @abc.abstractmethod
    def statistics(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the batch's mean and inverse scale, (C,)."""

    @abc.abstractmethod
    def effective(self, inverse: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Return gamma, beta and the inverse scale in the precision that they are applied in."""

    @abc.abstractmethod
    def normalize(
        self, x: tf.Tensor, mean: tf.Tensor, inverse: tf.Tensor, training: bool
    ) -> tf.Tensor:
        """Return the output, with the method's gradient."""

    def affine(self) -> tuple[np.ndarray, np.ndarray]:
        """Return scale and offset, float32 (C,): inference is ``scale * x + offset``."""
        gamma, beta, inverse = self.effective(tf.convert_to_tensor(self.moving_inverse))
        scale = np.asarray(gamma * inverse)
        return scale, np.asarray(beta) - scale * np.asarray(self.moving_mean)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return ``input_shape``."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "epsilon": self.epsilon,
            "gamma_initializer": keras.initializers.serialize(self.gamma_initializer),
            "beta_initializer": keras.initializers.serialize(self.beta_initializer),
        }


def shift_statistics(x: tf.Tensor, epsilon: float = 1e-5) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the mean and the inverse std of the last axis, by shifts; constants to a gradient."""
    x = tf.stop_gradient(x)
    axes = list(range(x.shape.rank - 1))
    mean = tf.reduce_mean(x, axes)
    centered = x - mean
    return mean, 1.0 / tf.sqrt(tf.reduce_mean(centered * ap2(centered), axes) + epsilon)


def shift_batch_norm(
    x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, mean: Any, inverse: Any, of_batch: bool
) -> tf.Tensor:
    """Normalize by shifts; see :class:`ShiftBatchNormalization`.

    Args:
        x: float32, channels last.
        gamma: (C,).
        beta: (C,).
        mean: (C,).
        inverse: inverse std (C,), before its rounding.
        of_batch: mean and inverse are those of x, so that its gradient passes through them.
    """
    axes = list(range(x.shape.rank - 1))

    @tf.custom_gradient
    def apply(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor) -> tuple[tf.Tensor, Any]:
        centered, r, scale = x - mean, ap2(inverse), ap2(gamma)
        normalized = centered * r

        def backward(gy: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            dx = gy
            if of_batch:
                power = ap2(centered)
                dx -= tf.reduce_mean(gy, axes) + r * r * power * tf.reduce_mean(power * gy, axes)
            dgamma = tf.reduce_sum(gy * ap2(normalized), axes)
            return scale * r * dx, dgamma, tf.reduce_sum(gy, axes)

        return scale * normalized + beta, backward

    return apply(x, gamma, beta)


@register_block(
    name="shift_batch_norm",
    paper="Binarized Neural Networks",
    arxiv="1602.02830",
    role="normalization",
)
class ShiftBatchNormalization(_BatchNormalization):
    r"""Shift-based batch normalization of BNNs: multiplications are by powers of two.

    Forward, in training, per channel (the last axis), with ``AP2(x) = sign(x) 2^round(log2|x|)``::

        c = x - mean(x)
        v = mean(c * AP2(c))
        r = AP2(1 / sqrt(v + epsilon))
        y = AP2(gamma) * c * r + beta

    At inference the moving averages stand for the mean and for ``1 / sqrt(v + epsilon)``, before
    AP2.

    Gradient, the release's rule: ``dx = AP2(gamma) * r * (gy - mean(gy) - r^2 * AP2(c) *
    mean(AP2(c) * gy))``, ``dgamma = sum(gy * AP2(c * r))``, ``dbeta = sum(gy)``.

    Args:
        momentum: of the moving averages: new = momentum * old + (1 - momentum) * batch. The
            release's 0.875 is a shift too.
        epsilon: added to v.
        gamma_initializer: of gamma.
        beta_initializer: of beta.
        **kwargs: as for ``keras.layers.Layer``.

    Raises:
        ValueError: a setting out of range, or inputs whose last axis is unknown.

    Paper: I. Hubara, M. Courbariaux, D. Soudry, R. El-Yaniv, Y. Bengio, "Binarized Neural
    Networks", NIPS 2016, arXiv 1602.02830.

    Deviations: the moving inverse std starts at 1, not at 0, so that an untrained layer passes its
    inputs. The release has no gradient at inference: here the statistics are then constants.
    """

    def __init__(
        self,
        *,
        momentum: float = 0.875,
        epsilon: float = 1e-5,
        gamma_initializer: Any = "ones",
        beta_initializer: Any = "zeros",
        **kwargs: Any,
    ) -> None:
        super().__init__(momentum, epsilon, gamma_initializer, beta_initializer, **kwargs)

    def statistics(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the batch's mean and inverse std, (C,)."""
        return shift_statistics(x, self.epsilon)

    def effective(self, inverse: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Return AP2 of gamma, beta, AP2 of the inverse std."""
        return ap2(tf.convert_to_tensor(self.gamma)), tf.convert_to_tensor(self.beta), ap2(inverse)

    def normalize(
        self, x: tf.Tensor, mean: tf.Tensor, inverse: tf.Tensor, training: bool
    ) -> tf.Tensor:
        """Return the output, with the release's gradient."""
        gamma, beta = tf.convert_to_tensor(self.gamma), tf.convert_to_tensor(self.beta)
        return shift_batch_norm(x, gamma, beta, mean, inverse, training)


CONSTANTS = ("release", "paper")
# The release's constant, by which the range of Gaussian values gives their standard deviation.
_KAPPA = 0.5 * 0.35 * (1.0 + math.sqrt(math.pi * math.log(4.0)))


def range_statistics(
    x: tf.Tensor, num_chunks: int = 16, constant: str = "release", epsilon: float = 1e-5
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the mean and the inverse scale of the last axis; see `RangeBatchNormalization`."""
    values = tf.reshape(x, (-1, x.shape[-1]))
    count = tf.shape(values)[0]
    chunks = _chunks(count, num_chunks)
    members = count // chunks
    parts = tf.reshape(values, tf.stack([chunks, members, x.shape[-1]]))
    spread = tf.reduce_mean(tf.reduce_max(parts, 1) - tf.reduce_min(parts, 1), 0)
    log = tf.math.log(tf.cast(tf.maximum(members, 2), tf.float32))
    factor = (_KAPPA if constant == "release" else 1.0) / tf.sqrt(2.0 * log)
    return tf.reduce_mean(values, 0), 1.0 / (spread * factor + epsilon)


def _chunks(count: tf.Tensor, wanted: int) -> tf.Tensor:
    """Return how many equal chunks to make: the wanted number where it divides the count.

    Otherwise the greatest divisor below it that leaves as many values in each, at worst 1.
    """
    candidates = tf.range(1, wanted + 1)
    members = count // candidates
    large = tf.where(candidates == wanted, members >= 2, members >= wanted)
    return tf.reduce_max(tf.where(large & (count % candidates == 0), candidates, 1))


@register_block(
    name="range_batch_norm",
    paper="Scalable methods for 8-bit training of neural networks",
    arxiv="1805.11046",
    role="normalization",
)
class RangeBatchNormalization(_BatchNormalization):
    r"""Range BN: the range of the batch stands for its standard deviation.

    Forward, in training, per channel (the last axis): ``y = gamma * (x - mean(x)) / (C * range(x)
    + epsilon) + beta``.

    - ``constant="release"``: the batch is cut into 16 chunks of m values, the range is the mean of
      the chunks' maxima minus that of their minima, and ``C = kappa / sqrt(2 ln m)``, ``kappa =
      0.175 (1 + sqrt(pi ln 4)) = 0.5402``: Gaussian values get a standard deviation of about 1;
    - ``constant="paper"``: the range of all n values, ``C = 1 / sqrt(2 ln n)``: of about 1/2.

    At inference the moving averages stand for the mean and for ``1 / (C * range + epsilon)``.

    Gradient: the true derivative, through mean, maxima and minima (equal ones share it).

    Args:
        momentum: of the moving averages: new = momentum * old + (1 - momentum) * batch.
        epsilon: added to the scale.
        constant: "release" or "paper".
        num_chunks: None for 16 ("release") or 1 ("paper"). Where it does not divide the number of
            values there are as many as do and leave at least this number of values in each.
        input_quantizer: of the inputs; the release's are 8-bit (``int8_gemmlowp``).
        parameter_quantizer: of gamma, beta and the inverse scale, a quantizer of weights.
        gamma_initializer: of gamma; None is the release's uniform [0, 1).
        beta_initializer: of beta.
        **kwargs: as for ``keras.layers.Layer``.

    Raises:
        ValueError: a setting out of range, or inputs whose last axis is unknown.

    Paper: R. Banner, I. Hubara, E. Hoffer, D. Soudry, "Scalable methods for 8-bit training of
    neural networks", NeurIPS 2018, arXiv 1805.11046.

    Deviations: quantization is off by default, and that of the output's gradient is left to a
    quantizer of gradients behind the layer. The moving averages keep 0.9 of their value, where the
    release keeps 0.1, and the inverse scale starts at 1, not at 0.
    """

    def __init__(
        self,
        *,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        constant: str = "release",
        num_chunks: int | None = None,
        input_quantizer: Any = None,
        parameter_quantizer: Any = None,
        gamma_initializer: Any = None,
        beta_initializer: Any = "zeros",
        **kwargs: Any,
    ) -> None:
        uniform = keras.initializers.RandomUniform(0.0, 1.0)
        super().__init__(
            momentum, epsilon, gamma_initializer or uniform, beta_initializer, **kwargs
        )
        owner = f"RangeBatchNormalization {self.name!r}"
        self.constant = check_choice(constant, CONSTANTS, f"{owner}: constant")
        default = 16 if constant == "release" else 1
        self.num_chunks = default if num_chunks is None else int(num_chunks)
        if self.num_chunks < 1:
            raise ValueError(f"{owner}: num_chunks must be at least 1, got {num_chunks!r}")
        self.input_quantizer = self._own(input_quantizer, "activations", "input_quantizer")
        self.gamma_quantizer = self._own(parameter_quantizer, "weights", "gamma_quantizer")
        self.beta_quantizer = self._own(parameter_quantizer, "weights", "beta_quantizer")
        self.scale_quantizer = self._own(parameter_quantizer, "weights", "scale_quantizer")

    def _own(self, identifier: Any, use: str, name: str) -> Any:
        quantizer = get(identifier)
        if quantizer is None:
            return None
        check_target(quantizer, use, f"RangeBatchNormalization {self.name!r}, {name}")
        return for_use(quantizer, use, name=name)

    def build(self, input_shape: Any) -> None:
        """Add the variables, then those of the quantizers."""
        super().build(input_shape)
        per_channel = (self.gamma_quantizer, self.beta_quantizer, self.scale_quantizer)
        shapes = [input_shape, *[self.gamma.shape] * 3]
        for quantizer, shape in zip((self.input_quantizer, *per_channel), shapes, strict=True):
            if quantizer is not None:
                with tf.name_scope(quantizer.name):
                    quantizer.build(shape)

    def call(self, inputs: Any, training: Any = None) -> tf.Tensor:
        """Return the normalized (quantized) inputs."""
        x = tf.convert_to_tensor(inputs)
        if self.input_quantizer is not None:
            x = self.input_quantizer(x, training=training)
        return super().call(x, training=training)

    def statistics(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the batch's mean and inverse scale, (C,)."""
        return range_statistics(x, self.num_chunks, self.constant, self.epsilon)

    def effective(self, inverse: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Return gamma, beta and the inverse scale, quantized where a quantizer is given."""
        values = (tf.convert_to_tensor(self.gamma), tf.convert_to_tensor(self.beta), inverse)
        if self.gamma_quantizer is None:
            return values
        quantizers = (self.gamma_quantizer, self.beta_quantizer, self.scale_quantizer)
        return tuple(q(value) for q, value in zip(quantizers, values, strict=True))

    def normalize(
        self, x: tf.Tensor, mean: tf.Tensor, inverse: tf.Tensor, training: bool
    ) -> tf.Tensor:
        """Return the output."""
        gamma, beta, inverse = self.effective(inverse)
        return gamma * ((x - mean) * inverse) + beta

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "constant": self.constant,
            "num_chunks": self.num_chunks,
            "input_quantizer": serialize(self.input_quantizer),
            "parameter_quantizer": serialize(self.gamma_quantizer),
        }
