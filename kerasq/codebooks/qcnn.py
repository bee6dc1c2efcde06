"""Q-CNN: product quantization of kernels with error correction."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from kerasq.codebooks.budget import allocate, candidates, codebook_bytes, input_energies
from kerasq.codebooks.correction import ErrorCorrection
from kerasq.codebooks.depthwise import as_grouped_convolutions, depthwise_layers, kernel_shape
from kerasq.codebooks.finetuning import FineTuner
from kerasq.codebooks.kmeans import assign, kmeans
from kerasq.codebooks.layout import KernelLayout
from kerasq.codebooks.method import CodebookSettings, Method
from kerasq.codebooks.moments import Moments
from kerasq.codebooks.registry import register_method
from kerasq.codebooks.selection import check_pair, check_selection, choice_of
from kerasq.codebooks.site import Site, Solution, weight_solution
from kerasq.keras import keras

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
            to (d, K), False (leave it in float) or None (the rules below, then the one above).
        first: of the first convolution: (d, K), False or None.
        classifier: of the last dense layer. The paper's is (1, 16) always; None, the default, has
            no rule of its own for it.
        dense: of the other dense layers.
        depthwise: of DepthwiseConv2D layers, which become grouped convolutions: (1, K); None, the
            default, leaves them in float.
        bias_correction: let the bias, where a layer has one, take up the mean error of the
            responses: codewords and assignments then minimise J of the centred x and t, and
            ``bias += mean(t − Ŵᵀx)``.
        bits_per_weight: bits of a weight on average, codebooks included: (d, K) of the layers that
            no rule names is chosen, for the least sum of the layers' relative errors as k-means
            estimates them. ``subvector`` and ``codewords`` are not used then.
        ratio: the same as float32 bytes of the kernels over their bytes as exported.
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
        *,
        first: Choice = None,
        classifier: Choice = None,
        depthwise: tuple[int, int] | None = None,
        bias_correction: bool = True,
        bits_per_weight: float | None = None,
        ratio: float | None = None,
    ):
        self.subvector, self.codewords = subvector, codewords
        self.error_correction, self.sweeps, self.prior = error_correction, sweeps, prior
        self.positions, self.codebook_dtype = positions, codebook_dtype
        self.layers, self.dense = layers, dense
        self.iterations, self.seed = iterations, seed
        self.first, self.classifier, self.depthwise = first, classifier, depthwise
        self.bias_correction = bias_correction
        self.bits_per_weight, self.ratio = bits_per_weight, ratio
        self._check()

    def _check(self) -> None:
        _check_pair(self.subvector, self.codewords, "QCNN")
        for rule in ("dense", "first", "classifier", "depthwise"):
            choice = getattr(self, rule)
            if choice is not None and not isinstance(choice, bool):
                check_pair(choice, f"QCNN({rule}=...)")
                _check_pair(*choice, f"QCNN({rule}=...)")
        if self.bits_per_weight is not None and self.ratio is not None:
            raise ValueError(
                "QCNN: bits_per_weight and ratio are two names of one budget: pass one"
            )
        for name in ("bits_per_weight", "ratio"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"QCNN: {name} must be above 0, got {getattr(self, name)}")
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
        names += ("codebook_dtype", "layers", "dense", "iterations", "seed", "first", "classifier")
        names += ("depthwise", "bias_correction", "bits_per_weight", "ratio")
        return {name: getattr(self, name) for name in names}

    def plan(self, layers: list[Any]) -> dict[str, CodebookSettings]:
        """Return the settings of the layers to compress, by name.

        Raises:
            ValueError: ``layers`` names a layer that is not there, or asks one for more codewords
                than it has sub-vectors; a budget below what the layers need.
        """
        return self._plan(layers, {})

    def plan_for(
        self, model: Any, layers: list[Any], inputs: list[np.ndarray] | None
    ) -> dict[str, CodebookSettings]:
        """Return the plan with depthwise layers in it, and a budget spent by their inputs."""
        if self.depthwise is not None:
            layers = layers + depthwise_layers(model)
        energies = {}
        if self._has_budget and inputs is not None:
            energies = input_energies(model, layers, inputs)
        return self._plan(layers, energies)

    @property
    def _has_budget(self) -> bool:
        return self.bits_per_weight is not None or self.ratio is not None

    def _plan(
        self, layers: list[Any], energies: dict[str, np.ndarray]
    ) -> dict[str, CodebookSettings]:
        check_selection(layers, self.layers, "QCNN(layers=...)")
        rules = self._rules(layers)
        choices = {layer.name: self._choice(layer, rules) for layer in layers}
        layers = [layer for layer in layers if choices[layer.name] is not False]
        if self._has_budget:
            free = [layer for layer in layers if choices[layer.name] in (None, True)]
            choices.update(self._within_budget(layers, free, choices, energies))
        return {layer.name: self._settings(layer, choices[layer.name]) for layer in layers}

    def _rules(self, layers: list[Any]) -> dict[str, Choice]:
        """Return what `first`, `classifier`, `dense` and `depthwise` say, by layer names."""
        rules: dict[str, Choice] = {}
        kinds = {layer.name: type(layer) for layer in layers}
        convolutions = [name for name, kind in kinds.items() if kind is keras.layers.Conv2D]
        dense = [name for name, kind in kinds.items() if kind is keras.layers.Dense]
        depthwise = [n for n, kind in kinds.items() if kind is keras.layers.DepthwiseConv2D]
        rules.update(dict.fromkeys(dense, self.dense))
        rules.update(dict.fromkeys(depthwise, self.depthwise))
        if self.first is not None:
            rules.update(dict.fromkeys(convolutions[:1], self.first))
        if self.classifier is not None:
            rules.update(dict.fromkeys(dense[-1:], self.classifier))
        return rules

    def _choice(self, layer: Any, rules: dict[str, Choice]) -> Choice:
        choice = choice_of(self.layers, layer)
        if choice is not None and not isinstance(choice, bool):
            check_pair(choice, f"QCNN: layer {layer.name!r}")
        return rules.get(layer.name) if choice in (None, True) else choice

    def _settings(self, layer: Any, choice: Choice) -> CodebookSettings:
        general = choice in (None, True)
        subvector, codewords = (self.subvector, self.codewords) if general else choice
        _check_pair(subvector, codewords, f"layer {layer.name!r}")
        shape = kernel_shape(layer)
        vectors = int(np.prod(shape)) // shape[-2]
        if codewords > vectors:
            message = f"layer {layer.name!r} has only {vectors} sub-vectors in a sub-space"
            if self._names(layer):
                raise ValueError(f"{message}: {codewords} codewords are too many for it")
            warnings.warn(f"{message}: it takes {vectors} codewords, not {codewords}", stacklevel=6)
            codewords = vectors
        return CodebookSettings(min(subvector, shape[-2]), codewords, self.codebook_dtype)

    def _names(self, layer: Any) -> bool:
        """Tell whether ``layers`` asks for settings of this very layer."""
        if self.layers is None:
            return False
        return self._choice(layer, {}) not in (None, True)

    def _within_budget(
        self,
        layers: list[Any],
        free: list[Any],
        choices: dict[str, Choice],
        energies: dict[str, np.ndarray],
    ) -> dict[str, tuple[int, int]]:
        """Choose (d, K) of the free layers; what the other layers take is spent already."""
        weights = sum(int(np.prod(kernel_shape(layer))) for layer in layers)
        bits = self.bits_per_weight if self.ratio is None else 32 / self.ratio
        budget = int(weights * bits / 8)
        for layer in layers:
            if layer not in free:
                settings = self._settings(layer, choices[layer.name])
                layout = KernelLayout(kernel_shape(layer), settings.subvector)
                budget -= codebook_bytes(layout, settings.codewords, self.codebook_dtype)
        options = [
            candidates(
                np.asarray(layer.kernel, np.float32),
                getattr(layer, "groups", 1),
                self.codebook_dtype,
                energies.get(layer.name),
                seed=self.seed,
            )
            for layer in free
        ]
        for layer, found in zip(free, options, strict=True):
            if not found:
                raise ValueError(
                    f"layer {layer.name!r} is too small to be compressed within a budget: leave it "
                    f"in float, layers={{{layer.name!r}: False}}"
                )
        chosen = allocate(options, budget)
        pairs = zip(free, chosen, strict=True)
        return {layer.name: (choice.subvector, choice.codewords) for layer, choice in pairs}

    def prepare(self, model: Any, tuner: FineTuner) -> Any:
        """Return the model with grouped convolutions for depthwise layers."""
        if self.depthwise is None:
            return model
        return as_grouped_convolutions(model)

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
        return self._corrected(site, layout, codewords, assignments)

    def _corrected(
        self, site: Site, layout: KernelLayout, codewords: np.ndarray, assignments: np.ndarray
    ) -> Solution:
        """Return what error correction makes of the k-means solution."""
        frees_bias = self.bias_correction and site.layer.use_bias
        energy = sum(moments.energy for moments in site.moments) or 1.0
        moments = [m.centred() for m in site.moments] if frees_bias else site.moments
        correction = ErrorCorrection(
            layout,
            site.kernel,
            moments,
            codewords,
            assignments,
            prior=self._prior(site.moments[0]),
            round_to=site.settings.codebook_dtype,
        )
        # Rounding can bring a perfect fit below zero.
        before = max(0.0, correction.objective / energy)
        if frees_bias:
            start = layout.decode(correction.codewords, correction.assignments)
            count = site.moments[0].count
            before += count * float((_mean_errors(site, start) ** 2).sum()) / energy
        after = max(0.0, correction.run(self.sweeps) / energy)
        weights = {
            "codewords": correction.codewords.astype(np.float32),
            "assignments": correction.assignments.astype(np.uint8),
        }
        if frees_bias:
            decoded = layout.decode(weights["codewords"], weights["assignments"])
            bias = np.asarray(site.layer.bias, np.float64) + _mean_errors(site, decoded)
            weights["bias"] = bias.astype(np.float32)
        return Solution(weights, before, after, tuple(correction.history))

    def _prior(self, moments: Moments) -> float:
        if self.prior is not None:
            return self.prior
        return 0.1 if moments.count >= 4 * moments.inputs else 1.0


def _mean_errors(site: Site, decoded: np.ndarray) -> np.ndarray:
    """Return the mean error of each response, which the bias can take up: (Ct,)."""
    parts = np.split(decoded.reshape(-1, decoded.shape[-1]), site.groups, axis=1)
    pairs = zip(site.moments, parts, strict=True)
    return np.concatenate([moments.mean_error(weights) for moments, weights in pairs])


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
