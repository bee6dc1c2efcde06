"""VectorQuantization: its four kinds, their sizes, and the layers that are sums of codebooks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from kerasq.codebooks import QCNN, KernelLayout, Site, VectorQuantization, compress
from kerasq.keras import keras, keras_version
from kerasq.layers import (
    CodebookConv2D,
    CodebookDense,
    ResidualCodebookConv2D,
    ResidualCodebookDense,
)

layers = keras.layers
KINDS = {
    "binary": {"kind": "binary"},
    "scalar": {"kind": "scalar", "codewords": 4},
    "product": {"kind": "product", "subvector": 3, "codewords": 5},
    "shared product": {"kind": "product", "subvector": 3, "codewords": 5, "shared": True},
    "residual": {"kind": "residual", "subvector": None, "codewords": 5, "stages": 3},
    "shared residual": {"kind": "residual", "subvector": 3, "codewords": 5, "shared": True},
}


def network():
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [
            keras.Input((6, 6, 4)),
            layers.Conv2D(8, 3, groups=2, activation="relu", name="conv"),
            layers.Conv2D(6, 3, activation="relu", name="second"),
            layers.Flatten(),
            layers.Dense(7, name="dense"),
        ],
        name="net",
    )


def run(**settings):
    return compress(network(), None, VectorQuantization(**settings), verbose=False)


def kernel_of(layer):
    return np.array(tf.convert_to_tensor(layer.kernel))


def solve(kernel, **settings):
    """The decoded kernel and the solution of a dense layer."""
    layer = layers.Dense(kernel.shape[1])
    layer.build((None, kernel.shape[0]))
    method = VectorQuantization(**settings)
    ((_, plan),) = method.plan([layer]).items()
    solution = method.solve(Site(layer, kernel, plan, None), np.random.default_rng(0))
    twin = plan.replacement(layer)
    twin.build((None, kernel.shape[0]))
    for name, value in solution.weights.items():
        variable = getattr(twin, name)
        variable.assign(np.reshape(value, tuple(variable.shape)))
    return twin, solution


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("kind", KINDS)
def test_whole_network_is_the_float_one_with_the_decoded_kernels(kind, dtype, rng, tmp_path):
    model = network()
    small = run(codebook_dtype=dtype, **KINDS[kind])
    x = rng.normal(size=(5, 6, 6, 4)).astype("float32")
    for name in ("conv", "second", "dense"):
        layer = model.get_layer(name)
        layer.set_weights([kernel_of(small.get_layer(name)), np.array(layer.bias)])
    got = small.predict(x, verbose=0)
    np.testing.assert_allclose(got, model.predict(x, verbose=0), rtol=1e-4, atol=1e-4)
    small.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), got)


def test_reported_error_is_that_of_the_kernel():
    reports = []
    model = network()
    small = compress(
        model,
        None,
        VectorQuantization("residual", codewords=5),
        verbose=False,
        callback=reports.append,
    )
    for report in reports:
        want, got = (kernel_of(m.get_layer(report.name)) for m in (model, small))
        error = ((want - got) ** 2).sum() / (want**2).sum()
        assert report.solution.error_after == pytest.approx(error, rel=1e-5)
    assert "T=2" in str(reports[0])


def test_page_counts_the_bytes_of_all_stages(tmp_path):
    method = VectorQuantization("residual", codewords=4, dense_only=True)
    compress(network(), None, method, verbose=False, report=tmp_path / "report.html")
    assert "d=4 K=4 T=2" in (tmp_path / "report.html").read_text()


def test_binary_is_the_sign(rng):
    kernel = rng.normal(size=(5, 4)).astype("float32")
    kernel[0, 0] = 0
    twin, _ = solve(kernel, kind="binary")
    np.testing.assert_array_equal(twin.kernel, np.where(kernel >= 0, 1, -1))
    twin, _ = solve(kernel, kind="binary", scaled=True)
    np.testing.assert_allclose(
        twin.kernel, np.where(kernel >= 0, 1, -1) * np.abs(kernel).mean(), rtol=1e-6
    )


def test_products_of_single_entries_with_a_shared_codebook_are_scalars(rng):
    kernel = rng.normal(size=(12, 9)).astype("float32")
    product, _ = solve(kernel, kind="product", subvector=1, codewords=4, shared=True)
    scalar, _ = solve(kernel, kind="scalar", codewords=4)
    np.testing.assert_array_equal(product.kernel, scalar.kernel)
    assert len(np.unique(kernel_of(scalar))) == 4


def test_product_is_qcnn_without_error_correction():
    plain = QCNN(2, 4, error_correction=False, codebook_dtype="float32")
    want = compress(network(), None, plain, verbose=False)
    got = run(kind="product", subvector=2, codewords=4)
    for a, b in zip(want.get_weights(), got.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("shared", [False, True])
def test_error_of_residuals_never_rises_with_the_stages(shared, rng):
    kernel = rng.normal(size=(10, 30)).astype("float32")  # 4 does not divide 10
    settings = {"kind": "residual", "subvector": 4, "codewords": 6, "shared": shared}
    errors = []
    for stages in range(1, 6):
        twin, solution = solve(kernel, stages=stages, **settings)
        errors.append(float(((kernel_of(twin) - kernel) ** 2).sum()))
        np.testing.assert_allclose(solution.history, errors, rtol=1e-5)
    assert all(b <= a for a, b in zip(errors, errors[1:], strict=False)), errors
    assert errors[-1] < 0.2 * errors[0]


def test_one_stage_is_a_product(rng):
    kernel = rng.normal(size=(10, 30)).astype("float32")
    one, _ = solve(kernel, kind="residual", stages=1)
    product, _ = solve(kernel, kind="product")
    np.testing.assert_array_equal(one.kernel, product.kernel)


def bits(codebooks):
    """Bits as the paper counts them: 32 for a number, log2 K for an index."""
    return sum(
        32 * b.codewords.size + math.log2(b.codewords.shape[1]) * b.assignments().size
        for b in codebooks
    )


def test_ratios_of_the_paper(rng):
    n, m, d, size, stages = 24, 64, 4, 8, 3
    kernel = rng.normal(size=(n, m)).astype("float32")
    whole = 32 * m * n
    scalar, _ = solve(kernel, kind="scalar", codewords=size)
    index = bits([scalar.codebook()]) - 32 * size  # the paper leaves the codebook out
    assert whole / index == pytest.approx(32 / math.log2(size))
    product, _ = solve(kernel, kind="product", subvector=d, codewords=size)
    want = 32 * m * n / (32 * size * n + math.log2(size) * m * n / d)
    assert whole / bits([product.codebook()]) == pytest.approx(want)
    residual, _ = solve(kernel, kind="residual", subvector=None, codewords=size, stages=stages)
    want = m / (stages * size + math.log2(size) * stages * m / (32 * n))
    assert whole / bits(residual.codebooks()) == pytest.approx(want)


def test_dense_only_and_single_layers():
    def kinds(small):
        return {x.name: type(x) for x in small.layers if x.weights}

    conv, dense = layers.Conv2D, CodebookDense
    assert kinds(run(dense_only=True)) == {"conv": conv, "second": conv, "dense": dense}
    assert kinds(run(layers={"second": False})) == {
        "conv": CodebookConv2D,
        "second": conv,
        "dense": dense,
    }
    only = run(kind="residual", layers=lambda layer: layer.name == "second")
    assert kinds(only) == {"conv": conv, "second": ResidualCodebookConv2D, "dense": layers.Dense}


def test_small_layers_take_fewer_codewords():
    with pytest.warns(UserWarning, match="'dense' has only 7 sub-vectors.*takes 7 codewords"):
        small = run(codewords=10, layers=lambda layer: layer.name == "dense")
    assert small.get_layer("dense").codewords.shape[1] == 7


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "triple"}, "kind is one of"),
        ({"codewords": 0}, "codewords must be 1"),
        ({"subvector": 0}, "subvector must be at least 1"),
        ({"stages": 0}, "stages must be at least 1"),
        ({"codebook_dtype": "int8"}, "codebook_dtype"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        VectorQuantization(**settings)


def test_bad_layers_are_named():
    with pytest.raises(ValueError, match=r"'cnov'.*'conv', 'second', 'dense'"):
        run(layers={"cnov": False})
    model = network()
    model.get_layer("conv").set_weights([w * 1e6 for w in model.get_layer("conv").get_weights()])
    with pytest.raises(ValueError, match="'conv'.*codebook_dtype=\"float32\""):
        compress(model, None, VectorQuantization(codebook_dtype="float16"), verbose=False)
    with pytest.raises(ValueError, match="'bad'.*stages"):
        ResidualCodebookDense(3, stages=0, name="bad")


def test_resumes(tmp_path):
    def stop(report):
        raise KeyboardInterrupt

    method = VectorQuantization("residual")
    with pytest.raises(KeyboardInterrupt):
        compress(network(), None, method, tmp_path, verbose=False, callback=stop)
    reports = []
    small = compress(network(), None, method, tmp_path, verbose=False, callback=reports.append)
    assert [report.seconds == 0 for report in reports] == [True, False, False]
    for a, b in zip(run(kind="residual").get_weights(), small.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def residual_network():
    x = inputs = keras.Input((8, 8, 4), name="images")
    x = ResidualCodebookConv2D(
        8, 3, subvector=3, codewords=5, codebook_dtype="float16", stages=3, name="a"
    )(x)
    x = ResidualCodebookConv2D(8, 3, subvector=2, codewords=5, groups=2, gradient="mean", name="b")(
        x
    )
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(x))
    return keras.Model(inputs, ResidualCodebookDense(3, subvector=4, shared=True, name="c")(x))


def test_kernel_is_the_sum_of_the_shipped_codebooks():
    model = residual_network()
    for name in "abc":
        layer = model.get_layer(name)
        kernels = [book.decode() for book in layer.codebooks()]
        assert len(kernels) == layer.stages
        np.testing.assert_array_equal(layer.kernel, sum(kernels[1:], kernels[0]))
    assert model.get_layer("a").codebooks()[0].codewords.dtype == np.float16


@pytest.mark.parametrize("kind", ["keras", "h5", "weights"])
def test_residual_layers_are_saved(kind, tmp_path, rng):
    model = residual_network()
    x = rng.normal(size=(3, 8, 8, 4)).astype("float32")
    want = model.predict(x, verbose=0)
    if kind == "weights":
        model.save_weights(tmp_path / "m.weights.h5")
        other = residual_network()
        other.load_weights(tmp_path / "m.weights.h5")
    else:
        model.save(tmp_path / f"m.{kind}")
        other = keras.models.load_model(tmp_path / f"m.{kind}")
    np.testing.assert_array_equal(other.predict(x, verbose=0), want)
    for name in "abc":
        assert model.get_layer(name).get_config() == other.get_layer(name).get_config()


def test_gradient_of_a_stage_is_the_sum_over_its_members(rng):
    layer = ResidualCodebookDense(6, subvector=2, codewords=3, stages=2)
    layer.build((None, 4))
    upstream = rng.normal(size=(4, 6)).astype("float32")
    variable = layer.codewords.value if keras_version() == 3 else layer.codewords
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer.kernel * upstream)
    assignments = np.array(tf.convert_to_tensor(layer.assignments))
    want = np.zeros(layer.codewords.shape)
    for t, m, c in np.ndindex(2, 2, 6):
        want[t, m, assignments[t, m, c]] += upstream[2 * m : 2 * m + 2, c]
    np.testing.assert_allclose(tape.gradient(loss, variable), want, rtol=1e-5, atol=1e-6)


def test_fit_trains_the_codewords(rng):
    model = residual_network()
    model.compile(keras.optimizers.Adam(0.01), "mse")
    x = rng.normal(size=(32, 8, 8, 4)).astype("float32")
    y = rng.normal(size=(32, 3)).astype("float32")
    fixed = np.array(tf.convert_to_tensor(model.get_layer("a").assignments))
    start = model.evaluate(x, y, verbose=0)
    model.fit(x, y, epochs=5, batch_size=16, verbose=0)
    assert model.evaluate(x, y, verbose=0) < start
    np.testing.assert_array_equal(model.get_layer("a").assignments, fixed)


def test_layout_of_a_shared_codebook(rng):
    """Sub-vectors of all sub-spaces in one codebook; the last one is shorter."""
    kernel = rng.normal(size=(5, 4)).astype("float32")
    twin, _ = solve(kernel, kind="product", subvector=3, codewords=8, shared=True)
    np.testing.assert_allclose(twin.kernel, kernel, atol=1e-6)  # 8 sub-vectors, 8 codewords
    assert KernelLayout(kernel.shape, 3).subspaces == 2
