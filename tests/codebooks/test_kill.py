"""`compress` after kill -9, and on a full disk: nothing lost, nothing half-written."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from kerasq import files
from kerasq.codebooks import QCNN, compress
from kerasq.keras import keras

# A run as a user starts it. With a second argument it is killed, by itself, between the writing and
# the renaming of the checkpoint's so many-th file: no outsider hits that moment reliably.
SCRIPT = """
import os, signal, sys
import numpy as np
import kerasq
from kerasq import files
from kerasq.codebooks import compress, get
from kerasq.keras import keras

folder, method, out = sys.argv[1:4]
deadly = int(sys.argv[4]) if len(sys.argv) > 4 else None
replace, seen = os.replace, []

def count_and_die(source, target):
    seen.append(target)
    if len(seen) == deadly:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)

files.os.replace = count_and_die
keras.utils.set_random_seed(3)
layers = keras.layers
model = keras.Sequential(
    [
        keras.Input((14, 14, 8)),
        layers.Conv2D(32, 3, padding="same", activation="relu", name="a"),
        layers.Conv2D(32, 3, strides=2, activation="relu", name="b"),
        layers.BatchNormalization(name="norm"),
        layers.Conv2D(32, 3, activation="relu", name="c"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(32, activation="relu", name="d"),
        layers.Dense(10, name="e"),
    ],
    name="net",
)
rng = np.random.default_rng(4)
x = rng.normal(size=(512, 14, 14, 8)).astype("float32")
y = rng.integers(0, 10, 512)
if method == "qcnn":
    method = kerasq.codebooks.QCNN(4, 8, sweeps=30)
else:
    method = kerasq.codebooks.DeepCompression(
        0.5, conv_bits=3, dense_bits=3, prune_steps=500, retrain_steps=10, finetune_steps=500,
        batch_size=16,
    )
small = compress(model, (x, y), method, folder, verbose=False)
np.savez(out, *small.get_weights())
"""


def start(*arguments: object) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", SCRIPT, *map(str, arguments)])


def kill_when_there(process: subprocess.Popen, folder: Path, file: str) -> None:
    """Send SIGKILL as soon as a file of the checkpoint has appeared."""
    give_up = time.monotonic() + 120
    while not list(folder.glob(file)):
        assert process.poll() is None, f"the run ended before it wrote {file}"
        assert time.monotonic() < give_up, f"no {file} after two minutes"
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "first", "deadly"),
    [
        ("qcnn", "layer-0000.npz", 2),  # in the first layer after it, then in the file of the third
        ("deep_compression", "stage-*.npz", 3),  # while it trains, then in the file of a stage
    ],
)
def test_a_run_that_was_killed_twice_ends_the_same(method, first, deadly, tmp_path):
    folder = tmp_path / "checkpoint"
    process = start(folder, method, tmp_path / "never.npz")
    kill_when_there(process, folder, first)
    left = sorted(path.name for path in folder.iterdir())
    process = start(folder, method, tmp_path / "never.npz", deadly)
    assert process.wait() == -signal.SIGKILL
    after = sorted(path.name for path in folder.iterdir())
    assert set(left) - {name for name in left if name.endswith(".part")} < set(after)
    assert any(name.endswith(".part") for name in after)  # it died in the middle of writing
    assert not (tmp_path / "never.npz").exists()

    assert start(folder, method, tmp_path / "killed.npz").wait() == 0
    assert not list(folder.glob("*.part"))
    assert start(tmp_path / "other", method, tmp_path / "whole.npz").wait() == 0
    with np.load(tmp_path / "killed.npz") as killed, np.load(tmp_path / "whole.npz") as whole:
        assert killed.files == whole.files
        for name in whole.files:
            np.testing.assert_array_equal(killed[name], whole[name])


def network():
    keras.utils.set_random_seed(3)
    convolutions = [keras.layers.Conv2D(8, 3, activation="relu", name=n) for n in "ab"]
    ends = [keras.layers.Flatten(), keras.layers.Dense(4, name="c")]
    return keras.Sequential([keras.Input((6, 6, 3)), *convolutions, *ends], name="net")


class FullDisk:
    """Opens /dev/full in the place of the checkpoint's so many-th file: ENOSPC by the kernel."""

    def __init__(self, at: int):
        self._left = at

    def __call__(self, path, mode="r"):
        self._left -= 1
        return open("/dev/full" if self._left == 0 else path, mode)


@pytest.mark.parametrize("at", [1, 2, 4])
def test_a_full_disk_is_one_clear_error_and_the_run_goes_on_later(at, rng, tmp_path, monkeypatch):
    x = rng.normal(size=(50, 6, 6, 3)).astype("float32")
    model, method = network(), QCNN(2, 4)
    file = ["run.json", "layer-0000.npz", "layer-0001.npz", "layer-0002.npz"][at - 1]
    with monkeypatch.context() as patch:
        patch.setattr(files, "open", FullDisk(at), raising=False)
        with pytest.raises(OSError, match="cannot write the checkpoint.*make room") as caught:
            compress(model, x, method, tmp_path, verbose=False)
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(tmp_path / file)
    names = ["run.json"] + [f"layer-{i:04}.npz" for i in range(3)]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[: at - 1])
    small = compress(model, x, method, tmp_path, verbose=False)
    whole = compress(model, x, method, verbose=False)
    for a, b in zip(small.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
