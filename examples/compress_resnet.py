"""A trained residual network, compressed with codebooks, as a file. About a minute.

    python examples/compress_resnet.py

No training is needed for the compression: only a few hundred images without labels. The plain
k-means of the weights is compared with codewords that correct the errors of the responses.
"""

from __future__ import annotations

import kerasq
from kerasq.benchmark.digits import accuracy, digits, float_network, train
from kerasq.codebooks import QCNN, compress
from kerasq.keras import keras


def main() -> None:
    keras.utils.set_random_seed(0)
    data = digits()
    model = train(float_network(), data, epochs=15)
    print(f"float: {accuracy(model.predict(data.x_test, verbose=0), data.y_test):.1f} %")

    for correction in (False, True):
        method = QCNN(subvector=4, codewords=16, error_correction=correction)
        small = compress(model, data.x_train[:500], method)
        content = kerasq.convert(small)
        logits = kerasq.Interpreter(model_content=content).predict(data.x_test)
        name = "error-corrected" if correction else "plain k-means"
        print(f"{name}: {accuracy(logits, data.y_test):.1f} % in the runtime, {len(content)} bytes")

    kerasq.summary(small)
    print(f"the float file has {len(kerasq.convert(model))} bytes")


if __name__ == "__main__":
    main()
