r"""Deep linear networks: the trained singular values in closed form.

    L  layers      M = (1/N) Y X^T with singular values s      lambda  weight decay

for whitened inputs, (1/N) X X^T = I, no biases, and the objective

    (1/2N) ||W_L ... W_1 X - Y||^2 + (lambda/2) sum_l ||W_l||^2.

``MSELoss`` averages over the d_out outputs too and has no factor 1/2: trained with the
coefficient w it is this objective with lambda = ``mse_weight_decay(w, d_out)``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from scipy.optimize import brentq
from torch import Tensor

from spectrank.errors import DomainError, ShapeError
from spectrank.linalg.shapes import Float64

Branch = Literal["kept", "metastable", "zero"]


@final
@dataclass(frozen=True, eq=False)
class DeepLinear:
    r"""Minimisers of a deep linear network with weight decay, mode by mode.

    At global minima every layer has the singular values ``sigma`` (and zeros).

    Attributes:
        num_layers: L.
        weight_decay: lambda.
        modes: (k,) singular values s of M, descending.
        sigma: (k,) of every layer at the global minimum; 0 where the mode is dropped.
        stationary_sigma: (k,) on the branch that is not zero, wherever that exists
            (``kept`` and ``metastable``); 0 elsewhere.
        global_thresholds: (k,) largest lambda at which the mode is in the global
            minimum; infinite for one layer.
        local_thresholds: (k,) largest lambda at which the branch exists; at least the
            global threshold, equal to it for two layers.
        branches: For each mode ``kept`` (in the global minimum; with three layers or
            more zero is a local minimum beside it), ``metastable`` (a local minimum
            that training may end in, zero is the global one) or ``zero``.
        excess: Sum over modes of the global minimum of (1/2)(sigma^L - s)^2 +
            (lambda L/2) sigma^2: the objective less (1/2)(||Y||^2/N - ||M||^2).
    """

    num_layers: int
    weight_decay: float
    modes: Float64[Tensor, " k"]
    sigma: Float64[Tensor, " k"]
    stationary_sigma: Float64[Tensor, " k"]
    global_thresholds: Float64[Tensor, " k"]
    local_thresholds: Float64[Tensor, " k"]
    branches: tuple[Branch, ...]
    excess: float

    @property
    def rank(self) -> int:
        """Rank of every layer at the global minimum."""
        return int((self.sigma > 0).sum())


def deep_linear(
    singular_values: Tensor | Sequence[float],
    num_layers: int,
    weight_decay: float,
    *,
    max_rank: int | None = None,
) -> DeepLinear:
    r"""Largest root of :math:`\sigma^{2L-2}-s\sigma^{L-2}+\lambda=0`, or zero.

    The mode s is in the global minimum iff lambda <= lambda_glob, and its branch exists
    iff lambda <= lambda_loc:

        lambda_loc  = s p^((L-2)/L) - p^((2L-2)/L),   p = (L-2) s / (2L-2)
        lambda_glob = s^(2-2/L) (L-2)^(1-2/L) (L-1)^(-(2-2/L))

    L = 2: both are s and sigma^2 = s - lambda. L = 1: sigma = s/(1 + lambda), never
    dropped. A forecast of the global minimum, not of where gradient descent ends: for
    L > 2 a small initialisation may stay at zero, and a large one at a metastable mode.
    Source (derived): tests/collapse/forecasting/test_collapse_deep_linear.py, scalar
    and matrix minimisation.

    Args:
        singular_values: (k,) of M, finite, at least 0, in any order.
        num_layers: L, at least 1.
        weight_decay: lambda, at least 0.
        max_rank: Smallest hidden width, where fewer than k modes fit: the largest ones
            are kept, as each lowers the objective by more. None for no limit.

    Returns:
        Values, thresholds and branches in descending order of s.

    Raises:
        DomainError: A number out of range.
        ShapeError: The singular values are not a vector.

    Example:
        >>> [round(s, 4) for s in deep_linear([2, 1.2, 0.6], 3, 0.2).sigma.tolist()]
        [1.2246, 1.0, 0.6708]
    """  # noqa: DOC502 - raised by the function called
    modes = _checked_modes(singular_values, num_layers, weight_decay, max_rank)
    outside = len(modes) if max_rank is None else max_rank
    found = [
        _mode(s, num_layers, weight_decay, fits=index < outside)
        for index, s in enumerate(modes.tolist())
    ]
    columns = [
        torch.tensor([getattr(mode, name) for mode in found], dtype=torch.float64)
        for name in ("sigma", "stationary", "threshold", "existence")
    ]
    misfit = (columns[0] ** num_layers - modes).square().sum()
    penalty = weight_decay * num_layers * columns[0].square().sum()
    return DeepLinear(
        num_layers,
        float(weight_decay),
        modes,
        columns[0],
        columns[1],
        columns[2],
        columns[3],
        tuple(mode.branch for mode in found),
        0.5 * float(misfit + penalty),
    )


@final
@dataclass(frozen=True)
class _Mode:
    sigma: float
    stationary: float
    threshold: float
    existence: float
    branch: Branch


def _mode(s: float, depth: int, weight_decay: float, *, fits: bool) -> _Mode:
    if s == 0.0:
        existence = threshold = 0.0 if depth > 1 else math.inf
        return _Mode(0.0, 0.0, threshold, existence, "zero")
    if depth == 1:
        kept = s / (1.0 + weight_decay) if fits else 0.0
        branch: Branch = "kept" if fits else "zero"
        return _Mode(kept, kept, math.inf, math.inf, branch)
    # In units of s^(1/L) the law has one parameter, c = lambda / s^(2 - 2/L), which
    # is formed by its logarithm: the power leaves float64 for s beyond 1e154.
    log_scale, root = (2.0 - 2.0 / depth) * math.log(s), s ** (1.0 / depth)
    scale = math.exp(log_scale) if log_scale < 709.0 else math.inf
    c_local, c_global = _unit_thresholds(depth)
    c = 0.0
    if weight_decay > 0.0:
        c = math.exp(min(math.log(weight_decay) - log_scale, 700.0))
    u = _largest_root(c, depth) if c <= c_local and fits else 0.0
    branch = "zero" if u == 0.0 else "kept" if c <= c_global else "metastable"
    return _Mode(
        sigma=root * u if branch == "kept" else 0.0,
        stationary=root * u,
        threshold=c_global * scale if fits else 0.0,
        existence=c_local * scale if fits else 0.0,
        branch=branch,
    )


def _unit_thresholds(depth: int) -> tuple[float, float]:
    """Local and global thresholds of c for s = 1."""
    if depth == 2:
        return 1.0, 1.0
    n = float(depth)
    p = (n - 2.0) / (2.0 * n - 2.0)
    local = math.pow(p, (n - 2.0) / n) - math.pow(p, (2.0 * n - 2.0) / n)
    share = 2.0 / n
    return local, math.pow(n - 2.0, 1.0 - share) * math.pow(n - 1.0, share - 2.0)


def _largest_root(c: float, depth: int) -> float:
    """Largest root u of u^(2L-2) - u^(L-2) + c in [0, 1]."""
    if depth == 2:
        return math.sqrt(1.0 - c)

    def law(u: float) -> float:
        return math.pow(u, depth - 2.0) * math.expm1(depth * math.log(u)) + c

    turn = ((depth - 2.0) / (2.0 * depth - 2.0)) ** (1.0 / depth)
    if law(turn) >= 0.0:
        # At the local threshold the two roots meet, within rounding.
        return float(turn)
    return float(brentq(law, turn, 1.0, xtol=1e-15, rtol=1e-15))


def _checked_modes(
    values: Tensor | Sequence[float],
    num_layers: int,
    weight_decay: float,
    max_rank: int | None,
) -> Tensor:
    modes = torch.as_tensor(values, dtype=torch.float64).detach()
    if modes.ndim != 1:
        raise ShapeError(
            "singular values must be a vector, "
            f"got the shape {tuple(modes.shape)}; pass torch.linalg.svdvals(M)"
        )
    if not bool((torch.isfinite(modes) & (modes >= 0)).all()):
        raise DomainError(
            "singular values must be finite and at least 0, "
            f"got {modes.tolist()[:5]}; pass torch.linalg.svdvals(M)"
        )
    if not (math.isfinite(weight_decay) and weight_decay >= 0):
        raise DomainError(
            "weight_decay must be a finite number of at least 0, "
            f"got {weight_decay}; e.g. 5e-4"
        )
    if num_layers < 1:
        raise DomainError(
            f"num_layers must be at least 1, got {num_layers}; count the weights"
        )
    if max_rank is not None and max_rank < 1:
        raise DomainError(
            f"max_rank must be at least 1, got {max_rank}; leave it out for no limit"
        )
    return modes.sort(descending=True).values
