"""Real networks: the trained CIFAR-10 ResNet-20."""

from __future__ import annotations

import pytest

from kerasq.benchmark.networks import cifar10, resnet_cifar10
from kerasq.codebooks import QCNN, compress


def top1(model, data, count=None):
    logits = model.predict(data.x_test[:count], batch_size=250, verbose=0)
    return 100 * (logits.argmax(1) == data.y_test[:count]).mean()


def test_float_network_has_its_published_accuracy_here(data_dir):
    data = cifar10(data_dir / "cifar10.npz", train=1)
    model = resnet_cifar10(data_dir / "resnet_cifar10" / "resnet20.npz")
    assert model.name == "resnet20"
    assert top1(model, data) == pytest.approx(91.66, abs=0.05)


@pytest.mark.slow
def test_error_correction_of_resnet20(data_dir):
    """All 3x3 convolutions but the first, d=2, K=16: 12 times smaller."""
    data = cifar10(data_dir / "cifar10.npz", train=2000)
    model = resnet_cifar10(data_dir / "resnet_cifar10" / "resnet20.npz")
    rest = {"conv1": False, "linear": False}
    plain = compress(model, None, QCNN(2, 16, error_correction=False, layers=rest), verbose=False)
    small = compress(model, data.x_train, QCNN(2, 16, layers=rest), verbose=False)
    books = [layer.codebook() for layer in small.layers if hasattr(layer, "codebook")]
    kernels = [layer.kernel for layer in model.layers if layer.name.endswith(("conv1", "conv2"))]
    dense_bytes = 4 * sum(int(kernel.shape.num_elements()) for kernel in kernels[1:])
    assert dense_bytes > 12 * sum(book.nbytes for book in books)
    assert top1(plain, data) < 80
    assert top1(small, data) >= 90.0
