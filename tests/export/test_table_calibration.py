"""Look-up tables of 8 bits, with scales from calibration data."""

import numpy as np
import pytest

import kerasq
from kerasq.export.inspection import inspect
from kerasq.export.tables import input_grid, rounding
from kerasq.keras import keras
from kerasq.layers import CodebookConv2D, CodebookDense


def network(**arguments):
    """Return a small network of codebooks, grouped convolution and dense layer included."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((9, 9, 8))
    x = CodebookConv2D(16, 3, padding="same", subvector=4, codewords=16, **arguments)(inputs)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.ReLU()(x)
    x = CodebookConv2D(12, 3, strides=2, groups=2, subvector=4, codewords=64)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, CodebookDense(5, subvector=4, codewords=8)(x))


@pytest.fixture
def x(rng):
    return rng.standard_normal((40, 9, 9, 8)).astype(np.float32)


def test_the_file_computes_what_the_deployed_model_does(x):
    model = network()
    deployed = kerasq.deploy(model, calibration_data=x)
    y = kerasq.Interpreter(model_content=kerasq.convert(model, calibration_data=x)).predict(x)
    desired = deployed.predict(x, verbose=0)
    np.testing.assert_allclose(y, desired, atol=1e-5 * np.abs(desired).max())


def test_the_tables_cost_little_and_save_bytes(x):
    model = network()
    floats, small = kerasq.convert(model), kerasq.convert(model, calibration_data=x)
    operators = [operator for operator in inspect(small).operators if operator.is_custom]
    assert [operator.options["tables"] for operator in operators] == [1, 1, 1]
    assert inspect(small).weight_bytes < inspect(floats).weight_bytes
    desired = model.predict(x, verbose=0)
    y = kerasq.Interpreter(model_content=small).predict(x)
    assert np.sqrt(np.mean((y - desired) ** 2)) < 0.02 * np.sqrt(np.mean(desired**2))


def test_layers_that_no_table_serves_stay_as_they_are(x):
    model = network(order="channel", shared=True)
    operators = inspect(kerasq.convert(model, calibration_data=x)).operators
    tables = [operator.options.get("tables") for operator in operators if operator.is_custom]
    assert tables == [0, 1, 1]


def test_nested_models_are_calibrated(x):
    inner = network()
    inputs = keras.Input((9, 9, 8))
    model = keras.Model(inputs, inner(inputs))
    nested = kerasq.Interpreter(model_content=kerasq.convert(model, calibration_data=x))
    flat = kerasq.Interpreter(model_content=kerasq.convert(inner, calibration_data=x))
    np.testing.assert_allclose(nested.predict(x), flat.predict(x), rtol=1e-6)


def test_what_cannot_calibrate_is_refused(x):
    model = network()
    with pytest.raises(ValueError, match="empty"):
        kerasq.convert(model, calibration_data=x[:0])
    with pytest.raises(ValueError, match="not finite"):
        kerasq.convert(model, calibration_data=np.full_like(x, np.nan))
    plain = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    with pytest.raises(ValueError, match="no layer that calibration_data could serve"):
        kerasq.convert(plain, calibration_data=np.ones((2, 4), np.float32))


def test_constant_inputs_and_dead_codewords(x):
    model = network()
    zeros = np.zeros_like(x)
    for layer in model.layers:
        if isinstance(layer, CodebookConv2D):
            layer.set_weights(
                [np.zeros_like(w) if w.dtype.kind == "f" else w for w in layer.get_weights()]
            )
    content = kerasq.convert(model, calibration_data=zeros)
    y = kerasq.Interpreter(model_content=content).predict(x)
    np.testing.assert_allclose(y, model.predict(x, verbose=0), atol=1e-6)


@pytest.mark.parametrize(("low", "high"), [(0.0, 6.0), (-3.0, 5.0), (-1.0, 0.0), (0.0, 1e-20)])
def test_input_grid_holds_zero_and_the_range(rng, low, high):
    sample = rng.uniform(low, high, 5000)
    inverse, zero_point = input_grid(low, high, sample)
    codes = np.clip(np.round(sample * inverse) + zero_point, -128, 127)
    error = (codes - zero_point) / np.float64(inverse) - sample
    assert np.abs(error).max() <= 1.01 * (high - low) / 255
    assert -128 <= zero_point <= 127


@pytest.mark.parametrize("largest", [0.0, 1.0, 90.0, 5e3, 1e6])
def test_rounding_keeps_the_largest_products(rng, largest):
    products = rng.uniform(-largest, largest, 4000)
    shift, multiplier = rounding(products)
    entries = np.round(products * multiplier / 2.0 ** (15 + shift))
    assert 0 <= shift <= 24 and 1 <= multiplier <= 32767
    assert np.abs(entries).max() <= 1.2 * 127
    assert largest < 100 or np.abs(entries).max() >= 100
