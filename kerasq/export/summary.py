"""What a model weighs once it is a file, layer by layer."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from kerasq.export.inspection import Inspection, inspect
from kerasq.export.tflite import convert


def summary(model: Any) -> Inspection:
    """Print, for every layer, its operator, bits per weight, bytes and multiply-accumulates.

    The model is converted in memory, so that the total is the size of the file, to the byte.

    Args:
        model: what :func:`kerasq.convert` takes.

    Returns:
        The same as data.

    Raises:
        TypeError, ValueError: as :func:`kerasq.convert`.
    """
    inspection = inspect(convert(model))
    print_inspection(inspection, title=model.name)
    return inspection


def print_inspection(inspection: Inspection, title: str) -> None:
    """Print a table of a file's operators; the bytes add up to the file."""
    table = Table(title=title)
    table.add_column("operator", no_wrap=True)
    table.add_column("layer", overflow="fold")
    for column in ("weights", "bits/weight", "bytes", "MACs"):
        table.add_column(column, justify="right")
    for row in inspection.rows():
        has_kernel = row["weights"] > 0
        if row["bytes"] == 0 and not has_kernel:
            continue
        table.add_row(
            row["operator"],
            row["layer"],
            f"{row['weights']:,}" if has_kernel else "",
            f"{row['bits_per_weight']:.2f}" if has_kernel else "",
            f"{row['bytes']:,}",
            f"{row['macs']:,}" if has_kernel else "",
        )
    table.add_section()
    table.add_row("total", "", "", "", f"{inspection.total_bytes:,}", f"{inspection.macs:,}")
    table_console().print(table)


def table_console(width: int = 120) -> Console:
    """Return a console for standard output, of a given width where that is a pipe and has none."""
    console = Console()
    return console if console.is_terminal else Console(width=width)
