"""The pictures of a report: drawings by matplotlib, as SVG in the page."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from kerasq.codebooks.report_facts import LayerFacts, Page

_BEFORE, _AFTER, _INK = "#e08b3a", "#0b6e8a", "#1d2733"
_PARTS = {"indices": "#0b6e8a", "codebooks": "#7cc0cf", "rest": "#c9d1d9"}
_STYLE = {
    "svg.hashsalt": "kerasq",  # the same page for the same run
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9aa4af",
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}
_WIDTH, _BINS = 10.0, 48


def load_matplotlib() -> Any:
    """Return matplotlib.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError(
            "a report is drawn by matplotlib, which is not installed: "
            "pip install 'kerasq[benchmark]'"
        ) from error
    return matplotlib


def plots(page: Page) -> Iterator[tuple[str, str, str]]:
    """Yield title, explanation and SVG of each picture."""
    layers = page.layers
    yield (
        "Error of each layer",
        "Squared error of the responses relative to their energy: at the codewords that the "
        "method starts from, and at the end.",
        _draw(_errors, layers, len(layers)),
    )
    histories = [layer for layer in layers if len(layer.report.solution.history) > 1]
    if histories:
        yield (
            "Objective of each round",
            "What the method minimises in a layer, relative to its first value.",
            _draw(_objectives, histories, 14),
        )
    used = [layer for layer in layers if layer.usage is not None]
    if used:
        yield (
            "Use of the codewords",
            "Left: the codewords of a layer, the most used first; the colour is how often each is "
            "used, relative to all alike. Right: entropy of the assignments over its maximum.",
            _draw(_usage, used, len(used)),
        )
    yield (
        "Bytes of each layer",
        "What is stored, by part; beside it how many times smaller the kernel is than in float32.",
        _draw(_bytes, layers, len(layers)),
    )


def _draw(draw: Any, layers: list[LayerFacts], rows: int) -> str:
    """Return a drawing as SVG without prologue and metadata: both hold addresses."""
    matplotlib = load_matplotlib()
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, 1.1 + 0.27 * max(rows, 4)), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure, layers)
        stream = io.StringIO()
        figure.savefig(stream, format="svg")
    text = stream.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    return re.sub(r' xmlns(:xlink)?="[^"]*"', "", text)


def _rows(axes: Any, layers: list[LayerFacts]) -> np.ndarray:
    """Give each layer a row, the first on top."""
    places = np.arange(len(layers))
    axes.set_yticks(places, [layer.name for layer in layers])
    axes.set_ylim(len(layers) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    return places


def _errors(figure: Any, layers: list[LayerFacts]) -> None:
    axes = figure.subplots()
    places = _rows(axes, layers)
    least = 1e-6  # nothing smaller is told apart
    before = np.maximum([100 * x.report.solution.error_before for x in layers], least)
    after = np.maximum([100 * x.report.solution.error_after for x in layers], least)
    axes.hlines(places, after, before, color="#c9d1d9", linewidth=2.5, zorder=1)
    axes.scatter(before, places, 42, color=_BEFORE, label="before error correction", zorder=2)
    axes.scatter(after, places, 42, color=_AFTER, label="after", zorder=3)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g} %")
    axes.xaxis.set_minor_formatter("")
    axes.grid(axis="x", which="both", alpha=0.25)
    axes.set_xlabel("relative squared error")
    figure.legend(loc="outside upper right", ncols=2, frameon=False)


def _objectives(figure: Any, layers: list[LayerFacts]) -> None:
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    axes = figure.subplots()
    colors = ScalarMappable(Normalize(0, max(1, len(layers) - 1)), colormaps["viridis"])
    for place, layer in enumerate(layers):
        history = np.array(layer.report.solution.history, float)
        done = np.linspace(0, 100, len(history))
        axes.plot(done, history / (history[0] or 1.0), color=colors.to_rgba(place))
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.grid(alpha=0.25, which="both")
    axes.margins(x=0.01)
    axes.set_xlabel("rounds of the layer, %")
    axes.set_ylabel("objective, first = 1")
    ticks = np.unique(np.linspace(0, len(layers) - 1, min(20, len(layers))).round().astype(int))
    bar = figure.colorbar(colors, ax=axes, aspect=30, pad=0.02)
    bar.set_ticks(ticks, labels=[layers[place].name for place in ticks])
    bar.ax.tick_params(labelsize=8, length=0)
    bar.ax.invert_yaxis()
    bar.outline.set_visible(False)


def _usage(figure: Any, layers: list[LayerFacts]) -> None:
    left, right = figure.subplots(1, 2, width_ratios=(3, 1), sharey=True)
    places = _rows(left, layers)
    shares = np.stack([_sorted_share(layer.usage) for layer in layers])
    image = left.imshow(
        np.log2(np.maximum(shares, 1 / 16)),
        aspect="auto",
        cmap="BrBG",
        vmin=-4,
        vmax=4,
        extent=(0, 100, len(layers) - 0.5, -0.5),
        interpolation="nearest",
    )
    left.set_ylim(len(layers) - 0.5, -0.5)
    left.set_xlabel("codewords, the most used first, %")
    bar = figure.colorbar(image, ax=left, location="top", aspect=50, pad=0.02)
    bar.set_ticks([-4, -2, 0, 2, 4], labels=["≤ 1/16", "1/4", "alike", "4×", "16×"])
    bar.outline.set_visible(False)
    entropies = [100 * (layer.entropy or 0) for layer in layers]
    bars = right.barh(places, entropies, color=_AFTER, height=0.7)
    right.bar_label(bars, [f"{x:.0f} %" for x in entropies], padding=3, fontsize=8)
    right.set_xlim(0, 118)
    right.set_xlabel("entropy of the assignments")
    right.tick_params(axis="y", length=0)


def _sorted_share(usage: np.ndarray) -> np.ndarray:
    """Return how often codewords are used, the most used first, relative to all alike: (bins,)."""
    size = usage.shape[1]
    share = usage / np.maximum(usage.sum(1, keepdims=True), 1) * size
    ranked = -np.sort(-share, axis=1).mean(0)
    return ranked[np.arange(_BINS) * size // _BINS]


def _bytes(figure: Any, layers: list[LayerFacts]) -> None:
    axes = figure.subplots()
    places, start = _rows(axes, layers), np.zeros(len(layers))
    for part, color in _PARTS.items():
        sizes = np.array([getattr(layer, part) for layer in layers]) / 1024
        bars = axes.barh(places, sizes, left=start, color=color, height=0.7, label=part)
        start += sizes
    axes.bar_label(bars, [f"{layer.ratio:.1f}×" for layer in layers], padding=4, fontsize=8)
    axes.set_xlim(0, 1.08 * start.max())
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    axes.set_xlabel("KiB")
    figure.legend(loc="outside upper right", ncols=3, frameon=False)
