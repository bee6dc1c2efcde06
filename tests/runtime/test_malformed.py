"""Damaged files: each must give an exception that says what is wrong, and never a crash."""

import re
import subprocess
import sys

import numpy as np
import pytest
from tensorflow.lite.python import schema_py_generated as schema

from kerasq.runtime import library_path
from tests.runtime import models

pytestmark = pytest.mark.once

# A process of its own, so that a crash is seen, without TensorFlow, so that it is quick.
RUN = """
import sys
import numpy as np
from ai_edge_litert import interpreter as litert

delegate = litert.load_delegate(sys.argv[1])
for path in sys.argv[2:]:
    try:
        interpreter = litert.Interpreter(path, experimental_delegates=[delegate])
        interpreter.allocate_tensors()
        detail = interpreter.get_input_details()[0]
        interpreter.set_tensor(detail["index"], np.ones(detail["shape"], np.float32))
        interpreter.invoke()
        print("no error")
    except (RuntimeError, ValueError) as error:
        print(type(error).__name__, str(error).replace("\\n", " "))
"""


def run(tmp_path, *contents):
    """Return what each file gives: "no error", or its exception."""
    paths = []
    for i, content in enumerate(contents):
        paths.append(tmp_path / f"{i}.tflite")
        paths[-1].write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-c", RUN, library_path(), *map(str, paths)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, f"crashed: {done.returncode} {done.stderr[-2000:]}"
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def contents():
    rng = np.random.default_rng(7)
    layers = {
        "bitplane": models.bitplane_conv(rng, 5, 7, input_planes=2),
        "bitplane_dense": models.bitplane_dense(rng, 5, 7),
        "codebook": models.codebook_conv(rng, 5, 6),
        "sparse": models.sparse_conv(rng, 5, 6),
        "sparse_dense": models.sparse_dense(rng, 5, 40),
        "hashed": models.hashed_dense(rng, 5, 40),
        "codebook_by_channel": models.codebook_conv(rng, 5, 6, 4, 300, 9, "channel"),
    }
    return {
        name: models.convert(models.sequential((6, 6, 5), layer)) for name, layer in layers.items()
    }


def option(**changes):
    def damage(file):
        options = file.options | changes
        file.options = {key: value for key, value in options.items() if value is not None}

    return damage


def shape(position, *sizes):
    def damage(file):
        file.tensor(position).shape = np.array(sizes, np.int32)

    return damage


def element_type(position, code):
    def damage(file):
        file.tensor(position).type = code

    return damage


def no_constant(position):
    def damage(file):
        file.tensor(position).buffer = 0

    return damage


def truncate(count):
    def damage(file):
        file.operator.customOptions = np.array(file.operator.customOptions, np.uint8)[:count]

    return damage


def drop_input(file):
    file.operator.inputs = np.array(file.operator.inputs[:-1], np.int32)


def omit_input(file):
    file.operator.inputs = np.array([*file.operator.inputs[:-1], -1], np.int32)


def rename(file):
    file.model.operatorCodes[file.operator.opcodeIndex].customCode = b"KerasqFourierConv2D"


def index_past_codebook(file):
    file.data(2)[:] = 255


def fill(position, value):
    def damage(file):
        file.data(position).view(np.float32)[:] = value

    return damage


def damaged_bytes(position, value):
    def damage(file):
        file.data(position)[:] = value

    return damage


def as_matrix(position):
    def damage(file):
        file.tensor(position).shape = np.array([1, len(file.data(position))], np.int32)

    return damage


