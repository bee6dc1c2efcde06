"""Error correction: the worked numbers and the invariants of Q-CNN."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from worked_examples import convolution, dense

from kerasq.codebooks import ErrorCorrection, KernelLayout, Moments, kmeans
from kerasq.codebooks.qcnn import subspace_kmeans


def text(assignments) -> str:
    return "".join(map(str, assignments))


def test_dense_worked_numbers():
    example = dense()
    assert [text(b) for b in example.assignments[0]] == ["0123012301133013", "0123123012312312"]
    assert ((example.decoded() - example.kernel) ** 2).sum() == pytest.approx(24.386157, abs=5e-7)
    correction = example.correction()
    assert correction.objective == pytest.approx(221.936977, abs=5e-7)
    assert correction.objective / correction.energy == pytest.approx(0.4153, abs=5e-5)
    correction.run(6, tolerance=0)
    history = [214.738716, 214.634413, 203.226523, 200.648436]
    history += [194.538827, 194.538827, 187.051786, 187.051786, 186.967349]
    np.testing.assert_allclose(correction.history[:9], history, atol=5e-7)
    assert correction.history[11] == pytest.approx(186.954522, abs=5e-7)
    assert correction.objective == pytest.approx(186.948480, abs=5e-7)
    assert [text(b) for b in correction.assignments[0]] == ["0123012301233013", "0123123012012312"]
    codewords = [
        [-0.696005, -0.074344, 0.981481, 0.022174],
        [-0.075471, 0.953186, 0.116002, -0.573133],
        [0.800749, 0.471999, -0.855778, -0.325104],
        [0.223647, -0.702795, -0.390351, 0.756712],
    ]
    np.testing.assert_allclose(correction.codewords[0], codewords, atol=5e-7)


def test_convolution_worked_numbers():
    example = convolution()
    assert ((example.decoded() - example.kernel) ** 2).sum() == pytest.approx(38.168270, abs=5e-7)
    correction = example.correction(proximal=1e-6)
    assert correction.objective == pytest.approx(1760.933227, abs=5e-7)
    assert correction.objective / correction.energy == pytest.approx(0.0406, abs=5e-5)
    correction.run(4, tolerance=0)
    history = [1274.774721, 804.264347, 682.201615, 580.373830]
    history += [542.098776, 529.701999, 514.551401, 506.111329]
    np.testing.assert_allclose(correction.history[:8], history, atol=5e-7)
    assert correction.objective == pytest.approx(473.742476, abs=5e-7)


def test_one_assignment_step_on_all_blocks_is_sequential():
    """All positions of all sub-spaces at once would raise J to 4247.27; one after the other
    lowers it to 1050.35."""
    example = convolution()
    correction = example.correction(proximal=1e30)  # codewords stay
    correction.sweep()
    assert correction.objective == pytest.approx(1050.35, abs=1e-2)
    np.testing.assert_allclose(correction.codewords, example.codewords)


@pytest.mark.parametrize("make", [dense, convolution])
def test_objective_from_moments_is_that_of_the_data(make):
    example = make()
    want = example.error(example.decoded())
    weights = example.decoded().reshape(-1, example.kernel.shape[-1])
    assert example.moments.error(weights) == pytest.approx(want, rel=1e-9)
    correction = example.correction(proximal=1e-6)
    correction.run(3)
    decoded = example.decoded(correction.codewords, correction.assignments)
    assert correction.objective == pytest.approx(example.error(decoded), rel=1e-9)


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("prior", [0.0, 0.1])
@pytest.mark.parametrize("make", [dense, convolution])
def test_no_half_step_raises_the_objective(make, prior, joint):
    correction = make().correction(prior=prior, joint=joint, proximal=1e-6)
    start = correction.objective
    correction.run(8, tolerance=0)
    history = np.array([start, *correction.history])
    assert (np.diff(history) <= 1e-9 * history[:-1]).all()
    assert history[-1] < 0.9 * history[0]


def test_one_by_one_updates_converge_to_the_joint_solution():
    example = convolution()
    solved = []
    for joint in (True, False):
        correction = example.correction(joint=joint, proximal=1e-9)
        correction.run(200, tolerance=1e-13)
        solved.append(correction)
    # From the joint solution's assignments, one-by-one updates have nothing left to gain.
    again = ErrorCorrection(
        example.layout,
        example.kernel,
        [example.moments],
        solved[0].codewords,
        solved[0].assignments,
        prior=0,
        proximal=1e-9,
        joint=False,
        dtype=np.float64,
    )
    again.sweep()
    assert again.objective == pytest.approx(solved[0].objective, rel=1e-9)


@pytest.mark.parametrize("make", [dense, convolution])
def test_with_white_inputs_kmeans_is_a_fixed_point(make):
    example = make()
    size, outputs = example.rows.shape[1], example.kernel.shape[-1]
    white = Moments(size, outputs)
    white.gram += np.eye(size)
    white.cross += example.kernel.reshape(size, outputs)
    white.energy = float((example.kernel**2).sum())
    example.moments = white
    correction = example.correction()
    error = ((example.decoded() - example.kernel) ** 2).sum()
    assert correction.objective == pytest.approx(error, rel=1e-12)
    correction.sweep()
    np.testing.assert_array_equal(correction.assignments, example.assignments)
    np.testing.assert_allclose(correction.codewords, example.codewords, atol=1e-12)


def test_as_many_codewords_as_distinct_sub_vectors_leave_no_error():
    example = dense()
    example.codewords = np.stack([example.layout.vectors(example.kernel, m) for m in range(2)])
    example.assignments = np.tile(np.arange(16), (1, 2, 1))
    correction = example.correction(proximal=1e-9)
    correction.run(2)
    assert correction.objective == pytest.approx(0, abs=1e-9 * correction.energy)


def test_half_steps_are_kmeans_in_the_whitened_space():
    example = dense()
    gram, cross = example.moments.gram, example.moments.cross
    rows = slice(0, 4)
    decoded = example.decoded()
    target = cross[rows] - gram[rows] @ decoded + gram[rows, rows] @ decoded[rows]
    factor = np.linalg.cholesky(gram[rows, rows])
    points = np.linalg.solve(factor, target).T
    clusters = kmeans(points, example.codewords[0] @ factor, iterations=1)
    correction = example.correction(proximal=1e30)
    correction.sweep()
    np.testing.assert_array_equal(correction.assignments[0, 0], clusters.assignments)


def test_lookup_tables_give_the_response_of_the_decoded_kernel(rng):
    """Stride 2, padding 1, two groups: tables of input pixels, then sums of look-ups."""
    x = rng.normal(size=(1, 7, 7, 8))
    layout = KernelLayout((3, 3, 4, 6), 2, groups=2)
    codewords = rng.normal(size=(2, 5, 2))
    index = rng.integers(0, 5, (9, 2, 6))
    kernel = layout.decode(codewords, index)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))[0]
    tables = np.stack(
        [
            [padded[..., 4 * g + 2 * m : 4 * g + 2 * m + 2] @ codewords[m].T for m in range(2)]
            for g in range(2)
        ]
    )  # (group, sub-space, y, x, K)
    got = np.zeros((4, 4, 6))
    for y, u, c, p, m in np.ndindex(4, 4, 6, 9, 2):
        got[y, u, c] += tables[c // 3, m, 2 * y + p // 3, 2 * u + p % 3, index[p, m, c]]
    parts = zip(np.split(padded[None], 2, -1), np.split(kernel, 2, -1), strict=True)
    want = tf.concat([tf.nn.conv2d(a, k, 2, "VALID") for a, k in parts], -1)
    np.testing.assert_allclose(got, want[0], atol=1e-12)


def random_problem(rng, shape, d, groups, codewords, samples=400):
    kernel = rng.normal(size=shape)
    layout = KernelLayout(shape, d, groups)
    size, columns = layout.positions * layout.channels, layout.outputs // groups
    mixing = rng.normal(size=(size, size))
    rows = [np.maximum(rng.normal(size=(samples, size)) @ mixing, 0) for _ in range(groups)]
    flat = np.split(kernel.reshape(size, -1), groups, 1)
    targets = [x @ w for x, w in zip(rows, flat, strict=True)]
    moments = [Moments(size, columns) for _ in range(groups)]
    for sums, x, t in zip(moments, rows, targets, strict=True):
        sums.update(x, t)
    start = subspace_kmeans(kernel, layout, codewords, 20, rng)
    return kernel, layout, moments, rows, targets, start


@pytest.mark.parametrize(
    ("shape", "d", "groups"),
    [
        ((3, 3, 5, 6), 2, 1),  # d does not divide the channels
        ((3, 3, 4, 6), 2, 2),  # groups share the codebooks
        ((1, 1, 7, 12), 3, 1),
        ((1, 1, 6, 12), 3, 3),
        ((2, 3, 3, 8), 8, 1),  # d larger than the channels
        ((130, 20), 1, 1),  # more than one chunk of rows would be 256: see below
        ((300, 10), 4, 1),
    ],
)
def test_objective_of_any_geometry_is_that_of_the_data(shape, d, groups, rng):
    kernel, layout, moments, rows, targets, start = random_problem(rng, shape, d, groups, 4)
    correction = ErrorCorrection(
        layout, kernel, moments, *start, prior=0.0, dtype=np.float64, round_to="float32"
    )
    first = correction.objective
    tracked = []
    for _ in range(3):
        correction.sweep()
        tracked.append(correction.objective)
    decoded = layout.decode(correction.codewords, correction.assignments)
    parts = np.split(decoded.reshape(-1, shape[-1]), groups, 1)
    error = sum(((t - x @ w) ** 2).sum() for x, w, t in zip(rows, parts, targets, strict=True))
    assert tracked[-1] == pytest.approx(error, rel=1e-6)
    assert tracked[-1] < first


def test_large_products_in_float32_agree(rng):
    kernel, layout, moments, *_, start = random_problem(rng, (3, 3, 8, 16), 4, 1, 8)
    objectives = []
    for dtype in (np.float32, np.float64):
        correction = ErrorCorrection(layout, kernel, moments, *start, dtype=dtype)
        objectives.append(correction.run(4) / correction.energy)
    assert objectives[0] == pytest.approx(objectives[1], rel=2e-2)


def test_unused_codewords_are_put_to_use(rng):
    kernel, layout, moments, _, _, (codewords, assignments) = random_problem(
        rng, (3, 3, 4, 8), 2, 1, 6
    )
    codewords[:, 3:] = 1e3  # nobody's best
    assignments %= 3
    correction = ErrorCorrection(layout, kernel, moments, codewords, assignments, dtype=np.float64)
    before = correction.objective
    correction.sweep()
    assert (np.diff([before, *correction.history]) <= 1e-9 * before).all()
    for m in range(layout.subspaces):
        assert set(correction.assignments[:, m].ravel()) == set(range(6))


def test_rounded_codewords_are_what_was_optimised(rng):
    kernel, layout, moments, *_, start = random_problem(rng, (3, 3, 6, 8), 3, 1, 8)
    rounded = ErrorCorrection(layout, kernel, moments, *start, round_to="float16")
    rounded.run(4)
    np.testing.assert_array_equal(
        rounded.codewords, rounded.codewords.astype(np.float16).astype(np.float64)
    )
    free = ErrorCorrection(layout, kernel, moments, *start)
    free.run(4)
    assert rounded.objective < 1.05 * free.objective


def test_silent_inputs_keep_the_original_weights(rng):
    """All inputs zero: the prior alone decides, and no division fails."""
    layout = KernelLayout((4, 6), 2)
    kernel = rng.normal(size=(4, 6))
    moments = Moments(4, 6)
    moments.update(np.zeros((10, 4)), np.zeros((10, 6)))
    start = subspace_kmeans(kernel, layout, 3, 50, rng)
    correction = ErrorCorrection(layout, kernel, [moments], *start, dtype=np.float64)
    correction.run(3)
    np.testing.assert_array_equal(correction.assignments, start[1])
    np.testing.assert_allclose(correction.codewords, start[0], atol=1e-5)


def test_a_small_calibration_set_overfits_without_the_prior():
    """Q=128, 32 samples: on fresh data, λ=1e-6 is worse than k-means, λ=1 better."""
    rng = np.random.default_rng(0)
    size, outputs = 128, 96
    mixing = rng.normal(size=(size, size)) * np.linspace(1.5, 0.2, size)
    kernel = rng.normal(size=(size, outputs)) / np.sqrt(size)
    few, fresh = (np.maximum(rng.normal(size=(n, size)) @ mixing.T, 0) for n in (32, 2000))
    layout = KernelLayout(kernel.shape, 4)
    start = subspace_kmeans(kernel, layout, 8, 50, rng)
    moments = Moments(size, outputs)
    moments.update(few, few @ kernel)

    def fresh_error(codewords, assignments):
        difference = fresh @ (kernel - layout.decode(codewords, assignments))
        return (difference**2).sum() / ((fresh @ kernel) ** 2).sum()

    errors = {}
    for prior in (1e-6, 1.0):
        correction = ErrorCorrection(layout, kernel, [moments], *start, prior=prior)
        correction.run(8)
        errors[prior] = fresh_error(correction.codewords, correction.assignments)
    assert errors[1.0] < fresh_error(*start) < errors[1e-6]
