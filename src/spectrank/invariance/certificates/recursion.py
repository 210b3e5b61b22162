r"""Bounds on the singular values of a linear tail, from its gap matrices.

With lambda_1 >= lambda_2 >= ... the eigenvalues of a symmetric matrix and r a bound on
the rank of the top matrix, two ways down the tail are used.

*Tails* (matrices only). Ky Fan: the sum of the r largest eigenvalues is convex, so

    T_r(A_j) = sum_{i > r} s_i(A_j)^2 <= T_r(B_n) - sum_{i > r} lambda_i(D_j).

For r = 1 the last term is lambda_max(D_j) - tr D_j. Dropping columns (biases) lowers
every singular value, so the bound holds for A_j as well as for [A_j b_j].

*Ratios* (below a block or a convolution). ||A||_F^2 <= kappa ||A||_2^2 + E is passed
down: a block doubles kappa, ||[Y; Z]||_2^2 >= ||[U Z]||_2^2 / 2 up to its inner gap
D' = U^T U - Y Y^T; a kernel of k positions multiplies it by m = min(in, k):

    block     kappa <- 2 kappa_n,  E <- E - tr D' + kappa_n lambda_max(D')
    kernel    kappa <- m kappa
    gap       E <- E - tr D_j + kappa lambda_max(D_j)

In a block of kernels U counts m_U times: E takes kappa_n m_U lambda_max(D'), and the
factor m below the block is the larger of m_U m_Y and m_Z.

A matrix of fewer than kappa rows or columns restarts with its own rank and E = 0.
A bias adds (kappa - 1) ||b||^2 to the bound for the matrix without it: removing a
column takes ||b||^2 from the Frobenius norm and up to ||b||^2 from the squared spectral
norm. This term is not fixed at the start.

All of it is algebra at one moment. What gradient flow adds is that the gaps are those
of the start. Each step is sublinear in D, so after any training the bounds hold with
those of D(now) - D(0) added: the drift.

Source (stated): Le & Jegelka (2022), arXiv:2201.11968, Theorem 2, with 8 in place of 2,
and Lemma 10. Source (derived): tests/invariance/certificates/test_recursion.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from spectrank.errors import DomainError
from spectrank.invariance.certificates.levels import Level, gap


@final
@dataclass(frozen=True)
class TailBound:
    r"""What is certified of one level: :math:`\|A\|_F^2 \le \kappa\|A\|_2^2 + E`.

    Attributes:
        kappa: Limit of the stable rank where ||A|| diverges and E stays bounded.
        start: Part of E that the gaps at the start give; squared unit of the weights.
        drift: Part that the change of the gaps since then adds; may be negative.
        biases: Part that biases of the moment add.
        tails: Whether E also bounds T_kappa(A), the sum of all squared singular values
            but the kappa largest.
        weyl: Bound on s_{kappa + 1}(A)^2 that the gaps at the start give, by Weyl;
            None below a block or a convolution.
        weyl_drift: What the change of the gaps adds to ``weyl``.
    """

    kappa: int
    start: float
    drift: float = 0.0
    biases: float = 0.0
    tails: bool = True
    weyl: float | None = None
    weyl_drift: float = 0.0

    @property
    def excess(self) -> float:
        """E, all parts together."""
        return self.start + self.drift + self.biases


def tail_bounds(
    start: Sequence[Level],
    now: Sequence[Level] | None = None,
    *,
    softmax: bool = False,
) -> tuple[TailBound, ...]:
    r"""Bounds for every level of a tail, from the gap matrices at the start.

    With C outputs kappa at the top is C: at most C singular values of a matrix of the
    tail can grow. A softmax-type loss conserves 1^T W_L as well, which leaves C - 1
    with E = ||1^T W_L||^2 / C. Never an estimate: the truth can be far below.
    Source (derived): tests/invariance/certificates/test_recursion.py.

    Args:
        start: Levels at the start, the lowest first; the last one gives the outputs.
        now: The same levels at the moment for which the bounds shall hold; None for
            gradient flow, under which gaps do not change (biases are then those of
            the start).
        softmax: Whether the loss depends on differences of the outputs only.

    Returns:
        One bound a level, in the order of the levels.

    Raises:
        DomainError: There is no level, or ``now`` has not as many.
    """
    if not start or (now is not None and len(now) != len(start)):
        raise DomainError(
            "a tail has one or more levels, as many now as at the start, got "
            f"{len(start)} and {len(start) if now is None else len(now)}; read both "
            "with the same tail"
        )
    moment = start if now is None else now
    found = [_narrowed(_top(start[-1], moment[-1], softmax), start[-1].entering)]
    for j in range(len(start) - 2, -1, -1):
        bound = _read(found[-1], start[j + 1], moment[j + 1])
        before = gap(start[j], start[j + 1])
        change = gap(moment[j], moment[j + 1]) - before
        written = _written(bound, before, change, moment[j])
        found.append(_narrowed(written, start[j].augmented))
    return tuple(reversed(found))


def functional(kappa: int, *, tails: bool) -> Callable[[Tensor], float]:
    """Return what a gap adds to E: sublinear, monotone in the eigenvalues.

    Args:
        kappa: The factor, or the number of eigenvalues left out.
        tails: Whether tails are bounded: minus the sum of all eigenvalues but the
            kappa largest. Otherwise kappa lambda_max(D) - tr D.

    Returns:
        Function of the ascending eigenvalues of a symmetric matrix.
    """

    def of(values: Tensor) -> float:
        if tails:
            return -float(values[: max(len(values) - kappa, 0)].sum())
        return kappa * float(values[-1]) - float(values.sum())

    return of


def _top(start: Level, now: Level, softmax: bool) -> TailBound:
    outputs = len(start.entering)
    if not softmax or outputs == 1:
        return TailBound(outputs, 0.0, weyl=0.0)
    # The part of W along 1 / sqrt(C) has rank one and squared norm ||1^T W||^2 / C.
    before, after = (
        float(level.entering.sum(0).square().sum()) / outputs for level in (start, now)
    )
    return TailBound(
        outputs - 1, before, after - before, weyl=before, weyl_drift=after - before
    )


def _narrowed(bound: TailBound, matrix: Tensor) -> TailBound:
    """The rank of a matrix too small to have more values is the better bound."""
    # Weyl's inequality would be wrong there: s_{kappa + 1} is 0, not an eigenvalue.
    rank = min(matrix.shape)
    if rank < bound.kappa or (rank == bound.kappa and bound.tails):
        return TailBound(rank, 0.0, weyl=0.0)
    return bound


def _read(bound: TailBound, start: Level, now: Level) -> TailBound:
    """From what enters a level's outputs to what leaves its inputs."""
    if start.inner is not None and now.inner is not None:
        # m_U ||U||_2^2 + ||Z||_2^2 with U as it leaves the hidden features.
        inner = bound.kappa * start.inner.factor
        add = functional(inner, tails=False)
        before = start.inner.gap
        bias = float(now.inner.bias.square().sum())
        bound = TailBound(
            2 * bound.kappa,
            bound.start + add(_eigenvalues(before)),
            bound.drift + add(_eigenvalues(now.inner.gap - before)),
            bound.biases + (inner - 1) * bias,
            tails=False,
        )
    if start.factor == 1:
        return bound
    return replace(
        bound, kappa=start.factor * bound.kappa, tails=False, weyl=None, weyl_drift=0.0
    )


def _written(
    bound: TailBound, before: Tensor, change: Tensor, level: Level
) -> TailBound:
    """From what leaves the features of a level to what enters them."""
    add = functional(bound.kappa, tails=bound.tails)
    biases = bound.biases
    if not bound.tails:
        biases += (bound.kappa - 1) * float(level.bias.square().sum())
    weyl, weyl_drift = bound.weyl, bound.weyl_drift
    first, moved = _eigenvalues(before), _eigenvalues(change)
    if weyl is not None:
        # The largest eigenvalue of -D.
        weyl -= float(first[0])
        weyl_drift -= float(moved[0])
    return TailBound(
        bound.kappa,
        bound.start + add(first),
        bound.drift + add(moved),
        biases,
        bound.tails,
        weyl,
        weyl_drift,
    )


def _eigenvalues(matrix: Tensor) -> Tensor:
    values: Tensor = torch.linalg.eigvalsh(matrix)
    return values
