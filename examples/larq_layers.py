"""kerasq's quantizers in larq's layers, and larq's models in kerasq's files. Under a minute.

python examples/larq_layers.py
"""

from __future__ import annotations

import kerasq  # before larq: selects Keras 2, which larq needs
from kerasq.keras import keras  # isort: split

import larq
import numpy as np
from sklearn.datasets import load_digits


def main() -> None:
    keras.utils.set_random_seed(0)
    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8, 1) / 8 - 1).astype("float32")
    x, y, x_test, y_test = images[:1300], labels[:1300], images[1300:], labels[1300:]

    ternary = kerasq.quantizers.get("twn")
    model = keras.Sequential(
        [
            keras.layers.Input((8, 8, 1)),
            larq.layers.QuantConv2D(64, 3, kernel_quantizer=ternary, padding="same"),
            keras.layers.BatchNormalization(momentum=0.9),
            larq.layers.QuantConv2D(
                64,
                3,
                strides=2,
                padding="same",
                input_quantizer=kerasq.quantizers.get("ste_sign"),
                kernel_quantizer=kerasq.quantizers.get("bwn"),
                kernel_constraint="weight_clip",
            ),
            keras.layers.BatchNormalization(momentum=0.9),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    rate = keras.optimizers.schedules.CosineDecay(0.01, decay_steps=20 * 21)
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
    model.fit(x, y, batch_size=64, epochs=20, verbose=2)

    larq.models.summary(model)  # what the layers should weigh
    kerasq.summary(model)  # what they weigh in the file
    content = kerasq.convert(model)
    logits = kerasq.Interpreter(model_content=content).predict(x_test)
    in_keras = model.predict(x_test, verbose=0)
    print(f"{len(y_test)} test images: {np.mean(in_keras.argmax(-1) == y_test):.1%} in Keras,")
    print(f"{np.mean(logits.argmax(-1) == y_test):.1%} in the stock runtime")


if __name__ == "__main__":
    main()
