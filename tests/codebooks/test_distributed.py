"""`compress` on several workers: each with a part of the data, all with the same codebooks."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from kerasq.codebooks import Moments
from kerasq.codebooks.distributed import Workers

# What a worker runs; alone, without TF_CONFIG, it has all of the data. `how` is "scope" or
# "argument": where compress finds the strategy.
SCRIPT = """
import contextlib, json, os, sys
import numpy as np
import kerasq
import tensorflow as tf

method, how, positions, out = sys.argv[1:5]
strategy, scope, part = None, contextlib.nullcontext(), slice(None)
if "TF_CONFIG" in os.environ:
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
    part = slice(0, 150) if index == 0 else slice(150, None)
    if how == "scope":
        scope, strategy = strategy.scope(), None

from kerasq.codebooks import QCNN, BitGoesDown, compress
from kerasq.keras import keras

layers = keras.layers
rng = np.random.default_rng(5)
x = rng.normal(size=(400, 10, 10, 4)).astype("float32")
y = rng.integers(0, 6, 400)
with scope:
    inputs = keras.Input((10, 10, 4))
    z = short = layers.Conv2D(16, 3, padding="same", activation="relu", name="a")(inputs)
    z = layers.Conv2D(16, 3, padding="same", activation="relu", name="b")(z)
    z = layers.GlobalAveragePooling2D()(layers.Add()([z, short]))
    model = keras.Model(inputs, layers.Dense(6, name="c")(z), name="net")
    weights = np.random.default_rng(6)
    model.set_weights([weights.normal(size=w.shape) * 0.3 for w in model.get_weights()])
    positions = None if positions == "all" else int(positions)
    options = {"strategy": strategy, "verbose": False, "checkpoint_dir": out + ".checkpoint"}
    if method == "qcnn":
        method = QCNN(4, 8, sweeps=4, positions=positions)
    else:
        method = BitGoesDown(codewords=8, classifier=8, layer_steps=int(how == "training"))
        method.steps = 0
        method.positions = positions
    small = compress(model, (x[part], y[part]), method, report=out + ".html", **options)
    again = compress(model, (x[part], y[part]), method, **options)
np.savez(out, *small.get_weights())
np.savez(out + "-again.npz", *again.get_weights())
"""


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("localhost", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def run(arguments: list[str], outs: list[str]) -> list[tuple[int, str]]:
    """Run a worker for each output file, and return exit codes and what they said."""
    workers = [f"localhost:{port}" for port in free_ports(len(outs))]
    processes = []
    for index, out in enumerate(outs):
        environment = {k: v for k, v in os.environ.items() if k != "TF_CONFIG"}
        if len(outs) > 1:
            task = {"type": "worker", "index": index}
            cluster = {"cluster": {"worker": workers}, "task": task}
            environment["TF_CONFIG"] = json.dumps(cluster)
        command = [sys.executable, "-c", SCRIPT, *arguments, out]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        processes.append(subprocess.Popen(command, env=environment, **pipes))
    said = []
    try:
        said = [(process.communicate(timeout=240)[0], process.returncode) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(code, text) for text, code in said]


def arrays(path: str) -> list[np.ndarray]:
    with np.load(path) as file:
        return [file[name] for name in file.files]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "how", "positions"),
    [
        ("qcnn", "scope", "all"),
        ("qcnn", "argument", "9"),
        ("bit_goes_down", "scope", "all"),
    ],
)
def test_two_workers_with_parts_of_the_data_get_the_codebooks_of_one(
    method, how, positions, tmp_path
):
    whole, first, second = (str(tmp_path / f"{name}.npz") for name in ("whole", "first", "second"))
    arguments = [method, how, positions]
    for outs in ([whole], [first, second]):
        for code, text in run(arguments, outs):
            assert code == 0, text
    for a, b, again, one in zip(
        arrays(first), arrays(second), arrays(first + "-again.npz"), arrays(whole), strict=True
    ):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, again)  # all of it from the checkpoints
        if np.issubdtype(one.dtype, np.integer):
            np.testing.assert_array_equal(a, one)
        else:
            np.testing.assert_allclose(a, one, rtol=2e-3, atol=2e-3)  # float16 codewords
    pages = [tmp_path / f"{name}.npz.html" for name in ("whole", "first", "second")]
    assert [page.exists() for page in pages] == [True, True, False]  # the chief's
    top1 = [page.read_text().split("samples given; ")[0][-30:] for page in pages[:2]]
    assert top1[0] == top1[1] and "400" in top1[0]


@pytest.mark.slow
def test_methods_that_train_are_refused_on_several_workers(tmp_path):
    outs = [str(tmp_path / f"{index}.npz") for index in range(2)]
    for code, text in run(["bit_goes_down", "training", "all"], outs):
        assert code != 0 and "trains" in text.splitlines()[-1], text


def test_alone_nothing_is_added(rng):
    workers = Workers()
    assert (workers.count, workers.index) == (1, 0)
    moments = Moments(3, 2)
    moments.update(rng.normal(size=(5, 3)), rng.normal(size=(5, 2)))
    gram = moments.gram.copy()
    workers.add(moments)
    np.testing.assert_array_equal(moments.gram, gram)
    np.testing.assert_array_equal(workers.gather(7), [7])
    workers.check_equal("model", "0a1b2c3d4e5f")


class _Workers(Workers):
    """Two workers, of which the other one adds what it is told."""

    def __init__(self, other: float):
        super().__init__()
        self.count, self._other = 2, other

    def sum(self, array):
        return np.asarray(array, np.float64) + np.array([0.0, self._other])


def test_workers_with_different_models_are_refused():
    _Workers(float(0x0A1B2C3D4E5F)).check_equal("model", "0a1b2c3d4e5f77")
    with pytest.raises(ValueError, match="different model.*same weights"):
        _Workers(1.0).check_equal("model", "0a1b2c3d4e5f77")
