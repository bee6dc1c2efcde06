"""Permute, quantize, and fine-tune."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from kerasq.codebooks.blocks import BlockMethod, Choice, decoded, shipped, vectors_of, weights_of
from kerasq.codebooks.channels import channel_groups
from kerasq.codebooks.cloning import clone_with_replacements
from kerasq.codebooks.compress import sites_of
from kerasq.codebooks.finetuning import FineTuner, Stage
from kerasq.codebooks.kmeans import assign, kmeans
from kerasq.codebooks.method import CodebookSettings
from kerasq.codebooks.permutation import Consumer, best_order
from kerasq.codebooks.program import Program
from kerasq.codebooks.registry import register_method
from kerasq.codebooks.site import Site, Solution, weight_solution

_JITTER = 1e-5
_SPLIT = 0.1


@register_method("pqf", "Permute, Quantize, and Fine-tune", "2010.15703")
class PQF(BlockMethod):
    r"""Permute, quantize and fine-tune: channels change places before blocks become codewords.

    Blocks and codebooks are those of `BitGoesDown`. The outputs of a layer and the inputs of all
    that read them are permuted together, which leaves the network's function as it is, so that
    ``Σ size · K^(−2/d) · det(Cov(blocks))^(1/d)`` over the layers that read them is small: for one
    layer, the determinant. A greedy order is improved by random swaps. The blocks are clustered by
    k-means with falling noise, ``D_k = mean{v_i + √(1 − t/T) ε_i : b_i = k}``, ``ε ~ N(0, σ²)``,
    then by plain k-means. At the end all weights are trained by Adam, its rate falling from
    ``rate`` to 1e-6 along a cosine, on labels; against the float network's outputs where there are
    no labels. The gradient of a codeword is the sum over its members.

    Channels are not permuted where that is not known to be safe: before a Flatten of several
    positions, a Concatenate, a grouped convolution, a layer of a kind not known, or at an input or
    output of the network.

    Args:
        conv: d of a 3x3 convolution, a multiple of 9, as of `BitGoesDown`.
        pointwise: d of a 1x1 convolution.
        dense: d of a dense layer.
        codewords: K.
        classifier: K of the last layer, where it is dense.
        clamp: of K, as of `BitGoesDown`.
        compress_first: compress the first convolution too.
        layers: settings of single layers, as of `BitGoesDown`.
        swaps: random swaps tried for each group of channels; 0 does not permute at all.
        iterations: T, of the noisy k-means; the paper takes 1000 for ResNet-50.
        polish: most iterations of plain k-means after it.
        steps: batches of training; the paper takes 9 epochs of ImageNet, 90000. 0 needs no data.
        rate: learning rate at the start.
        batch_size: of training.
        codebook_dtype: "float16" or "float32"; the assignments are found for rounded codewords.
        seed: of everything random.

    Raises:
        ValueError: a setting out of range.

    Reference: Martinez et al., Permute, Quantize, and Fine-tune: Efficient Compression of Neural
    Networks, arXiv:2010.15703

    Deviations: the noise is drawn for the mean of a cluster of n at once, from N(0, σ² / n), which
    is the same distribution. Far fewer steps of training by default. An order that is no better
    than that of now is not taken.
    """

    gradient = "sum"
    needs_moments = False

    def __init__(
        self,
        conv: int = 9,
        pointwise: int = 4,
        dense: int = 4,
        codewords: int = 256,
        classifier: int = 2048,
        clamp: str = "pqf",
        compress_first: bool = False,
        layers: Mapping[str, Choice] | Callable[[Any], Choice] | None = None,
        swaps: int = 10000,
        iterations: int = 100,
        polish: int = 25,
        steps: int = 1000,
        rate: float = 1e-3,
        batch_size: int = 128,
        codebook_dtype: str = "float16",
        seed: int = 0,
    ):
        self.conv, self.pointwise, self.dense = conv, pointwise, dense
        self.codewords, self.classifier, self.clamp = codewords, classifier, clamp
        self.compress_first, self.layers = compress_first, layers
        self.swaps, self.iterations, self.polish = swaps, iterations, polish
        self.steps, self.rate, self.batch_size = steps, rate, batch_size
        self.codebook_dtype, self.seed = codebook_dtype, seed
        self._check()
        if polish < 1 or swaps < 0 or steps < 0:
            raise ValueError(
                f"PQF: polish must be at least 1, swaps and steps at least 0, got {polish}, "
                f"{swaps} and {steps}"
            )

    @property
    def needs_data(self) -> bool:
        """Training looks at data, clustering does not."""
        return self.steps > 0

    def prepare(self, model: Any, tuner: FineTuner) -> Any:
        """Return the network with its channels permuted."""
        if not self.swaps:
            return model
        permuted = clone_with_replacements(model, {})[0]
        program = Program(permuted)
        plan = self.plan([step.layer for step in sites_of(program)])
        groups = channel_groups(program)
        for number, group in enumerate(groups):
            consumers = list(filter(None, (_consumer(layer, plan) for layer in group.readers)))
            if consumers:
                tuner.show(f"channels: group {number + 1} of {len(groups)}")
                rng = np.random.default_rng([self.seed, 1, number])
                group.permute(best_order(consumers, self.swaps, rng))
        return permuted

    def solve(self, site: Site, rng: np.random.Generator) -> Solution:
        """Find codewords and assignments of one layer.

        Raises:
            ValueError: weights too large for float16.
        """
        kernel, settings = site.kernel, site.settings
        vectors = vectors_of(kernel, settings.subvector)
        start = annealed_kmeans(vectors, settings.codewords, self.iterations, rng)
        found = kmeans(vectors, start, self.polish)
        codewords = shipped(found.centroids, settings.codebook_dtype)
        nearest, _ = assign(vectors, codewords.astype(np.float64))
        assignments = nearest.reshape(-1, kernel.shape[-1])
        weights = weights_of(codewords, assignments)
        hat = decoded(codewords, assignments, kernel.shape)
        return weight_solution(weights, kernel, hat, tuple(found.history))

    def finish(self, compressed: Any, tuner: FineTuner) -> None:
        """Train all weights; the assignments stay."""
        stage = Stage(
            "fine-tuning",
            self.steps,
            self.rate,
            self.batch_size,
            optimizer="adam",
            schedule="cosine",
            final_rate=min(1e-6, self.rate),
            training=True,
            loss="distillation" if tuner.labels is None else "labels",
        )
        if self.steps:
            tuner.run(compressed, stage)


def annealed_kmeans(
    vectors: np.ndarray, codewords: int, iterations: int, rng: np.random.Generator
) -> np.ndarray:
    """Return codewords (K, d) of k-means with noise that falls to zero: SR-C.

    ``D_k = mean{v_i + √(1 − t/T) ε_i : b_i = k}`` for t = 0 ... T, with ``ε ~ N(0, σ²)`` and σ the
    standard deviation of each coordinate. An empty cluster takes the most used codeword, moved
    along all coordinates by one draw of N(0, 0.1²).

    Args:
        vectors: v, (n, d).
        codewords: K, which start as vectors drawn without replacement.
        iterations: T.
        rng: generator.
    """
    book = vectors[rng.choice(len(vectors), codewords, replace=False)]
    book = book + rng.normal(0, _JITTER, book.shape)
    deviation = vectors.std(0)
    for t in range(iterations + 1):
        nearest, _ = assign(vectors, book)
        counts = np.bincount(nearest, minlength=codewords)
        sums = np.stack([np.bincount(nearest, column, codewords) for column in vectors.T], 1)
        size = np.maximum(counts, 1)[:, None]
        noise = rng.normal(size=book.shape) * deviation / np.sqrt(size)
        book = sums / size + np.sqrt(1 - t / iterations) * noise
        for k in np.flatnonzero(counts == 0):
            book[k] = book[counts.argmax()] + rng.normal(0, _SPLIT)
    return book


def _consumer(layer: Any, plan: dict[str, CodebookSettings]) -> Consumer | None:
    """Return a layer for the search; None where the order of its channels does not matter."""
    settings = plan.get(layer.name)
    if settings is None:
        return None
    kernel = np.asarray(tf.convert_to_tensor(layer.kernel))
    taps = int(np.prod(kernel.shape[:-2]))
    in_block, rest = divmod(settings.subvector, taps)
    if rest or kernel.shape[-2] % in_block or in_block in (1, kernel.shape[-2]):
        return None
    return Consumer(kernel, settings.subvector, settings.codewords)
