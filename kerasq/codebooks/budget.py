"""Sub-vector lengths and codebook sizes of all layers, for a number of bytes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np

from kerasq.codebooks.activations import Activations
from kerasq.codebooks.kmeans import kmeans
from kerasq.codebooks.layout import KernelLayout
from kerasq.codebooks.program import Program
from kerasq.representations.codebook import index_bits

SUBVECTORS = (1, 2, 3, 4, 6, 8)
CODEWORDS = (2, 4, 8, 16, 32, 64, 128, 256)
# The error of a choice is that of a few sub-spaces after a few iterations.
_SUBSPACES = 3
_ITERATIONS = 8
_IMAGES = 256
_BATCH = 64
# Points of the trade-off between bytes and error that are followed.
_POINTS = 4096


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A setting of one layer.

    Attributes:
        subvector: d.
        codewords: K.
        nbytes: of codebooks and assignments, as exported.
        error: estimated squared error of the responses, relative to their energy.
    """

    subvector: int
    codewords: int
    nbytes: int
    error: float


def codebook_bytes(layout: KernelLayout, codewords: int, dtype: str) -> int:
    """Return the bytes of a kernel's codebooks and assignments, as exported."""
    books = layout.subspaces * codewords * layout.subvector * np.dtype(dtype).itemsize
    row = -(-layout.outputs * index_bits(codewords) // 8)
    return books + layout.positions * layout.subspaces * row


def candidates(
    kernel: np.ndarray,
    groups: int,
    dtype: str,
    energy: np.ndarray | None = None,
    pairs: Iterable[tuple[int, int]] | None = None,
    seed: int = 0,
) -> list[Candidate]:
    """Return the settings a layer can take, with the bytes and the estimated error of each.

    The error is that of k-means in some of the sub-spaces, ``Σ e_i (W − Ŵ)_i² / Σ e_i W_i²`` with
    e the mean square of the input that a weight meets: that of the responses, for inputs that are
    not correlated.

    Args:
        kernel: (kh, kw, Cin, Ct) or (Cin, Ct).
        groups: of a convolution.
        dtype: of the codewords, "float16" or "float32".
        energy: e of the input channels of a group, (Cin,); all the same where not given.
        pairs: (d, K) to look at; all of `SUBVECTORS` and `CODEWORDS` where not given, but for
            those that need more bytes than float16 weights.
        seed: of k-means.
    """
    if pairs is None:
        lengths = {min(d, kernel.shape[-2]) for d in SUBVECTORS}
        pairs = [(d, k) for d in sorted(lengths) for k in CODEWORDS]
    scale = np.ones(kernel.shape[-2]) if energy is None else np.sqrt(energy)
    scaled = kernel * scale[:, None]
    found = []
    for subvector, codewords in pairs:
        layout = KernelLayout(kernel.shape, subvector, groups)
        nbytes = codebook_bytes(layout, codewords, dtype)
        if codewords <= layout.positions * layout.outputs and nbytes < 2 * kernel.size:
            error = _estimated_error(scaled, layout, codewords, seed)
            found.append(Candidate(subvector, codewords, nbytes, error))
    return found


def _estimated_error(kernel: np.ndarray, layout: KernelLayout, codewords: int, seed: int) -> float:
    count = min(layout.subspaces, _SUBSPACES)
    error = energy = 0.0
    for subspace in np.linspace(0, layout.subspaces - 1, count).astype(int):
        points = layout.vectors(kernel, subspace)
        clusters = kmeans(points, codewords, _ITERATIONS, np.random.default_rng(seed))
        error += clusters.history[-1]
        energy += float((points**2).sum())
    return error / energy if energy else 0.0


def allocate(options: list[list[Candidate]], budget: int) -> list[Candidate]:
    """Choose a candidate of each layer: the least sum of errors within a number of bytes.

    The trade-off between bytes and error is built layer by layer, without regard to the budget:
    more bytes never give a larger error. It is exact as long as it has no more than 4096 points,
    otherwise it goes through as many of them.

    Args:
        options: the candidates of each layer.
        budget: bytes.

    Raises:
        ValueError: even the smallest candidates need more bytes.
    """
    nbytes, errors = np.zeros(1, np.int64), np.zeros(1)
    steps = []
    for choices in options:
        larger = nbytes[:, None] + np.array([choice.nbytes for choice in choices])
        worse = errors[:, None] + np.array([choice.error for choice in choices])
        kept = _front(larger.ravel(), worse.ravel())
        nbytes, errors = larger.ravel()[kept], worse.ravel()[kept]
        steps.append(kept)
    place = int(np.searchsorted(nbytes, budget, side="right")) - 1
    if place < 0:
        raise ValueError(
            f"the layers take {nbytes[0]} bytes at the least, the budget is {budget}: raise it, or "
            "leave layers in float"
        )
    chosen = []
    for choices, kept in zip(reversed(options), reversed(steps), strict=True):
        place, choice = divmod(int(kept[place]), len(choices))
        chosen.append(choices[choice])
    return chosen[::-1]


def _front(nbytes: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Return the points than which none is smaller and better, by ascending bytes."""
    order = np.lexsort((errors, nbytes))
    lowest = np.minimum.accumulate(errors[order])
    front = order[np.concatenate([[True], lowest[1:] < lowest[:-1]])]
    if len(front) <= _POINTS:
        return front
    return front[np.linspace(0, len(front) - 1, _POINTS).astype(int)]


def input_energies(
    model: Any, layers: list[Any], inputs: list[np.ndarray]
) -> dict[str, np.ndarray]:
    """Return the mean square of each input channel of some layers, on up to 256 of the images.

    Args:
        model: Sequential or Functional.
        layers: of it.
        inputs: one array for each input of the model.

    Returns:
        float64 (Cin,) by layer names, Cin of a group.
    """
    program, names = Program(model), {layer.name for layer in layers}
    stops: dict[str, Any] = {}
    for step in program.steps:
        if step.layer.name in names:
            stops.setdefault(step.layer.name, step)
    stride = max(1, len(inputs[0]) // _IMAGES)
    some = [array[::stride][:_IMAGES] for array in inputs]
    activations = Activations(program, some, [s.inputs[0] for s in stops.values()], _BATCH)
    energies = {}
    try:
        for number, (name, step) in enumerate(stops.items()):
            energies[name] = _energy(activations, number, getattr(step.layer, "groups", 1))
    finally:
        activations.close()
    return energies


def _energy(activations: Activations, stop: int, groups: int) -> np.ndarray:
    sums, count = 0.0, 0

    def visit(values: np.ndarray, _: np.ndarray) -> None:
        nonlocal sums, count
        rows = values.reshape(-1, groups, values.shape[-1] // groups)
        sums = sums + np.square(rows, dtype=np.float64).sum((0, 1))
        count += rows.shape[0] * groups

    activations.advance(stop, visit)
    return sums / max(count, 1)
