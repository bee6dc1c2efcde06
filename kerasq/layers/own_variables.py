"""Saving the variables of a layer by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf


class OwnVariables:
    """Mixed into a Keras layer whose kernel is made of other variables.

    They are saved by name: the layers of Keras 3 know only a kernel and a bias. The layer has a
    method ``_own_variables()``, which returns them by name, none before it is built.
    """

    def save_own_variables(self, store: Any) -> None:
        """Save by name."""
        for name, variable in self._own_variables().items():
            store[name] = np.asarray(tf.convert_to_tensor(variable))

    def load_own_variables(self, store: Any) -> None:
        """Load what `save_own_variables` saved.

        Raises:
            ValueError: the file has other variables.
        """
        variables = self._own_variables()
        if set(store.keys()) != set(variables):
            raise ValueError(
                f"layer {self.name!r} has the weights {sorted(variables)}, but the file has "
                f"{sorted(store.keys())}: load it into a model of the same configuration"
            )
        for name, variable in variables.items():
            variable.assign(np.asarray(store[name]))
