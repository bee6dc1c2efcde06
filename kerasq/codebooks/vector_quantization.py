"""Vector quantization of kernels by themselves: signs, scalars, products and residuals."""

from __future__ import annotations

import dataclasses
import inspect
import math
import warnings
from typing import Any

import numpy as np

from kerasq.codebooks.layout import KernelLayout
from kerasq.codebooks.method import CodebookSettings, LayerSettings, Method, config_without_kernel
from kerasq.codebooks.qcnn import subspace_kmeans
from kerasq.codebooks.registry import register_method
from kerasq.codebooks.selection import Selection, convolves, selected
from kerasq.codebooks.site import Site, Solution, weight_solution
from kerasq.layers import ResidualCodebookConv2D, ResidualCodebookDense

KINDS = ("binary", "scalar", "product", "residual")
MAX_CODEWORDS = 1 << 16
_FLOAT16_LARGEST = 6e4


@dataclasses.dataclass(frozen=True)
class ResidualSettings(LayerSettings):
    """A layer whose kernel becomes a sum of kernels made of codewords.

    Attributes:
        subvector: d.
        codewords: K.
        stages: T.
        codebook_dtype: "float32" or "float16".
        shared: one codebook for all sub-spaces of a stage.
    """

    subvector: int
    codewords: int
    stages: int
    codebook_dtype: str
    shared: bool

    def replacement(self, layer: Any) -> ResidualCodebookConv2D | ResidualCodebookDense:
        """Return an unbuilt layer of the layer's configuration."""
        cls = ResidualCodebookConv2D if convolves(layer) else ResidualCodebookDense
        return cls.from_config({**config_without_kernel(layer), **dataclasses.asdict(self)})

    def __str__(self) -> str:
        """Return d, K and T."""
        return f"d={self.subvector} K={self.codewords} T={self.stages}"


