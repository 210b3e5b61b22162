r"""Differentiable penalties on the stable ranks of a model.

    log sr(W) = 2 log ||W||_F - 2 log s_1,    s_1 = u^T W v with u, v constant

    d sr  =  2 W / s_1^2 - 2 (||W||_F^2 / s_1^3) u v^T,    <d sr, W> = 0

The gradient is exact where s_1 > s_2 and u, v are exact: s_1 has the derivative u v^T.
It is orthogonal to W for any unit u and v: a penalty does not change the norm of a
weight to first order, and so never works against weight decay. Where s_1 = s_2 the
stable rank has no gradient; what is returned is one of its limits, an element of
Clarke's subdifferential, that of the pair (u, v) found.
Source (derived): test_control_penalty.py, finite differences and autograd of an SVD.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Literal, final

import torch
from torch import Tensor, nn

from spectrank.errors import DomainError, SpectrankWarning
from spectrank.init.control.matrices import LiveMatrix, live_matrices
from spectrank.init.control.targets import Target, targets_of
from spectrank.init.control.triplet import Triplet, top_triplet
from spectrank.linalg.ensembles.requests import check_choice
from spectrank.train.sinks.base import check_count

Kind = Literal["log", "hinge", "square", "plain"]
_KINDS = ("log", "hinge", "square", "plain")
_AIMED = ("hinge", "square")


def stable_rank_penalty(
    model: nn.Module,
    *,
    kind: Kind = "log",
    target: Target | None = None,
    fraction: float | None = None,
    select: str | Sequence[str] | None = None,
) -> Tensor:
    r"""Sum over the matrices of a model of a function of their stable ranks sr.

    ==========  ==================================================================
    ``log``     :math:`\log \mathrm{sr}`: every layer pulls alike
    ``hinge``   :math:`\max(0, \log \mathrm{sr} - \log r)^2`: zero up to the target r
    ``square``  :math:`(\log \mathrm{sr} - \log r)^2`: from both sides
    ``plain``   :math:`\mathrm{sr}`
    ==========  ==================================================================

    Dimensionless, at least 0 (``plain``: at least the number of matrices). Exact
    singular vectors at each call, at the price of an eigendecomposition of the smaller
    Gram matrix, by Lanczos above order 1024; `StableRankPenalty` is cheap. A zero
    matrix has no stable rank: it warns and adds nothing; a non-finite one adds NaN.

    Source (stated): of the stable rank, Sanyal et al. (2020), arXiv:1906.04659; the
    penalties are ours. Source (derived): their gradient,
    test_control_penalty.py::test_gradient_equals_finite_differences.

    Args:
        model: Any module. Parameters and ``torch.nn.utils.parametrize`` weights are
            differentiated through; each group of a convolution is a matrix; what is
            used twice counts once, so that a layer tied to a parametrised one counts by
            itself, with the weight that it uses. Nothing is changed in it.
        kind: Which function.
        target: r for ``hinge`` and ``square``: one number for all, or a mapping from
            glob patterns of weight names, where the first match counts and a matrix
            without one is left out. For ``hinge`` one number serves a model with a
            small last layer, which never exceeds it. Vectors (1 x n), whose stable
            rank is always 1, are left out of both.
        fraction: r as a share of min(m, n) of each matrix, in place of ``target``.
        select: Glob pattern(s) of weight names; None for all matrices.

    Returns:
        Scalar tensor, float32 or the widest dtype of the weights.

    Raises:
        DomainError: No target where one is needed, one where none is, two of them, one
            out of range, or a key that matches no matrix.
        ArgumentTypeError: ``model`` is no module.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> penalty = stable_rank_penalty(model, kind="hinge", target=2.0)
        >>> (0.1 * penalty).backward()
    """  # noqa: DOC502 - raised by the functions called
    values = []
    for term in _terms(model, kind, target, fraction, select):
        values += [term.of(W, top_triplet(W.detach())) for W in term.matrices()]
    return _total(values)


@final
class StableRankPenalty:
    """`stable_rank_penalty` for every step of a training loop, with carried vectors.

    The layers are looked up once. Singular vectors are exact at first and then follow
    the weights by ``iterations`` steps of power iteration a call: two products with
    each matrix a step. A lagging vector gives too large a stable rank; the gradient is
    orthogonal to the weight all the same. It holds no state of the model: keep it
    beside the optimizer, and make it anew where parameters are replaced.

    Args:
        model: As in `stable_rank_penalty`, like all that follow.
        kind: Which function.
        target: Of ``hinge`` and ``square``.
        fraction: Target as a share of min(m, n).
        select: Glob pattern(s) of weight names.
        iterations: Steps of power iteration at each call.
        refresh: Calls after which the vectors are exact again; None for never.

    Example:
        >>> model = nn.Linear(8, 8)
        >>> penalty = StableRankPenalty(model, kind="hinge", target=2.0)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> for _ in range(200):
        ...     optimizer.zero_grad()
        ...     penalty().backward()
        ...     optimizer.step()
        >>> bool(penalty() < 1e-3)
        True
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        kind: Kind = "log",
        target: Target | None = None,
        fraction: float | None = None,
        select: str | Sequence[str] | None = None,
        iterations: int = 1,
        refresh: int | None = 1000,
    ) -> None:
        check_count("iterations", iterations)
        if refresh is not None:
            check_count("refresh", refresh)
        self._terms = _terms(model, kind, target, fraction, select)
        self._iterations, self._refresh = iterations, refresh
        self._pairs: list[list[Triplet | None]] = [
            [None] * term.matrices.groups for term in self._terms
        ]
        self._num_calls = 0

    def __call__(self) -> Tensor:
        """Return the penalty of the weights as they are now, a scalar tensor."""
        anew = self._refresh is not None and self._num_calls % self._refresh == 0
        self._num_calls += 1
        values = []
        for term, pairs in zip(self._terms, self._pairs, strict=True):
            for k, W in enumerate(term.matrices()):
                pairs[k] = self._followed(W.detach(), None if anew else pairs[k])
                values.append(term.of(W, pairs[k]))
        return _total(values)

    @torch.no_grad()
    def _followed(self, W: Tensor, pair: Triplet | None) -> Triplet | None:
        if pair is None:
            return top_triplet(W)
        W, u, v = _scaled(W), pair.u, pair.v
        v = v.to(W)
        for _ in range(self._iterations):
            u = torch.mv(W, v)
            u = u / torch.linalg.vector_norm(u)
            v = torch.mv(W.T, u)
            v = v / torch.linalg.vector_norm(v)
        # A vector that fell into the null space, or overflowed, is found anew.
        return Triplet(u, v) if bool(torch.isfinite(v).all()) else top_triplet(W)


