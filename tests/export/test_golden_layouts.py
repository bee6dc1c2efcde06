"""Files of packed constants, which `tflite_golden_test.cc` reads: what Python writes stays so."""

import numpy as np
import pytest

from tests.export import golden

pytestmark = pytest.mark.once


@pytest.mark.parametrize("make", golden.KERNELS, ids=lambda make: make.__name__)
def test_python_writes_every_byte_of_the_golden_file(make):
    text = (golden.FOLDER / f"{make.__name__}.txt").read_text().splitlines()
    assert [line for line in text if not line.startswith("#")] == golden.lines(make())


def test_every_golden_file_has_a_kernel():
    names = {make.__name__ for make in golden.KERNELS}
    assert {path.stem for path in golden.FOLDER.glob("*.txt")} == names


def test_numbers_of_a_golden_file_are_exact():
    for make in golden.KERNELS:
        text = (golden.FOLDER / f"{make.__name__}.txt").read_text().splitlines()[-1]
        values = np.array(text.split(" = ")[1].split(), np.float32)
        np.testing.assert_array_equal(values, make().decode().ravel())
