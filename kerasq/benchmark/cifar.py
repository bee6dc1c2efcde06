"""Fine-tuning of codewords on CIFAR-10, taught by the float network, within a time limit."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from kerasq.keras import keras

# The teacher is nearly certain of the images that it was trained on: what it knows beyond the label
# shows only in well softened outputs.
TEMPERATURE = 6.0
HELD_OUT = 2000
EVALUATIONS = 8


@dataclasses.dataclass(frozen=True)
class FineTuning:
    """What fine-tuning did.

    Attributes:
        seconds: wall time of all of it.
        steps: batches that were trained on.
        loss_before: distillation loss of the held-out images at the start.
        loss_after: the same with the weights that were kept.
    """

    seconds: float
    steps: int
    loss_before: float
    loss_after: float


def distillation(teacher: tf.Tensor, student: tf.Tensor) -> tf.Tensor:
    """Return the divergence of softened outputs, ``T² · KL(softmax(t/T), softmax(s/T))``.

    Paper: G. Hinton, O. Vinyals, J. Dean, "Distilling the Knowledge in a Neural Network", arXiv
    1503.02531.
    """
    target, answer = (tf.nn.log_softmax(x / TEMPERATURE) for x in (teacher, student))
    return TEMPERATURE**2 * tf.reduce_sum(tf.exp(target) * (target - answer), axis=-1)


def fine_tune(
    model: Any,
    teacher: Any,
    x: np.ndarray,
    *,
    minutes: float = 10.0,
    epochs: int = 6,
    batch: int = 32,
    learning_rate: float = 4e-4,
    seed: int = 0,
    show: Callable[[str], None] = lambda detail: None,
) -> FineTuning:
    """Train a compressed model, in place, to answer as the float network does.

    Codewords, biases and normalizations (but for their statistics) are trained by Adam, with a
    cosine schedule over the steps or the minutes, whichever end first; images are flipped and
    shifted. The weights kept are the best on images held out of ``x``: neither labels nor test
    images are used.

    Args:
        model: compressed model, logits out.
        teacher: the float model, logits out.
        x: normalized training images (N, H, W, C).
        minutes: most wall time.
        epochs: most passes over the images.
        batch: images in a step.
        learning_rate: at the start.
        seed: of the held-out choice, the order and the augmentation.
        show: told about the progress.

    Returns:
        What was done.

    Raises:
        ValueError: ``minutes`` not above 0, or too few images to hold some out.
    """
    if minutes <= 0:
        raise ValueError(f"fine-tuning needs minutes above 0, got {minutes}")
    if len(x) < 2 * batch:
        raise ValueError(f"fine-tuning needs at least {2 * batch} images, got {len(x)}")
    start = time.perf_counter()
    order = np.random.default_rng(seed).permutation(len(x))
    held = min(HELD_OUT, len(x) // 5)
    steps = epochs * ((len(x) - held) // batch)
    optimizer = keras.optimizers.Adam(learning_rate)
    train_step = _train_step(model, teacher, optimizer)
    best = _Best(model, held_out_loss(model, teacher, x[order[:held]]))
    clock = _Clock(start + 60 * minutes - 2 * best.seconds, steps)
    data = augmented(x[order[held:]], batch, seed)
    for step, images in enumerate(data, 1):
        optimizer.learning_rate = learning_rate * 0.5 * (1 + math.cos(math.pi * clock.progress))
        train_step(tf.constant(images))
        clock.tick()
        if clock.progress >= len(best.losses) / EVALUATIONS:
            best.evaluate()
        if step % 10 == 0:
            show(f"{100 * clock.progress:.0f} %, held-out loss {best.losses[-1]:.4f}")
        if clock.progress >= 1:
            break
    model.set_weights(best.weights)
    seconds = time.perf_counter() - start
    return FineTuning(seconds, step, best.losses[0], min(best.losses))


def _train_step(model: Any, teacher: Any, optimizer: Any) -> Callable[[tf.Tensor], None]:
    """Return a step of training in inference mode: normalizations keep their statistics.

    The codewords were found for these statistics, and a few epochs are too short to find better
    ones; scales and offsets of the normalizations are trained.
    """
    variables = model.trainable_variables
    optimizer.build(variables)

    @tf.function
    def step(images: tf.Tensor) -> None:
        target = teacher(images, training=False)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(distillation(target, model(images, training=False)))
        gradients = tape.gradient(loss, variables)
        optimizer.apply_gradients(zip(gradients, variables, strict=True))

    return step


class _Clock:
    """The share of the steps or of the time that is over, whichever is more."""

    def __init__(self, deadline: float, steps: int) -> None:
        self._start, self._deadline = time.perf_counter(), deadline
        self._step, self._steps = 0, steps
        self.progress = 0.0

    def tick(self) -> None:
        """Count a step."""
        now = time.perf_counter()
        self._step += 1
        if now >= self._deadline:
            self.progress = 1.0
        else:
            timed = (now - self._start) / (self._deadline - self._start)
            self.progress = max(self._step / self._steps, timed)


class _Best:
    """The weights with the smallest held-out loss so far, those at the start among them.

    Attributes:
        losses: of each evaluation.
        seconds: how long the last one took.
    """

    def __init__(self, model: Any, loss: Callable[[], float]) -> None:
        loss()  # traces, so that `seconds` is what the next one takes
        self._model, self._loss = model, loss
        self.losses: list[float] = []
        self.evaluate()

    def evaluate(self) -> None:
        """Measure the model as it is, and keep its weights if they are the best."""
        start = time.perf_counter()
        self.losses.append(self._loss())
        if self.losses[-1] == min(self.losses):
            self.weights = self._model.get_weights()
        self.seconds = time.perf_counter() - start


def held_out_loss(model: Any, teacher: Any, x: np.ndarray) -> Callable[[], float]:
    """Return a function that measures the distillation loss of ``model`` on ``x``."""
    images = tf.data.Dataset.from_tensor_slices(x).batch(500)
    targets = [teacher(part, training=False) for part in images]

    @tf.function
    def loss(part: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(distillation(target, model(part, training=False)))

    def measure() -> float:
        parts = zip(images, targets, strict=True)
        return float(sum(loss(part, target).numpy() for part, target in parts)) / len(x)

    return measure


def augmented(x: np.ndarray, batch: int, seed: int, shift: int = 4) -> Iterator[np.ndarray]:
    """Yield batches without end of shuffled images, flipped and shifted by up to 4 pixels.

    What a shift uncovers is black, as in the networks' own training.
    """
    rng = np.random.default_rng(seed)
    height, width = x.shape[1:3]
    canvas = np.empty((batch, height + 2 * shift, width + 2 * shift, x.shape[3]), x.dtype)
    canvas[:] = x.min(axis=(0, 1, 2))
    # Every window of the canvas, as a view: (batch, rows, columns, channels, height, width).
    windows = np.lib.stride_tricks.sliding_window_view(canvas, (height, width), axis=(1, 2))
    while True:
        order = rng.permutation(len(x))
        for start in range(0, len(x) - batch + 1, batch):
            canvas[:, shift:-shift, shift:-shift] = x[order[start : start + batch]]
            rows, columns = rng.integers(0, 2 * shift + 1, (2, batch))
            images = windows[np.arange(batch), rows, columns].transpose(0, 2, 3, 1)
            flipped = rng.random(batch) < 0.5
            images[flipped] = images[flipped, :, ::-1]
            yield np.ascontiguousarray(images)
