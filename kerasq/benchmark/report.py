"""What a demo measured: a table, ``report.json`` and ``report.png``."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from kerasq.benchmark.latency import Timing
from kerasq.export.summary import table_console
from kerasq.files import write_whole


@dataclasses.dataclass(frozen=True)
class Row:
    """One exported network.

    Attributes:
        name: what was done to it.
        top1: per cent of the test images that the file labels rightly in the runtime.
        keras_top1: the same of the Keras model it was made from; None where there is none.
        file_bytes: length of the file.
        weight_bytes: bytes in the file of the convolutions and dense layers: kernels, indices,
            codebooks, scales and biases.
        weights: elements of the kernels of the float network's convolutions and dense layers.
        microseconds: median of one inference, one thread, one image.
        operators: bytes of each operator, as :meth:`kerasq.export.Inspection.rows` lists them.
    """

    name: str
    top1: float
    keras_top1: float | None
    file_bytes: int
    weight_bytes: int
    weights: int
    microseconds: float
    operators: list[dict[str, Any]]

    @property
    def bits_per_weight(self) -> float:
        """Stored bits for each weight of the float network."""
        return 8 * self.weight_bytes / self.weights

    @property
    def times_smaller(self) -> float:
        """How many times smaller than the kernels in float32; above 0."""
        return 4 * self.weights / self.weight_bytes


@dataclasses.dataclass(frozen=True)
class Report:
    """The rows of a demo, the float network first.

    Attributes:
        title: network and data.
        rows: exported networks.
        images: test images behind each top-1.
        seconds: how long all of it took.
        notes: what else there is to say, a sentence each.
    """

    title: str
    rows: list[Row]
    images: int
    seconds: float
    notes: list[str]

    def speedup(self, row: Row) -> float:
        """Return how many times faster than the float network a row is."""
        return self.rows[0].microseconds / row.microseconds

    @property
    def largest_difference(self) -> float:
        """Largest difference between a file's top-1 and its Keras model's, in points."""
        return max(abs(r.top1 - r.keras_top1) for r in self.rows if r.keras_top1 is not None)

    def table(self) -> Table:
        """Return the table for a terminal."""
        table = Table(title=self.title)
        table.add_column("network")
        for column in ("top-1 %", "Keras %", "file bytes", "bits/weight", "weights", "µs", "speed"):
            table.add_column(column, justify="right")
        for row in self.rows:
            keras = "–" if row.keras_top1 is None else f"{row.keras_top1:.2f}"
            table.add_row(
                row.name,
                f"{row.top1:.2f}",
                keras,
                f"{row.file_bytes:,}",
                f"{row.bits_per_weight:.2f}",
                f"{row.times_smaller:.1f}x smaller",
                f"{row.microseconds:,.0f}",
                f"{self.speedup(row):.2f}x",
            )
        return table

    def sentences(self) -> list[str]:
        """Return what stands below the table."""
        return [
            f"top-1 of {self.images} test images: in the stock runtime, and in Keras; they differ "
            f"by {self.largest_difference:.2f} points at most",
            "weights: bytes in the file of convolutions and dense layers (kernels, indices, "
            "codebooks, scales, biases) against their kernels in float32",
            "µs: median of one inference, one thread; speed: against the float network",
            *self.notes,
        ]

    def print(self) -> None:
        """Print the table and what to know about it."""
        console = table_console()
        console.print(self.table())
        for sentence in self.sentences():
            console.print(f"- {sentence}", highlight=False)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON types."""
        rows = [
            {
                **dataclasses.asdict(row),
                "bits_per_weight": row.bits_per_weight,
                "times_smaller": row.times_smaller,
                "times_faster": self.speedup(row),
            }
            for row in self.rows
        ]
        return {
            "title": self.title,
            "images": self.images,
            "seconds": self.seconds,
            "largest_difference_to_keras": self.largest_difference,
            "notes": self.notes,
            "rows": rows,
        }

    def write(self, folder: Path) -> None:
        """Write ``report.json`` and ``report.png``, each whole or not at all."""
        picture = self.picture()
        write_json(folder / "report.json", self.to_dict())
        write_whole(folder / "report.png", picture)

    def picture(self) -> bytes:
        """Return a PNG: accuracy against bytes, and latency."""
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        figure, (left, right) = pyplot.subplots(1, 2, figsize=(13, 5), layout="constrained")
        colors = [f"C{i % 10}" for i in range(len(self.rows))]
        self._draw_accuracy(left, colors)
        self._draw_latency(right, colors)
        figure.suptitle(self.title)
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=120)
        pyplot.close(figure)
        return stream.getvalue()

    def _draw_accuracy(self, axes: Any, colors: list[str]) -> None:
        for row, color in zip(self.rows, colors, strict=True):
            label = f"{row.name}: {row.top1:.1f} %, {row.file_bytes / 1024:,.0f} KiB"
            axes.plot(row.file_bytes / 1024, row.top1, "o", color=color, markersize=9, label=label)
        axes.set_xscale("log", base=2)
        sizes = [row.file_bytes / 1024 for row in self.rows]
        axes.set_xlim(min(sizes) / 1.5, max(sizes) * 1.5)
        axes.set_xlabel("file, KiB")
        axes.set_ylabel(f"top-1 in the runtime, % of {self.images} images")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.grid(alpha=0.3)
        axes.set_title("accuracy against bytes (up and left is better)")
        axes.legend(fontsize=8, loc="lower right")

    def _draw_latency(self, axes: Any, colors: list[str]) -> None:
        names = [row.name for row in self.rows]
        bars = axes.barh(names, [row.microseconds for row in self.rows], color=colors)
        labels = [f"{row.microseconds:,.0f} µs, {self.speedup(row):.2f}x" for row in self.rows]
        axes.bar_label(bars, labels, padding=4, fontsize=9)
        axes.set_xlim(0, 1.3 * max(row.microseconds for row in self.rows))
        axes.invert_yaxis()
        axes.set_xlabel("µs of one inference (median, one thread)")
        axes.set_title("latency (shorter is better)")


def write_json(path: Path, content: Any) -> None:
    """Write JSON, whole or not at all."""
    write_whole(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def print_timings(timings: Mapping[str, Timing], baseline: str | None = None) -> None:
    """Print medians, and how many times faster each is than the baseline, if there is one."""
    table = Table()
    table.add_column("file", overflow="fold")
    for column in ("median µs", "10 %", "90 %", "runs"):
        table.add_column(column, justify="right")
    if baseline is not None:
        table.add_column(f"times faster than {baseline}", justify="right")
    for label, timing in timings.items():
        figures = [f"{value:,.1f}" for value in (timing.median, timing.low, timing.high)]
        ratio = [] if baseline is None else [f"{timings[baseline].median / timing.median:.2f}x"]
        table.add_row(label, *figures, str(timing.runs), *ratio)
    table_console().print(table)
