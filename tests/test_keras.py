"""Every order of imports, in processes of their own."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    os.environ.get("KERASQ_TEST_KERAS") == "3",
    reason="each case starts processes of its own: the run under Keras 2 has them all",
)

_REPORT = """
import kerasq
from kerasq.keras import keras
import tensorflow as tf
same = tf.keras.layers.Layer is keras.layers.Layer
print(kerasq.keras_version(), keras.__version__.split(".")[0], same)
"""


def run(code, **environment):
    clean = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def report(before, **environment):
    done = run(before + "\n" + _REPORT, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("before", "environment", "version"),
    [
        ("import kerasq", {}, "2"),
        ("import kerasq; import tensorflow", {}, "2"),
        ("import kerasq; import larq", {}, "2"),
        ("import kerasq.layers; import keras", {}, "2"),
        ("import tensorflow", {}, "3"),
        ("import tensorflow as tf; tf.keras.layers.Layer", {}, "3"),
        ("import keras", {}, "3"),
        ("import tf_keras", {}, "2"),
        ("import tensorflow_model_optimization", {}, "2"),
        ("import tensorflow", {"TF_USE_LEGACY_KERAS": "1"}, "2"),
        ("import larq", {"TF_USE_LEGACY_KERAS": "1"}, "2"),
        ("", {"TF_USE_LEGACY_KERAS": "0"}, "3"),
        ("import tf_keras", {"TF_USE_LEGACY_KERAS": "True"}, "2"),
    ],
)
def test_an_active_keras_is_followed_and_keras_2_selected_otherwise(before, environment, version):
    assert report(before, **environment) == [version, version, "True"]


@pytest.mark.parametrize("order", ["import tensorflow; import kerasq", "import keras, kerasq"])
def test_tfmot_under_keras_3_says_what_to_type(order):
    done = run(order + "; import kerasq.tfmot")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError")
    assert "TF_USE_LEGACY_KERAS=1" in last


def test_another_backend_of_keras_3_is_refused():
    other = "import keras; keras.backend.backend = lambda: 'jax'"
    done = run(other + "; from kerasq.keras import keras")
    assert done.returncode == 1
    assert "KERAS_BACKEND=tensorflow" in done.stderr


@pytest.mark.parametrize("flag", ["0", "1"])
@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_a_saved_model_loads_after_importing_kerasq_alone(tmp_path, flag, suffix):
    path = str(tmp_path / f"model.{suffix}")
    save = f"""
import kerasq
from kerasq.keras import keras
dense = kerasq.layers.QuantDense(3, input_quantizer="ste_sign", kernel_quantizer="bwn")
keras.Sequential([keras.Input((4,)), dense, kerasq.layers.CodebookDense(2)]).save({path!r})
"""
    load = f"""
import kerasq
from kerasq.keras import keras
print([type(layer).__name__ for layer in keras.models.load_model({path!r}).layers])
"""
    assert run(save, TF_USE_LEGACY_KERAS=flag).returncode == 0
    assert run(load, TF_USE_LEGACY_KERAS=flag).stdout.strip() == "['QuantDense', 'CodebookDense']"


def test_an_unknown_name_is_an_attribute_error():
    done = run("import kerasq; kerasq.nothing")
    assert "module 'kerasq' has no attribute 'nothing'" in done.stderr
