"""A network of quantized layers: compile, fit, convert, run. Takes about half a minute.

    python examples/quickstart.py

scikit-learn's digits, 8x8 pixels; binary weights and inputs between a float first and last layer.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

import kerasq
from kerasq.keras import keras

layers = keras.layers
binary = {"input_quantizer": "ste_sign", "kernel_quantizer": "bwn", "padding": "same"}


def main() -> None:
    keras.utils.set_random_seed(0)
    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8, 1) / 8 - 1).astype("float32")
    x, y, x_test, y_test = images[:1300], labels[:1300], images[1300:], labels[1300:]

    model = keras.Sequential(
        [
            layers.Input((8, 8, 1)),
            layers.Conv2D(32, 3, padding="same"),
            layers.BatchNormalization(momentum=0.9),
            kerasq.layers.QuantConv2D(64, 3, **binary),
            layers.BatchNormalization(momentum=0.9),
            kerasq.layers.QuantConv2D(64, 3, strides=2, **binary),
            layers.BatchNormalization(momentum=0.9),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    model.fit(x, y, batch_size=64, epochs=15, verbose=2)

    kerasq.summary(model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "digits.tflite"
        kerasq.convert(model, path)
        logits = kerasq.Interpreter(model_path=str(path), num_threads=1).predict(x_test)

    in_keras = model.predict(x_test, verbose=0)
    print(f"{len(y_test)} test images: {np.mean(in_keras.argmax(-1) == y_test):.1%} in Keras,")
    print(f"{np.mean(logits.argmax(-1) == y_test):.1%} in the stock runtime")


if __name__ == "__main__":
    main()
