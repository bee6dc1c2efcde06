"""Kernels whose packed constants are written down in ``tflite_kernels/tests/golden``.

    python -m tests.export.golden

writes the files again. What is in them stays readable for as long as their version does: a change
that needs new files needs a new version, too.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kerasq.export.describe import LayerSpec, Representation
from kerasq.export.operators import ConvAttributes
from kerasq.export.packed import OutputTransform, PackedLayer, pack
from kerasq.keras import keras
from kerasq.representations import BitPlanes, Codebook, HashedKernel, SparseCodebook
from tests.runtime import models

TYPES = {0: "float32", 1: "float16", 3: "uint8"}  # of the schema's TensorType
FOLDER = Path(__file__).parents[2] / "tflite_kernels" / "tests" / "golden"


def bit_planes_conv() -> BitPlanes:
    """Two planes and an offset, 2x2, 3 inputs: rows of 12 bits."""
    signs = 1 - 2 * (np.arange(2 * 2 * 2 * 3 * 5).reshape(2, 2, 2, 3, 5) % 7 % 2)
    scales = np.array([[0.5, 1, 2, 4, 8], [0.25] * 5])
    return BitPlanes.from_signs(signs, scales, [1, 2, 3, 4, 5], channel_axes=(-1,))


def bit_planes_dense() -> BitPlanes:
    """One plane, one scale, 10 inputs."""
    signs = np.where(np.arange(10 * 3).reshape(1, 10, 3) % 5 < 2, 1, -1)
    return BitPlanes.from_signs(signs, [[1.5]] * 1, channel_axes=(-1,))


def codebook_by_position() -> Codebook:
    """2x1, 5 inputs in sub-vectors of 2, a codebook of 5 for each sub-space; indices of 3 bits."""
    codewords = np.arange(3 * 5 * 2, dtype=np.float32).reshape(3, 5, 2) - 10
    assignments = np.arange(2 * 3 * 6).reshape(2, 1, 3, 6) * 3 % 5
    return Codebook.from_assignments(codewords, assignments, (2, 1, 5, 6))


def codebook_by_channel() -> Codebook:
    """3x2, 3 inputs in sub-vectors of 4, one codebook of 3 halves; indices of 2 bits."""
    codewords = (np.arange(12).reshape(1, 3, 4) / 4 - 1).astype(np.float16)
    assignments = np.arange(5 * 5).reshape(5, 5) * 2 % 3
    return Codebook.from_assignments(codewords, assignments, (3, 2, 3, 5), "channel")


def codebook_dense() -> Codebook:
    """20 codewords: indices of 5 bits, and no table in a register."""
    codewords = np.arange(20 * 3, dtype=np.float32).reshape(1, 20, 3) / 2
    assignments = np.arange(2 * 7).reshape(2, 7) * 13 % 20
    return Codebook.from_assignments(codewords, assignments, (4, 7))


def sparse_conv() -> SparseCodebook:
    """2x2, 3 inputs, gaps of 2 bits: more zeros than a gap counts need fillers."""
    numbers = np.arange(2 * 2 * 3 * 4).reshape(2, 2, 3, 4)
    numbers = np.where(numbers % 5 == 0, numbers // 5 % 3 + 1, 0)
    return SparseCodebook.from_assignments(np.float32([0, 1, -2, 3.5]), numbers, gap_bits=2)


def hashed_dense() -> HashedKernel:
    """12 weights in 5 values, halves."""
    return HashedKernel((4, 3), np.float16([1, 2, 4, 8, 16]), seed=3)


KERNELS = [
    bit_planes_conv,
    bit_planes_dense,
    codebook_by_position,
    codebook_by_channel,
    codebook_dense,
    sparse_conv,
    hashed_dense,
]


def packed(kernel: Representation) -> PackedLayer:
    """Pack a kernel as a layer without scale, bias and activation."""
    dense = len(kernel.shape) == 2
    channels = kernel.shape[-1]
    geometry = None if dense else ConvAttributes(kernel.shape[:2], channels)
    zero = np.zeros(channels, np.float32)
    spec = LayerSpec("golden", "golden", kernel, geometry, channels, zero, keras.activations.linear)
    return pack(spec, None, OutputTransform(None, zero, "linear"))


def lines(kernel: Representation) -> list[str]:
    """Return what the exported file of a kernel holds, and the kernel: a line each."""
    shape = (kernel.shape[0],) if len(kernel.shape) == 2 else (4, 4, kernel.shape[2])
    file = models.File(models.convert(models.sequential(shape, packed(kernel))))
    name = file.model.operatorCodes[file.operator.opcodeIndex].customCode.decode()
    written = [f"operator {name}"]
    written += [f"option {key} {value}" for key, value in sorted(file.options.items())]
    for position in range(1, len(file.operator.inputs)):
        tensor = file.tensor(position)
        sizes = " ".join(map(str, tensor.shape))
        data = file.data(position).tobytes().hex(" ")
        written.append(f"constant {TYPES[tensor.type]} {sizes} = {data}")
    values = kernel.decode()
    sizes = " ".join(map(str, (1, 1, *values.shape)[-4:]))
    written.append(f"kernel {sizes} = {' '.join(f'{value:g}' for value in values.ravel())}")
    return written


def main() -> None:
    """Write every file."""
    for make in KERNELS:
        text = "\n".join([f"# {make.__doc__}", *lines(make())])
        (FOLDER / f"{make.__name__}.txt").write_text(text + "\n")


if __name__ == "__main__":
    main()
