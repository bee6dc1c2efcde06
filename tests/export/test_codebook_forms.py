"""Export of every way in which codebook methods store a kernel."""

import numpy as np
import pytest

import kerasq
from kerasq.export.deploy import deploy
from kerasq.keras import keras
from kerasq.layers import CodebookConv2D, CodebookDense
from kerasq.layers.hashed import HashedDense
from kerasq.layers.residual_codebook import ResidualCodebookConv2D, ResidualCodebookDense
from kerasq.representations import SparseCodebook
from tests.export.test_deploy import same


def exported(model):
    """Return the file and its operators of ours."""
    content = kerasq.convert(model)
    return content, [o for o in kerasq.inspect(content).operators if o.is_custom]


def check(model, x):
    """Compare Keras, the deployed model and the file; return the file's operators."""
    expected = model.predict(x, verbose=0)
    same(deploy(model).predict(x, verbose=0), expected)
    content, operators = exported(model)
    same(kerasq.Interpreter(model_content=content).predict(x), expected)
    return operators


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("d", "K"), [(9, 16), (4, 300), (18, 2000)])
def test_codebooks_by_channel(rng, d, K, dtype):
    book = {"subvector": d, "codewords": K, "shared": True, "order": "channel"}
    book["codebook_dtype"] = dtype
    model = keras.Sequential(
        [
            keras.Input((11, 9, 12)),
            CodebookConv2D(20, 3, padding="same", activation="relu", **book),
            keras.layers.BatchNormalization(),
            CodebookConv2D(24, 3, strides=2, groups=2, padding="same", **book),
            CodebookConv2D(8, (1, 2), dilation_rate=2, use_bias=False, **book),
            keras.layers.Flatten(),
            CodebookDense(7, **book),
        ]
    )
    normalization = model.layers[1]
    normalization.set_weights([rng.standard_normal(w.shape) ** 2 for w in normalization.weights])
    operators = check(model, rng.standard_normal((5, 11, 9, 12)).astype(np.float32))
    assert [o.options["order"] for o in operators] == [1, 1, 1, 0]
    assert [o.options["codewords"] for o in operators] == [K] * 4


def test_large_codebooks_by_position(rng):
    model = keras.Sequential(
        [
            keras.Input((6, 6, 16)),
            CodebookConv2D(32, 3, subvector=8, codewords=257),
            keras.layers.Flatten(),
            CodebookDense(40, subvector=2, codewords=65536, shared=True),
        ]
    )
    operators = check(model, rng.standard_normal((3, 6, 6, 16)).astype(np.float32))
    assert [o.options["bits"] for o in operators] == [9, 16]


def test_bytes_of_a_codebook_by_channel():
    layer = CodebookConv2D(
        32, 3, subvector=9, codewords=256, shared=True, order="channel", codebook_dtype="float16"
    )
    _, (operator,) = exported(keras.Sequential([keras.Input((8, 8, 64)), layer]))
    # 256 codewords of 9 halves, 64 sub-vectors of each of 32 outputs, a multiplier, a zero bias
    assert operator.nbytes == 256 * 9 * 2 + 64 * 32 + 4 + 4
    assert operator.weights == 9 * 64 * 32


def pruned(rng, layer, density):
    """Give a built layer with a fixed zero random codewords, most weights the zero."""
    codewords, assignments = layer.codewords, layer.assignments
    numbers = rng.integers(1, codewords.shape[1], assignments.shape)
    layer.set_codebook(
        rng.standard_normal(codewords.shape),
        np.where(rng.random(assignments.shape) < density, numbers, 0),
    )


