r"""The rank that the last minibatches can have given a weight under SGD with decay.

    eta  learning rate      w  weight decay      beta  momentum      tau  dampening
    B    rows of a minibatch that reach the weight: samples times positions times uses
    v    momentum buffer

A minibatch's gradient g has rank at most B, and one step of SGD is linear,

    v' = beta v + (1 - tau) (g + w W),    W' = W - eta v'

(W' = W - eta (g + w W + beta v') under Nesterov). So after m steps

    W_T = a W_{T-m} + b v_{T-m} + (a matrix of rank at most m B),

with (a, b) the first row of the product of the steps' matrices, whatever the loss, the
data and the distance from stationarity. Without momentum a = (1 - eta w)^m, b = 0.
Galanti et al., arXiv:2206.05794, is the idea (their penalty is w ||W||^2, so their
constant has 2 w); the recursion with its buffer is ours.
Source (derived): tests/collapse/certificates/test_collapse_window.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spectrank.collapse.certificates.tails import Norm, check_norm, norm_of, values_of
from spectrank.collapse.certificates.tails import tail as tail_of
from spectrank.errors import DomainError, ShapeError
from spectrank.linalg import Value
from spectrank.linalg.shapes import Matrix

Step = npt.NDArray[np.float64]


@final
@dataclass(frozen=True)
class WindowBound:
    """How far a weight can be from what the last minibatches gave it.

    Attributes:
        num_steps: m.
        rank: m B, at most min(m, n) of the weight.
        weight_factor: a, of the weight before the window.
        buffer_factor: b, of the momentum buffer before it.
        distance: Of the weight to rank ``rank``.
        bound: Norm of a W + b v, which the distance cannot exceed.
        weight_norm: Of the weight now.
    """

    num_steps: int
    rank: int
    weight_factor: float
    buffer_factor: float
    distance: Value
    bound: Value
    weight_norm: Value


def step_matrix(
    learning_rate: float,
    weight_decay: float,
    momentum: float = 0.0,
    *,
    dampening: float = 0.0,
    nesterov: bool = False,
) -> Step:
    """(2, 2) action of one step without gradient on (W, v).

    Args:
        learning_rate: eta.
        weight_decay: w, coupled.
        momentum: beta.
        dampening: tau.
        nesterov: Whether the step looks ahead.

    Returns:
        The matrix.
    """
    kept = 1.0 - dampening
    buffer = np.array([kept * weight_decay, momentum])
    step = buffer
    if nesterov:
        step = np.array([weight_decay, 0.0]) + momentum * buffer
    return np.stack([np.array([1.0, 0.0]) - learning_rate * step, buffer])


def window_factors(
    learning_rates: Sequence[float],
    weight_decay: float,
    momentum: float = 0.0,
    *,
    dampening: float = 0.0,
    nesterov: bool = False,
    first_step: bool = False,
) -> tuple[float, float]:
    """Factors (a, b) of the weight and of the buffer before a window of steps.

    Source (derived): tests/collapse/certificates/test_collapse_window.py.

    Args:
        learning_rates: eta of every step of the window, first to last.
        weight_decay: w, coupled.
        momentum: beta.
        dampening: tau.
        nesterov: Whether the steps look ahead.
        first_step: There was no buffer yet: torch's first step is not dampened.

    Returns:
        a and b.
    """
    product: Step = np.eye(2)
    for index, rate in enumerate(learning_rates):
        damp = 0.0 if first_step and index == 0 else dampening
        one = step_matrix(
            rate, weight_decay, momentum, dampening=damp, nesterov=nesterov
        )
        product = one @ product
    return float(product[0, 0]), float(product[0, 1])


def window_bound(
    weight: Matrix,
    weight_before: Matrix,
    learning_rates: Sequence[float],
    *,
    weight_decay: float,
    batch_rank: int,
    momentum: float = 0.0,
    dampening: float = 0.0,
    nesterov: bool = False,
    buffer_before: Matrix | None = None,
    norm: Norm = "frobenius",
) -> WindowBound:
    """Bound a weight's distance to rank m B by two checkpoints m steps apart.

    Exact for torch.optim.SGD with coupled decay, up to rounding; holds for any loss.
    Source (derived): tests/collapse/certificates/test_collapse_window.py.

    Args:
        weight: (m, n) now.
        weight_before: (m, n) before the window.
        learning_rates: Of every step of the window, first to last; their number is m.
        weight_decay: w.
        batch_rank: B, rows of a minibatch: samples times positions times uses.
        momentum: beta.
        dampening: tau.
        nesterov: Whether the steps look ahead.
        buffer_before: Momentum buffer before the window; None before the first step.
        norm: Of the distance.

    Returns:
        Distance and bound.

    Raises:
        DomainError: No steps, or B below 1.
        ShapeError: The matrices differ in shape.
    """
    check_norm(norm)
    if len(learning_rates) == 0 or batch_rank < 1:
        raise DomainError(
            "a window has at least one step and one row a minibatch, got "
            f"{len(learning_rates)} steps and batch_rank={batch_rank}; give the "
            "learning rate of every step between the checkpoints"
        )
    for other in (weight_before, buffer_before):
        if other is not None and other.shape != weight.shape:
            raise ShapeError(
                f"checkpoints and buffer have the shape of the weight, "
                f"{tuple(weight.shape)}, got {tuple(other.shape)}; pass the same layer"
            )
    a, b = window_factors(
        learning_rates,
        weight_decay,
        momentum,
        dampening=dampening,
        nesterov=nesterov,
        first_step=buffer_before is None,
    )
    rest = a * _float64(weight_before)
    if buffer_before is not None:
        rest += b * _float64(buffer_before)
    rank = min(len(learning_rates) * batch_rank, *weight.shape)
    now = values_of(_float64(weight), (rank,))
    return WindowBound(
        num_steps=len(learning_rates),
        rank=rank,
        weight_factor=a,
        buffer_factor=b,
        distance=tail_of(now, rank, norm),
        bound=norm_of(values_of(rest, ()), norm),
        weight_norm=norm_of(now, norm),
    )


def window_length(step: Step, tolerance: float, buffer_ratio: float) -> int | None:
    """Steps after which |a| + |b| buffer_ratio stays at most ``tolerance``.

    Args:
        step: (2, 2) of one step, the same in all.
        tolerance: Above 0.
        buffer_ratio: Norm of the buffer over that of the weight.

    Returns:
        A number of steps at which it holds while it fails one before; None where the
        factors do not decay.
    """
    if not max(abs(np.linalg.eigvals(step))) < 1.0:
        return None

    def enough(num_steps: int) -> bool:
        a, b = np.linalg.matrix_power(step, num_steps)[0]
        return bool(abs(a) + abs(b) * buffer_ratio <= tolerance)

    high = 1
    while not enough(high):
        high *= 2
        if high > 1 << 40:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def buffer_ratio(weight: Tensor, buffer: Tensor | None) -> float:
    """Frobenius norm of a momentum buffer over that of its weight; 0 without one."""
    if buffer is None:
        return 0.0
    whole = float(torch.linalg.vector_norm(_float64(weight)))
    top = float(torch.linalg.vector_norm(_float64(buffer)))
    return math.inf if whole == 0.0 else top / whole


def _float64(matrix: Tensor) -> Tensor:
    return matrix.detach().to(torch.float64)
