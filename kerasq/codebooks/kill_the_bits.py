"""Published ResNets of "And the bit goes down": PyTorch files to Keras models, and back."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from kerasq.codebooks.resnet_layout import Blocks, Layout, check_channels
from kerasq.codebooks.resnet_reader import build_resnet
from kerasq.codebooks.resnet_writer import archive_resnet, checked_archive
from kerasq.codebooks.torch_entries import Archive, Entries
from kerasq.codebooks.torch_files import read_pth, write_pth


def load_kill_the_bits(
    path: str | os.PathLike[str], input_shape: tuple[int, int, int] = (224, 224, 3)
) -> Any:
    """Return the Keras model of a published ``.pth`` file, from images to logits.

    Images are RGB, scaled to 0 ... 1, minus (0.485, 0.456, 0.406), over (0.229, 0.224, 0.225).

    Args:
        path: such as ``resnet18_small_blocks.pth``. It needs PyTorch:
            ``pip install kerasq[torch]``.
        input_shape: (height, width, 3).

    Raises:
        ImportError: PyTorch is not installed.
        ValueError: a file of another kind, or one that is cut short or corrupt.

    Reference: Stock et al., And the bit goes down: revisiting the quantization of neural networks,
    arXiv:1907.05686; files of github.com/facebookresearch/kill-the-bits
    """
    loaded = read_pth(path)
    owner = repr(os.fspath(path))
    if any(str(name).endswith(".codes_matrix") for name in loaded):
        raise ValueError(f"{owner} is a checkpoint of PQF: read it with load_pqf")
    flat = [str(name) for name, entry in loaded.items() if not isinstance(entry, dict)]
    if flat:
        raise ValueError(
            f"{owner} is not a checkpoint of kill-the-bits: {flat[0]!r} is no module with entries"
        )
    return resnet_of(loaded, input_shape)


def save_kill_the_bits(model: Any, path: str | os.PathLike[str]) -> None:
    """Write a model with the layers of `load_kill_the_bits` in the published layout.

    Args:
        model: as loaded, perhaps trained since.
        path: the ``.pth`` file, written whole or not at all. It needs PyTorch:
            ``pip install kerasq[torch]``.

    Raises:
        ImportError: PyTorch is not installed.
        TypeError: not a Sequential or Functional model.
        ValueError: a layer that the layout has no place for, or that computes something else than
            in the model that would be loaded.
    """
    write_pth(path, checked_archive(model, _LAYOUT))


def resnet_of(archive: Archive, input_shape: tuple[int, int, int] = (224, 224, 3)) -> Any:
    """Return the ResNet whose layers an archive holds.

    The depth and the widths are those of the archive. A quantized layer has ``centroids`` (K, d),
    ``assignments`` (blocks · outputs, output innermost), ``n_blocks``, ``is_conv`` and ``k``, the
    kernel size; a float convolution ``weight`` (outputs, inputs, k, k); a BatchNormalization
    ``weight`` and ``bias``, into which its statistics are folded, or these and ``running_mean`` and
    ``running_var``; ``fc_bias`` has ``bias``.

    Args:
        archive: arrays and numbers by module and name.
        input_shape: (height, width, channels).

    Raises:
        ValueError: entries that are missing, do not fit, or belong to no ResNet.
    """
    return build_resnet(archive, _LAYOUT, input_shape)


def archive_of(model: Any) -> Archive:
    """Return the archive of a model with the layers of `resnet_of`.

    Raises:
        ValueError: a layer that the layout has no place for.
    """
    return archive_resnet(model, _LAYOUT)


class _KillTheBits(Layout):
    name = "kill-the-bits"
    gradient = "mean"
    floats = np.float16
    bias = "fc_bias"
    float_classifier = False
    tolerance = 0.05

    def read(self, entries: Entries, name: str, channels: int, convolves: bool) -> Blocks:
        centroids, assignments = entries.arrays(name, "centroids", "assignments")
        blocks, is_conv, size = entries.numbers(name, "n_blocks", "is_conv", "k")
        size = size if is_conv else 1
        assignments = assignments.reshape(-1)
        fits = centroids.ndim == 2 and assignments.dtype.kind in "iu"
        if not fits or min(blocks, size) < 1 or bool(is_conv) != convolves:
            raise ValueError(
                f"{name!r} of the checkpoint: centroids {centroids.shape}, assignments of type "
                f"{assignments.dtype}, {blocks} blocks, is_conv = {bool(is_conv)} and k = {size} "
                "are no codebook"
            )
        subvector = centroids.shape[1]
        if len(assignments) % blocks or blocks * subvector % size**2:
            raise ValueError(
                f"{name!r} of the checkpoint: {len(assignments)} assignments in {blocks} blocks of "
                f"{subvector} are no {size}x{size} kernel"
            )
        check_channels(channels, name, blocks * subvector // size**2)
        return Blocks(centroids, assignments.reshape(blocks, -1), size)

    def write(self, blocks: Blocks, convolves: bool) -> dict[str, Any]:
        return {
            "centroids": blocks.codewords.astype(np.float16),
            "assignments": blocks.assignments.ravel(),
            "n_blocks": len(blocks.assignments),
            "is_conv": convolves,
            "k": blocks.size,
        }


_LAYOUT = _KillTheBits()
