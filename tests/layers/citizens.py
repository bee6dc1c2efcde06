"""A network of every quantizer in our layers, and what needs a process of its own to test it.

``python -m tests.layers.citizens mirrored|deterministic NAME...`` prints "passed" or fails.
"""

from __future__ import annotations

import sys

import numpy as np
import tensorflow as tf

from kerasq import layers, quantizers
from kerasq.keras import keras
from tests.layers.learned import LearnedScale

WEIGHTS = [n for n, e in quantizers.catalogue().items() if e.target in ("weights", "both")]
# What quantizes gradients stands in the place of an activation quantizer.
ACTIVATIONS = [n for n, e in quantizers.catalogue().items() if e.target != "weights"]
LEARNED = [n for n, e in quantizers.catalogue().items() if e.learnable]
KINDS = {
    "QuantDense": lambda **q: layers.QuantDense(4, **q),
    "QuantConv2D": lambda **q: layers.QuantConv2D(4, 3, padding="same", pad_values=1.0, **q),
    "QuantDepthwiseConv2D": lambda **q: layers.QuantDepthwiseConv2D(3, **q),
}
SHAPE = (6, 6, 4)


def has_state(name):
    """Tell whether a quantizer has variables."""
    q = quantizers.get(name)
    q.build((3, 3, 4, 4))
    return bool(q.weights)


def uses_of(names):
    """Pairs of a quantizer and what a layer has it for."""
    return [(n, "kernel") for n in names if n in WEIGHTS or n == LearnedScale.__name__] + [
        (n, "input") for n in names if n in ACTIVATIONS or n == LearnedScale.__name__
    ]


def network(names):
    """Every quantizer in a branch of its own, the kinds of layers in turn; one output each."""
    inputs = keras.Input(SHAPE)
    outputs = []
    for i, (name, place) in enumerate(uses_of(names)):
        kind = list(KINDS)[i % len(KINDS)]
        layer = KINDS[kind](**{f"{place}_quantizer": name, "name": f"{name}_{place}"})
        outputs.append(keras.layers.GlobalAveragePooling2D()(layer(inputs)))
    return keras.Model(inputs, keras.layers.Concatenate(name="branches")(outputs))


def branches(names, outputs):
    """The parts of an output, by quantizer and place."""
    return dict(zip(uses_of(names), np.split(outputs, len(uses_of(names)), axis=-1), strict=True))


def data(count=16):
    rng = np.random.default_rng(3)
    return rng.normal(0, 1, (count, *SHAPE)).astype(np.float32)


def compiled(names, **kwargs):
    """A network and its labels; the same weights each time."""
    keras.utils.set_random_seed(5)
    model = network(names)
    model.compile(keras.optimizers.SGD(0.1), "mse", **kwargs)
    return model, np.ones((16, model.output_shape[-1]), np.float32)


def values_of_replicas(variable):
    variable = getattr(variable, "_value", variable)  # of a variable of Keras 3
    return [v.numpy() for v in getattr(variable, "values", [variable])]


def mirrored(names):
    """One step on two replicas: every variable is the same on both."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        model, y = compiled(names)
    before = {v.name: values_of_replicas(v)[0] for v in model.weights}
    loss = model.fit(data(), y, batch_size=16, verbose=0).history["loss"][0]
    assert np.isfinite(loss), loss
    for variable in model.weights:
        replicas = values_of_replicas(variable)
        assert len(replicas) == 2, f"{variable.name} is not mirrored"
        assert np.isfinite(replicas[0]).all(), variable.name
        np.testing.assert_array_equal(*replicas, err_msg=variable.name)
    assert any(not np.array_equal(values_of_replicas(v)[0], before[v.name]) for v in model.weights)


def deterministic(names):
    """Two runs of two steps give the same bits."""
    tf.config.experimental.enable_op_determinism()
    runs = []
    for _ in range(2):
        model, y = compiled(names)
        model.fit(data(), y, epochs=2, batch_size=16, verbose=0)
        runs.append([(v.name, np.asarray(v)) for v in model.weights])
    for (name, first), (_, second) in zip(*runs, strict=True):
        np.testing.assert_array_equal(first, second, err_msg=name)


if __name__ == "__main__":
    {"mirrored": mirrored, "deterministic": deterministic}[sys.argv[1]](sys.argv[2:])
    print("passed")
