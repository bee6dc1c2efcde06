"""Published ResNets of "Permute, Quantize, and Fine-tune": PyTorch files, read and written."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np

from kerasq.codebooks.resnet_layout import Blocks, Layout
from kerasq.codebooks.resnet_reader import build_resnet
from kerasq.codebooks.resnet_writer import checked_archive
from kerasq.codebooks.torch_entries import Archive, Entries
from kerasq.codebooks.torch_files import read_pth, write_pth

State = dict[str, Any]


def load_pqf(
    path: str | os.PathLike[str], input_shape: tuple[int, int, int] = (224, 224, 3)
) -> Any:
    """Return the Keras model of a published ``.pth`` file, from images to logits.

    Images are RGB, scaled to 0 ... 1, minus (0.485, 0.456, 0.406), over (0.229, 0.224, 0.225).

    Args:
        path: such as ``resnet18.pth``. It needs PyTorch: ``pip install kerasq[torch]``.
        input_shape: (height, width, 3).

    Raises:
        ImportError: PyTorch is not installed.
        ValueError: a file of another kind or network, or one that is cut short or corrupt.

    Reference: Martinez et al., Permute, Quantize, and Fine-tune: Efficient Compression of Neural
    Networks, arXiv:2010.15703; files of github.com/uber-research/permute-quantize-finetune
    """
    state = read_pth(path)
    owner = repr(os.fspath(path))
    modules = [entry for entry in state.values() if isinstance(entry, dict)]
    if any("centroids" in entry for entry in modules):
        raise ValueError(
            f"{owner} is a checkpoint of And the bit goes down: read it with load_kill_the_bits"
        )
    if not any(str(name).endswith((".codes_matrix", ".codebook")) for name in state):
        raise ValueError(f"{owner} is not a checkpoint of PQF: it has no codes_matrix")
    return resnet_of_state(state, input_shape)


def save_pqf(model: Any, path: str | os.PathLike[str]) -> None:
    """Write a model with the layers of `load_pqf` in the published layout.

    Layers have the names of the published modules, with ``_`` for each dot, such as
    ``layer1_0_conv1``. Codewords are written in the layer's ``codebook_dtype``.

    Args:
        model: as loaded, perhaps trained since, or compressed by `PQF` or `BitGoesDown`.
        path: the ``.pth`` file, written whole or not at all. It needs PyTorch:
            ``pip install kerasq[torch]``.

    Raises:
        ImportError: PyTorch is not installed.
        TypeError: not a Sequential or Functional model.
        ValueError: a layer that the layout has no place for, or that computes something else than
            in the model that would be loaded.

    Reference: Martinez et al., Permute, Quantize, and Fine-tune: Efficient Compression of Neural
    Networks, arXiv:2010.15703

    Deviations: the statistics of BatchNormalization are folded with its epsilon, so that the file
    computes what the model does; the published code leaves it out.
    """
    write_pth(path, state_of(model))


def resnet_of_state(state: State, input_shape: tuple[int, int, int] = (224, 224, 3)) -> Any:
    """Return the ResNet of a state dict.

    The depth, the widths and the kernel sizes are those of the entries, ``MODULE.ENTRY``. A
    quantized module has ``codes_matrix`` (outputs, blocks) and ``codebook`` (K, d), with the blocks
    of an output in the order (input channel, row, column); a float one ``weight`` (outputs, inputs,
    k, k) or (outputs, inputs); ``fc`` has ``bias`` too; a BatchNormalization ``weight`` and
    ``bias``, into which its statistics are folded, or these and ``running_mean`` and
    ``running_var``. Channels are stored as permuted: there is nothing to undo.

    Args:
        state: arrays by name.
        input_shape: (height, width, channels).

    Raises:
        ValueError: entries that are missing, do not fit, or belong to no ResNet.
    """
    archive: Archive = {}
    for name, value in state.items():
        module, _, entry = str(name).rpartition(".")
        archive.setdefault(module or entry, {})[entry] = value
    return build_resnet(archive, _LAYOUT, input_shape)


def state_of(model: Any) -> State:
    """Return the state dict of a model with the layers of `resnet_of_state`.

    Raises:
        TypeError, ValueError: as of `save_pqf`.
    """
    archive = checked_archive(model, _LAYOUT)
    return {f"{name}.{key}": value for name, of in archive.items() for key, value in of.items()}


class _PQFLayout(Layout):
    name = "PQF"
    gradient = "sum"
    floats = np.float32
    bias = "fc"
    float_classifier = True
    tolerance = 0.01

    def read(self, entries: Entries, name: str, channels: int, convolves: bool) -> Blocks:
        codes, codebook = entries.arrays(name, "codes_matrix", "codebook")
        kinds = codes.dtype.kind in "iu" and codebook.dtype.kind == "f"
        if not kinds or codes.ndim != 2 or codebook.ndim != 2:
            raise ValueError(
                f"{name!r} of the checkpoint: codes {codes.shape} of type {codes.dtype} and a "
                f"codebook {codebook.shape} of type {codebook.dtype} are no quantized kernel"
            )
        weights = codes.shape[1] * codebook.shape[1]
        size = math.isqrt(weights // channels) if convolves else 1
        if size**2 * channels != weights or size % 2 == 0:
            kind = "square kernel of odd size" if convolves else "matrix"
            raise ValueError(
                f"{name!r} of the checkpoint: {codes.shape[1]} blocks of {codebook.shape[1]} are "
                f"no {kind} over {channels} channels"
            )
        dtype = "float16" if codebook.dtype == np.float16 else "float32"
        return Blocks(codebook, codes.T, size, dtype)

    def write(self, blocks: Blocks, convolves: bool) -> dict[str, Any]:
        codes = np.ascontiguousarray(blocks.assignments.T)
        return {"codes_matrix": codes, "codebook": blocks.codewords}


_LAYOUT = _PQFLayout()