@pytest.mark.parametrize("order", ["position", "channel"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_pruned_scalars_are_entropy_coded(rng, order, dtype):
    book = {"subvector": 1, "codewords": 32, "shared": True, "fixed_zero": True}
    book |= {"order": order, "codebook_dtype": dtype}
    model = keras.Sequential(
        [
            keras.Input((9, 10, 12)),
            CodebookConv2D(20, 3, strides=2, padding="same", **book),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            CodebookConv2D(24, (3, 1), groups=2, activation="relu", **book),
            keras.layers.Flatten(),
            CodebookDense(30, **book),
        ]
    )
    layers = [layer for layer in model.layers if hasattr(layer, "codebook")]
    for layer, density in zip(layers, (0.1, 0.3, 0.03), strict=True):
        pruned(rng, layer, density)
    normalization = model.layers[1]
    normalization.set_weights([rng.standard_normal(w.shape) ** 2 for w in normalization.weights])
    operators = check(model, rng.standard_normal((4, 9, 10, 12)).astype(np.float32))
    names = ["KerasqSparseConv2D", "KerasqSparseConv2D", "KerasqSparseDense"]
    assert [o.name for o in operators] == names
    # Multiplier and bias: of the normalization, then one 1 and one 0, which the last one shares.
    for operator, layer, output in zip(operators, layers, (2 * 4 * 20, 8, 0), strict=True):
        assert operator.nbytes == SparseCodebook.from_codebook(layer.codebook()).nbytes + output
        assert operator.nbytes < layer.codebook().nbytes


@pytest.mark.parametrize(
    ("density", "settings"),
    [
        (0.95, {"fixed_zero": True}),
        (0.05, {"fixed_zero": False}),
        (0.05, {"fixed_zero": True, "subvector": 2}),
        (0.05, {"fixed_zero": True, "shared": False}),
        (0.05, {"fixed_zero": True, "codewords": 300}),
    ],
)
def test_other_codebooks_stay_codebooks(rng, density, settings):
    book = {"subvector": 1, "codewords": 4, "shared": True, **settings}
    layer = CodebookDense(40, **book)
    model = keras.Sequential([keras.Input((60,)), layer])
    pruned(rng, layer, density)
    _, (operator,) = exported(model)
    assert operator.name == "KerasqCodebookDense"


@pytest.mark.parametrize("hash_bias", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_hashed_layers(rng, hash_bias, dtype):
    model = keras.Sequential(
        [
            keras.Input((50,)),
            HashedDense(30, ratio=0.1, hash_bias=hash_bias, value_dtype=dtype, activation="relu"),
            HashedDense(20, ratio=0.25, seed=7, use_bias=False),
            keras.layers.BatchNormalization(),
            HashedDense(4, ratio=1.0, activation="softmax"),
        ]
    )
    model.set_weights([rng.standard_normal(w.shape) ** 2 for w in model.get_weights()])
    operators = check(model, rng.standard_normal((6, 50)).astype(np.float32))
    assert [o.name for o in operators] == ["KerasqHashedDense"] * 3
    assert [o.options["seed"] for o in operators] == [2, 7, 2]
    assert operators[0].nbytes == np.dtype(dtype).itemsize * 150 + 4 * (1 + 30)


def test_sums_of_kernels(rng):
    book = {"subvector": 4, "codewords": 16}
    model = keras.Sequential(
        [
            keras.Input((8, 9, 12)),
            ResidualCodebookConv2D(20, 3, stages=2, padding="same", activation="relu", **book),
            ResidualCodebookConv2D(16, 3, stages=3, groups=2, **book),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.Flatten(),
            ResidualCodebookDense(7, stages=1, **book),
        ]
    )
    model.build((None, 8, 9, 12))
    for layer in model.layers[:2]:
        layer.bias.assign(rng.standard_normal(layer.bias.shape))
    normalization = model.layers[2]
    normalization.set_weights([rng.standard_normal(w.shape) ** 2 for w in normalization.weights])
    operators = check(model, rng.standard_normal((5, 8, 9, 12)).astype(np.float32))
    assert [o.name for o in operators] == ["KerasqCodebookConv2D"] * 5 + ["KerasqCodebookDense"]


@pytest.mark.parametrize("layer", ["residual", "hashed"])
def test_layers_inside_wrappers_are_refused_by_name(layer):
    inner = HashedDense(4) if layer == "hashed" else ResidualCodebookDense(4, subvector=2)
    wrapper = keras.layers.TimeDistributed(inner, name="wrapped")
    with pytest.raises(ValueError, match="wrapped"):
        kerasq.convert(keras.Sequential([keras.Input((3, 8)), wrapper]))


def test_codewords_that_are_no_numbers_are_refused_by_name():
    layer = HashedDense(4, name="diverged")
    model = keras.Sequential([keras.Input((8,)), layer])
    layer.values.assign(np.full(layer.values.shape, np.nan))
    with pytest.raises(ValueError, match="diverged.*NaN"):
        kerasq.convert(model)
