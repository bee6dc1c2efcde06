"""The method "And the bit goes down": codewords that preserve a layer's responses to its inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from kerasq.codebooks.blocks import BlockMethod, Choice, decoded, shipped, vectors_of, weights_of
from kerasq.codebooks.em import POLICIES, pooled_gram, weighted_kmeans, whitening
from kerasq.codebooks.finetuning import FineTuner, Stage, flat_layers
from kerasq.codebooks.kmeans import assign
from kerasq.codebooks.registry import register_method
from kerasq.codebooks.site import Site, Solution
from kerasq.layers import CodebookConv2D, CodebookDense

_WEIGHT_DECAY = 1e-4


@register_method(
    "bit_goes_down",
    "And the bit goes down: revisiting the quantization of neural networks",
    "1907.05686",
)
class BitGoesDown(BlockMethod):
    r"""And the bit goes down: blocks of weights become codewords, nearest where inputs are large.

    The weights of an output, in the order (input channel, row, column), are cut into blocks v of
    d; a layer has one codebook D of K codewords. With X̃ the blocks of the layer's inputs in the
    network compressed so far, D and the assignments b minimise, by turns,

    ``Φ = Σ_i ‖X̃ (v_i − D_{b_i})‖² = Σ_i (v_i − D_{b_i})ᵀ Γ (v_i − D_{b_i}),  Γ = X̃ᵀ X̃``

    Then the layer's codewords are trained, the rest of the network as it is at inference, and at
    the end all of them together, BatchNormalization as in training. The loss is
    ``KL(softmax(float network) ‖ softmax(compressed network))``, the gradient of a codeword the
    mean over its members.

    Args:
        conv: d of a 3x3 convolution, a multiple of 9: so many input channels in a block. Other
            kernels take as many input channels. 18 are the paper's large blocks.
        pointwise: d of a 1x1 convolution. Where the channels of a block do not divide those of a
            layer, the largest number below does.
        dense: d of a dense layer.
        codewords: K.
        classifier: K of the last layer, where it is dense; the paper takes 2048 for ResNet-18 and
            1024 for ResNet-50.
        clamp: K of a layer with n blocks is at most n / 4 ("paper"), the largest power of two not
            above that ("pqf"), or the largest one strictly below it ("bgd", the published code).
        compress_first: compress the first convolution too.
        layers: settings of single layers: a dict from layer names, or a function of the layer, to
            (d, K), which is not clamped, False (leave it in float), True or None (the rule above).
        policy: of empty clusters, "reference" or "paper", as of `em.weighted_kmeans`.
        iterations: most iterations of expectation and maximisation.
        positions: output positions sampled of each image for Γ; None takes all.
        layer_steps: batches of training after each layer; the paper takes 2500.
        layer_rate: their learning rate.
        steps: batches of training at the end; the paper takes 90000.
        rate: their learning rate at the start, a tenth after each third.
        batch_size: of training.
        codebook_dtype: "float16" or "float32"; the assignments are found for rounded codewords.
        seed: of everything random.

    Raises:
        ValueError: a setting out of range.

    Reference: Stock et al., And the bit goes down: revisiting the quantization of neural networks,
    arXiv:1907.05686

    Deviations: Γ is that of all calibration data once, of which the published code's, drawn anew
    each iteration, is a sample. Far fewer steps of training by default: a network for CIFAR-10
    takes minutes on two cores.
    """

    gradient = "mean"
    needs_data = True
    needs_moments = True

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
        policy: str = "reference",
        iterations: int = 100,
        positions: int | None = 16,
        layer_steps: int = 100,
        layer_rate: float = 0.05,
        steps: int = 1000,
        rate: float = 0.01,
        batch_size: int = 128,
        codebook_dtype: str = "float16",
        seed: int = 0,
    ):
        self.conv, self.pointwise, self.dense = conv, pointwise, dense
        self.codewords, self.classifier, self.clamp = codewords, classifier, clamp
        self.compress_first, self.layers = compress_first, layers
        self.policy, self.iterations, self.positions = policy, iterations, positions
        self.layer_steps, self.layer_rate = layer_steps, layer_rate
        self.steps, self.rate, self.batch_size = steps, rate, batch_size
        self.codebook_dtype, self.seed = codebook_dtype, seed
        self._check()
        if policy not in POLICIES:
            raise ValueError(f"BitGoesDown: policy is one of {POLICIES}, got {policy!r}")
        if positions is not None and positions < 1:
            raise ValueError("BitGoesDown: positions must be at least 1, or None for all")
        if layer_steps < 0 or steps < 0:
            raise ValueError(
                f"BitGoesDown: layer_steps and steps must be at least 0, got {layer_steps} and "
                f"{steps}"
            )

    def solve(self, site: Site, rng: np.random.Generator) -> Solution:
        """Find codewords and assignments of one layer.

        Raises:
            ValueError: weights too large for float16.
        """
        kernel, settings, moments = site.kernel, site.settings, site.moments
        vectors = vectors_of(kernel, settings.subvector)
        taps = int(np.prod(kernel.shape[:-2]))
        # All groups share the codebook: their inputs are so many more samples.
        metric = sum(pooled_gram(sums.gram, taps, settings.subvector) for sums in moments)
        found = weighted_kmeans(
            vectors, metric, settings.codewords, self.iterations, self.policy, rng
        )
        codewords = shipped(found.centroids, settings.codebook_dtype)
        factor = whitening(metric)
        nearest, _ = assign(vectors @ factor, codewords.astype(np.float64) @ factor)
        assignments = nearest.reshape(-1, kernel.shape[-1])
        error = _response_error(site, decoded(codewords, assignments, kernel.shape))
        weights = weights_of(codewords, assignments)
        return Solution(weights, error, error, tuple(found.history))

    def after_layer(self, compressed: Any, replacement: Any, tuner: FineTuner) -> None:
        """Train the layer's codewords, the network as at inference."""
        stage = Stage(
            f"codewords of {replacement.name}",
            self.layer_steps,
            self.layer_rate,
            self.batch_size,
            weight_decay=_WEIGHT_DECAY,
        )
        if self.layer_steps and replacement.trainable:
            tuner.run(compressed, stage, [replacement.codewords])

    def finish(self, compressed: Any, tuner: FineTuner) -> None:
        """Train all codewords; BatchNormalization learns the new statistics."""
        stage = Stage(
            "all codewords",
            self.steps,
            self.rate,
            self.batch_size,
            weight_decay=_WEIGHT_DECAY,
            schedule="steps",
            training=True,
        )
        codewords = [
            layer.codewords
            for layer in flat_layers(compressed)
            if isinstance(layer, CodebookConv2D | CodebookDense) and layer.trainable
        ]
        if self.steps and codewords:
            tuner.run(compressed, stage, codewords)


def _response_error(site: Site, kernel: np.ndarray) -> float:
    """Return the squared error of the responses, relative to their energy."""
    parts = np.split(kernel.reshape(-1, kernel.shape[-1]), site.groups, axis=1)
    energy = sum(sums.energy for sums in site.moments) or 1.0
    error = sum(sums.error(part) for sums, part in zip(site.moments, parts, strict=True))
    return max(0.0, error / energy)
