"""Error correction: codewords and assignments fitted to a layer's responses."""

from __future__ import annotations

import dataclasses

import numpy as np

from kerasq.codebooks.layout import KernelLayout
from kerasq.codebooks.moments import Moments

# Rows whose residual is held at a time: enough for a fast matrix product, few enough for the cache.
_CHUNK_ROWS = 256


@dataclasses.dataclass
class _Group:
    """One group of a convolution: its moments with the prior added, rows in the layout's order."""

    gram: np.ndarray
    cross: np.ndarray
    energy: float
    outputs: slice  # its columns of the kernel
    scale: float  # mean of the Gram's diagonal


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
        original = layout.matrix(np.asarray(kernel, np.float64))
        columns = layout.outputs // layout.groups
        self._groups = [
            _group(layout, sums, original, slice(g * columns, (g + 1) * columns), prior, dtype)
            for g, sums in enumerate(moments)
        ]
        self._proximal = proximal * sum(group.scale for group in self._groups)
        decoded = layout.decode(self.codewords, self.assignments)
        self._weights = layout.matrix(decoded).astype(dtype)
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
        for chunk in self._chunks():
            rows = slice(self._layout.span(chunk[0]).start, self._layout.span(chunk[-1]).stop)
            residuals = [
                group.cross[rows] - group.gram[rows] @ self._weights[:, group.outputs]
                for group in self._groups
            ]
            for subspace in chunk:
                self._improve(subspace, rows, residuals)

    def _chunks(self) -> list[list[int]]:
        """Return runs of sub-spaces of about _CHUNK_ROWS rows."""
        size = max(1, _CHUNK_ROWS // (self._layout.positions * self._layout.subvector))
        spaces = list(range(self._layout.subspaces))
        return [spaces[at : at + size] for at in range(0, len(spaces), size)]

    def _improve(self, subspace: int, rows: slice, residuals: list[np.ndarray]) -> None:
        """Make both half-steps in a sub-space, and bring the chunk's residuals up to date."""
        span = self._layout.span(subspace)
        local = slice(span.start - rows.start, span.stop - rows.start)
        block = _SubspaceBlock(self, subspace, [r[local] for r in residuals])
        before = self._weights[span].copy()
        block.update_codewords()
        self.history.append(self.objective)
        block.update_assignments()
        block.use_unused()
        self.history.append(self.objective)
        change = self._weights[span] - before
        for group, residual in zip(self._groups, residuals, strict=True):
            residual -= group.gram[rows, span] @ change[:, group.outputs]

    def _round(self, codewords: np.ndarray) -> np.ndarray:
        return codewords if self._round_to is None else codewords.astype(self._round_to)

    def _exact_objective(self) -> float:
        total = 0.0
        for group in self._groups:
            weights = self._weights[:, group.outputs]
            product = weights * (group.gram @ weights - 2 * group.cross)
            total += group.energy + float(product.sum(dtype=np.float64))
        return total


def _group(
    layout: KernelLayout,
    sums: Moments,
    original: np.ndarray,
    outputs: slice,
    prior: float,
    dtype: type,
) -> _Group:
    """Order a group's moments by sub-space and add the prior (spec: G + λsI, H + λsW)."""
    weights = original[:, outputs]
    scale = float(np.trace(sums.gram)) / len(sums.gram) or 1.0  # all inputs zero: the prior alone
    ridge = prior * scale
    gram = sums.gram[np.ix_(layout.rows, layout.rows)]
    gram[np.diag_indices_from(gram)] += ridge
    cross = sums.cross[layout.rows] + ridge * weights
    energy = sums.energy + ridge * float((weights**2).sum())
    return _Group(gram.astype(dtype), cross.astype(dtype), energy, outputs, scale)


class _SubspaceBlock:
    """The half-steps of one sub-space.

    ``residuals`` are ``H − GŴ`` on the rows of the sub-space, one array for each group, kept up to
    date with the weights by every change made here.
    """

    def __init__(self, problem: ErrorCorrection, subspace: int, residuals: list[np.ndarray]):
        layout = problem._layout
        span = layout.span(subspace)
        self._problem = problem
        self._subspace = subspace
        self._length = layout.length(subspace)
        self._residuals = [residual.copy() for residual in residuals]
        self._outputs = [group.outputs for group in problem._groups]
        self._grams = [group.gram[span, span] for group in problem._groups]
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
        vectors = self._codewords[self._assignments]  # (P, Ct, d)
        decoded = vectors.transpose(0, 2, 1).reshape(self._weights.shape)
        for group, columns in enumerate(self._outputs):
            change = decoded[:, columns] - self._weights[:, columns]
            self._apply(group, slice(None), slice(None), change.astype(self._weights.dtype))

    def _rows(self, position: int) -> slice:
        return slice(position * self._length, (position + 1) * self._length)

    def update_assignments(self) -> None:
        """Give each output its best codeword, one position after the other."""
        codewords = self._codewords.astype(self._weights.dtype)
        for position in range(self._positions):
            rows = self._rows(position)
            for group, columns in enumerate(self._outputs):
                gram = self._grams[group][rows, rows]
                weights = self._weights[rows, columns]
                target = self._residuals[group][rows] + gram @ weights
                own = ((codewords @ gram) * codewords).sum(1)
                best = (own[:, None] - 2 * (codewords @ target)).argmin(0)
                self._assignments[position, columns] = best
                self._apply(group, rows, slice(None), codewords[best].T - weights)

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
        solution[used] = np.linalg.solve(normal, right.ravel()).reshape(right.shape)
    else:
        solution[used] = _gauss_seidel(normal, right, codewords[used])
    return solution


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
