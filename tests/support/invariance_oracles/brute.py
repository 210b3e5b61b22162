"""All linear and quadratic laws of a small net, as the null space of their rates."""

from dataclasses import dataclass, replace

import numpy as np
import scipy.linalg
import torch

from invariance_oracles.case import draws
from invariance_oracles.forms import Layout

# Relative to the largest eigenvalue of the normal matrix. Null ones are about 1e-16,
# the next one has been 1e-9 or more.
_NULL = 1e-13
_NOT_NULL = 1e-11
_BLOCK = 24


@dataclass(frozen=True)
class Space:
    """Orthonormal basis (unknowns, laws), and the eigenvalues on both sides."""

    layout: Layout
    basis: np.ndarray
    largest_null: float
    smallest_other: float

    @property
    def dimension(self):
        """Dimension of the space; products of linear laws are in it."""
        return self.basis.shape[1]

    @property
    def count(self):
        """Number of independent laws: the rank of their Jacobian at a random point.

        If a and b are linear laws then a b, a^2 and b^2 are laws too, and say nothing.
        """
        return jacobian_rank(self.basis.T, self.layout)

    def homogeneous(self):
        """Space of the laws whose quadratic and linear parts are laws by themselves.

        Fixed biases and x + W x have others: the balance of I + W is quadratic in W
        only together with a linear part.
        """
        split = self.layout.num_monomials
        parts = []
        for drop in (slice(split, None), slice(0, split)):
            _, s, right = np.linalg.svd(self.basis[drop], full_matrices=True)
            rank = int((s > 1e-7).sum())
            parts.append(self.basis @ right[rank:].T)
        return replace(self, basis=np.concatenate(parts, axis=1))

    @property
    def num_linear(self):
        """Dimension of the laws that have no quadratic part."""
        quadratic = self.basis[: self.layout.num_monomials]
        return self.dimension - _rank(quadratic)

    def describe(self):
        """Return every law of a sparse basis, readable, for a report."""
        reduced = _reduced(self.basis.T)
        return [self.layout.describe(row) for row in reduced]


def brute_force(case, *, seed=0, cotangents=2, excess=1.3) -> Space:
    """Return the space of all linear and quadratic laws.

    Every (weights, gradient) gives one equation; `excess` times as many as there are
    unknowns are drawn, because some say nothing (dead units, dependent cotangents:
    keep `cotangents` below the number of samples). A case whose eigenvalues leave no
    gap is an error, not a count.
    """
    layout = Layout(case.module())
    n = layout.num_unknowns
    generator = torch.Generator().manual_seed(seed)
    source = draws(case, generator, cotangents=cotangents)
    normal = np.zeros((n, n))
    wanted = int(excess * n) + 20
    for start in range(0, wanted, 512):
        rows = [layout.equation(*next(source)) for _ in range(min(512, wanted - start))]
        block = np.stack(rows)
        norms = np.linalg.norm(block, axis=1, keepdims=True)
        block = block / np.where(norms > 0, norms, 1)
        normal += block.T @ block
    values, vectors = _smallest(normal)
    top = float(np.trace(normal)) / n
    null = values < _NULL * top
    below = values[null].max(initial=0.0) / top
    above = values[~null].min() / top
    if above < _NOT_NULL:
        raise ArithmeticError(
            f"{case.name}: no gap in the spectrum, {below:.1e} against {above:.1e}"
        )
    return Space(layout, vectors[:, null], below, above)


def gradient_of(row, layout, w):
    """Gradient of a law at w, from its coefficients."""
    (numbers,) = np.nonzero(row[: layout.num_monomials])
    slope = row[layout.num_monomials :].copy()
    i, j = layout.upper[0][numbers], layout.upper[1][numbers]
    np.add.at(slope, i, row[numbers] * w[j])
    np.add.at(slope, j, row[numbers] * w[i])
    return slope


def jacobian_rank(rows, layout):
    """Number of functionally independent laws."""
    if not len(rows):
        return 0
    w = np.random.default_rng(5).normal(size=layout.total)
    return _rank(np.stack([gradient_of(row, layout, w) for row in rows]))


def diagonal_count(case, *, seed=0, cotangents=2):
    """Number of laws that are sums of squares with coefficients, for any size of net.

    Squares of constants are among them (a bias of zero gradient).
    """
    layout = Layout(case.module())
    source = draws(case, torch.Generator().manual_seed(seed), cotangents=cotangents)
    rows = []
    for _ in range(2 * layout.total + 20):
        weights, gradient = next(source)
        row = (layout.flat(weights) * layout.flat(gradient)).numpy()
        rows.append(row / (np.linalg.norm(row) or 1.0))
    s = np.linalg.svd(np.stack(rows), compute_uv=False)
    return layout.total - int((s > 1e-9 * s[0]).sum())


def _smallest(normal):
    """Smallest eigenpairs, at least one of them not null."""
    n = len(normal)
    if n <= 700:
        return np.linalg.eigh(normal)
    # Inverse iteration on blocks: a full decomposition costs 20 times as much.
    shift = 1e-15 * np.trace(normal)
    factor = scipy.linalg.cho_factor(normal + shift * np.eye(n), check_finite=False)
    size = _BLOCK
    while True:
        random = np.random.default_rng(0)
        block = random.normal(size=(n, size))
        for _ in range(6):
            block, _ = np.linalg.qr(scipy.linalg.cho_solve(factor, block))
        values, inner = np.linalg.eigh(block.T @ normal @ block)
        if values[-1] > 10 * _NOT_NULL * np.trace(normal) / n:
            return values, block @ inner
        size *= 2


def _rank(matrix, relative=1e-7):
    if not matrix.size:
        return 0
    s = np.linalg.svd(matrix, compute_uv=False)
    # Laws have norm one, so an absolute threshold is a relative one.
    return int((s > relative).sum())


def _reduced(rows, tolerance=1e-7):
    """Reduced row echelon form, which shows sparse laws as such."""
    rows, at = rows.copy(), 0
    for column in range(rows.shape[1]):
        if at == len(rows):
            break
        pivot = at + int(np.argmax(np.abs(rows[at:, column])))
        if abs(rows[pivot, column]) < tolerance:
            continue
        rows[[at, pivot]] = rows[[pivot, at]]
        rows[at] /= rows[at, column]
        others = np.arange(len(rows)) != at
        rows[others] -= np.outer(rows[others, column], rows[at])
        at += 1
    return rows
