"""Deep Compression: pruned weights, and a codebook of scalars for those that are left."""

from __future__ import annotations

import inspect
import numbers
from collections.abc import Mapping
from typing import Any

import numpy as np

from kerasq.codebooks.cloning import clone_with_replacements
from kerasq.codebooks.compress import sites_of
from kerasq.codebooks.finetuning import FineTuner, Stage
from kerasq.codebooks.kmeans import assign, kmeans
from kerasq.codebooks.method import CodebookSettings, Method
from kerasq.codebooks.program import Program
from kerasq.codebooks.pruning import Pruner, quality_sparsity
from kerasq.codebooks.registry import register_method
from kerasq.codebooks.selection import check_names, convolves
from kerasq.codebooks.site import Site, Solution, weight_solution

INITIALIZATIONS = ("linear", "density", "random")
_MOST_BITS = 16
_FLOAT16_LARGEST = 6e4


@register_method(
    "deep_compression",
    "Deep Compression: Compressing Deep Neural Networks with Pruning, Trained Quantization and "
    "Huffman Coding",
    "1510.00149",
)
class DeepCompression(Method):
    r"""Deep Compression: prune, retrain, share weights, fine-tune the shared values.

    Prune: the smallest weights of a layer become zero, on a schedule and for good, while the others
    are trained. Share: the others become the nearest of a layer's ``K − 1`` centroids,
    ``Ŵ = C[I]`` with ``C[0] = 0`` for the pruned ones, by scalar k-means. Fine-tune:
    ``∂L/∂C[k] = Σ_{i: I_i = k} ∂L/∂W_i`` with I fixed, zeros stay zero. Biases stay float. All
    training is on labels where data is (inputs, labels), otherwise against the float network's
    outputs.

    Args:
        sparsity: final share of zeros of a layer: a number, or a dict from layer names (those it
            does not name are not pruned).
        quality: takes the place of ``sparsity``: weights below ``quality · std(kernel)`` in
            magnitude are pruned, the first paper's rule; a number or a dict likewise.
        conv_bits: b of convolutions; ``K = 2^b`` codewords, of which one is the zero: 2^b − 1 for
            the weights that are left. A layer in which fewer are left takes as many.
        dense_bits: b of dense layers.
        layers: b of single layers, by name; False leaves a layer in float and unpruned.
        initialization: of the centroids: "linear" (equally spaced from the smallest weight to the
            largest), "density" (quantiles (k + ½) / (K − 1)) or "random" (weights).
        codebook_dtype: "float16" or "float32", the type of the codewords in the file.
        iterations: most iterations of k-means.
        prune_steps: batches until the final sparsity; 0 prunes at once.
        prune_updates: in how many steps the sparsity rises.
        retrain_steps: batches after that, before the weights are shared.
        finetune_steps: batches of training the centroids, biases and normalizations.
        learning_rate: of pruning and retraining, going down to zero as a cosine.
        centroid_rate: of the fine-tuning, likewise.
        optimizer: "adam" or "sgd", with momentum 0.9.
        weight_decay: while pruning and retraining.
        batch_size: images in a step.
        seed: of the order of the images, and of "random".

    Raises:
        ValueError: a setting out of range.

    References: Han et al., Deep Compression, arXiv:1510.00149; Han et al., Learning both Weights
    and Connections, arXiv:1506.02626; Zhu and Gupta, To prune, or not to prune, arXiv:1710.01878

    Deviations: sparsity rises by the schedule of Zhu and Gupta where the paper alternates pruning
    and retraining by hand; Adam by default; BatchNormalization and Dropout work as at inference;
    the zero is one of the 2^b codewords, as in the published files.
    """

    needs_moments = False

    def __init__(
        self,
        sparsity: float | Mapping[str, float] = 0.9,
        quality: float | Mapping[str, float] | None = None,
        conv_bits: int = 8,
        dense_bits: int = 5,
        layers: Mapping[str, int | bool] | None = None,
        initialization: str = "linear",
        codebook_dtype: str = "float16",
        iterations: int = 50,
        prune_steps: int = 1000,
        prune_updates: int = 20,
        retrain_steps: int = 1000,
        finetune_steps: int = 1000,
        learning_rate: float = 1e-3,
        centroid_rate: float = 1e-4,
        optimizer: str = "adam",
        weight_decay: float = 0.0,
        batch_size: int = 128,
        seed: int = 0,
    ):
        self.sparsity, self.quality, self.layers = sparsity, quality, layers
        self.conv_bits, self.dense_bits = conv_bits, dense_bits
        self.initialization, self.codebook_dtype = initialization, codebook_dtype
        self.iterations = iterations
        self.prune_steps, self.prune_updates = prune_steps, prune_updates
        self.retrain_steps, self.finetune_steps = retrain_steps, finetune_steps
        self.learning_rate, self.centroid_rate = learning_rate, centroid_rate
        self.optimizer, self.weight_decay = optimizer, weight_decay
        self.batch_size, self.seed = batch_size, seed
        self._check()

    def _check(self) -> None:
        for share in _values(self.sparsity):
            if not 0 <= share < 1:
                raise ValueError(f"DeepCompression: sparsity is 0 to below 1, got {share}")
        for quality in _values(self.quality):
            if not quality >= 0:
                raise ValueError(f"DeepCompression: quality must not be negative, got {quality}")
        if not isinstance(self.layers, Mapping | None):
            raise TypeError(
                f"DeepCompression: layers is a {type(self.layers).__name__}: pass a dict from "
                "layer names to bits, or False"
            )
        widths = [bits for bits in _values(self.layers) if bits is not False]
        for bits in (self.conv_bits, self.dense_bits, *widths):
            if not isinstance(bits, numbers.Integral):
                raise TypeError(f"DeepCompression: bits are whole numbers, got {bits!r}")
            if isinstance(bits, bool) or not 1 <= bits <= _MOST_BITS:
                raise ValueError(f"DeepCompression: bits are 1 to {_MOST_BITS}, got {bits}")
        for name, known in (
            ("initialization", INITIALIZATIONS),
            ("codebook_dtype", ("float16", "float32")),
            ("optimizer", ("adam", "sgd")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"DeepCompression: {name} is one of {known}, got {getattr(self, name)!r}"
                )
        least = {"iterations": 1, "prune_updates": 1, "batch_size": 1}
        for name in ("prune_steps", "retrain_steps", "finetune_steps", *least):
            if getattr(self, name) < least.get(name, 0):
                raise ValueError(f"DeepCompression: {name} must be at least {least.get(name, 0)}")

    @property
    def needs_data(self) -> bool:
        """Training does, pruning at once and sharing do not."""
        return self.prune_steps + self.retrain_steps + self.finetune_steps > 0

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def plan(self, layers: list[Any]) -> dict[str, CodebookSettings]:
        """Return the settings of the layers to compress, by name.

        Raises:
            ValueError: an argument names a layer that is not there.
        """
        for argument in ("sparsity", "quality", "layers"):
            given = getattr(self, argument)
            if isinstance(given, Mapping):
                check_names(layers, given, f"DeepCompression({argument}=...)")
        bits = {layer.name: self._bits(layer) for layer in layers}
        return {
            layer.name: CodebookSettings(
                1,
                min(2 ** bits[layer.name], 1 + max(1, self._left(layer))),
                self.codebook_dtype,
                shared=True,
                fixed_zero=True,
            )
            for layer in layers
            if bits[layer.name] is not False
        }

    def _bits(self, layer: Any) -> int | bool:
        rule = self.conv_bits if convolves(layer) else self.dense_bits
        return (self.layers or {}).get(layer.name, rule)

    def _left(self, layer: Any) -> int:
        """Return how many weights of a layer pruning leaves."""
        size = int(np.prod(layer.kernel.shape))
        return size - round(self._final_sparsity(layer) * size)

    def _final_sparsity(self, layer: Any) -> float:
        given = self.sparsity if self.quality is None else self.quality
        value = given.get(layer.name, 0.0) if isinstance(given, Mapping) else given
        if self.quality is None:
            return value
        share = quality_sparsity(np.asarray(layer.kernel), value)
        if share == 1:
            raise ValueError(
                f"layer {layer.name!r}: quality {value} prunes all of its weights: lower it"
            )
        return share

    def prepare(self, model: Any, tuner: FineTuner) -> Any:
        """Return a copy of the network, pruned and retrained."""
        pruned = clone_with_replacements(model, {})[0]
        layers = [step.layer for step in sites_of(Program(pruned))]
        chosen = self.plan(layers)
        targets = [(x, self._final_sparsity(x)) for x in layers if x.name in chosen]
        pruner = Pruner(targets, self.prune_steps, self.prune_updates)
        steps = self.prune_steps + self.retrain_steps
        if steps == 0:
            pruner.start()
            return pruned
        stage = self._stage("prune", steps, self.learning_rate, tuner, self.weight_decay)
        tuner.run(pruned, stage, on_start=pruner.start, after_step=pruner.after_step)
        return pruned

    def solve(self, site: Site, rng: np.random.Generator) -> Solution:
        """Share the weights of one pruned layer: scalar k-means on those that are not zero."""
        kernel, settings = site.kernel, site.settings
        if settings.codebook_dtype == "float16" and np.abs(kernel).max() > _FLOAT16_LARGEST:
            raise ValueError(
                f"weights up to {np.abs(kernel).max():.3g} do not fit into float16 codewords: use "
                'codebook_dtype="float32"'
            )
        values = kernel[kernel != 0].astype(np.float64)
        centroids, history = shared_values(
            values, settings.codewords - 1, self.initialization, self.iterations, rng
        )
        codewords = np.zeros((1, settings.codewords, 1), np.float32)
        codewords[0, 1 : 1 + len(centroids), 0] = centroids.astype(settings.codebook_dtype)
        assignments = np.zeros(kernel.shape, np.min_scalar_type(settings.codewords - 1))
        if len(values):
            rounded = codewords[0, 1 : 1 + len(centroids)].astype(np.float64)
            assignments[kernel != 0] = 1 + assign(values[:, None], rounded)[0]
        weights = {"codewords": codewords, "assignments": assignments}
        return weight_solution(weights, kernel, codewords[0, :, 0][assignments], history)

    def finish(self, compressed: Any, tuner: FineTuner) -> None:
        """Train the centroids, in place."""
        if self.finetune_steps:
            stage = self._stage("centroids", self.finetune_steps, self.centroid_rate, tuner)
            tuner.run(compressed, stage)

    def _stage(
        self, name: str, steps: int, rate: float, tuner: FineTuner, weight_decay: float = 0.0
    ) -> Stage:
        return Stage(
            f"deep_compression {name}",
            steps,
            rate,
            self.batch_size,
            self.optimizer,
            weight_decay=weight_decay,
            schedule="cosine",
            loss="distillation" if tuner.labels is None else "labels",
        )


def shared_values(
    values: np.ndarray,
    count: int,
    initialization: str,
    iterations: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, tuple[float, ...]]:
    """Return centroids of scalars, and the squared errors of the half-steps of k-means.

    Where there are no more different values than centroids, the values are the centroids.

    Args:
        values: (n,).
        count: most centroids.
        initialization: "linear", "density" or "random".
        iterations: most iterations of k-means.
        rng: generator of "random".
    """
    different = np.unique(values)
    if len(different) <= count:
        return different, (0.0,)
    if initialization == "linear":
        start = np.linspace(values.min(), values.max(), count)
    elif initialization == "density":
        start = np.quantile(values, (np.arange(count) + 0.5) / count)
    else:
        start = rng.choice(different, count, replace=False)
    clusters = kmeans(values[:, None], start[:, None], iterations)
    return clusters.centroids[:, 0], tuple(clusters.history)


def _values(argument: Any) -> list[Any]:
    if isinstance(argument, Mapping):
        return list(argument.values())
    return [] if argument is None else [argument]
