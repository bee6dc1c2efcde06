"""Training against the float network by Keras's own ``fit``."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from kerasq.codebooks.finetuning import cross_entropy, divergence, ends_in_softmax
from kerasq.keras import keras, keras_version


class Distiller(keras.Model):
    r"""A model whose ``fit`` trains a student to answer as its teacher does.

    Forward: the student's outputs. Loss, with logits z of the student and v of the teacher:
    ``L = (1 − α) · CE(y, softmax(z)) + α T² · KL(softmax(v / T) ‖ softmax(z / T))``, and the losses
    that the student's layers add. The teacher works as at inference and is not changed. Gradient:
    ``∂L/∂z = (1 − α)(softmax(z) − y) + α T (softmax(z / T) − softmax(v / T))``.

    Compile it with an optimizer, and metrics if any; it has the loss. With α = 1 labels are not
    looked at, and data may come without. Save the student.

    Args:
        student: the model to train, such as one that `compress` returned; one output, logits or
            probabilities (samples, classes).
        teacher: the float model.
        temperature: T, above 0.
        alpha: α, 0 to 1, the share of the teacher.

    Raises:
        ValueError: a setting out of range, or networks of different outputs.

    Reference: Hinton et al., Distilling the Knowledge in a Neural Network, arXiv:1503.02531
    """

    def __init__(self, student: Any, teacher: Any, temperature: float = 1.0, alpha: float = 1.0):
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"Distiller: temperature must be above 0, got {temperature}")
        if not 0 <= alpha <= 1:
            raise ValueError(f"Distiller: alpha must be 0 to 1, got {alpha}")
        shapes = [[tuple(o.shape) for o in model.outputs] for model in (student, teacher)]
        if shapes[0] != shapes[1] or len(shapes[0]) != 1:
            raise ValueError(
                f"Distiller takes networks of one output, the same for both: the student's are "
                f"{shapes[0]}, the teacher's {shapes[1]}"
            )
        self.student, self.temperature, self.alpha = student, temperature, alpha
        # Not an attribute: Keras would take the teacher's weights for its own.
        self._target = lambda x: _log_softmax(teacher, teacher(x, training=False), temperature)
        self._loss = keras.metrics.Mean(name="loss")

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Return the student's outputs."""
        return self.student(inputs, training=training)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        **kwargs: Any,
    ) -> tf.Tensor:
        """Return the loss of a batch.

        Args:
            x: inputs.
            y: class numbers or one-hot rows; None with α = 1.
            y_pred: the student's outputs.
            sample_weight: must be None.
            **kwargs: of Keras 3; nothing depends on them.

        Raises:
            ValueError: no labels with α below 1, or weights of samples.
        """
        if sample_weight is not None:
            raise ValueError("Distiller takes no weights of samples or classes: fit without them")
        loss = tf.add_n([tf.cast(part, tf.float32) for part in self.losses] or [tf.constant(0.0)])
        if self.alpha > 0:
            answer = _log_softmax(self.student, y_pred, self.temperature)
            share = self.alpha * self.temperature**2
            loss += share * divergence(self._target(x), answer)
        if self.alpha < 1:
            if y is None:
                raise ValueError("Distiller with alpha below 1 looks at labels: fit(x, labels)")
            loss += (1 - self.alpha) * cross_entropy(y, _log_softmax(self.student, y_pred, 1.0))
        if keras_version() == 2:
            self._loss.update_state(loss)  # Keras 3 has a mean of its own
        return loss

    @property
    def metrics(self) -> list[Any]:
        """The loss, and the metrics that it was compiled with."""
        own = [] if keras_version() == 3 else [self._loss]
        return [*own, *(metric for metric in super().metrics if metric is not self._loss)]


def _log_softmax(model: Any, outputs: tf.Tensor, temperature: float) -> tf.Tensor:
    """Return ``log softmax(z / T)`` of a network's outputs, logits z or probabilities."""
    logits = tf.cast(outputs, tf.float32)
    if ends_in_softmax(model):
        logits = tf.math.log(tf.maximum(logits, 1e-30))
    return tf.nn.log_softmax(logits / temperature)
