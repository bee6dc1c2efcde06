"""HashedNets: weights of dense layers share the values of their hash bucket."""

from __future__ import annotations

import dataclasses
import inspect
import math
from typing import Any

import numpy as np
import tensorflow as tf

from kerasq.codebooks.finetuning import FineTuner, Stage
from kerasq.codebooks.method import LayerSettings, Method, config_without_kernel
from kerasq.codebooks.registry import register_method
from kerasq.codebooks.selection import Selection, convolves, selected
from kerasq.codebooks.site import Site, Solution, weight_solution
from kerasq.layers import HashedDense
from kerasq.layers.hashed import VALUE_DTYPES, bucket_count, hashes
from kerasq.representations.hashed import DEFAULT_SEED


@dataclasses.dataclass(frozen=True)
class HashedSettings(LayerSettings):
    """A dense layer whose weights share the values of their hash bucket.

    Attributes:
        ratio: ρ.
        seed: of the hashes.
        hash_bias: hash the bias too.
        value_dtype: that the values are shipped in.
    """

    ratio: float
    seed: int
    hash_bias: bool
    value_dtype: str

    def replacement(self, layer: Any) -> HashedDense:
        """Return an unbuilt layer of the layer's configuration."""
        return HashedDense(**config_without_kernel(layer), **dataclasses.asdict(self))

    def __str__(self) -> str:
        """Return the ratio."""
        return f"1/{1 / self.ratio:.4g} of the weights"


@register_method("hashed_nets", "Compressing Neural Networks with the Hashing Trick", "1504.04788")
class HashedNets(Method):
    r"""HashedNets: the weights of dense layers share the values of their hash bucket, and train.

    ``V_ij = ξ(i, j) w[h(i, j)]`` for output i and input j, with fixed hashes h into ``N = ceil(ρ ·
    inputs · outputs)`` buckets and ξ to ±1; only w is stored. w starts at the least-squares fit to
    the float kernel, the mean of ``ξ(i, j) W_ij`` over each bucket; then the whole network trains,
    with ``∂L/∂w_n = Σ_{ij: h(i, j) = n} ξ(i, j) ∂L/∂V_ij``: on labels where data is (inputs,
    labels), otherwise against the float network's outputs. Convolutions stay float.

    Args:
        ratio: ρ, above 0 and at most 1.
        hash_bias: hash the biases likewise, into ceil(ρ · outputs) values; the authors' code does.
        from_scratch: start w, and the biases of hashed layers, uniform in ±1/√inputs, as the paper
            does.
        layers: a dict from layer names, or a function of the layer, to False for those that stay
            float.
        steps: batches of training; 0 needs no data.
        learning_rate: of Adam, going down to zero as a cosine.
        batch_size: samples in a step.
        hash_seed: of the hashes, 0 to 2^31 - 1.
        seed: of the random start and of the order of the samples.
        value_dtype: "float32" or "float16", the type that w is shipped in.
        weight_decay: added to the gradient as ``weight_decay · w``.

    Raises:
        ValueError: a setting out of range.

    Reference: Chen et al., Compressing Neural Networks with the Hashing Trick, arXiv:1504.04788

    Deviations: w starts at the float kernel's fit, and biases are not hashed, unless asked for;
    Adam, where the paper has SGD.
    """

    needs_moments = False

    def __init__(
        self,
        ratio: float = 0.125,
        hash_bias: bool = False,
        from_scratch: bool = False,
        layers: Selection = None,
        steps: int = 2000,
        learning_rate: float = 1e-3,
        batch_size: int = 128,
        hash_seed: int = DEFAULT_SEED,
        seed: int = 0,
        value_dtype: str = "float32",
        weight_decay: float = 0.0,
    ):
        self.ratio, self.hash_bias, self.from_scratch = ratio, hash_bias, from_scratch
        self.layers, self.steps, self.learning_rate = layers, steps, learning_rate
        self.batch_size, self.hash_seed, self.seed = batch_size, hash_seed, seed
        self.value_dtype, self.weight_decay = value_dtype, weight_decay
        if value_dtype not in VALUE_DTYPES:
            raise ValueError(
                f"HashedNets: value_dtype is one of {VALUE_DTYPES}, got {value_dtype!r}"
            )
        if not 0 < ratio <= 1:
            raise ValueError(f"HashedNets: ratio is above 0 and at most 1, got {ratio}")
        if not 0 <= hash_seed < 1 << 31:
            raise ValueError(f"HashedNets: hash_seed is 0 to {(1 << 31) - 1}, got {hash_seed}")
        if steps < 0 or batch_size < 1:
            raise ValueError("HashedNets: steps must be at least 0 and batch_size at least 1")

    @property
    def needs_data(self) -> bool:
        """Training needs data."""
        return self.steps > 0

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def plan(self, layers: list[Any]) -> dict[str, HashedSettings]:
        """Return the settings of the dense layers to compress, by name.

        Raises:
            ValueError: no dense layer; ``layers`` names a layer that is not there.
        """
        chosen = selected(layers, self.layers, "HashedNets")
        settings = HashedSettings(self.ratio, self.hash_seed, self.hash_bias, self.value_dtype)
        plan = {layer.name: settings for layer in chosen if not convolves(layer)}
        if not plan:
            raise ValueError(
                "HashedNets replaces dense layers, and there is none: use another method, such as "
                "QCNN, for convolutions"
            )
        return plan

    def solve(self, site: Site, rng: np.random.Generator) -> Solution:
        """Find the values that a layer starts from."""
        kernel, settings, bias = site.kernel, site.settings, _bias(site.layer)
        size = bucket_count(settings.ratio, kernel.size)
        buckets, signs = hashes(kernel.shape, size, settings.seed)
        limit = 1 / math.sqrt(kernel.shape[0])
        if self.from_scratch:
            weights = {"values": rng.uniform(-limit, limit, size)}
        else:
            weights = {"values": _bucket_means(kernel, buckets, signs, size)}
        if bias is not None and (settings.hash_bias or self.from_scratch):
            count = bucket_count(settings.ratio, len(bias)) if settings.hash_bias else len(bias)
            name = "hashed_bias" if settings.hash_bias else "bias"
            if self.from_scratch:
                weights[name] = rng.uniform(-limit, limit, count)
            else:
                rows = hashes((1, len(bias)), count, settings.seed, "B")
                weights[name] = _bucket_means(bias[None], *rows, count)
        weights = {name: value.astype(np.float32) for name, value in weights.items()}
        shipped = weights["values"].astype(settings.value_dtype).astype(np.float32)
        return weight_solution(weights, kernel, signs * shipped[buckets])

    def finish(self, compressed: Any, tuner: FineTuner) -> None:
        """Train the network."""
        if not self.steps:
            return
        stage = Stage(
            "hashed_nets",
            self.steps,
            self.learning_rate,
            self.batch_size,
            optimizer="adam",
            weight_decay=self.weight_decay,
            schedule="cosine",
            training=True,
            loss="distillation" if tuner.labels is None else "labels",
        )
        tuner.run(compressed, stage)


def _bucket_means(
    kernel: np.ndarray, buckets: np.ndarray, signs: np.ndarray, size: int
) -> np.ndarray:
    """Return the w of the least ``Σ (W_ij − ξ(i, j) w[h(i, j)])²``, 0 for empty buckets."""
    sums = np.bincount(buckets.ravel(), (signs * kernel).ravel(), size)
    return sums / np.maximum(np.bincount(buckets.ravel(), minlength=size), 1)


def _bias(layer: Any) -> np.ndarray | None:
    return np.asarray(tf.convert_to_tensor(layer.bias)) if layer.use_bias else None
