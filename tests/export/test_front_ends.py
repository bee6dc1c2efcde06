"""Export of what other front ends make: codebook layers, larq's layers, TFMOT's wrappers."""

import numpy as np
import pytest

import kerasq
from kerasq.export.deploy import deploy, packed_layers
from kerasq.keras import keras
from tests.export.test_deploy import same


def exported(model, x):
    return kerasq.Interpreter(model_content=kerasq.convert(model)).predict(x)


def check(model, x, packed, tolerance=1e-4):
    """Keras, the deployed model and the file agree, and the expected layers were packed."""
    expected = model.predict(x, verbose=0)
    deployed = deploy(model)
    assert [layer.name for layer in packed_layers(deployed)] == packed
    same(deployed.predict(x, verbose=0), expected, tolerance)
    same(exported(model, x), expected, tolerance)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("d", "K"), [(1, 16), (3, 16), (4, 100)])
def test_codebook_layers(rng, d, K, shared, dtype):
    from kerasq.layers import CodebookConv2D, CodebookDense

    book = {"subvector": d, "codewords": K, "codebook_dtype": dtype, "shared": shared}
    model = keras.Sequential(
        [
            keras.Input((11, 9, 12)),
            CodebookConv2D(20, 3, padding="same", name="c1", **book),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            CodebookConv2D(
                24, 3, strides=2, padding="same", groups=2, activation="relu", name="c2", **book
            ),
            CodebookConv2D(10, 1, use_bias=False, name="c3", **book),
            keras.layers.Flatten(),
            CodebookDense(7, name="fc", **book),
        ]
    )
    normalization = model.layers[1]
    normalization.set_weights([rng.standard_normal(w.shape) ** 2 for w in model.layers[1].weights])
    x = rng.standard_normal((5, 11, 9, 12)).astype(np.float32)
    check(model, x, ["c1", "c2", "c3", "fc"])


def test_a_codebook_in_the_file_is_the_codebook_of_the_layer(rng):
    from kerasq.layers import CodebookDense

    layer = CodebookDense(30, subvector=4, codewords=16, codebook_dtype="float16", name="fc")
    model = keras.Sequential([keras.Input((64,)), layer])
    (operator,) = [o for o in kerasq.inspect(kerasq.convert(model)).operators if o.is_custom]
    assert operator.name == "KerasqCodebookDense"
    # codewords and indices, a multiplier, and a bias that is zero
    assert operator.nbytes == layer.codebook().nbytes + 4 + 4


@pytest.mark.keras2
@pytest.mark.parametrize("kernel", ["bwn", "ste_sign", "ste_tern", "magnitude_aware_sign"])
@pytest.mark.parametrize("pad_values", [0.0, 1.0])
def test_layers_and_quantizers_of_larq(rng, kernel, pad_values):
    import larq

    model = keras.Sequential(
        [
            keras.Input((8, 8, 6)),
            larq.layers.QuantConv2D(
                12,
                3,
                padding="same",
                pad_values=pad_values,
                input_quantizer="approx_sign",
                kernel_quantizer=kernel,
                kernel_constraint="weight_clip",
                name="c1",
            ),
            keras.layers.BatchNormalization(momentum=0.9),
            larq.layers.QuantDepthwiseConv2D(
                3, input_quantizer="ste_sign", depthwise_quantizer=kernel, name="dw"
            ),
            keras.layers.Flatten(),
            larq.layers.QuantDense(5, kernel_quantizer=kernel, name="fc"),
        ]
    )
    model.compile("adam", "mse")
    x = rng.standard_normal((8, 8, 8, 6)).astype(np.float32)
    model.fit(x, rng.standard_normal((8, 5)), epochs=2, verbose=0)
    check(model, x, ["c1", "dw", "fc"])


@pytest.mark.keras2
def test_larq_quantizers_with_other_values_are_refused_by_name():
    import larq

    layer = larq.layers.QuantDense(4, kernel_quantizer=larq.quantizers.DoReFa(3, "weights"))
    layer._name = "three_bits"
    with pytest.raises(ValueError, match="three_bits.*neither binary nor ternary"):
        kerasq.convert(keras.Sequential([keras.Input((30,)), layer]))


@pytest.mark.keras2
def test_layers_without_an_operator_are_refused_by_name():
    import larq

    layer = larq.layers.QuantSeparableConv2D(
        4, 3, depthwise_quantizer="ste_sign", pointwise_quantizer="ste_sign", name="separable"
    )
    with pytest.raises(ValueError, match="'separable'.*QuantDepthwiseConv2D"):
        kerasq.convert(keras.Sequential([keras.Input((8, 8, 3)), layer]))


@pytest.mark.keras2
def test_models_wrapped_by_tfmot(rng):
    import tensorflow_model_optimization as tfmot

    from kerasq.tfmot import QuantizeConfig, quantize_scope

    annotate = tfmot.quantization.keras.quantize_annotate_layer
    activation = {"class_name": "dorefa_activations", "config": {"bits": 4}}
    weight = {"class_name": "dorefa_weights", "config": {"bits": 4}}
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            annotate(
                keras.layers.Conv2D(6, 3, activation="relu"), QuantizeConfig(weight, activation)
            ),
            annotate(keras.layers.DepthwiseConv2D(3), QuantizeConfig("bwn")),
            keras.layers.Flatten(),
            annotate(keras.layers.Dense(5), QuantizeConfig("twn")),
            annotate(keras.layers.Dense(4)),
        ]
    )
    with quantize_scope():
        model = tfmot.quantization.keras.quantize_apply(model)
    model.compile("adam", "mse")
    x = rng.random((16, 8, 8, 3)).astype(np.float32)
    model.fit(x, rng.standard_normal((16, 4)), epochs=3, verbose=0)
    names = [layer.name for layer in model.layers if "quant_" in layer.name]
    packed = [n for n in names if "flatten" not in n and n != names[-1]]
    check(model, x, packed, 2e-2)  # one step of the 8-bit quantizers that TFMOT adds
