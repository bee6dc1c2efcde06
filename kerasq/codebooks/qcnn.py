"""Q-CNN: product quantization of kernels with error correction."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from kerasq.codebooks.correction import ErrorCorrection
from kerasq.codebooks.kmeans import assign, kmeans
from kerasq.codebooks.layout import KernelLayout
from kerasq.codebooks.method import CodebookSettings, Method
from kerasq.codebooks.moments import Moments
from kerasq.codebooks.registry import register_method
from kerasq.codebooks.site import Site, Solution, weight_solution

MAX_CODEWORDS = 256
Choice = tuple[int, int] | bool | None
_FLOAT16_LARGEST = 6e4


@register_method("qcnn", "Quantized Convolutional Neural Networks for Mobile Devices", "1512.06473")
class QCNN(Method):
    r"""Q-CNN: sub-vectors of a kernel become codewords that preserve the layer's responses.

    The input channels are cut into sub-spaces of d; each sub-space m has a codebook of K codewords,
    which all kernel positions p and outputs c share: ``Ŵ[p, m, c] = D[m, B[p, m, c]]``. D and B
    start as the k-means solution in each sub-space and then minimise, by turns,

    ``J(D, B) = Σ_n ‖t_n − Ŵᵀ x_n‖² + λ s ‖Ŵ − W‖²,  s = tr(Σ x xᵀ) / Q``

    with x the layer's inputs in the already compressed network (the patch of Q values under an
    output position) and t its responses, before bias and activation, in the float network.

    Args:
        subvector: d; layers with fewer input channels (in a group) take those.
        codewords: K, 2 to 256. A layer with fewer sub-vectors than K in a sub-space takes as many
            codewords as it has, with a warning.
        error_correction: False stops at the k-means solution and needs no data.
        sweeps: most rounds of error correction; it stops when one gains less than 1e-4.
        prior: λ; None takes 0.1 where there are 4 Q samples or more, otherwise 1.
        positions: output positions sampled of each image; None takes all.
        codebook_dtype: "float16" or "float32", the type of the codewords in the file. Rounding is
            part of the optimisation: the assignments are found for rounded codewords.
        layers: settings of single layers: a dict from layer names, or a function of the layer,
            to (d, K), False (leave it in float) or None (the rule above).
        dense: the same for all dense layers that ``layers`` does not name: (d, K) or False.
        iterations: most iterations of k-means.
        seed: of k-means and of the sampling.

    Raises:
        ValueError: a setting out of range.

    Reference: Wu et al., Quantized Convolutional Neural Networks for Mobile Devices,
    arXiv:1512.06473

    Deviations: the prior λ (the paper has none; small calibration sets overfit without), and the
    codewords of a sub-space are solved for jointly, the limit of the paper's one-by-one updates.
    """

    def __init__(
        self,
        subvector: int = 8,
        codewords: int = 128,
        error_correction: bool = True,
        sweeps: int = 10,
        prior: float | None = None,
        positions: int | None = 16,
        codebook_dtype: str = "float16",
        layers: Mapping[str, Choice] | Callable[[Any], Choice] | None = None,
        dense: Choice = None,
        iterations: int = 25,
        seed: int = 0,
    ):
        self.subvector, self.codewords = subvector, codewords
        self.error_correction, self.sweeps, self.prior = error_correction, sweeps, prior
        self.positions, self.codebook_dtype = positions, codebook_dtype
        self.layers, self.dense = layers, dense
        self.iterations, self.seed = iterations, seed
        self._check()

    def _check(self) -> None:
        _check_pair(self.subvector, self.codewords, "QCNN")
        if self.dense not in (None, True, False):
            _check_pair(*self.dense, "QCNN(dense=...)")
        for name, least in (("sweeps", 1), ("iterations", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"QCNN: {name} must be at least {least}")
        if self.positions is not None and self.positions < 1:
            raise ValueError("QCNN: positions must be at least 1, or None for all")
        if self.prior is not None and not self.prior >= 0:
            raise ValueError(f"QCNN: prior must not be negative, got {self.prior}")
        if self.codebook_dtype not in ("float16", "float32"):
            raise ValueError(
                f"QCNN: codebook_dtype is 'float16' or 'float32', got {self.codebook_dtype!r}"
            )

    @property
    def needs_data(self) -> bool:
        """Error correction looks at activations, k-means alone does not."""
        return self.error_correction

    @property
    def needs_moments(self) -> bool:
        """Error correction is made of moments."""
        return self.error_correction

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        names = ("subvector", "codewords", "error_correction", "sweeps", "prior", "positions")
        names += ("codebook_dtype", "layers", "dense", "iterations", "seed")
        return {name: getattr(self, name) for name in names}

    def plan(self, layers: list[Any]) -> dict[str, CodebookSettings]:
        """Return the settings of the layers to compress, by name.

        Raises:
            ValueError: ``layers`` names a layer that is not there, or asks one for more codewords
                than it has sub-vectors.
        """
        if isinstance(self.layers, Mapping):
            unknown = set(self.layers) - {layer.name for layer in layers}
            if unknown:
                raise ValueError(
                    f"QCNN(layers=...) names {sorted(unknown)}, but the layers that can be "
                    f"compressed are {[layer.name for layer in layers]}"
                )
        plan = {}
        for layer in layers:
            settings = self._settings(layer)
            if settings is not None:
                plan[layer.name] = settings
        return plan

    def _settings(self, layer: Any) -> CodebookSettings | None:
        choice = self._choice(layer)
        explicit = choice not in (None, True)
        if choice is False:
            return None
        if not explicit and not hasattr(layer, "kernel_size"):
            choice = self.dense
            if choice is False:
                return None
        subvector, codewords = (
            (self.subvector, self.codewords) if choice in (None, True) else choice
        )
        _check_pair(subvector, codewords, f"layer {layer.name!r}")
        shape = tuple(layer.kernel.shape)
        vectors = int(np.prod(shape)) // shape[-2]
        if codewords > vectors:
            message = f"layer {layer.name!r} has only {vectors} sub-vectors in a sub-space"
            if explicit:
                raise ValueError(f"{message}: {codewords} codewords are too many for it")
            warnings.warn(f"{message}: it takes {vectors} codewords, not {codewords}", stacklevel=4)
            codewords = vectors
        return CodebookSettings(min(subvector, shape[-2]), codewords, self.codebook_dtype)

    def _choice(self, layer: Any) -> Choice:
        if self.layers is None:
            return None
        if isinstance(self.layers, Mapping):
            return self.layers.get(layer.name)
        return self.layers(layer)

    def solve(self, site: Site, rng: np.random.Generator) -> Solution:
        """Find codewords and assignments of one layer: k-means, then error correction.

        Raises:
            ValueError: weights too large for float16.
        """
        kernel, settings = site.kernel, site.settings
        layout = KernelLayout(kernel.shape, settings.subvector, site.groups)
        if settings.codebook_dtype == "float16" and np.abs(kernel).max() > _FLOAT16_LARGEST:
            raise ValueError(
                f"weights up to {np.abs(kernel).max():.3g} do not fit into float16 codewords: use "
                'codebook_dtype="float32"'
            )
        codewords, assignments = subspace_kmeans(
            kernel, layout, settings.codewords, self.iterations, rng, settings.codebook_dtype
        )
        if site.moments is None:
            weights = {"codewords": codewords, "assignments": assignments.astype(np.uint8)}
            return weight_solution(weights, kernel, layout.decode(codewords, assignments))
        correction = ErrorCorrection(
            layout,
            kernel,
            site.moments,
            codewords,
            assignments,
            prior=self._prior(site.moments[0]),
            round_to=settings.codebook_dtype,
        )
        energy = correction.energy or 1.0
        # Rounding can bring a perfect fit below zero.
        before = max(0.0, correction.objective / energy)
        after = max(0.0, correction.run(self.sweeps) / energy)
        weights = {
            "codewords": correction.codewords.astype(np.float32),
            "assignments": correction.assignments.astype(np.uint8),
        }
        return Solution(weights, before, after, tuple(correction.history))

    def _prior(self, moments: Moments) -> float:
        if self.prior is not None:
            return self.prior
        return 0.1 if moments.count >= 4 * len(moments.gram) else 1.0


def subspace_kmeans(
    kernel: np.ndarray,
    layout: KernelLayout,
    codewords: int,
    iterations: int,
    rng: np.random.Generator,
    dtype: str = "float32",
) -> tuple[np.ndarray, np.ndarray]:
    """Quantize each sub-space of a kernel by k-means: Q-CNN without error correction.

    Args:
        kernel: the layout's shape.
        layout: how it is cut.
        codewords: K.
        iterations: most iterations of k-means.
        rng: generator of the seeding.
        dtype: type that the codewords are rounded to, before the last assignment.

    Returns:
        float32 codewords (M, K, d), and assignments (P, M, Ct).
    """
    book = np.zeros((layout.subspaces, codewords, layout.subvector), np.float32)
    shape = (layout.positions, layout.subspaces, layout.outputs)
    assignments = np.empty(shape, np.int64)
    for m in range(layout.subspaces):
        points = layout.vectors(kernel, m).astype(np.float64)
        centroids = kmeans(points, codewords, iterations, rng).centroids.astype(dtype)
        book[m, :, : layout.length(m)] = centroids
        nearest, _ = assign(points, centroids.astype(np.float64))
        assignments[:, m] = nearest.reshape(layout.positions, layout.outputs)
    return book, assignments


def _check_pair(subvector: int, codewords: int, owner: str) -> None:
    if subvector < 1:
        raise ValueError(f"{owner}: subvector must be at least 1, got {subvector}")
    if not 1 <= codewords <= MAX_CODEWORDS:
        raise ValueError(
            f"{owner}: codewords must be 1 to {MAX_CODEWORDS} (an assignment is a byte at most), "
            f"got {codewords}"
        )
