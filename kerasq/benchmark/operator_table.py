"""The table of a file's operators and their times."""

from __future__ import annotations

from rich.table import Table

from kerasq.benchmark.operator_times import OperatorTime, OperatorTimes
from kerasq.export.summary import table_console

_WIDTH = 150  # of nine columns, where the output is no terminal


def print_operator_times(times: OperatorTimes, title: str) -> None:
    """Print the operators and their shares, which with the rest add up to the whole."""
    table = Table(title=title)
    table.add_column("#", justify="right")
    table.add_column("operator", no_wrap=True)
    table.add_column("layer", overflow="fold")
    table.add_column("output")
    table.add_column("kernel", overflow="fold")
    for column in ("µs", "%", "constants", "scratch"):
        table.add_column(column, justify="right")
    for operator in times.operators:
        table.add_row(*_cells(operator, times.share(operator.microseconds)))
    table.add_section()
    rest = {"call from Python": times.call, "unattributed": times.unattributed}
    for name, value in {**rest, "whole model": times.whole.median}.items():
        table.add_row("", name, "", "", "", f"{value:,.1f}", f"{times.share(value):.1f}", "", "")
    console = table_console(_WIDTH)
    console.print(table)
    for sentence in _sentences(times):
        console.print(f"- {sentence}", highlight=False)


def _cells(operator: OperatorTime, share: float | None) -> list[str]:
    timed = operator.microseconds is not None
    return [
        str(operator.index),
        operator.name,
        operator.layer,
        "x".join(str(size) for size in operator.shape),
        f"{operator.kernel} (alone {operator.note})"
        if timed and operator.note
        else operator.kernel,
        f"{operator.microseconds:,.1f}" if timed else operator.note,
        f"{share:.1f}" if timed else "",
        f"{operator.constant_bytes:,}",
        "–" if operator.scratch_bytes is None else f"{operator.scratch_bytes:,}",
    ]


def _sentences(times: OperatorTimes) -> list[str]:
    whole, threads = times.whole, times.threads
    largest = max(times.operators, key=lambda operator: operator.peak_bytes)
    return [
        f"µs: medians of {whole.runs} interleaved rounds on {threads} "
        f"thread{'s' if threads > 1 else ''}; the whole model took {whole.low:,.1f} to "
        f"{whole.high:,.1f} in eight of ten. kerasq's operators are timed within the whole model, "
        "the others each as a file of its own",
        "unattributed: the rest of the whole, operators without a time included; below 0 where "
        "operators run faster together than alone",
        "constants, scratch: bytes in the file, and of memory while the operator runs; TFLite and "
        "XNNPACK do not tell their scratch",
        f"most memory at once: {largest.peak_bytes:,} bytes of input, output and scratch, of "
        f"operator {largest.index}",
    ]
