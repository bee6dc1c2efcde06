"""Every example runs, as a user runs it, and shows what it promises."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
EITHER_KERAS = ("compress_resnet.py", "quickstart.py")
SHOWN = {
    "compress_resnet.py": "KerasqCodebookConv2D",
    "keras3.py": "kerasq runs with Keras 3",
    "larq_layers.py": "KerasqBitplaneConv2D",
    "quickstart.py": "KerasqBitplaneConv2D",
    "tfmot_quantize_configs.py": "KerasqBitplaneConv2D",
}


VERSION = os.environ.get("KERASQ_TEST_KERAS", "2")


def test_every_example_is_listed():
    assert sorted(SHOWN) == sorted(path.name for path in EXAMPLES.glob("*.py"))


def runs_under(name, version):
    return name in EITHER_KERAS or version == ("3" if name == "keras3.py" else "2")


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in sorted(SHOWN) if runs_under(n, VERSION)])
def test_example(name, tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
    if name in EITHER_KERAS:
        environment["TF_USE_LEGACY_KERAS"] = "1" if VERSION == "2" else "0"
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,  # so that it is the installed package that runs
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert SHOWN[name] in done.stdout
    accuracies = [float(found) for found in re.findall(r"([\d.]+) ?% in the", done.stdout)]
    assert accuracies and accuracies[-1] > 80
    assert list(tmp_path.iterdir()) == []