DAMAGES = [
    ("bitplane", truncate(0), "no custom options"),
    ("bitplane", truncate(1), "truncated or malformed"),
    ("bitplane", truncate(20), "custom options"),
    ("codebook", truncate(-1), "custom options"),
    ("codebook", truncate(-7), "custom options"),
    ("bitplane", option(version=2), "version 2 .* knows version 1: update kerasq"),
    ("bitplane", option(stride_h=None), "'stride_h' is missing"),
    ("bitplane", option(stride_h="2"), "'stride_h' is not an integer"),
    ("bitplane", option(stride_w=0), "'stride_w' is 0, expected 1 to"),
    ("bitplane", option(stride_w=-3), "'stride_w' is -3"),
    ("bitplane", option(kernel_h=2**62), f"'kernel_h' is {2**62}"),
    ("bitplane", option(kernel_h=2**20, kernel_w=2**20), "a kernel of more than 2.30 elements"),
    ("bitplane", option(kernel_h=2**20, dilation_h=2**20), "spans more than"),
    ("bitplane", option(padding=2), "'pad_top' is missing"),
    ("bitplane", option(padding=7), "'padding' is 7"),
    ("bitplane", option(padding=1, dilation_h=9), "feed a larger input"),
    ("bitplane", option(groups=2), "7 output channels do not divide into 2 groups"),
    ("bitplane", option(groups=7), "5 channels of its input do not divide into 7 groups"),
    ("bitplane", option(input_planes=0), "8 inputs, expected 4"),
    ("bitplane", option(weight_planes=2), "planes has shape .1, 7, 6., expected .2, 7, 6."),
    ("bitplane", option(activation=3), "'activation' is 3"),
    ("bitplane", option(channels_out=2**20, groups=1), "planes has shape"),
    ("bitplane", drop_input, "7 inputs, expected 8"),
    ("bitplane", omit_input, "input number 7 is missing"),
    ("bitplane", rename, "KerasqFourierConv2D.*does not know the operator: update kerasq"),
    ("bitplane", shape(1, 1, 7, 2**20), ""),
    ("bitplane", shape(1, 2**30, 2**30, 2**30), ""),
    ("bitplane", shape(1, -1, -7, 6), ""),
    ("bitplane", shape(1, 7, 1, 6), "planes has shape .7, 1, 6., expected .1, 7, 6."),
    ("bitplane", shape(4, 3), "thresholds has shape .3., expected .1 or 5, 1."),
    ("bitplane", fill(4, np.nan), "threshold"),
    ("bitplane", fill(5, 0.5), "direction"),
    ("bitplane", no_constant(1), "planes must be a constant"),
    ("bitplane", element_type(1, schema.TensorType.INT8), "planes has type int8, expected uint8"),
    ("bitplane", element_type(0, schema.TensorType.INT8), "type int8, expected float32"),
    ("bitplane", shape(0, 6, 6, 5), r"expected \(N, H, W, channels\)"),
    ("bitplane", shape(0, 2**15, 2**15, 2**15, 5), ""),
    ("bitplane", shape(0, 1, 6, 6, 6), "shape"),
    ("bitplane_dense", shape(0, 1, 6, 6, 9), "planes has shape"),
    ("codebook", index_past_codebook, "index|codeword"),
    ("codebook", option(codewords=70000), "'codewords' is 70000"),
    ("codebook", option(order=None), "'order' is missing"),
    ("codebook", option(order=2), "'order' is 2"),
    ("codebook", option(order=1), "codewords has shape .3, 5, 2., expected .1 or 23, 5, 2."),
    ("codebook_by_channel", index_past_codebook, "index is 511, past its codebook of 300"),
    (
        "codebook_by_channel",
        option(order=0),
        "codewords has shape .12, 300, 4., expected .1 or 2, ",
    ),
    ("codebook_by_channel", option(bits=8), "'bits' is 8, expected 9 to 9"),
    ("codebook_by_channel", option(kernel_h=2**20, kernel_w=2**20), "more than 2.30 elements"),
    ("codebook_by_channel", option(channels_out=2**20), "indices has shape"),
    ("codebook", option(codewords=9), "'bits' is 3, expected 4 to 4"),
    ("codebook", option(subvector=0), "'subvector' is 0"),
    ("codebook", option(subvector=3), "codewords has shape .3, 5, 2., expected .1 or 2, 5, 3."),
    ("codebook", option(tables=2), "'tables' is 2"),
    ("sparse", option(entries=0), "gaps: it has [0-9]+ bytes, too many for 0 symbols"),
    ("sparse", option(entries=10**6), "gaps: it has [0-9]+ bytes, too few for 1000000 symbols"),
    ("sparse", option(entries=-1), "'entries' is -1"),
    ("sparse", option(gap_bits=8), "gaps' lengths has shape"),
    ("sparse", option(gap_bits=9), "'gap_bits' is 9"),
    ("sparse", option(codewords=11), "codewords has shape .9., expected .11."),
    ("sparse", option(codewords=1), "'codewords' is 1"),
    ("sparse", option(channels_in=4), "of 4 input channels a group, but its input has 5"),
    ("sparse", option(channels_in=None), "'channels_in' is missing"),
    ("sparse", option(channels_out=5), "multiplier has shape .6., expected .1 or 5."),
    ("sparse", option(kernel_h=1), "gaps: entry [0-9]+ lies past its 90 weights"),
    ("sparse", option(kernel_h=2**20, kernel_w=2**20), "more than 2.30 elements"),
    ("sparse", fill(1, 1.0), "first codeword must be 0"),
    ("sparse", fill(1, np.nan), "first codeword must be 0"),
    ("sparse", damaged_bytes(3, 0x11), "gaps: its Huffman code is over-subscribed"),
    ("sparse", damaged_bytes(3, 0), "gaps: its Huffman code is incomplete"),
    ("sparse", damaged_bytes(5, 0xFF), "codes: its Huffman code is incomplete"),
    ("sparse", as_matrix(2), "gaps has shape .1, [0-9]+., expected one dimension"),
    ("sparse", shape(4, 2**30), ""),
    ("sparse", no_constant(2), "gaps must be a constant"),
    ("sparse", element_type(4, schema.TensorType.INT8), "codes has type int8"),
    ("sparse", drop_input, "7 inputs, expected 8"),
    ("sparse_dense", shape(0, 1, 6, 6, 9), "of 5 input channels a group, but its input has 9"),
    ("hashed", option(buckets=51), "values has shape .50., expected .51."),
    ("hashed", option(buckets=0), "'buckets' is 0"),
    ("hashed", option(seed=-1), "'seed' is -1"),
    ("hashed", option(channels_in=6), "of 6 input channels"),
    ("hashed", no_constant(1), "values must be a constant"),
    ("codebook", element_type(1, schema.TensorType.INT32), "codewords has type int32"),
    ("codebook", no_constant(4), "bias must be a constant"),
]


