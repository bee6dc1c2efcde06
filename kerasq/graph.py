"""The graph of a Sequential or Functional model, the same in both Kerases."""

from __future__ import annotations

import dataclasses
from typing import Any

from kerasq.keras import keras_version


@dataclasses.dataclass(frozen=True)
class Graph:
    """Which layers feed which, by name. A layer called several times has several of each.

    Attributes:
        layers: in topological order, inputs first.
        producers: names of the layers whose outputs a layer takes, over all its calls.
        consumers: names of the layers that take a layer's outputs; a model output is ``""``.
        calls: how often a layer is called in this model.
    """

    layers: list[Any]
    producers: dict[str, list[str]]
    consumers: dict[str, list[str]]
    calls: dict[str, int]

    def sole_consumer(self, name: str) -> str | None:
        """Return the one consumer of a layer that is called once, or None."""
        consumers = self.consumers[name]
        return consumers[0] if self.calls[name] == 1 and len(consumers) == 1 else None

    def sole_producer(self, name: str) -> str | None:
        """Return the one producer of a layer that is called once, or None."""
        producers = self.producers[name]
        return producers[0] if self.calls[name] == 1 and len(producers) == 1 else None


def graph_of(model: Any) -> Graph:
    """Return the graph of a built Sequential or Functional model."""
    function = getattr(model, "_functional", None) or model
    layers: list[Any] = []
    producers: dict[str, list[str]] = {}
    consumers: dict[str, list[str]] = {}
    calls: dict[str, int] = {}
    for depth in sorted(function._nodes_by_depth, reverse=True):
        for node in function._nodes_by_depth[depth]:
            layer = node.layer if keras_version() == 2 else node.operation
            if layer.name not in producers:
                layers.append(layer)
                producers[layer.name], calls[layer.name] = [], 0
                consumers.setdefault(layer.name, [])
            calls[layer.name] += 1
            for tensor in node.keras_inputs if keras_version() == 2 else node.input_tensors:
                source = tensor._keras_history[0].name
                producers[layer.name].append(source)
                consumers.setdefault(source, []).append(layer.name)
    for tensor in model.outputs:
        consumers[tensor._keras_history[0].name].append("")
    return Graph(layers, producers, consumers, calls)
