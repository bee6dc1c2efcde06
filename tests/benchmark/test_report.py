"""The report: figures, table, files."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from kerasq.benchmark import report as reports
from kerasq.benchmark.report import Report, Row


@pytest.fixture
def report() -> Report:
    rows = [
        Row("float32", 90.0, 90.0, 4400, 4100, 1000, 200.0, []),
        Row("int8", 89.5, None, 1400, 1100, 1000, 80.0, []),
        Row("small", 89.25, 89.0, 700, 250, 1000, 50.0, []),
    ]
    return Report("a network", rows, 400, 12.0, ["a note"])


def test_figures_are_of_the_float_networks_weights(report):
    small = report.rows[2]
    assert small.bits_per_weight == 2.0
    assert small.times_smaller == 16.0
    assert report.speedup(small) == 4.0


def test_the_largest_difference_leaves_out_rows_without_a_keras_model(report):
    assert report.largest_difference == 0.25


def test_the_table_shows_every_row(report):
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(report.table())
    text = console.export_text()
    for part in ("float32", "89.25", "16.0x smaller", "4.00x", "–"):
        assert part in text
    assert "0.25 points" in " ".join(report.sentences())


def test_writes_json_and_a_picture(report, tmp_path):
    report.write(tmp_path)
    content = json.loads((tmp_path / "report.json").read_text())
    assert [row["times_smaller"] for row in content["rows"]] == [4000 / 4100, 4000 / 1100, 16.0]
    assert content["largest_difference_to_keras"] == 0.25
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json", "report.png"]


def test_a_failing_picture_leaves_no_file(report, tmp_path, monkeypatch):
    def fail(self: Report) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(Report, "picture", fail)
    with pytest.raises(KeyboardInterrupt):
        report.write(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_timings_have_ratios_to_a_baseline(capsys):
    timings = {
        "slow": reports.Timing(200.0, 190.0, 210.0, 5),
        "fast": reports.Timing(50.0, 40.0, 60.0, 5),
    }
    reports.print_timings(timings, "slow")
    assert "4.00x" in capsys.readouterr().out
