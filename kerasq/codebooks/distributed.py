"""Statistics of several machines: each has a part of the data, all get the same sums."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from kerasq.codebooks.moments import Moments


class Workers:
    """The processes of a ``tf.distribute.MultiWorkerMirroredStrategy``, or just this one.

    Under any other strategy one process sees all of the data, and there is nothing to add.

    Args:
        strategy: None takes the one whose scope is entered.

    Attributes:
        count: of the workers.
        index: of this one; the chief is 0.
    """

    def __init__(self, strategy: Any = None):
        if strategy is None and tf.distribute.has_strategy():
            strategy = tf.distribute.get_strategy()
        self._strategy, self.count, self.index = strategy, 1, 0
        if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            resolver = strategy.cluster_resolver
            jobs = resolver.cluster_spec().as_dict()
            chiefs = len(jobs.get("chief", []))
            self.count = max(1, chiefs + len(jobs.get("worker", [])))
            if self.count > 1:
                self.index = resolver.task_id + (chiefs if resolver.task_type == "worker" else 0)

    def sum(self, array: np.ndarray) -> np.ndarray:
        """Return the sum of the workers' arrays, float64: the same on all of them, to the bit."""
        array = np.asarray(array, np.float64)
        if self.count == 1:
            return array
        replicas = self._strategy.num_replicas_in_sync // self.count

        def part(context: Any) -> tf.Tensor:
            mine = context.replica_id_in_sync_group % replicas == 0
            return tf.constant(array if mine else np.zeros_like(array))

        parts = self._strategy.experimental_distribute_values_from_function(part)
        total = self._strategy.reduce(tf.distribute.ReduceOp.SUM, parts, axis=None)
        return np.array(total)

    def gather(self, value: float) -> np.ndarray:
        """Return a number of each worker, in their order."""
        values = np.zeros(self.count)
        values[self.index] = value
        return self.sum(values)

    def add(self, moments: Moments) -> None:
        """Add the moments of the other workers, in place."""
        if self.count == 1:
            return
        moments.gram = self.sum(moments.gram)
        moments.cross = self.sum(moments.cross)
        moments.input_sum = self.sum(moments.input_sum)
        moments.target_sum = self.sum(moments.target_sum)
        energy, count = self.sum(np.array([moments.energy, moments.count]))
        moments.energy, moments.count = float(energy), int(count)

    def check_equal(self, what: str, digest: str) -> None:
        """Raise where the workers' digests (hexadecimal) differ.

        Raises:
            ValueError: naming ``what``.
        """
        numbers = self.gather(int(digest[:12], 16))
        if np.any(numbers != numbers[0]):
            raise ValueError(
                f"the workers have different {what}: load the same weights and pass the same "
                "arguments on all of them"
            )
