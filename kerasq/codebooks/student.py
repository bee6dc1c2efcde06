"""The network while it is being compressed."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from kerasq.codebooks.program import Program


class Student:
    """A network with replacements for some of its layers, run as at inference.

    It stands in for a Keras model where `FineTuner` trains one. The layers without a replacement
    are those of the float network, and are not changed.

    Args:
        program: of the float network.

    Attributes:
        replaced: the replacements so far, by the ``id`` of the layer that each replaces.
    """

    def __init__(self, program: Program):
        self.replaced: dict[int, Any] = {}
        self._program = program

    def __call__(self, inputs: Any, training: bool = False) -> Any:
        """Return the outputs.

        Raises:
            ValueError: ``training``: statistics of the float network would change.
        """
        if training:
            raise ValueError("a network that is partly float runs as at inference: training=False")
        program = self._program
        given = inputs if isinstance(inputs, list | tuple) else [inputs]
        values = {
            number: tf.cast(x, dtype)
            for number, x, dtype in zip(program.inputs, given, program.dtypes, strict=True)
        }
        for step in program.steps:
            values.update(step.run(self._standing(step.layer), values))
        outputs = [values[number] for number in program.outputs]
        return outputs if len(outputs) > 1 else outputs[0]

    def _standing(self, layer: Any) -> Any:
        return self.replaced.get(id(layer), layer)

    @property
    def layers(self) -> list[Any]:
        """The layers in topological order, those of models in the model too."""
        return [self._standing(step.layer) for step in self._program.steps]

    @property
    def trainable_variables(self) -> list[Any]:
        """The trainable variables of the replacements."""
        return [v for layer in self.replaced.values() for v in layer.trainable_variables]

    def get_weights(self) -> list[np.ndarray]:
        """Return the weights of the replacements."""
        return [w for layer in self.replaced.values() for w in layer.get_weights()]

    def set_weights(self, weights: list[np.ndarray]) -> None:
        """Assign what `get_weights` returned."""
        rest = iter(weights)
        for layer in self.replaced.values():
            layer.set_weights([next(rest) for _ in layer.get_weights()])