@register_method(
    "vector_quantization",
    "Compressing Deep Convolutional Networks using Vector Quantization",
    "1412.6115",
)
class VectorQuantization(Method):
    r"""Vector quantization of kernels by k-means on the weights, without data and training.

    - "binary": ``Ŵ = sign(W)``, +1 for 0.
    - "scalar": one codebook of K scalars for a layer, ``Ŵ = D[B]``.
    - "product": d consecutive input channels at a kernel position are a sub-vector; each sub-space
      m of input channels has a codebook of K codewords, ``Ŵ[p, m, c] = D[m, B[p, m, c]]``: Q-CNN
      without error correction.
    - "residual": T products, each of what the ones before it leave, ``Ŵ = Σ_t D_t[m, B_t[p, m,
      c]]``.

    With m outputs and n inputs, a dense layer in float takes ``32 / log2 K`` times the bits of
    "scalar", ``32 m n / (32 K n + log2 K · m n / d)`` times those of "product" and, with whole rows
    (d = n), ``m / (T K + log2 K · T m / (32 n))`` times those of "residual".

    Args:
        kind: one of these.
        subvector: d of "product" and "residual"; layers with fewer input channels (in a group) take
            those. None takes all input channels: the paper's "residual".
        codewords: K, 1 to 65536. A layer with fewer sub-vectors than K in a sub-space takes as many
            codewords as it has, with a warning.
        stages: T of "residual".
        shared: one codebook for all sub-spaces of "product" and "residual".
        scaled: "binary" times the mean of ``|W|``, which is nearest to W.
        dense_only: leave convolutions in float, as the paper does.
        codebook_dtype: "float16" or "float32", the type of the codewords in the file; the
            assignments are found for rounded codewords.
        layers: a dict from layer names, or a function of the layer, to False for those that stay
            float.
        iterations: most iterations of k-means.
        seed: of k-means.

    Raises:
        ValueError: a setting out of range.

    Reference: Gong et al., Compressing Deep Convolutional Networks using Vector Quantization,
    arXiv:1412.6115

    Deviations: convolutions are compressed too unless ``dense_only``; ``scaled`` and ``shared`` are
    not in the paper.
    """

    needs_data = False
    needs_moments = False

    def __init__(
        self,
        kind: str = "product",
        subvector: int | None = 4,
        codewords: int = 16,
        stages: int = 2,
        shared: bool = False,
        scaled: bool = False,
        dense_only: bool = False,
        codebook_dtype: str = "float32",
        layers: Selection = None,
        iterations: int = 25,
        seed: int = 0,
    ):
        self.kind, self.subvector, self.codewords, self.stages = kind, subvector, codewords, stages
        self.shared, self.scaled, self.dense_only = shared, scaled, dense_only
        self.codebook_dtype, self.layers = codebook_dtype, layers
        self.iterations, self.seed = iterations, seed
        self._check()

    def _check(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"VectorQuantization: kind is one of {KINDS}, got {self.kind!r}")
        if self.codebook_dtype not in ("float16", "float32"):
            raise ValueError(
                "VectorQuantization: codebook_dtype is 'float16' or 'float32', got "
                f"{self.codebook_dtype!r}"
            )
        if not 1 <= self.codewords <= MAX_CODEWORDS:
            raise ValueError(
                f"VectorQuantization: codewords must be 1 to {MAX_CODEWORDS}, got {self.codewords}"
            )
        for name in ("subvector", "stages", "iterations"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"VectorQuantization: {name} must be at least 1, got {value}")

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def plan(self, layers: list[Any]) -> dict[str, LayerSettings]:
        """Return the settings of the layers to compress, by name.

        Raises:
            ValueError: ``layers`` names a layer that is not there.
        """
        chosen = selected(layers, self.layers, "VectorQuantization")
        return {
            layer.name: self._settings(layer)
            for layer in chosen
            if not (self.dense_only and convolves(layer))
        }

    def _settings(self, layer: Any) -> LayerSettings:
        dtype = self.codebook_dtype
        if self.kind == "binary":
            return CodebookSettings(1, 2, dtype, shared=True)
        shape = tuple(layer.kernel.shape)
        if self.kind == "scalar":
            return CodebookSettings(1, self._clamped(layer, math.prod(shape)), dtype, shared=True)
        subvector = min(self.subvector or shape[-2], shape[-2])
        vectors = math.prod(shape) // shape[-2]
        vectors *= -(-shape[-2] // subvector) if self.shared else 1
        codewords = self._clamped(layer, vectors)
        if self.kind == "residual":
            return ResidualSettings(subvector, codewords, self.stages, dtype, self.shared)
        return CodebookSettings(subvector, codewords, dtype, shared=self.shared)

    def _clamped(self, layer: Any, vectors: int) -> int:
        if self.codewords > vectors:
            warnings.warn(
                f"layer {layer.name!r} has only {vectors} sub-vectors for a codebook: it takes "
                f"{vectors} codewords, not {self.codewords}",
                stacklevel=5,
            )
        return min(self.codewords, vectors)

    def solve(self, site: Site, rng: np.random.Generator) -> Solution:
        """Find codewords and assignments of one layer.

        Raises:
            ValueError: weights too large for float16.
        """
        kernel, settings = site.kernel, site.settings
        largest = np.abs(kernel).max()
        if settings.codebook_dtype == "float16" and largest > _FLOAT16_LARGEST:
            raise ValueError(
                f"weights up to {largest:.3g} do not fit into float16 codewords: use "
                'codebook_dtype="float32"'
            )
        if self.kind == "binary":
            return self._binary(kernel, settings)
        layout = KernelLayout(kernel.shape, settings.subvector, site.groups)
        if self.kind == "residual":
            return self._residual(kernel, layout, settings, rng)
        codewords, assignments = self._product(kernel, layout, settings, rng)
        return weight_solution(
            _weights(codewords, assignments), kernel, _decoded(layout, codewords, assignments)
        )

    def _binary(self, kernel: np.ndarray, settings: CodebookSettings) -> Solution:
        scale = np.abs(kernel).mean(dtype=np.float64) if self.scaled else 1.0
        levels = np.array([-scale, scale]).astype(settings.codebook_dtype).astype(np.float32)
        assignments = (kernel >= 0).astype(np.uint8)
        weights = {"codewords": levels.reshape(1, 2, 1), "assignments": assignments}
        return weight_solution(weights, kernel, levels[assignments])

    def _residual(
        self,
        kernel: np.ndarray,
        layout: KernelLayout,
        settings: ResidualSettings,
        rng: np.random.Generator,
    ) -> Solution:
        decoded, found, errors = np.zeros_like(kernel), [], []
        for _ in range(settings.stages):
            codewords, assignments = self._product(kernel - decoded, layout, settings, rng)
            decoded = decoded + _decoded(layout, codewords, assignments)
            found.append(_weights(codewords, assignments))
            errors.append(float(((kernel - decoded).astype(np.float64) ** 2).sum()))
        weights = {name: np.stack([stage[name] for stage in found]) for name in found[0]}
        return weight_solution(weights, kernel, decoded, tuple(errors))

    def _product(
        self,
        kernel: np.ndarray,
        layout: KernelLayout,
        settings: CodebookSettings | ResidualSettings,
        rng: np.random.Generator,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return codewords (M or 1, K, d) and assignments (P, M, Ct)."""
        cut = layout
        if settings.shared:
            # All sub-spaces as positions of one; a shorter last one is filled up with zeros.
            matrix = kernel.reshape(layout.positions, layout.channels, layout.outputs)
            missing = layout.subspaces * layout.subvector - layout.channels
            matrix = np.pad(matrix, ((0, 0), (0, missing), (0, 0)))
            kernel = matrix.reshape(-1, layout.subvector, layout.outputs)
            cut = KernelLayout(kernel.shape, layout.subvector)
        codewords, assignments = subspace_kmeans(
            kernel, cut, settings.codewords, self.iterations, rng, settings.codebook_dtype
        )
        return codewords, assignments.reshape(layout.positions, layout.subspaces, layout.outputs)


def _decoded(layout: KernelLayout, codewords: np.ndarray, assignments: np.ndarray) -> np.ndarray:
    shape = (layout.subspaces, *codewords.shape[1:])
    return layout.decode(np.broadcast_to(codewords, shape), assignments)


def _weights(codewords: np.ndarray, assignments: np.ndarray) -> dict[str, np.ndarray]:
    dtype = np.uint8 if codewords.shape[1] <= 256 else np.uint16
    return {"codewords": codewords, "assignments": assignments.astype(dtype)}
