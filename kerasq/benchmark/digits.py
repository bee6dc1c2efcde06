"""scikit-learn's digits, and the small networks that the demo trains on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kerasq.benchmark.networks import Images
from kerasq.keras import keras
from kerasq.layers import QuantConv2D

layers = keras.layers

WIDTHS = (32, 64)


def digits(test: int = 597, seed: int = 0) -> Images:
    """Return the 1797 handwritten digits, 8x8 pixels, in [-1, 1].

    Args:
        test: images that are kept for the test.
        seed: of the split.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "the digits come with scikit-learn: type pip install 'kerasq[demo]'"
        ) from error
    data = load_digits()
    order = np.random.default_rng(seed).permutation(len(data.target))
    x = (data.images[order, :, :, None] / 8 - 1).astype(np.float32)
    y = data.target[order].astype(np.int64)
    return Images(x[test:], y[test:], x[:test], y[:test])


def float_network(widths: Sequence[int] = WIDTHS) -> Any:
    """Return a small residual network: a stage of convolutions and one shortcut for each width."""
    image = layers.Input((8, 8, 1), name="image")
    x = _conv(image, widths[0], "stem")
    for stage, width in enumerate(widths):
        if stage > 0:
            x = _conv(x, width, f"down{stage}", strides=2)
        y = _conv(x, width, f"conv{stage}a")
        y = _conv(y, width, f"conv{stage}b", activation=False)
        x = layers.ReLU(name=f"relu{stage}")(layers.add([x, y], name=f"shortcut{stage}"))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dense(10, name="classifier")(x)
    return keras.Model(image, x, name="digits")


def _conv(x: Any, width: int, name: str, strides: int = 1, activation: bool = True) -> Any:
    conv = layers.Conv2D(width, 3, strides, padding="same", use_bias=False, name=name)
    x = layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(conv(x))
    return layers.ReLU(name=f"{name}_relu")(x) if activation else x


def binary_network(widths: Sequence[int] = WIDTHS) -> Any:
    """Return the network with binary inputs and weights in all but its first and last layer.

    Each binary convolution has a batch normalization behind it, and a shortcut around both, as
    such networks need; where the width doubles, the shortcut is pooled and doubled.
    """
    image = layers.Input((8, 8, 1), name="image")
    x = _conv(image, widths[0], "stem", activation=False)
    for stage, width in enumerate(widths):
        if stage > 0:
            pooled = layers.AveragePooling2D(2, padding="same", name=f"pool{stage}")(x)
            shortcut = layers.Concatenate(name=f"double{stage}")([pooled, pooled])
            x = _binary_conv(x, width, f"down{stage}", shortcut, strides=2)
        x = _binary_conv(x, width, f"conv{stage}a", x)
        x = _binary_conv(x, width, f"conv{stage}b", x)
    x = layers.ReLU(name="relu")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dense(10, name="classifier")(x)
    return keras.Model(image, x, name="digits_binary")


def _binary_conv(x: Any, width: int, name: str, shortcut: Any, strides: int = 1) -> Any:
    conv = QuantConv2D(
        width,
        3,
        strides,
        input_quantizer="ste_sign",
        kernel_quantizer="bwn",
        padding="same",
        pad_values=1.0,
        use_bias=False,
        name=name,
    )
    x = layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(conv(x))
    return layers.add([x, shortcut], name=f"{name}_shortcut")


def train(
    model: Any,
    data: Images,
    epochs: int,
    learning_rate: float = 0.003,
    callbacks: Sequence[Any] = (),
) -> Any:
    """Train a classifier by Adam with a cosine schedule, batches of 64; return the model."""
    batch = 64
    steps = epochs * -(-len(data.x_train) // batch)
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    model.compile(
        keras.optimizers.Adam(schedule),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(
        data.x_train,
        data.y_train,
        batch_size=batch,
        epochs=epochs,
        verbose=0,
        callbacks=list(callbacks),
    )
    return model


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the per cent of rows whose largest entry is the label."""
    return 100 * float(np.mean(np.asarray(logits).argmax(-1) == labels))
