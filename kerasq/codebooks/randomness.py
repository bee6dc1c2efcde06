"""Random numbers of layers in training that depend on the step only."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from kerasq.keras import keras_version


@contextlib.contextmanager
def seeded_by_step(model: Any, seed: int) -> Iterator[Callable[[int], None]]:
    """Give the layers of a model that draw at random, such as Dropout, generators of our own.

    Args:
        model: whose ``layers`` are looked at, and the layers in these.
        seed: of the generators.

    Yields:
        A function that sets the generators to a step, by its number. Before the first call of the
        model in a ``tf.function`` it must have been called.
    """
    # An operation of Keras 3 has no layers in it, and draws nothing.
    whole = [layer for layer in model.layers if hasattr(layer, "_flatten_layers")]
    layers = [inner for layer in whole for inner in layer._flatten_layers()]
    if keras_version() == 3:
        states = [found.state for layer in layers for found in _seed_generators(layer)]
        yield lambda step: _seed(seed, step, states, lambda state, word: state.assign(word))
        return
    random = [layer for layer in layers if hasattr(layer, "_random_generator")]
    before = [layer._random_generator for layer in random]
    generators = []
    try:
        # Those of Keras 2 count in the graph, where nothing sets them back.
        for layer, own in zip(random, before, strict=True):
            layer._random_generator = type(own)(rng_type="stateful", seed=0)
            layer._random_generator._maybe_init()
            generators.append(layer._random_generator._generator)
        yield lambda step: _seed(seed, step, generators, _reset)
    finally:
        for layer, own in zip(random, before, strict=True):
            layer._random_generator = own


def _seed_generators(layer: Any) -> list[Any]:
    return getattr(layer, "_seed_generators", [])


def _seed(seed: int, step: int, generators: list[Any], assign: Callable[..., None]) -> None:
    for number, generator in enumerate(generators):
        words = np.random.SeedSequence([seed, 2, step, number]).generate_state(2)
        assign(generator, words)


def _reset(generator: tf.random.Generator, words: np.ndarray) -> None:
    generator.reset_from_seed(int(words[0]))
