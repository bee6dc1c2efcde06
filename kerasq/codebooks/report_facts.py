"""What is reported of a run of `compress`: errors, bytes by part, use of the codewords."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from kerasq.codebooks.finetuning import flat_layers
from kerasq.codebooks.method import LayerSettings
from kerasq.codebooks.site import Solution
from kerasq.representations import Codebook, Representation


@dataclasses.dataclass(frozen=True)
class LayerReport:
    """What became of one layer.

    Attributes:
        name: of the layer.
        settings: of the method's plan.
        solution: its new weights and their errors.
        seconds: taken; 0 where it was read from a checkpoint.
    """

    name: str
    settings: LayerSettings
    solution: Solution
    seconds: float

    def __str__(self) -> str:
        before, after = self.solution.error_before, self.solution.error_after
        change = f"{before:.3%}" if before == after else f"{before:.3%} -> {after:.3%}"
        spent = f"{self.seconds:.1f} s" if self.seconds else "from the checkpoint"
        return f"{self.name}: {self.settings}, error {change}, {spent}"


@dataclasses.dataclass(frozen=True)
class LayerFacts:
    """What the page tells of a layer.

    Attributes:
        report: settings, errors, objective and seconds.
        weights: elements of the kernel.
        indices: bytes of the assignments, or other codes, packed.
        codebooks: bytes of the codewords, or of scales.
        rest: bytes of the bias.
        usage: how often each codeword is used, (codebooks, K); None for kernels without codewords.
    """

    report: LayerReport
    weights: int
    indices: int
    codebooks: int
    rest: int
    usage: np.ndarray | None

    @property
    def name(self) -> str:
        """The layer's name."""
        return self.report.name

    @property
    def stored(self) -> int:
        """Bytes of all parts."""
        return self.indices + self.codebooks + self.rest

    @property
    def ratio(self) -> float:
        """How many times smaller the kernel is than in float32."""
        return 4 * self.weights / (self.indices + self.codebooks)

    @property
    def entropy(self) -> float | None:
        """Mean entropy of the assignments over ``log2 K``: 1 where all codewords serve alike."""
        if self.usage is None or self.usage.shape[1] < 2:
            return None
        share = self.usage / np.maximum(self.usage.sum(1, keepdims=True), 1)
        logs = np.log2(share, where=share > 0, out=np.zeros_like(share))
        return float(-(share * logs).sum(1).mean() / np.log2(self.usage.shape[1]))


@dataclasses.dataclass(frozen=True)
class Page:
    """What is reported of a run.

    Attributes:
        model: name of the network.
        method: name of the method, and its arguments.
        arguments: of the method's constructor.
        layers: the compressed ones, in order.
        float_bytes: of all weights of the float network.
        other_bytes: of the weights that stay float: other layers, normalizations.
        accuracy: top-1 of the float and of the compressed network, per cent; None without labels.
        samples: that the accuracy is of.
    """

    model: str
    method: str
    arguments: dict[str, Any]
    layers: list[LayerFacts]
    float_bytes: int
    other_bytes: int
    accuracy: tuple[float, float] | None
    samples: int


def facts(report: LayerReport, kernel: Any, layer: Any) -> LayerFacts:
    """Return what there is to tell of a layer.

    Args:
        report: of the layer.
        kernel: of the float layer.
        layer: its replacement.
    """
    kernels = list(_stored_kernels(layer))
    floats = sum(size for _, size, indexed in kernels if not indexed)
    indices = sum(size for _, size, indexed in kernels if indexed)
    bias = 0 if layer.bias is None else 4 * int(np.prod(layer.bias.shape))
    usage = [_usage(book) for book, _, indexed in kernels if indexed and isinstance(book, Codebook)]
    same = usage and all(counts.shape[1] == usage[0].shape[1] for counts in usage)
    weights = int(np.prod(tuple(kernel.shape)))
    joined = np.concatenate(usage) if same else None
    return LayerFacts(report, weights, indices, floats, bias, joined)


def _stored_kernels(layer: Any) -> Iterator[tuple[Any, int, bool]]:
    """Yield the arrays of a kernel as shipped: of what, bytes, and whether they are indices."""
    for form in _forms(layer):
        for field in dataclasses.fields(form):
            value = getattr(form, field.name)
            if isinstance(value, np.ndarray):
                yield form, value.nbytes, np.issubdtype(value.dtype, np.integer)


def _forms(layer: Any) -> list[Representation]:
    """Return the representations that a replacement's kernel is shipped as."""
    if hasattr(layer, "codebooks"):
        return layer.codebooks()
    for name in ("codebook", "hashed_kernel"):
        if hasattr(layer, name):
            return [getattr(layer, name)()]
    return [layer.kernel_quantizer.represent(layer.kernel)]


def _usage(book: Codebook) -> np.ndarray:
    """Count how often each codeword is used, (codebooks, K)."""
    books, size, _ = book.codewords.shape
    index = book.assignments().astype(np.int64)
    if books > 1:
        index += np.arange(books)[:, None] * size
    return np.bincount(index.ravel(), minlength=books * size).reshape(books, size)


def weight_bytes(model: Any) -> int:
    """Return the bytes of a network's weights in float32."""
    return 4 * sum(int(np.prod(w.shape)) for w in model.get_weights())


def accuracy_counts(
    model: Any, inputs: list[np.ndarray], labels: np.ndarray, batch_size: int
) -> int:
    """Count the samples whose class has the largest output.

    Args:
        model: of one output, (samples, classes).
        inputs: one array for each input of the model.
        labels: class numbers (N,) or (N, 1), or one-hot rows (N, classes).
        batch_size: samples at a time.
    """
    classes = labels.argmax(-1) if labels.ndim > 1 and labels.shape[-1] > 1 else labels.ravel()
    right = 0
    for start in range(0, len(classes), batch_size):
        batch = [tf.constant(x[start : start + batch_size]) for x in inputs]
        outputs = model(batch if len(batch) > 1 else batch[0], training=False)
        answers = np.asarray(outputs).argmax(-1)
        right += int((answers == classes[start : start + batch_size]).sum())
    return right


def classifies(model: Any) -> bool:
    """Tell whether a network has one output, of two classes or more."""
    shapes = [tuple(output.shape) for output in model.outputs]
    return len(shapes) == 1 and len(shapes[0]) == 2 and (shapes[0][-1] or 0) > 1


def other_bytes(compressed: Any, replaced: set[str]) -> int:
    """Return the bytes in float32 of the weights of the layers that were not replaced."""
    rest = {id(x): x for x in flat_layers(compressed) if x.name not in replaced}
    return 4 * sum(int(np.prod(w.shape)) for x in rest.values() for w in x.get_weights())
