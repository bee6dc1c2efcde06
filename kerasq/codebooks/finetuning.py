"""Training that belongs to a method: against the float network's outputs, or against labels."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from kerasq.codebooks.checkpoint import Checkpoint, digest
from kerasq.codebooks.data import calibration_data
from kerasq.codebooks.randomness import seeded_by_step
from kerasq.keras import keras

Augment = Callable[[list[np.ndarray], np.random.Generator], list[np.ndarray]]
_SAVE_EVERY = 200  # steps
_CHOICES = {
    "optimizer": ("sgd", "adam"),
    "schedule": ("constant", "cosine", "steps"),
    "loss": ("distillation", "labels"),
}


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stretch of training.

    Attributes:
        name: of the stage, unique in a run.
        steps: batches.
        learning_rate: at the start.
        batch_size: samples in a batch.
        optimizer: "sgd" or "adam".
        momentum: of "sgd".
        weight_decay: added to the gradient as ``weight_decay * w``.
        schedule: "constant", "cosine" to ``final_rate``, or "steps": a tenth after each third.
        training: BatchNormalization and Dropout as in training; False as at inference.
        loss: "distillation" from the float network, or "labels": cross-entropy with them.
        temperature: T of the distillation.
        final_rate: learning rate at the end of "cosine".

    Raises:
        TypeError: steps or a batch size that are no whole numbers.
        ValueError: a setting out of range.
    """

    name: str
    steps: int
    learning_rate: float
    batch_size: int = 128
    optimizer: str = "sgd"
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: str = "constant"
    training: bool = False
    loss: str = "distillation"
    temperature: float = 1.0
    final_rate: float = 0.0

    def __post_init__(self) -> None:
        for name, least in (("steps", 0), ("batch_size", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, numbers.Integral):
                raise TypeError(f"{self.name}: {name} is a whole number, got {value!r}")
            if value < least:
                raise ValueError(f"{self.name}: {name} must be at least {least}, got {value}")
        for name in ("learning_rate", "momentum", "weight_decay", "final_rate"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(
                    f"{self.name}: {name} must not be negative, got {getattr(self, name)}"
                )
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{self.name}: {name} is one of {known}, got {getattr(self, name)!r}"
                )
        if not self.temperature > 0:
            raise ValueError(f"{self.name}: temperature must be above 0, got {self.temperature}")

    def rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        share = step / self.steps
        if self.schedule == "cosine":
            span = self.learning_rate - self.final_rate
            return self.final_rate + span * 0.5 * (1 + math.cos(math.pi * share))
        if self.schedule == "steps":
            return self.learning_rate * 0.1 ** int(3 * share)
        return self.learning_rate


class FineTuner:
    """Trains networks on a run's data, and goes on from the run's checkpoint.

    The outputs are logits: of a network that ends in a softmax, its logarithm is taken. A stage
    taken up again gives the same weights: what layers such as Dropout draw depends on the step
    only. Functions that draw at random, in a Lambda, draw anew.

    Args:
        teacher: the float network.
        inputs: one array for each input of the model, samples first.
        labels: class numbers (N,) or one-hot rows (N, classes); None where there are none.
        checkpoint: of the run, or None.
        augment: changes a batch, given the list of its inputs and a generator; or None.
        seed: of the order of the samples, the augmentation and Dropout.
        show: told about progress.

    Attributes:
        teacher: the float network.
        labels: as given.
        show: takes a line of progress.
    """

    def __init__(
        self,
        teacher: Any,
        inputs: list[np.ndarray] | None,
        labels: np.ndarray | None = None,
        checkpoint: Checkpoint | None = None,
        augment: Augment | None = None,
        seed: int = 0,
        show: Callable[[str], None] = lambda line: None,
    ):
        self.teacher, self.inputs, self.labels = teacher, inputs, labels
        self._checkpoint, self._augment, self._seed, self.show = checkpoint, augment, seed, show

    def run(
        self,
        model: Any,
        stage: Stage,
        variables: list[Any] | None = None,
        penalty: Callable[[], tf.Tensor] | None = None,
        after_step: Callable[[int], None] | None = None,
        on_start: Callable[[], None] | None = None,
    ) -> list[float]:
        """Train a network in place; return the loss of each step.

        A stage that the checkpoint holds is not trained again: its weights are loaded. One that
        was interrupted goes on from the last step that was saved, with the same result.

        Args:
            model: with the graph of the teacher.
            stage: what to do.
            variables: to train; all trainable ones where not given.
            penalty: is added to the loss.
            after_step: is called with the number of each step, from 0, after it was taken.
            on_start: is called before the first, when what the checkpoint holds has been loaded.

        Raises:
            ValueError: a stage on labels without any, on those that are no classes of the network,
                on others than the checkpoint's, or without data; a network of several outputs or of
                one value; a loss that is not finite.
        """
        self._check(stage)
        variables = model.trainable_variables if variables is None else variables
        state = _State(model, variables, stage, self.labels)
        first = state.load(self._checkpoint)
        if on_start is not None:
            on_start()
        with seeded_by_step(model, self._seed) as set_step:
            self._train(model, stage, state, first, set_step, variables, penalty, after_step)
        return state.losses

    def _train(
        self,
        model: Any,
        stage: Stage,
        state: _State,
        first: int,
        set_step: Callable[[int], None],
        variables: list[Any],
        penalty: Callable[[], tf.Tensor] | None,
        after_step: Callable[[int], None] | None,
    ) -> None:
        step_function = self._step(model, stage, variables, state.optimizer, penalty)
        batches = self._batches(stage, first)
        for step in range(first, stage.steps):
            state.optimizer.learning_rate = stage.rate(step)
            set_step(step)
            loss = float(step_function(*next(batches)))
            if not math.isfinite(loss):
                raise ValueError(
                    f"{stage.name}: the loss is {loss} at step {step}: lower the learning rate "
                    f"({stage.learning_rate})"
                )
            state.losses.append(loss)
            if after_step is not None:
                after_step(step)
            if step % 20 == 0:
                self.show(f"{stage.name}: step {step} of {stage.steps}, loss {loss:.4f}")
            if (step + 1) % _SAVE_EVERY == 0 or step + 1 == stage.steps:
                state.save(self._checkpoint, step + 1)

    def _check(self, stage: Stage) -> None:
        if self.inputs is None:
            raise ValueError(f"{stage.name} trains: pass data")
        if stage.loss == "labels" and self.labels is None:
            raise ValueError(f"{stage.name} trains on labels: pass data as (inputs, labels)")
        shapes = [tuple(output.shape) for output in self.teacher.outputs]
        if len(shapes) > 1 or shapes[0][-1] == 1:
            raise ValueError(
                f"{stage.name} trains a network with one output, logits or probabilities of two "
                f"classes or more, but the outputs are {shapes}: train it by `fit`, with no steps "
                "here"
            )
        if stage.loss == "labels":
            _check_labels(self.labels, shapes[0], stage.name)

    def _batches(self, stage: Stage, first: int) -> Iterator[tuple[list[np.ndarray], Any]]:
        """Yield batches from step ``first`` on: an epoch's order depends on its number only."""
        count = len(self.inputs[0])
        size = min(stage.batch_size, count)
        per_epoch = count // size
        step = first
        while True:
            epoch = np.random.default_rng([self._seed, step // per_epoch]).permutation(count)
            while True:
                at = step % per_epoch * size
                chosen = np.sort(epoch[at : at + size])
                batch = [array[chosen] for array in self.inputs]
                if self._augment is not None:
                    batch = self._augment(batch, np.random.default_rng([self._seed, 1, step]))
                labels = None if self.labels is None else self.labels[chosen]
                step += 1
                yield batch, labels
                if step % per_epoch == 0:
                    break

    def _step(
        self, model: Any, stage: Stage, variables: list[Any], optimizer: Any, penalty: Any
    ) -> Callable[..., tf.Tensor]:
        teacher = self.teacher

        @tf.function
        def step(inputs: list[tf.Tensor], labels: tf.Tensor | None) -> tf.Tensor:
            given = inputs if len(inputs) > 1 else inputs[0]
            distils = stage.loss == "distillation"
            target = log_probabilities(teacher, given, stage.temperature) if distils else None
            with tf.GradientTape() as tape:
                student = log_probabilities(
                    model, given, stage.temperature if distils else 1.0, stage.training
                )
                if distils:
                    loss = divergence(target, student) * stage.temperature**2
                else:
                    loss = cross_entropy(labels, student)
                if penalty is not None:
                    loss += penalty()
            gradients = tape.gradient(loss, variables)
            pairs = [
                (g if not stage.weight_decay else g + stage.weight_decay * v, v)
                for g, v in zip(map(tf.convert_to_tensor, gradients), variables, strict=True)
            ]
            optimizer.apply_gradients(pairs)
            return loss

        def run(batch: list[np.ndarray], labels: np.ndarray | None) -> tf.Tensor:
            tensors = [tf.constant(x) for x in batch]
            return step(tensors, None if labels is None else tf.constant(labels))

        return run


def log_probabilities(
    model: Any, inputs: Any, temperature: float = 1.0, training: bool = False
) -> tf.Tensor:
    """Return ``log softmax(z / T)`` of a network's logits z, (samples, classes)."""
    outputs = tf.cast(model(inputs, training=training), tf.float32)
    if ends_in_softmax(model):
        outputs = tf.math.log(tf.maximum(outputs, 1e-30))
    return tf.nn.log_softmax(outputs / temperature)


def ends_in_softmax(model: Any) -> bool:
    """Tell whether a network's outputs are probabilities."""
    last = list(flat_layers(model))[-1]
    activation = getattr(last, "activation", None)
    return getattr(activation, "__name__", "") == "softmax" or isinstance(
        last, keras.layers.Softmax
    )


def divergence(target: tf.Tensor, answer: tf.Tensor) -> tf.Tensor:
    """Return the mean of ``KL(exp(target) ‖ exp(answer))`` of log-probabilities."""
    return tf.reduce_mean(tf.reduce_sum(tf.exp(target) * (target - answer), axis=-1))


def cross_entropy(labels: tf.Tensor, answer: tf.Tensor) -> tf.Tensor:
    """Return the mean cross-entropy of class numbers or one-hot rows with log-probabilities."""
    if labels.shape.rank == 1 or labels.shape[-1] == 1:
        labels = tf.one_hot(tf.reshape(tf.cast(labels, tf.int32), [-1]), answer.shape[-1])
    return -tf.reduce_mean(tf.reduce_sum(tf.cast(labels, tf.float32) * answer, axis=-1))


def _check_labels(labels: np.ndarray, output: tuple[int | None, ...], owner: str) -> None:
    """Raise where labels are neither class numbers nor one-hot rows of a network's classes."""
    classes = output[-1]
    if labels.ndim == len(output) and labels.shape[-1] == classes:
        return
    if labels.dtype.kind not in "biuf" or labels.size != len(labels) or len(output) != 2:
        raise ValueError(
            f"{owner} trains on labels: pass class numbers (N,) or one-hot rows (N, {classes}), "
            f"not {labels.shape} of type {labels.dtype}"
        )
    low, high = labels.min(), labels.max()
    if not 0 <= low <= high < classes:
        raise ValueError(
            f"{owner} trains on labels from {low} to {high}, but the network has {classes} "
            f"classes, 0 to {classes - 1}"
        )


def reestimate_batch_normalization(model: Any, data: Any, batch_size: int = 128) -> None:
    """Replace the moving averages of all BatchNormalizations by those of the data, in place.

    Each is the mean over the batches of what training would average.

    Args:
        model: built Sequential or Functional model.
        data: inputs, as for `compress`.
        batch_size: samples in a batch.

    Raises:
        TypeError, ValueError: data that is none, or not the model's.
    """
    norms = [
        layer for layer in flat_layers(model) if isinstance(layer, keras.layers.BatchNormalization)
    ]
    if not norms:
        return
    inputs, _ = calibration_data(data, model)
    momenta = [norm.momentum for norm in norms]
    try:
        for count, start in enumerate(range(0, len(inputs[0]), batch_size), 1):
            for norm in norms:
                norm.momentum = 1.0 - 1.0 / count  # the running mean of all batches so far
            batch = [tf.constant(array[start : start + batch_size]) for array in inputs]
            model(batch if len(batch) > 1 else batch[0], training=True)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def flat_layers(model: Any) -> Iterator[Any]:
    """Yield a model's layers, those of models in it too."""
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from flat_layers(layer)
        else:
            yield layer


class _State:
    """What a stage changes: the network's weights, the optimizer's, and the losses."""

    def __init__(self, model: Any, variables: list[Any], stage: Stage, labels: np.ndarray | None):
        self._model, self._stage = model, stage
        self._labels = None if stage.loss != "labels" else labels
        if stage.optimizer == "adam":
            self.optimizer = keras.optimizers.Adam(stage.learning_rate)
        else:
            self.optimizer = keras.optimizers.SGD(stage.learning_rate, stage.momentum)
        self.optimizer.build(variables)
        self.losses: list[float] = []

    def load(self, checkpoint: Checkpoint | None) -> int:
        """Load what was saved; return the first step that is left."""
        saved = None if checkpoint is None else checkpoint.load_stage(self._stage.name)
        if saved is None:
            return 0
        if str(saved.get("labels", "")) != self._labels_digest():
            raise ValueError(
                f"the checkpoint of stage {self._stage.name!r} was trained on other labels: pass "
                "another checkpoint_dir, or remove it"
            )
        weights = [saved[f"weight-{i}"] for i in range(len(self._model.get_weights()))]
        self._model.set_weights(weights)
        for i, variable in enumerate(self._optimizer_variables()):
            variable.assign(saved[f"optimizer-{i}"])
        self.losses = [float(loss) for loss in saved["losses"]]
        return int(saved["step"])

    def save(self, checkpoint: Checkpoint | None, step: int) -> None:
        """Save the state after a number of steps."""
        if checkpoint is None:
            return
        arrays = {f"weight-{i}": w for i, w in enumerate(self._model.get_weights())}
        for i, variable in enumerate(self._optimizer_variables()):
            arrays[f"optimizer-{i}"] = np.asarray(tf.convert_to_tensor(variable))
        losses = np.array(self.losses)
        arrays.update(losses=losses, step=step, labels=self._labels_digest())
        checkpoint.save_stage(self._stage.name, arrays)

    def _labels_digest(self) -> str:
        return "" if self._labels is None else digest(np.ascontiguousarray(self._labels))

    def _optimizer_variables(self) -> list[Any]:
        variables = self.optimizer.variables
        return list(variables() if callable(variables) else variables)