@final
class _Term:
    """The penalty of the matrices of one weight."""

    def __init__(self, matrices: LiveMatrix, kind: Kind, target: float | None) -> None:
        self.matrices = matrices
        self._kind, self._target = kind, target

    def of(self, W: Tensor, pair: Triplet | None) -> Tensor:
        """Return the penalty of one of them with these vectors."""
        if pair is None:
            return self._without(W)
        with torch.autocast(W.device.type, enabled=False):
            W = _scaled(W)
            s = torch.dot(pair.u.to(W), torch.mv(W, pair.v.to(W)))
            return self._function(torch.linalg.vector_norm(W) / s.abs())

    def _function(self, ratio: Tensor) -> Tensor:
        if self._kind == "plain":
            return torch.square(ratio)
        log_rank = 2.0 * torch.log(ratio)
        if self._target is None:
            return log_rank
        excess = log_rank - math.log(self._target)
        return torch.square(torch.relu(excess) if self._kind == "hinge" else excess)

    def _without(self, W: Tensor) -> Tensor:
        W = _single(W)
        if not bool(torch.isfinite(W.detach()).all()):
            return W.sum() * math.nan
        warnings.warn(
            f"{self.matrices.weight.name} is zero and has no stable rank; "
            "it adds nothing to the penalty",
            SpectrankWarning,
            stacklevel=4,
        )
        return 0.0 * W.sum()


def _scaled(W: Tensor) -> Tensor:
    """Return W over its largest entry, a constant: squares then stay in float32."""
    W = _single(W)
    return W / W.detach().abs().amax()


def _single(W: Tensor) -> Tensor:
    return W if W.dtype in {torch.float32, torch.float64} else W.to(torch.float32)


def _total(values: Sequence[Tensor]) -> Tensor:
    total = values[0]
    for value in values[1:]:
        total = total + value.to(total.device)
    return total


def _terms(
    model: nn.Module,
    kind: Kind,
    target: Target | None,
    fraction: float | None,
    select: str | Sequence[str] | None,
) -> list[_Term]:
    check_choice("kind", kind, _KINDS)
    aimed = kind in _AIMED
    if aimed == (target is None and fraction is None):
        raise DomainError(
            f"a target belongs to the kinds {' and '.join(_AIMED)}, got {kind!r} with "
            f"target={target!r} and fraction={fraction!r}; "
            + ("pass target= or fraction=" if aimed else "leave it out")
        )
    found = live_matrices(model, select)
    if not aimed:
        return [_Term(matrix, kind, None) for matrix in found]
    if target is not None and fraction is not None:
        raise DomainError(
            "a target is stated once, as target= or as fraction= of min(m, n), got "
            f"target={target!r} and fraction={fraction!r}; give one"
        )
    targets = targets_of(found, target, fraction, lowered=kind == "hinge")
    return [
        _Term(matrix, kind, r)
        for matrix, r in zip(found, targets, strict=True)
        if r is not None
    ]