@pytest.mark.parametrize(("name", "damage", "message"), DAMAGES)
def test_damaged_file(contents, tmp_path, name, damage, message):
    file = models.File(contents[name])
    damage(file)
    (result,) = run(tmp_path, file.pack())
    assert result.startswith(("RuntimeError", "ValueError"))

    assert re.search(message, result), result
    if message:
        assert "Kerasq" in result


def test_undamaged_files(contents, tmp_path):
    # The way back and forth through the schema is not what the tests above see.
    packed = [models.File(content).pack() for content in contents.values()]
    assert run(tmp_path, *packed) == ["no error"] * len(packed)


@pytest.mark.parametrize(
    "name", ["bitplane", "codebook", "codebook_by_channel", "sparse", "hashed"]
)
def test_random_damage_never_crashes(contents, tmp_path, rng, name):
    damaged = []
    for _ in range(60):
        file = models.File(contents[name])
        options = np.array(file.operator.customOptions, np.uint8)
        places = rng.integers(0, len(options), rng.integers(1, 4))
        options[places] = rng.integers(0, 256, len(places))
        file.operator.customOptions = options
        damaged.append(file.pack())
    assert len(run(tmp_path, *damaged)) == len(damaged)


@pytest.mark.parametrize("position", [2, 3, 4, 5])
def test_random_damage_of_entropy_codes_never_crashes(contents, tmp_path, rng, position):
    damaged = []
    for _ in range(40):
        file = models.File(contents["sparse"])
        data = file.data(position)
        places = rng.integers(0, len(data), rng.integers(1, 4))
        data[places] = rng.integers(0, 256, len(places))
        damaged.append(file.pack())
    assert len(run(tmp_path, *damaged)) == len(damaged)
