"""Error correction: codewords and assignments fitted to a layer's responses."""

from __future__ import annotations

import numpy as np

from kerasq.codebooks.cholesky import solve_positive
from kerasq.codebooks.layout import KernelLayout
from kerasq.codebooks.moments import Moments
from kerasq.codebooks.objective import objective_of

# Rows whose residual is held at a time: enough for a fast matrix product, few enough for the cache.
_CHUNK_ROWS = 256
# Products of a score: few enough for the cache, and for BLAS to take one thread, which is faster.
_SCORE_PRODUCTS = 1 << 18


class ErrorCorrection:
    """Minimises the squared error of a layer's responses over codewords and assignments.

    ``J = Σ_n ‖t_n − Ŵᵀ x_n‖² + λ s ‖Ŵ − W‖²`` with ``s = tr(G) / Q``, where the rows of Ŵ at
    position p and sub-space m are ``D[m, B[p, m, c]]`` for output c. It descends by half-steps,
    sub-space after sub-space, each lowering J:

    - codewords: all K of the sub-space jointly, from their normal equations (or one after the
      other, ``joint=False``: the paper's);
    - assignments: position after position, each output takes its best codeword, given all the rest;
      an unused codeword then moves where it helps most.

    Args:
        layout: how the kernel is cut.
        kernel: W, the layer's float kernel.
        moments: of each group, inputs in the order (position, channel).
        codewords: initial D, (M, K, d).
        assignments: initial B, (P, M, Ct).
        prior: λ, relative weight of the pull to the original weights.
        proximal: weight of the pull of codewords to their previous value, relative to s. It keeps
            the normal equations regular.
        joint: solve for all codewords of a sub-space at once.
        round_to: float type that codewords are rounded to after each of their half-steps.
        dtype: of the large matrix products. Solves are in float64.

    Attributes:
        codewords, assignments: the current D and B.
        objective: the current J.
        energy: τ, the objective of all-zero weights without the prior.
        history: J after each half-step (codewords, assignments, codewords, ...).
    """

    def __init__(
        self,
        layout: KernelLayout,
        kernel: np.ndarray,
        moments: list[Moments],
        codewords: np.ndarray,
        assignments: np.ndarray,
        prior: float = 0.1,
        proximal: float = 1e-6,
        joint: bool = True,
        round_to: str | None = None,
        dtype: type = np.float32,
    ):
        self._layout, self._joint, self._round_to = layout, joint, round_to
        self.codewords = self._round(np.asarray(codewords)).astype(np.float64)
        self.assignments = np.array(assignments, np.int64)
        original = layout.matrix(np.asarray(kernel, dtype))
        columns = layout.outputs // layout.groups
        outputs = [slice(g * columns, (g + 1) * columns) for g in range(layout.groups)]
        self._groups = [
            objective_of(sums, layout.rows, original[:, part], part, prior, dtype)
            for sums, part in zip(moments, outputs, strict=True)
        ]
        self._proximal = proximal * sum(group.scale for group in self._groups)
        self._weights = layout.matrix(layout.decode(self.codewords.astype(dtype), self.assignments))
        self.energy = sum(sums.energy for sums in moments)
        self.objective = self._exact_objective()
        self.history: list[float] = []

    def run(self, sweeps: int, tolerance: float = 1e-4) -> float:
        """Sweep until J falls by less than ``tolerance`` of itself; return J."""
        for _ in range(sweeps):
            before = self.objective
            self.sweep()
            if before - self.objective < tolerance * before:
                break
        self.objective = self._exact_objective()
        return self.objective

    def sweep(self) -> None:
        """Make both half-steps in each sub-space, in ascending order."""
        for spaces in self._chunks():
            rows = self._rows(spaces)
            residuals = [
                group.residual(rows, self._weights[:, group.outputs]) for group in self._groups
            ]
            grams = [group.gram(rows) for group in self._groups]
            before = self._weights[rows].copy()
            self._improve(spaces, residuals, grams)
            change = self._weights[rows] - before
            for group in self._groups:
                group.moved(rows, change[:, group.outputs])

    def _chunks(self) -> list[range]:
        """Return runs of sub-spaces of about _CHUNK_ROWS rows."""
        size = max(1, _CHUNK_ROWS // (self._layout.positions * self._layout.subvector))
        count = self._layout.subspaces
        return [range(at, min(at + size, count)) for at in range(0, count, size)]

    def _rows(self, spaces: range) -> slice:
        return slice(self._layout.span(spaces[0]).start, self._layout.span(spaces[-1]).stop)

    def _improve(self, spaces: range, residuals: list[np.ndarray], grams: list[np.ndarray]) -> None:
        """Make both half-steps in a run of sub-spaces.

        It is halved down to single ones: what the first half changes reaches the residuals of the
        second in one matrix product, which is as large as can be.
        """
        if len(spaces) == 1:
            self._improve_one(spaces[0], residuals, grams)
            return
        rows, middle = self._rows(spaces), len(spaces) // 2
        split = self._rows(spaces[:middle]).stop
        first, second = slice(0, split - rows.start), slice(split - rows.start, None)
        before = self._weights[rows.start : split].copy()
        self._improve(
            spaces[:middle], [r[first] for r in residuals], [g[first, first] for g in grams]
        )
        change = self._weights[rows.start : split] - before
        for group, residual, gram in zip(self._groups, residuals, grams, strict=True):
            residual[second] -= gram[second, first] @ change[:, group.outputs]
        self._improve(
            spaces[middle:], [r[second] for r in residuals], [g[second, second] for g in grams]
        )

    def _improve_one(
        self, subspace: int, residuals: list[np.ndarray], grams: list[np.ndarray]
    ) -> None:
        block = _SubspaceBlock(self, subspace, residuals, grams)
        block.update_codewords()
        self.history.append(self.objective)
        block.update_assignments()
        block.use_unused()
        self.history.append(self.objective)

    def _round(self, codewords: np.ndarray) -> np.ndarray:
        return codewords if self._round_to is None else codewords.astype(self._round_to)

    def _exact_objective(self) -> float:
        return sum(group.value(self._weights[:, group.outputs]) for group in self._groups)


class _SubspaceBlock:
    """The half-steps of one sub-space.

    ``residuals`` are ``H − GŴ`` on the rows of the sub-space, one array for each group, kept up to
    date with the weights by every change made here; ``grams`` are G on its rows and columns.
    """

    def __init__(
        self,
        problem: ErrorCorrection,
        subspace: int,
        residuals: list[np.ndarray],
        grams: list[np.ndarray],
    ):
        layout = problem._layout
        span = layout.span(subspace)
        self._problem = problem
        self._subspace = subspace
        self._length = layout.length(subspace)
        self._residuals, self._grams = residuals, grams
        self._outputs = [group.outputs for group in problem._groups]
        self._weights = problem._weights[span]  # a view: changes are the problem's
        self._codewords = problem.codewords[subspace, :, : self._length]  # a view
        self._assignments = problem.assignments[:, subspace]  # a view, (P, Ct)

    @property
    def _positions(self) -> int:
        return len(self._assignments)

    def _targets(self, group: int) -> np.ndarray:
        """Return ``Q = H − GŴ + G_m Ŵ_m``: what the rows should explain, the others given."""
        weights = self._weights[:, self._outputs[group]]
        return self._residuals[group] + self._grams[group] @ weights

    def _apply(self, group: int, rows: slice, columns: slice, change: np.ndarray) -> None:
        """Add a change to some weights; J changes by ``⟨Δ, GΔ⟩ − 2⟨Δ, residual⟩``, exactly."""
        residual = self._residuals[group][:, columns]
        product = self._grams[group][:, rows] @ change
        self._problem.objective += float(
            (change * (product[rows] - 2 * residual[rows])).sum(dtype=np.float64)
        )
        residual -= product
        self._weights[rows, self._outputs[group]][:, columns] += change

    def update_codewords(self) -> None:
        """Move the codewords to the least-squares solution, the assignments given."""
        solve = _solve_separate if self._positions == 1 else _solve_shared
        solution = solve(
            self._codewords,
            [self._assignments[:, columns] for columns in self._outputs],
            self._grams,
            [self._targets(group) for group in range(len(self._grams))],
            self._problem._proximal,
            self._problem._joint,
        )
        self._codewords[:] = self._problem._round(solution)
        table = np.ascontiguousarray(self._codewords.T, self._weights.dtype)
        vectors = np.take(table, self._assignments, axis=1)  # (d, P, Ct)
        decoded = vectors.transpose(1, 0, 2).reshape(self._weights.shape)
        for group, columns in enumerate(self._outputs):
            change = decoded[:, columns] - self._weights[:, columns]
            self._apply(group, slice(None), slice(None), change)

    def _rows(self, position: int) -> slice:
        return slice(position * self._length, (position + 1) * self._length)

    def update_assignments(self) -> None:
        """Give each output its best codeword, one position after the other."""
        codewords = self._codewords.astype(self._weights.dtype)
        table = np.ascontiguousarray(codewords.T)
        for position in range(self._positions):
            rows = self._rows(position)
            for group, columns in enumerate(self._outputs):
                gram = self._grams[group][rows, rows]
                weights = self._weights[rows, columns]
                target = self._residuals[group][rows] + gram @ weights
                own = ((codewords @ gram) * codewords).sum(1)
                best = _nearest(target, 2 * table, own)
                self._assignments[position, columns] = best
                self._apply(group, rows, slice(None), np.take(table, best, axis=1) - weights)

    def use_unused(self) -> None:
        """Move each unused codeword to the exact solution of the output that is worst off."""
        codewords = len(self._codewords)
        used = np.bincount(self._assignments.ravel(), minlength=codewords)
        for k in np.flatnonzero(used == 0):
            gain, group, position, column, solution = self._worst(used)
            if gain <= 1e-12 * self._problem.energy:
                return
            rows, columns = self._rows(position), self._outputs[group]
            solution = self._problem._round(solution).astype(self._weights.dtype)
            output = columns.start + column
            used[self._assignments[position, output]] -= 1
            used[k] = 1
            change = solution - self._weights[rows, output]
            self._codewords[k] = solution
            self._assignments[position, output] = k
            self._apply(group, rows, slice(column, column + 1), change[:, None])

    def _worst(self, used: np.ndarray) -> tuple[float, int, int, int, np.ndarray]:
        """Find the (group, position, output) whose own optimum would lower J most."""
        best: tuple = (0.0, 0, 0, 0, np.zeros(self._length))
        for group, columns in enumerate(self._outputs):
            for position in range(self._positions):
                rows = self._rows(position)
                gram = self._grams[group][rows, rows].astype(np.float64)
                regular = gram + self._problem._proximal * np.eye(self._length)
                residual = self._residuals[group][rows]
                step = np.linalg.solve(regular, residual)
                gains = (step * (2 * residual - gram @ step)).sum(0)
                gains[used[self._assignments[position, columns]] < 2] = 0
                column = int(gains.argmax())
                if gains[column] > best[0]:
                    weights = self._weights[rows, columns][:, column]
                    solution = weights + step[:, column]
                    best = (float(gains[column]), group, position, column, solution)
        return best


def _nearest(target: np.ndarray, table: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Return ``argmin_k own_k − target_cᵀ table_k`` for each output c."""
    outputs = target.shape[1]
    best = np.empty(outputs, np.int64)
    step = max(1, _SCORE_PRODUCTS // table.size)
    for start in range(0, outputs, step):
        part = slice(start, start + step)
        best[part] = (own - target[:, part].T @ table).argmin(1)
    return best


def _solve_separate(
    codewords: np.ndarray,
    assignments: list[np.ndarray],
    grams: list[np.ndarray],
    targets: list[np.ndarray],
    proximal: float,
    joint: bool,
) -> np.ndarray:
    """Solve for the codewords of one position: ``(Σ_g n_gk G_g) D_k = Σ_{c: B_c = k} Q_c``.

    Each output uses one codeword of the sub-space, so that the codewords do not interact.
    """
    del joint
    count, length = codewords.shape
    used = np.zeros(count)
    normal = np.zeros((count, length, length))
    right = proximal * codewords
    for index, gram, target in zip(assignments, grams, targets, strict=True):
        members = np.bincount(index[0], minlength=count)
        used += members
        normal += members[:, None, None] * gram.astype(np.float64)
        right += np.stack([np.bincount(index[0], row, count) for row in target], 1)
    normal += proximal * np.eye(length)
    solution = codewords.copy()
    some = used > 0
    solution[some] = np.linalg.solve(normal[some], right[some][:, :, None])[:, :, 0]
    return solution


def _solve_shared(
    codewords: np.ndarray,
    assignments: list[np.ndarray],
    grams: list[np.ndarray],
    targets: list[np.ndarray],
    proximal: float,
    joint: bool,
) -> np.ndarray:
    """Solve the normal equations of a codebook shared by several positions.

    ``A[k, l] = Σ_pq n_pq(k, l) G_pq`` with ``n_pq(k, l)`` the outputs that use k at p and l at q;
    ``r_k = Σ_p Σ_{c: B_pc = k} Q_pc``. Unused codewords stay as they are.
    """
    count, length = codewords.shape
    used = np.unique(np.concatenate([index.ravel() for index in assignments]))
    place = np.zeros(count, np.int64)
    place[used] = np.arange(len(used))
    normal = np.zeros((len(used), length, len(used), length))
    right = proximal * codewords[used]
    for index, gram, target in zip(assignments, grams, targets, strict=True):
        index = place[index]
        normal += _normal_equations(index, gram, len(used), length)
        rows = target.reshape(len(index), length, -1).transpose(1, 0, 2).reshape(length, -1)
        right += np.stack([np.bincount(index.ravel(), row, len(used)) for row in rows], 1)
    normal = normal.reshape(right.size, right.size)
    normal[np.diag_indices_from(normal)] += proximal
    solution = codewords.copy()
    if joint:
        solution[used] = _solve_jointly(normal, right, codewords[used])
    else:
        solution[used] = _gauss_seidel(normal, right, codewords[used])
    return solution


def _solve_jointly(normal: np.ndarray, right: np.ndarray, codewords: np.ndarray) -> np.ndarray:
    """Solve for all codewords, with as little pull to their previous values as rounding needs."""
    pull = 0.0
    while True:
        try:
            matrix = normal + pull * np.eye(len(normal)) if pull else normal
            return solve_positive(matrix, (right + pull * codewords).ravel()).reshape(right.shape)
        except np.linalg.LinAlgError:
            pull = 10 * pull or 1e-7 * np.trace(normal) / len(normal)


def _normal_equations(index: np.ndarray, gram: np.ndarray, count: int, length: int) -> np.ndarray:
    """Assemble A, (K, d, K, d), as one product of the Gram's blocks and the pair counts."""
    positions = len(index)
    pairs = index[:, None] * count + index[None]  # (P, P, Ct): which (k, l)
    offset = np.arange(positions**2).reshape(positions, positions, 1) * count**2
    counts = np.bincount((pairs + offset).ravel(), minlength=positions**2 * count**2)
    blocks = gram.reshape(positions, length, positions, length).transpose(1, 3, 0, 2)
    blocks = blocks.reshape(length**2, positions**2).astype(np.float64)
    normal = blocks @ counts.reshape(positions**2, count**2).astype(np.float64)
    return normal.reshape(length, length, count, count).transpose(2, 0, 3, 1)


def _gauss_seidel(normal: np.ndarray, right: np.ndarray, codewords: np.ndarray) -> np.ndarray:
    """Solve for one codeword after the other, once."""
    count, length = codewords.shape
    solution = codewords.copy()
    blocks = normal.reshape(count, length, count * length)
    for k in range(count):
        own = blocks[k].reshape(length, count, length)[:, k]
        others = right[k] - blocks[k] @ solution.ravel() + own @ solution[k]
        solution[k] = np.linalg.solve(own, others)
    return solution
