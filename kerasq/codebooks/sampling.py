"""The inputs of a layer as rows: the patches under sampled output positions."""

from __future__ import annotations

from typing import Any

import numpy as np

from kerasq.keras import keras


class PatchSampler:
    """Draws output positions of a layer and gathers what the kernel sees there.

    At most ``positions`` positions an image, one in each of as many equal stretches of the output
    map; a dense layer on sequences or maps has the vectors of its inputs as positions.

    Args:
        layer: Conv2D or Dense, built.
        positions: positions of an image; None takes all.
        rng: generator of the positions.
    """

    def __init__(self, layer: Any, positions: int | None, rng: np.random.Generator):
        self._layer, self._positions, self._rng = layer, positions, rng
        self._convolves = isinstance(layer, keras.layers.Conv2D)

    def draw(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return positions for inputs of a shape: int (images, n), row-major in the output map."""
        count = int(np.prod(self._map(shape)))
        if self._positions is None or count <= self._positions:
            return np.tile(np.arange(count), (shape[0], 1))
        stretch = count / self._positions
        jitter = self._rng.random((shape[0], self._positions))
        return ((np.arange(self._positions) + jitter) * stretch).astype(np.int64)

    def rows(self, inputs: np.ndarray, drawn: np.ndarray) -> list[np.ndarray]:
        """Return one matrix for each group: (images · n, kernel positions · channels), float32."""
        image = np.arange(len(inputs))[:, None]
        if not self._convolves:
            flat = inputs.reshape(len(inputs), -1, inputs.shape[-1])
            picked = flat[image, drawn].astype(np.float32, copy=False)
            return [picked.reshape(-1, inputs.shape[-1])]
        width = self._map(inputs.shape)[1]
        y = drawn[..., None, None] // width * self._layer.strides[0]
        x = drawn[..., None, None] % width * self._layer.strides[1]
        rows, columns = self._layer.kernel_size
        y = y + np.arange(rows)[:, None] * self._layer.dilation_rate[0]
        x = x + np.arange(columns)[None] * self._layer.dilation_rate[1]
        padded = np.pad(inputs, [(0, 0), *self._padding(inputs.shape), (0, 0)])
        patches = padded[image[..., None, None], y, x].astype(np.float32, copy=False)
        groups = np.split(patches, self._layer.groups, axis=-1)
        return [np.ascontiguousarray(group).reshape(drawn.size, -1) for group in groups]

    def _map(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if not self._convolves:
            return shape[1:-1]
        layer = self._layer
        sizes = []
        for i, (before, after) in enumerate(self._padding(shape)):
            reach = (layer.kernel_size[i] - 1) * layer.dilation_rate[i] + 1
            sizes.append((shape[1 + i] + before + after - reach) // layer.strides[i] + 1)
        return tuple(sizes)

    def _padding(self, shape: tuple[int, ...]) -> list[tuple[int, int]]:
        """Return TensorFlow's padding of height and width."""
        layer, pads = self._layer, []
        for i in range(2):
            size, stride = shape[1 + i], layer.strides[i]
            reach = (layer.kernel_size[i] - 1) * layer.dilation_rate[i] + 1
            total = max((-(-size // stride) - 1) * stride + reach - size, 0)
            total = total if layer.padding == "same" else 0
            pads.append((total // 2, total - total // 2))
        return pads
