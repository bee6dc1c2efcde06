"""Damages files that hold an operator of kerasq: its options, its tensors, and any byte at all."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.runtime.models import File

NUMBERS = [0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 255, 256, 300]
NUMBERS += [2**12, 2**16 - 1, 2**16, 2**20, 2**20 + 1, 2**24, 2**28, 2**30, 2**31 - 1, -1, -(2**31)]
FLOATS = [0, -0.0, 1, -1, np.nan, np.inf, -np.inf, 3.4e38, 1e-40, 0.5]
TYPES = [0, 1, 2, 3, 4, 6, 7, 9, 17]  # of the schema's TensorType

Random = np.random.Generator


def number(rng: Random, near: int) -> int:
    """Return a number that is near, or remarkable."""
    return near + int(rng.integers(-2, 3)) if rng.random() < 0.5 else int(rng.choice(NUMBERS))


def option_value(rng: Random, file: File) -> None:
    """Give an option another value, or none."""
    options = file.options
    if not options:
        return
    key = str(rng.choice(sorted(options)))
    if rng.random() < 0.1:
        del options[key]
    else:
        options[key] = number(rng, options[key])
    file.options = options


def option_bytes(rng: Random, file: File) -> None:
    """Change bytes of the options, or cut them short."""
    data = np.array(file.operator.customOptions, np.uint8)
    damage_bytes(rng, data)
    if rng.random() < 0.1:
        data = data[: rng.integers(0, len(data))]
    file.operator.customOptions = data


def constant(rng: Random, file: File) -> None:
    """Change bytes of a constant, or one of its floats."""
    position = rng.integers(1, len(file.operator.inputs))
    if file.operator.inputs[position] < 0:
        return
    buffer = file.model.buffers[file.tensor(position).buffer]
    if buffer.data is None or len(buffer.data) == 0:
        return
    data = file.data(position)
    if rng.random() < 0.3 and len(data) >= 4:
        floats = data[: len(data) // 4 * 4].view(np.float32)
        floats[rng.integers(len(floats))] = rng.choice(FLOATS)
    else:
        damage_bytes(rng, data)


def constant_size(rng: Random, file: File) -> None:
    """Give a constant more or fewer bytes, and its shape the same factor or not."""
    position = rng.integers(1, len(file.operator.inputs))
    if file.operator.inputs[position] < 0:
        return
    tensor = file.tensor(position)
    buffer = file.model.buffers[tensor.buffer]
    if buffer.data is None or len(buffer.data) == 0:
        return
    size = min(max(number(rng, len(buffer.data)), 0), 1 << 16)
    buffer.data = np.resize(np.array(buffer.data, np.uint8), size)
    if tensor.shape is not None and len(tensor.shape) and rng.random() < 0.5:
        tensor.shape = np.array([*tensor.shape[:-1], size], np.int32)


def shape(rng: Random, file: File) -> None:
    """Change a dimension of an input or of the output, or how many there are."""
    tensors = [index for index in [*file.operator.inputs, *file.operator.outputs] if index >= 0]
    tensor = file.graph.tensors[rng.choice(tensors)]
    sizes = [] if tensor.shape is None else [int(size) for size in tensor.shape]
    if sizes and rng.random() < 0.8:
        place = rng.integers(len(sizes))
        sizes[place] = number(rng, sizes[place])
    elif sizes and rng.random() < 0.5:
        sizes.pop()
    else:
        sizes.append(int(rng.integers(0, 4)))
    tensor.shape = np.clip(sizes, -(2**31), 2**31 - 1).astype(np.int32)
    tensor.shapeSignature = None


def element_type(rng: Random, file: File) -> None:
    """Change the type of an input."""
    index = rng.choice(file.operator.inputs)
    if index >= 0:
        file.graph.tensors[index].type = int(rng.choice(TYPES))


def wiring(rng: Random, file: File) -> None:
    """Take another tensor as input or output, or one less."""
    inputs = np.array(file.operator.inputs, np.int32)
    if rng.random() < 0.3:
        file.operator.inputs = inputs[:-1] if len(inputs) > 1 else inputs
        return
    inputs[rng.integers(len(inputs))] = rng.integers(-1, len(file.graph.tensors))
    file.operator.inputs = inputs


# Bytes of the options last: the others read what they change.
MUTATIONS: list[Callable[[Random, File], None]] = [
    option_value,
    constant,
    constant_size,
    shape,
    element_type,
    wiring,
    option_bytes,
]
WEIGHTS = [0.25, 0.25, 0.1, 0.15, 0.05, 0.05, 0.15]


def damage_bytes(rng: Random, data: np.ndarray) -> None:
    """Change up to four bytes in place."""
    places = rng.integers(0, len(data), rng.integers(1, 5)) if len(data) else []
    for place in places:
        data[place] = (
            rng.integers(256) if rng.random() < 0.5 else data[place] ^ (1 << rng.integers(8))
        )


def mutate(rng: Random, content: bytes) -> bytes:
    """Return the file with one to four mutations, now and then of any of its bytes."""
    if rng.random() < 0.1:
        data = np.frombuffer(content, np.uint8).copy()
        damage_bytes(rng, data)
        return data.tobytes()
    file = File(content)
    for mutation in np.sort(rng.choice(len(MUTATIONS), rng.integers(1, 5), p=WEIGHTS)):
        MUTATIONS[mutation](rng, file)
    return file.pack()
