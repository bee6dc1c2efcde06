"""Interruption and resumption of `compress`."""

from __future__ import annotations

import numpy as np
import pytest

from kerasq.codebooks import QCNN, compress
from kerasq.keras import keras

layers = keras.layers
METHOD = {"subvector": 2, "codewords": 4}


def network():
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            layers.Conv2D(8, 3, name="a", activation="relu"),
            layers.Conv2D(8, 3, name="b", activation="relu"),
            layers.Flatten(),
            layers.Dense(4, name="c"),
        ],
        name="net",
    )


@pytest.fixture
def data(rng):
    return rng.normal(size=(50, 6, 6, 3)).astype("float32")


def interrupt_after(count):
    seen = []

    def callback(report):
        seen.append(report.name)
        if len(seen) == count:
            raise KeyboardInterrupt

    return callback


@pytest.mark.parametrize("at", [1, 2])
def test_resumed_run_gives_the_same(at, data, tmp_path):
    model = network()
    whole = compress(model, data, QCNN(**METHOD), verbose=False)
    with pytest.raises(KeyboardInterrupt):
        compress(model, data, QCNN(**METHOD), tmp_path, verbose=False, callback=interrupt_after(at))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"layer-{i:04}.npz" for i in range(at)] + ["run.json"]
    reports = []
    small = compress(model, data, QCNN(**METHOD), tmp_path, verbose=False, callback=reports.append)
    assert [report.seconds == 0 for report in reports] == [i < at for i in range(3)]
    for a, b in zip(whole.get_weights(), small.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_interruption_while_writing_leaves_no_file(data, tmp_path, monkeypatch):
    def interrupted(file, **arrays):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compress(network(), data, QCNN(**METHOD), tmp_path, verbose=False)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": QCNN(2, 4, sweeps=1)}, "method"),
        ({"method": QCNN(2, 4, layers={"c": False})}, "layers"),
        ({"count": 40}, "data"),
        ({"weights": 2.0}, "model"),
    ],
)
def test_checkpoint_of_another_run_is_refused(change, message, data, tmp_path):
    model = network()
    compress(model, data, QCNN(**METHOD), tmp_path, verbose=False)
    if "weights" in change:
        model.set_weights([w * change["weights"] for w in model.get_weights()])
    method = change.get("method", QCNN(**METHOD))
    with pytest.raises(ValueError, match=f"another run.*{message}"):
        compress(model, data[: change.get("count", 50)], method, tmp_path, verbose=False)


def test_corrupt_checkpoint_names_the_layer(data, tmp_path):
    compress(network(), data, QCNN(**METHOD), tmp_path, verbose=False)
    (tmp_path / "layer-0001.npz").write_bytes(b"PK not a zip")
    with pytest.raises(ValueError, match="layer-0001.*'b'.*remove it"):
        compress(network(), data, QCNN(**METHOD), tmp_path, verbose=False)
