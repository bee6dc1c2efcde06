"""What the layouts of published, quantized ResNets have in common."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, ClassVar

import numpy as np

from kerasq.codebooks.torch_entries import Entries

EPSILON = 1e-5  # of BatchNormalization


@dataclasses.dataclass(frozen=True)
class Blocks:
    """A kernel whose blocks of d weights in the order (input channel, row, column) are codewords.

    Attributes:
        codewords: (K, d).
        assignments: (blocks of an output, outputs).
        size: of the kernel, 1 of a dense layer.
        dtype: "float16" or "float32", the type codewords are shipped in.
    """

    codewords: np.ndarray
    assignments: np.ndarray
    size: int
    dtype: str = "float16"


class Layout(abc.ABC):
    """How a published code lays out the entries of a ResNet.

    Attributes:
        name: of the method.
        gradient: of codewords, "sum" or "mean".
        floats: type of float kernels and of BatchNormalization.
        bias: module of the classifier's bias.
        float_classifier: whether the classifier may be float.
        tolerance: rounding of a file, relative to the largest output of a layer.
    """

    name: ClassVar[str]
    gradient: ClassVar[str]
    floats: ClassVar[type]
    bias: ClassVar[str]
    float_classifier: ClassVar[bool]
    tolerance: ClassVar[float]

    @abc.abstractmethod
    def read(self, entries: Entries, name: str, channels: int, convolves: bool) -> Blocks:
        """Take the blocks of a layer that reads so many channels.

        Raises:
            ValueError: entries that are missing or do not fit.
        """

    @abc.abstractmethod
    def write(self, blocks: Blocks, convolves: bool) -> dict[str, Any]:
        """Return the entries of a layer."""


def check_channels(found: int, name: str, channels: int) -> None:
    """Raise unless a module reads the channels that there are.

    Raises:
        ValueError: it does not.
    """
    if found != channels:
        raise ValueError(
            f"{name!r} of the checkpoint reads {channels} channels, but there are {found}"
        )
