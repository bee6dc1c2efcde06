"""kerasq's quantizers in TensorFlow Model Optimization. Under a minute.

    python examples/tfmot_quantize_configs.py

A float network is trained, annotated with a QuantizeConfig for each layer, trained a little more
with its weights quantized, and exported with them packed.
"""

from __future__ import annotations

import kerasq  # before TensorFlow: selects Keras 2, which TFMOT needs
from kerasq.keras import keras  # isort: split

import numpy as np
from sklearn.datasets import load_digits
from tensorflow_model_optimization.quantization.keras import (
    quantize_annotate_layer,
    quantize_apply,
)


def annotate(layer: keras.layers.Layer) -> keras.layers.Layer:
    """Choose ternary weights for convolutions, 4-bit weights for dense layers."""
    if isinstance(layer, keras.layers.Conv2D):
        config = kerasq.tfmot.QuantizeConfig(weight="twn")
    elif isinstance(layer, keras.layers.Dense):
        weight = {"class_name": "dorefa_weights", "config": {"bits": 4}}
        config = kerasq.tfmot.QuantizeConfig(weight=weight)
    else:
        return layer
    return quantize_annotate_layer(layer, config)


def fit(model: keras.Model, x: np.ndarray, y: np.ndarray, epochs: int, rate: float) -> None:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
    model.fit(x, y, batch_size=64, epochs=epochs, verbose=2)


def main() -> None:
    keras.utils.set_random_seed(0)
    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8, 1) / 8 - 1).astype("float32")
    x, y, x_test, y_test = images[:1300], labels[:1300], images[1300:], labels[1300:]

    model = keras.Sequential(
        [
            keras.layers.Input((8, 8, 1)),
            keras.layers.Conv2D(32, 3, padding="same", activation="relu"),
            keras.layers.Conv2D(64, 3, strides=2, padding="same", activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )
    fit(model, x, y, epochs=8, rate=0.003)
    annotated = keras.models.clone_model(model, clone_function=annotate)
    with kerasq.tfmot.quantize_scope():
        quantized = quantize_apply(annotated)
    fit(quantized, x, y, epochs=8, rate=0.003)

    kerasq.summary(quantized)
    content = kerasq.convert(quantized)
    logits = kerasq.Interpreter(model_content=content).predict(x_test)
    in_keras = quantized.predict(x_test, verbose=0)
    print(f"{len(y_test)} test images: {np.mean(in_keras.argmax(-1) == y_test):.1%} in Keras,")
    print(f"{np.mean(logits.argmax(-1) == y_test):.1%} in the stock runtime")


if __name__ == "__main__":
    main()
