"""A quantizer with all kinds of state, for the tests of layers: learned, averaged, per channel."""

from __future__ import annotations

import tensorflow as tf

from kerasq.keras import register
from kerasq.quantizers import Quantizer


@register
class LearnedScale(Quantizer):
    """``step * round(clip(x / step + shift, -2, 1))``, whose average moves its values too."""

    precision = 2

    def build(self, input_shape):
        self.step = self.add_state("step", trainable=True)
        self.shift = self.add_state("shift", (input_shape[-1],), 0.1, trainable=True)
        self.average = self.add_state("average")
        super().build(input_shape)

    def forward(self, x, training=False):
        mean = tf.reduce_mean(tf.abs(x))
        step = self.first_value(
            self.step, tf.convert_to_tensor(self.step) <= 0.0, lambda: mean, training
        )
        average = tf.convert_to_tensor(self.average)
        if training:
            average = 0.9 * average + 0.1 * mean
            self.average.assign(average)
        clipped = tf.clip_by_value(
            tf.math.divide_no_nan(x, step) + tf.convert_to_tensor(self.shift), -2.0, 1.0
        )
        codes = clipped + tf.stop_gradient(tf.round(clipped) - clipped)
        return step * codes + 0.125 * tf.stop_gradient(average)
