"""Which Keras the run tests, where the real data is, and fixed seeds."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

_VERSION = os.environ.get("KERASQ_TEST_KERAS", "2")
# Before anything imports TensorFlow: afterwards it has no effect.
os.environ["TF_USE_LEGACY_KERAS"] = "1" if _VERSION == "2" else "0"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

SEED = 1234


def pytest_report_header() -> str:
    return f"Keras {_VERSION} (KERASQ_TEST_KERAS), seed {SEED}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if _VERSION == "2":
        return
    skip = pytest.mark.skip(reason="larq and TFMOT need Keras 2")
    for item in items:
        if "keras2" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def _seeds() -> None:
    import numpy as np
    import tensorflow as tf

    random.seed(SEED)  # Keras 2 draws the seeds of its initializers from it
    np.random.seed(SEED)  # noqa: NPY002 - layers and libraries draw from the global generator
    tf.random.set_seed(SEED)


@pytest.fixture
def rng():
    """A numpy generator with the fixed seed."""
    import numpy as np

    return np.random.default_rng(SEED)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data sets and trained networks; the test is skipped where it is absent."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("KERASQ_DATA", default))
    if not (folder / "cifar10.npz").exists():
        pytest.skip("real data not found: set KERASQ_DATA to the folder that holds cifar10.npz")
    return folder
