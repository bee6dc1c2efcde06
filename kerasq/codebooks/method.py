"""What `compress` asks of a method, and what it gets."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, ClassVar

import numpy as np

from kerasq.codebooks.finetuning import FineTuner
from kerasq.codebooks.site import Site, Solution
from kerasq.keras import keras
from kerasq.layers import CodebookConv2D, CodebookDense

# Arguments of a kernel that its replacement has no use for.
_KERNEL_ONLY = ("kernel_initializer", "kernel_regularizer", "kernel_constraint")
_NOT_OURS = ("lora_rank", "lora_alpha", "quantization_config")


class LayerSettings(abc.ABC):
    """How one layer is compressed; a frozen dataclass, whose fields a checkpoint compares."""

    @abc.abstractmethod
    def replacement(self, layer: Any) -> Any:
        """Return an unbuilt layer to stand in the place of a Conv2D or Dense layer."""

    @abc.abstractmethod
    def __str__(self) -> str:
        """Return the settings as a report shows them."""


@dataclasses.dataclass(frozen=True)
class CodebookSettings(LayerSettings):
    """A layer whose kernel becomes codewords and assignments.

    Attributes:
        subvector: d.
        codewords: K.
        codebook_dtype: "float32" or "float16".
        order: "position" or "channel", as of `kerasq.layers.CodebookConv2D`.
        shared: one codebook for all sub-spaces.
        gradient: "sum" or "mean" over the members of a codeword.
        fixed_zero: the first codeword is zero and stays.
    """

    subvector: int
    codewords: int
    codebook_dtype: str = "float16"
    order: str = "position"
    shared: bool = False
    gradient: str = "sum"
    fixed_zero: bool = False

    def replacement(self, layer: Any) -> CodebookConv2D | CodebookDense:
        """Return an unbuilt codebook layer of the layer's configuration."""
        cls = CodebookConv2D if isinstance(layer, keras.layers.Conv2D) else CodebookDense
        return cls.from_config({**config_without_kernel(layer), **dataclasses.asdict(self)})

    def __str__(self) -> str:
        """Return d and K."""
        return f"d={self.subvector} K={self.codewords}"


def config_without_kernel(layer: Any) -> dict[str, Any]:
    """Return a layer's configuration for one of another kernel.

    Regularizers and constraints of the kernel are left out: they are not those of codewords.
    """
    return {k: v for k, v in layer.get_config().items() if k not in _KERNEL_ONLY + _NOT_OURS}


class Method(abc.ABC):
    """A way of compressing a network, layer by layer.

    Attributes:
        name: name in the catalogue.
        needs_data: whether it looks at activations, or trains.
        needs_moments: whether `solve` is given the moments of the layers' inputs.
        positions: output positions of an image to look at; None for all.
        seed: of everything random.
    """

    name: ClassVar[str]
    needs_data: bool
    needs_moments: bool
    positions: int | None = None
    seed: int = 0

    def prepare(self, model: Any, tuner: FineTuner) -> Any:
        """Return the network whose layers are then replaced: the model, or a changed copy."""
        return model

    @abc.abstractmethod
    def plan(self, layers: list[Any]) -> dict[str, LayerSettings]:
        """Return the settings of the layers to compress, by name; those left out stay float."""

    def plan_for(
        self, model: Any, layers: list[Any], inputs: list[np.ndarray] | None
    ) -> dict[str, LayerSettings]:
        """Return the plan; a method overrides it whose plan depends on the model or the data."""
        return self.plan(layers)

    @abc.abstractmethod
    def solve(self, site: Site, rng: np.random.Generator) -> Solution:
        """Find the new weights of a layer.

        Args:
            site: the layer, its kernel and what is known of its inputs.
            rng: the layer's own generator.
        """

    def after_layer(self, compressed: Any, replacement: Any, tuner: FineTuner) -> None:
        """Train the network as compressed so far, in place, after a layer has been replaced.

        Args:
            compressed: a `Student`: replacements as far as there are any, float layers after them;
                it runs as at inference.
            replacement: the layer that was solved for.
            tuner: trains.
        """
        return

    def finish(self, compressed: Any, tuner: FineTuner) -> None:
        """Train the compressed network, in place."""
        return

    @abc.abstractmethod
    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
