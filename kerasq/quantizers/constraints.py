"""What keeps latent weights where a method needs them; applied after each optimizer step."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from kerasq.keras import keras, register


@register
class LatentClip(keras.constraints.Constraint):
    """Clip latent weights: ``w <- clip(w, -limit, limit)``.

    Args:
        limit: positive bound, 1.0 in BinaryConnect, BNN and XNOR-Net.
    """

    def __init__(self, limit: float = 1.0) -> None:
        if limit <= 0:
            raise ValueError(f"LatentClip: limit must be positive, got {limit!r}")
        self.limit = float(limit)

    def __call__(self, w: Any) -> tf.Tensor:
        """Return the clipped weights."""
        return tf.clip_by_value(tf.convert_to_tensor(w), -self.limit, self.limit)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"limit": self.limit}


@register
class XnorConditioning(keras.constraints.Constraint):
    """Condition latent weights as the XNOR-Net release does after each step.

    ``w <- clip(w - mean of w over the input channels, -1, 1)``, the mean taken per filter and tap.

    A kernel with a single input channel is only clipped: its mean is the weight itself.

    Paper: "XNOR-Net: ImageNet Classification Using Binary Convolutional Neural Networks", arXiv
    1603.05279; the step is in the release only.
    """

    def __call__(self, w: Any) -> tf.Tensor:
        """Return the conditioned weights of a kernel (..., input channels, filters)."""
        w = tf.convert_to_tensor(w)
        if w.shape[-2] > 1:
            w -= tf.reduce_mean(w, axis=-2, keepdims=True)
        return tf.clip_by_value(w, -1.0, 1.0)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments: none."""
        return {}
