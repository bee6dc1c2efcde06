"""The search for an order of channels in which a kernel's blocks are easy to quantize."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Consumer:
    """A kernel that reads the channels.

    Attributes:
        kernel: (..., C, Ct).
        subvector: d, a multiple of the kernel's positions P: d / P channels are in a block.
        codewords: K.
    """

    kernel: np.ndarray
    subvector: int
    codewords: int

    @property
    def slices(self) -> np.ndarray:
        """The weights of each channel: float64 (C, P, Ct)."""
        kernel = np.asarray(self.kernel, np.float64)
        return np.moveaxis(kernel, -2, 0).reshape(kernel.shape[-2], -1, kernel.shape[-1])

    @property
    def channels(self) -> int:
        """Channels in a block, d / P."""
        return self.subvector // int(np.prod(self.kernel.shape[:-2]))


class Spread:
    """How far the blocks of a kernel are spread, for one order of its channels.

    ``size · K^(−2/d) · det(Σ)^(1/d)`` with Σ the sample covariance of the blocks: to a constant,
    the least squared error that K codewords can have if the blocks are Gaussian. All that a swap
    changes are the sums over two blocks.

    Args:
        consumer: the kernel.
        order: permutation of the channels; channel ``order[i]`` comes i-th.
    """

    def __init__(self, consumer: Consumer, order: np.ndarray):
        slices = consumer.slices
        self._taps = slices.shape[1]
        self._channels, self._length = consumer.channels, consumer.subvector
        self._count = slices[..., 0].size // self._length * slices.shape[-1]
        self._weight = slices.size * consumer.codewords ** (-2 / self._length)
        flat = slices.reshape(-1, slices.shape[-1])
        self._gram, self._sums = flat @ flat.T, flat.sum(1)
        blocks = order.reshape(-1, self._channels)
        self._moments = [sum(parts) for parts in zip(*map(self._of, blocks), strict=True)]
        self.value = self._spread(self._moments)

    @property
    def determinant(self) -> float:
        """det(Σ)."""
        return float(np.linalg.det(self._covariance(self._moments)))

    def swapped(self, order: np.ndarray, i: int, j: int) -> tuple[float, list[np.ndarray]]:
        """Return the value, and the sums for `accept`, with two places of the order swapped."""
        places = sorted({i // self._channels, j // self._channels})
        if len(places) == 1:
            return self.value, self._moments
        after = order.copy()
        after[[i, j]] = after[[j, i]]
        moments = [np.array(part) for part in self._moments]
        for place in places:
            block = slice(place * self._channels, (place + 1) * self._channels)
            parts = zip(moments, self._of(order[block]), self._of(after[block]), strict=True)
            for total, old, new in parts:
                total += new - old
        return self._spread(moments), moments

    def accept(self, value: float, moments: list[np.ndarray]) -> None:
        """Keep what `swapped` returned."""
        self.value, self._moments = value, moments

    def _of(self, block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return Σ v vᵀ and Σ v over the outputs of one block of channels."""
        rows = (block[:, None] * self._taps + np.arange(self._taps)).ravel()
        return self._gram[rows[:, None], rows], self._sums[rows]

    def _covariance(self, moments: list[np.ndarray]) -> np.ndarray:
        products, sums = moments
        return (products - np.outer(sums, sums) / self._count) / max(self._count - 1, 1)

    def _spread(self, moments: list[np.ndarray]) -> float:
        sign, log = np.linalg.slogdet(self._covariance(moments))
        return self._weight * float(np.exp(log / self._length)) if sign > 0 else 0.0


def greedy_order(slices: np.ndarray, buckets: int) -> np.ndarray:
    """Return an order that spreads channels over the coordinates of a block.

    Channels, by falling variance, go one by one to the bucket of the smallest variance so far, 1
    for an empty one; a bucket takes C / buckets. Block j then has the j-th channel of each bucket.
    For kernels of several positions, det of the covariance stands for the variance.

    Args:
        slices: the weights of each channel, (C, P, Ct).
        buckets: channels in a block.
    """
    channels, taps, outputs = slices.shape
    products = slices @ slices.transpose(0, 2, 1)  # (C, P, P)
    sums = slices.sum(-1)

    def variance(product: np.ndarray, total: np.ndarray, members: int) -> float:
        count = members * outputs
        return float(np.linalg.det(product / count - np.outer(total, total) / count**2))

    scores = [variance(products[c], sums[c], 1) for c in range(channels)]
    product, total = np.zeros((buckets, taps, taps)), np.zeros((buckets, taps))
    members: list[list[int]] = [[] for _ in range(buckets)]
    variances = np.ones(buckets)
    for c in np.argsort(scores, kind="stable")[::-1]:
        b = int(variances.argmin())
        members[b].append(c)
        product[b] += products[c]
        total[b] += sums[c]
        full = len(members[b]) == channels // buckets
        variances[b] = np.inf if full else variance(product[b], total[b], len(members[b]))
    return np.array(members).T.ravel()


def local_search(
    consumers: list[Consumer], order: np.ndarray, swaps: int, rng: np.random.Generator
) -> tuple[np.ndarray, list[float]]:
    """Swap random pairs of channels where the sum of `Spread` of all consumers falls.

    Returns:
        The order, and the sum at the start and after each swap that was made.
    """
    order = np.array(order)
    spreads = [Spread(consumer, order) for consumer in consumers]
    history = [sum(spread.value for spread in spreads)]
    for i, j in rng.integers(len(order), size=(swaps, 2)):
        trials = [spread.swapped(order, i, j) for spread in spreads]
        value = sum(trial[0] for trial in trials)
        if value < history[-1]:
            for spread, trial in zip(spreads, trials, strict=True):
                spread.accept(*trial)
            order[[i, j]] = order[[j, i]]
            history.append(value)
    return order, history


def best_order(consumers: list[Consumer], swaps: int, rng: np.random.Generator) -> np.ndarray:
    """Return the order that `greedy_order` and `local_search` find, or that of now if better.

    The greedy start looks at the consumer of the most weights, and all of the same block size.
    """
    largest = max(consumers, key=lambda consumer: consumer.kernel.size)
    shape = largest.slices.shape[:2]
    alike = [
        consumer.slices
        for consumer in consumers
        if consumer.channels == largest.channels and consumer.slices.shape[:2] == shape
    ]
    start = greedy_order(np.concatenate(alike, -1), largest.channels)
    order, history = local_search(consumers, start, swaps, rng)
    identity = np.arange(len(order))
    now = sum(Spread(consumer, identity).value for consumer in consumers)
    return order if history[-1] < now else identity
