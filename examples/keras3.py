"""The same layers under Keras 3: it is followed where it was imported first. Half a minute.

python examples/keras3.py
"""

from __future__ import annotations

import keras  # before kerasq, which follows it

import kerasq  # isort: skip
import numpy as np
from sklearn.datasets import load_digits


def main() -> None:
    print(f"kerasq runs with Keras {kerasq.keras_version()}")
    keras.utils.set_random_seed(0)
    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8, 1) / 8 - 1).astype("float32")
    x, y, x_test, y_test = images[:1300], labels[:1300], images[1300:], labels[1300:]

    image = keras.Input((8, 8, 1))
    features = keras.layers.Conv2D(32, 3, padding="same", activation="relu")(image)
    features = kerasq.layers.QuantConv2D(
        64, 3, strides=2, padding="same", kernel_quantizer="twn", activation="relu"
    )(features)
    features = keras.layers.GlobalAveragePooling2D()(features)
    model = keras.Model(image, kerasq.layers.QuantDense(10, kernel_quantizer="twn")(features))

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    model.fit(x, y, batch_size=64, epochs=15, verbose=2)

    kerasq.summary(model)
    content = kerasq.convert(model)
    logits = kerasq.Interpreter(model_content=content).predict(x_test)
    in_keras = model.predict(x_test, verbose=0)
    print(f"{len(y_test)} test images: {np.mean(in_keras.argmax(-1) == y_test):.1%} in Keras,")
    print(f"{np.mean(logits.argmax(-1) == y_test):.1%} in the stock runtime")


if __name__ == "__main__":
    main()
