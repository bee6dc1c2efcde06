"""Deep k-means: rows of kernels are drawn together in training, then shared."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from kerasq.codebooks.blocks import decoded, shipped, vectors_of
from kerasq.codebooks.cloning import clone_with_replacements
from kerasq.codebooks.compress import sites_of
from kerasq.codebooks.finetuning import FineTuner, Stage
from kerasq.codebooks.method import CodebookSettings, Method
from kerasq.codebooks.program import Program
from kerasq.codebooks.registry import register_method
from kerasq.codebooks.row_clusters import (
    RegularizedNetwork,
    RowBasis,
    RowClusters,
    cluster_rows,
)
from kerasq.codebooks.selection import Selection, check_names, convolves, selected
from kerasq.codebooks.site import Site, Solution, weight_solution

VECTORS = ("row", "kernel")
MAX_CODEWORDS = 1 << 16


@register_method(
    "deep_kmeans",
    "Deep k-Means: Re-Training and Parameter Sharing with Harder Cluster Assignments for "
    "Compressing Deep Convolutions",
    "1806.09228",
)
class DeepKMeans(Method):
    r"""Deep k-means: the rows of kernels are drawn to their clusters in training, then shared.

    With the rows of a layer's kernels as columns of W, (s, n), training adds to the loss

    ``(λ/2) [tr(WᵀW) − tr(FᵀWᵀWF)]``, gradient ``λ W (I − FFᵀ)``

    F is the indicator of hard k-means, normalised (``F_ik = 1/√n_k`` for row i in cluster k): the
    bracket is the squared error of k-means, the gradient ``λ (w_i − c_{b_i})``. Every ``refresh``
    steps the rows are clustered anew. Then k-means, seeded by k-means++, gives the codewords and
    each row becomes the nearest. It trains on labels where data is (inputs, labels), otherwise
    against the float network's outputs.

    Args:
        codewords: K of a convolution: for all, or a dict from layer names (64 for those that it
            does not name). A layer with fewer rows takes as many as it has, with a warning.
        merge: share p of a layer's rows, those closest to their mean, that become one codeword,
            the first: for all convolutions, or a dict from layer names (0 for the others). The rest
            has K − 1.
        vectors: "row", s = the kernel's width, or "kernel", s = width · height.
        dense: K of scalar codewords of dense layers; None leaves these in float, as the paper does.
        layers: a dict from layer names, or a function of the layer, to False for those that stay
            float.
        relaxed: F is orthonormal, the top K right singular vectors of W, at first random: the
            paper's relaxation. It acts only where s >= K.
        strength: λ.
        steps: batches of training; 0 shares the rows of the network as it is and needs no data.
        refresh: steps from one F to the next; None is an epoch.
        learning_rate: of SGD with momentum 0.9, going down to zero as a cosine.
        batch_size: samples in a step.
        codebook_dtype: "float16" or "float32", the type of the codewords in the file.
        iterations: most iterations of k-means.
        seed: of k-means and of the order of the samples.

    Raises:
        ValueError: a setting out of range.

    Reference: Wu et al., Deep k-Means: Re-Training and Parameter Sharing with Harder Cluster
    Assignments for Compressing Deep Convolutions, arXiv:1806.09228

    Deviations: for K >= s the relaxed F makes the regularizer zero (W has rank s at most), so that
    the published recipe acts only through an F that is out of date: hard clusters are the default.
    The indices are stored in whole bits; the paper counts their entropy.
    """

    needs_moments = False

    def __init__(
        self,
        codewords: int | Mapping[str, int] = 64,
        merge: float | Mapping[str, float] = 0.0,
        vectors: str = "row",
        dense: int | None = None,
        layers: Selection = None,
        relaxed: bool = False,
        strength: float = 0.1,
        steps: int = 1000,
        refresh: int | None = None,
        learning_rate: float = 0.01,
        batch_size: int = 128,
        codebook_dtype: str = "float32",
        iterations: int = 50,
        seed: int = 0,
    ):
        self.codewords, self.merge, self.vectors = codewords, merge, vectors
        self.dense, self.layers, self.relaxed = dense, layers, relaxed
        self.strength, self.steps, self.refresh = strength, steps, refresh
        self.learning_rate, self.batch_size = learning_rate, batch_size
        self.codebook_dtype, self.iterations, self.seed = codebook_dtype, iterations, seed
        self._check()

    def _check(self) -> None:
        sizes = [*_values(self.codewords), *([] if self.dense is None else [self.dense])]
        for size in sizes:
            if not 1 <= size <= MAX_CODEWORDS:
                raise ValueError(f"DeepKMeans: codewords must be 1 to {MAX_CODEWORDS}, got {size}")
        for share in _values(self.merge):
            if not 0 <= share < 1:
                raise ValueError(f"DeepKMeans: merge is 0 to below 1, got {share}")
        if self.vectors not in VECTORS:
            raise ValueError(f"DeepKMeans: vectors is one of {VECTORS}, got {self.vectors!r}")
        if self.codebook_dtype not in ("float16", "float32"):
            raise ValueError(
                f"DeepKMeans: codebook_dtype is 'float16' or 'float32', got {self.codebook_dtype!r}"
            )
        if not self.strength >= 0:
            raise ValueError(f"DeepKMeans: strength must not be negative, got {self.strength}")
        least = {"steps": 0, "refresh": 1, "batch_size": 1, "iterations": 1}
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and value < low:
                raise ValueError(f"DeepKMeans: {name} must be at least {low}, got {value}")

    @property
    def needs_data(self) -> bool:
        """Retraining needs data."""
        return self.steps > 0

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def plan(self, layers: list[Any]) -> dict[str, CodebookSettings]:
        """Return the settings of the layers to compress, by name.

        Raises:
            ValueError: a name of a layer that is not there; ``relaxed`` where K > s; a layer whose
                rows are merged with one codeword for all.
        """
        for name in ("codewords", "merge"):
            given = getattr(self, name)
            if isinstance(given, Mapping):
                check_names(layers, given, f"DeepKMeans({name}=...)")
        return {
            layer.name: self._settings(layer)
            for layer in selected(layers, self.layers, "DeepKMeans")
            if convolves(layer) or self.dense is not None
        }

    def _settings(self, layer: Any) -> CodebookSettings:
        *window, channels, outputs = layer.kernel.shape
        length = math.prod(window) if self.vectors == "kernel" else [1, *window][-1]
        count = math.prod(window) * channels * outputs // length
        wanted = self._of(self.codewords, layer, 64) if convolves(layer) else self.dense
        merged = self._merged(layer, count)
        codewords = min(wanted, count - merged + min(merged, 1))
        if codewords < wanted:
            warnings.warn(
                f"layer {layer.name!r} has only {count} vectors, {merged} of them merged: it takes "
                f"{codewords} codewords, not {wanted}",
                stacklevel=4,
            )
        if merged and codewords < 2:
            raise ValueError(
                f"layer {layer.name!r}: merge takes one codeword: give it 2 or more, or merge=0"
            )
        if self.relaxed and codewords > length:
            raise ValueError(
                f"layer {layer.name!r}: relaxed clusters of vectors of {length} weights are at "
                f"most {length}, not {codewords}: the regularizer would be zero. Use "
                'relaxed=False, fewer codewords, or vectors="kernel"'
            )
        return CodebookSettings(
            length, codewords, self.codebook_dtype, order="channel", shared=True
        )

    def _merged(self, layer: Any, count: int) -> int:
        return round(self._of(self.merge, layer, 0.0) * count) if convolves(layer) else 0

    @staticmethod
    def _of(given: Any, layer: Any, otherwise: Any) -> Any:
        return given.get(layer.name, otherwise) if isinstance(given, Mapping) else given

    def prepare(self, model: Any, tuner: FineTuner) -> Any:
        """Return a copy of the model, retrained with the regularizer."""
        if not self.steps:
            return model
        trained = clone_with_replacements(model, {})[0]
        layers = [step.layer for step in sites_of(Program(trained))]
        plan = self.plan(layers)
        rng = np.random.default_rng(self.seed)
        parts = [self._part(x, plan[x.name], rng) for x in layers if x.name in plan]
        network = RegularizedNetwork(trained, parts)

        def after_step(step: int) -> None:
            every = self.refresh or max(1, len(tuner.inputs[0]) // self.batch_size)
            if (step + 1) % every == 0:
                network.refresh()

        stage = Stage(
            "deep_kmeans",
            self.steps,
            self.learning_rate,
            self.batch_size,
            schedule="cosine",
            training=True,
            loss="distillation" if tuner.labels is None else "labels",
        )
        tuner.run(
            network,
            stage,
            penalty=lambda: self.strength / 2 * network.scatter(),
            after_step=after_step,
        )
        return trained

    def _part(
        self, layer: Any, settings: CodebookSettings, rng: np.random.Generator
    ) -> RowClusters | RowBasis:
        length, codewords = settings.subvector, settings.codewords
        if self.relaxed:
            return RowBasis(layer, length, codewords, rng)
        merged = self._merged(layer, math.prod(layer.kernel.shape) // length)
        return RowClusters(layer, length, codewords, merged, self.iterations, rng)

    def solve(self, site: Site, rng: np.random.Generator) -> Solution:
        """Share the rows of one layer.

        Raises:
            ValueError: weights too large for float16.
        """
        kernel, settings = site.kernel, site.settings
        rows = vectors_of(kernel, settings.subvector)
        merged = self._merged(site.layer, len(rows))
        centroids, members = cluster_rows(rows, settings.codewords, merged, self.iterations, rng)
        codewords = shipped(centroids, settings.codebook_dtype).astype(np.float32)
        dtype = np.uint8 if len(codewords) <= 256 else np.uint16
        assignments = members.reshape(-1, kernel.shape[-1]).astype(dtype)
        weights = {"codewords": codewords, "assignments": assignments}
        return weight_solution(weights, kernel, decoded(codewords, assignments, kernel.shape))


def _values(given: Any) -> list[Any]:
    return list(given.values()) if isinstance(given, Mapping) else [given]
