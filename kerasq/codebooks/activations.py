"""Activations of the float and of the compressed network, carried forward layer by layer."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from kerasq.codebooks.program import Program

# Activations beyond this many bytes are kept in files of the temporary folder.
_MEMORY = 4 << 30

Visitor = Callable[[np.ndarray, np.ndarray], None]


class Activations:
    """Activations of two networks of the same graph at the boundary reached so far.

    The float network has the model's own layers, the other one the layers in ``replaced`` where it
    holds one. At each moment, just those tensors are kept that a layer further on will read: the
    whole pass over a network costs one run of each layer, whatever the number of stops.

    Args:
        program: the graph.
        data: one array for each model input, images first.
        targets: tensor numbers of the stops, in topological order.
        batch_size: images at a time.
    """

    def __init__(
        self,
        program: Program,
        data: list[np.ndarray],
        targets: list[int],
        batch_size: int,
    ):
        self.replaced: dict[int, Any] = {}
        self._program, self._batch_size = program, batch_size
        self._dtypes = dict(zip(program.inputs, program.dtypes, strict=True))
        self._float = dict(zip(program.inputs, data, strict=True))
        self._other: dict[int, np.ndarray] = {}  # only tensors that differ
        self._needed = program.ancestors(targets)
        self._targets, self._done = targets, set()

    def close(self) -> None:
        """Drop all activations."""
        self._float, self._other = {}, {}

    def advance(self, stop: int, visit: Visitor) -> None:
        """Run both networks up to the next stop.

        Args:
            stop: which of the targets; each once, in ascending order.
            visit: is given the target's values, of the float network and of the other, by batches.

        Raises:
            OSError: no room for the activations in the temporary folder.
        """
        target = self._targets[stop]
        run = sorted(self._program.ancestors([target]) - self._done)
        self._done.update(run)
        keep = self._boundary(stop)
        differing = self._differing(run)
        stores: list[dict[int, np.ndarray]] = [
            {n: x for n, x in values.items() if n in keep} for values in (self._float, self._other)
        ]
        fresh = keep - stores[0].keys()
        for images in self._batches():
            values, others = self._run(run, target, images, differing)
            for tensors, store in ((values, stores[0]), (others, stores[1])):
                for number in fresh & tensors.keys():
                    self._store(store, number, tensors[number], images)
            batch = np.asarray(values[target])
            visit(batch, np.asarray(others[target]) if target in others else batch)
        self._float, self._other = stores

    def _batches(self) -> Iterator[slice]:
        self._images = len(next(iter(self._float.values())))
        for start in range(0, self._images, self._batch_size):
            yield slice(start, min(start + self._batch_size, self._images))

    def _boundary(self, stop: int) -> set[int]:
        """Return the tensors known after the run that steps still to come will read."""
        known = set(self._program.inputs)
        for place in self._done:
            known.update(self._program.steps[place].outputs)
        wanted = set(self._targets[stop + 1 :])
        for place in self._needed - self._done:
            wanted.update(self._program.steps[place].inputs)
        return known & wanted

    def _differing(self, run: list[int]) -> set[int]:
        """Return the steps of a run whose outputs differ between the networks."""
        tensors, places = set(self._other), set()
        for place in run:
            step = self._program.steps[place]
            if id(step.layer) in self.replaced or tensors.intersection(step.inputs):
                places.add(place)
                tensors.update(step.outputs)
        return places

    def _run(
        self, run: list[int], target: int, images: slice, differing: set[int]
    ) -> tuple[dict[int, tf.Tensor], dict[int, tf.Tensor]]:
        read = {target}.union(*(self._program.steps[place].inputs for place in run))
        values = {n: self._tensor(n, x[images]) for n, x in self._float.items() if n in read}
        others = {n: self._tensor(n, x[images]) for n, x in self._other.items() if n in read}
        for place in run:
            step = self._program.steps[place]
            values.update(step.run(step.layer, values))
            if place in differing:
                layer = self.replaced.get(id(step.layer), step.layer)
                others.update(step.run(layer, {**values, **others}))
        return values, others

    def _tensor(self, number: int, batch: np.ndarray) -> tf.Tensor:
        tensor = tf.convert_to_tensor(batch)
        return tf.cast(tensor, self._dtypes[number]) if number in self._dtypes else tensor

    def _store(
        self, store: dict[int, np.ndarray], number: int, batch: tf.Tensor, images: slice
    ) -> None:
        array = np.asarray(batch)
        if number not in store:
            shape = (self._images, *array.shape[1:])
            store[number] = self._allocate(shape, array.dtype)
        store[number][images] = array

    def _allocate(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        held = sum(x.nbytes for kept in (self._float, self._other) for x in kept.values())
        nbytes = math.prod(shape) * dtype.itemsize
        if held + nbytes <= _MEMORY:
            return np.empty(shape, dtype)
        folder = tempfile.gettempdir()
        try:
            # Without a name: its room is free again when the array is, even of a killed process.
            with tempfile.TemporaryFile(dir=folder) as file:
                # A disk that is full when the array is written to would end the process.
                os.posix_fallocate(file.fileno(), 0, nbytes)
                return np.memmap(file, dtype, "w+", shape=shape)
        except OSError as error:
            raise OSError(
                error.errno,
                f"cannot keep {nbytes:,} bytes of activations in the temporary folder "
                f"({error.strerror or error}): make room there, set TMPDIR to a folder that has "
                "it, or pass fewer images",
                folder,
            ) from error
