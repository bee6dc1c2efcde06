"""Binary layers that follow each other: bits between them, and no floats.

Between the sums of a binary layer, which are integers, and the sign of the next one's input lie
functions that are monotone in each channel: scale, bias, activation, normalization. Together they
compare the sum with a threshold. A maximum of signs is an or of bits, and an and where the
functions behind it fall.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from kerasq.export import operators
from kerasq.export.describe import LayerSpec, activation_name
from kerasq.export.monotone import evaluate, input_shape, is_channelwise, is_elementwise, is_rising
from kerasq.export.packed import BitOutput, BitPool, binary_terms, packs_planes
from kerasq.export.streams import WORD_BITS
from kerasq.export.thresholds import InputPlanes, directions, input_planes, sum_thresholds
from kerasq.graph import Graph
from kerasq.keras import keras
from kerasq.representations import BitPlanes

Function = Callable[[np.ndarray], np.ndarray]
# Sums up to here are exact in float32, in which Keras and the operators' bodies compute them.
_MOST_TAPS = 1 << 24


@dataclasses.dataclass(frozen=True)
class Link:
    """How bits reach a layer.

    Attributes:
        producer: name of the layer whose output is bits, or None where a pool packs floats.
        output: thresholds on the producer's sums, or None.
        pools: max pooling of bits, by the name of the layer that it replaces.
        folded: names of the layers that are in the thresholds.
    """

    producer: str | None
    output: BitOutput | None
    pools: dict[str, BitPool]
    folded: frozenset[str]


def link(
    graph: Graph,
    specs: Mapping[str, LayerSpec],
    inputs: Mapping[str, InputPlanes | None],
    name: str,
) -> Link | None:
    """Return how the input of a layer can arrive as bits, or None where it cannot.

    Args:
        graph: of the model.
        specs: its quantized layers.
        inputs: their input quantizers as bit planes.
        name: of the layer.
    """
    if not _takes_bits(specs[name], inputs[name]):
        return None
    producer, steps = _steps_before(graph, name)
    quantizer = specs[name].input_quantizer
    if producer in specs and _gives_bits(specs[producer], inputs[producer]):
        channels = specs[producer].channels_out
    else:
        first = next((i for i, step in enumerate(steps) if _is_pool(step)), None)
        if first is None:
            return None
        producer, steps = None, steps[first:]
        channels = input_shape(steps[0])[-1]
    if not _keeps_channels(steps, channels, quantizer):
        return None
    behind = [_composed(steps[i + 1 :], quantizer) for i in range(len(steps))]
    falls = [directions(function, channels) < 0 for function in behind]
    pools = {
        step.name: BitPool(step, fall)
        for step, fall in zip(steps, falls, strict=True)
        if _is_pool(step)
    }
    if producer is None:
        planes = input_planes(quantizer, channels, lambda x: _through(steps[1:], x))
        pools[steps[0].name] = BitPool(steps[0], falls[0], planes)
        output = None
    else:
        planes = inputs[producer]
        output = _output(specs[producer], planes, _composed(steps, quantizer), inputs[name])
    kept = keras.layers.MaxPooling2D | keras.layers.Flatten
    folded = frozenset(step.name for step in steps if not isinstance(step, kept))
    return Link(producer, output, pools, folded)


def _is_signs(planes: InputPlanes | None) -> bool:
    """Tell whether an input is one plane, which is set above its threshold."""
    return planes is not None and planes.planes == 1 and planes.level_bits.tolist() == [0, 1]


def _is_plain(spec: LayerSpec) -> bool:
    """Tell whether a layer is one operator, of more than a channel a group."""
    geometry = spec.geometry
    depthwise = geometry is not None and geometry.groups == spec.channels_out > 1
    extras = spec.k_map is not None or binary_terms(spec) is not None
    return packs_planes(spec.kernel) and not depthwise and not extras


def _takes_bits(spec: LayerSpec, planes: InputPlanes | None) -> bool:
    if not _is_signs(planes) or not _is_plain(spec):
        return False
    # A padded bit is +1 in the plane: it must be the input +1, too.
    return spec.pad_value == 0 or float(planes.basis.sum(dtype=np.float32)) == 1.0


def _gives_bits(spec: LayerSpec, planes: InputPlanes | None) -> bool:
    kernel = spec.kernel
    if not _is_signs(planes) or not _is_plain(spec) or len(planes.basis) > 1:
        return False
    if not isinstance(kernel, BitPlanes) or len(kernel.packed) > 1 or kernel.offset is not None:
        return False
    return is_rising(spec.activation) and _largest_sum(spec) <= _MOST_TAPS


def _largest_sum(spec: LayerSpec) -> int:
    return int(np.prod(spec.kernel.shape)) // spec.kernel.shape[-1]


def _steps_before(graph: Graph, name: str) -> tuple[str | None, list[Any]]:
    """Return what lies before a layer: the layers that bits can pass, and who is before them."""
    layers = {layer.name: layer for layer in graph.layers}
    steps: list[Any] = []
    reader, producer = name, graph.sole_producer(name)
    while producer is not None and graph.sole_consumer(producer) == reader:
        if not _passes(layers[producer]):
            return producer, steps
        steps.insert(0, layers[producer])
        reader, producer = producer, graph.sole_producer(producer)
    return None, steps


def _passes(layer: Any) -> bool:
    if getattr(layer, "compute_dtype", "float32") != "float32":
        return False
    still = isinstance(layer, keras.layers.Flatten | keras.layers.Dropout)
    return _is_pool(layer) or still or is_elementwise(layer) or is_channelwise(layer)


def _is_pool(layer: Any) -> bool:
    return isinstance(layer, keras.layers.MaxPooling2D) and layer.data_format == "channels_last"


def _keeps_channels(steps: list[Any], channels: int, quantizer: Any) -> bool:
    """Tell whether words stay words behind a Flatten, and no function tells pixels apart there."""
    for i, step in enumerate(steps):
        if not isinstance(step, keras.layers.Flatten):
            continue
        shape = input_shape(step)[1:]
        if None in shape or shape[-1] != channels:
            return False
        behind = any(is_channelwise(other) for other in steps[i + 1 :])
        behind = behind or getattr(quantizer, "per_feature", False)
        if np.prod(shape) != channels and (channels % WORD_BITS != 0 or behind):
            return False
    return True


def _through(steps: list[Any], x: np.ndarray) -> np.ndarray:
    for step in steps:
        if is_elementwise(step) or is_channelwise(step):
            x = evaluate(step, x)
    return x


def _composed(steps: list[Any], quantizer: Any) -> Function:
    return lambda x: np.asarray(quantizer(_through(steps, x)), np.float32)


def _output(
    spec: LayerSpec, planes: InputPlanes, behind: Function, reader: InputPlanes
) -> BitOutput:
    """Find the sums at which the bit of each channel changes, by the operator's arithmetic."""
    scale = (spec.kernel.scales[0] * planes.basis[0]).astype(np.float32)
    middle = float(_levels(reader).mean())

    def reached(sums: np.ndarray) -> np.ndarray:
        y = scale * sums + spec.bias.astype(np.float32)
        name = activation_name(spec.activation)
        if name is None:
            y = np.asarray(spec.activation(tf.constant(y)), np.float32)
        else:
            y = operators.activate(name, tf.constant(y)).numpy()
        return behind(y) >= middle

    return BitOutput(*sum_thresholds(reached, spec.channels_out, _largest_sum(spec)))


def _levels(planes: InputPlanes) -> np.ndarray:
    offset = planes.basis[1] if len(planes.basis) > 1 else np.float32(0)
    return np.array([offset - planes.basis[0], offset + planes.basis[0]], np.float32)
