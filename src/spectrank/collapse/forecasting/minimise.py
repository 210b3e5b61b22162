r"""Bring a small network to a stationary point of its regularised loss.

The objective is that of training, deterministic and in float64:

    f(theta) = sum_i w_i s_i / F + (weight_decay / 2) sum ||W||_F^2

with s_i the loss of sample i summed over its outputs and F what the loss as trained
divides by (``describe_loss``). L-BFGS goes as far as differences of f can be seen,
about ||grad f|| = 1e-8; Newton steps (MINRES on exact Hessian products) take it from
there, as they need gradients alone. Kinks (ReLU) stop both early; that is a status.
Source (derived): tests/collapse/forecasting/test_collapse_minimise.py.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, Literal, final

import numpy as np
import torch
from scipy.optimize import minimize as _scipy_minimize
from scipy.sparse.linalg import LinearOperator, minres
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from spectrank.collapse.forecasting.objective import Objective, make_objective
from spectrank.errors import DomainError
from spectrank.model.capture.objective import LossLike

_Array = np.ndarray[Any, np.dtype[np.float64]]

# Vectors that L-BFGS keeps; beyond this it gains little and costs memory.
_HISTORY = 20
_NEWTON_STEPS = 12
_KRYLOV_STEPS = 400
# Relative gain of a restart below which there is no other.
_WORTHWHILE = 1e-9
# Two evaluations of f agree to this share; what is below is no difference of f.
_ROUNDING = 64 * np.finfo(np.float64).eps


@final
@dataclass(frozen=True)
class Minimum:
    """Where a minimisation ended.

    Attributes:
        model: Copy of the model in float64, in the mode of the original, with the
            final parameters and no gradients.
        objective: Loss as trained plus decay.
        loss: Loss as trained, without the decay.
        gradient_norm: Euclidean norm of the gradient of the objective.
        num_iterations: L-BFGS iterations plus Newton steps.
        status: ``ok`` where the gradient norm is within the tolerance;
            ``not_converged`` or ``nonfinite`` else.
        reason: Why the status is not ``ok``.
    """

    model: nn.Module
    objective: float
    loss: float
    gradient_norm: float
    num_iterations: int
    status: Literal["ok", "not_converged", "nonfinite"]
    reason: str | None


def minimise(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    *,
    loss: LossLike = "cross_entropy",
    weight_decay: float,
    decay_biases: bool = False,
    sample_weights: Tensor | None = None,
    tolerance: float = 1e-9,
    max_iterations: int = 5000,
) -> Minimum:
    r"""Minimise loss + (weight_decay/2) ||W||^2 from the model's parameters.

    A local minimum, one that depends on the start. The coefficient is that of
    ``SGD(weight_decay=...)``; a penalty coded as w ||W||^2 has weight_decay = 2 w.
    Parameters that do not require gradients stay fixed and are not decayed.
    Source (derived): tests/collapse/forecasting/test_collapse_minimise.py.

    Args:
        model: Left as it was; a float64 copy is trained, in the same mode. Active
            dropout is refused, as the objective would be random.
        inputs: (N, ...), all in one batch; floating-point ones are cast to float64.
        targets: As the loss takes them; floating-point ones are cast to float64.
        loss: Name or ``nn`` loss that ``describe_loss`` knows, with its reduction.
        weight_decay: Coefficient, at least 0.
        decay_biases: Decay every parameter, as ``SGD`` does by default; without it only
            those of two or more axes (weights, not biases or scales).
        sample_weights: (N,) positive; a sample of weight w counts as w copies of it,
            in the sum and in what the mean divides by.
        tolerance: On the Euclidean norm of the gradient, absolute, positive.
        max_iterations: Of L-BFGS, at least 1.

    Returns:
        The end point with its gradient norm and status.

    Raises:
        DomainError: A number out of range, dropout, nothing to train, or a loss whose
            reduction is not known.
        ShapeError: Weights of another length than the inputs.
    """  # noqa: DOC502 - raised by make_objective
    if not (math.isfinite(tolerance) and tolerance > 0):
        raise DomainError(
            f"tolerance must be a positive gradient norm, got {tolerance}; e.g. 1e-9"
        )
    if max_iterations < 1:
        raise DomainError(
            f"max_iterations must be at least 1, got {max_iterations}; e.g. 5000"
        )
    trained = copy.deepcopy(model).to(torch.float64)
    objective = make_objective(
        trained,
        inputs,
        targets,
        loss=loss,
        weight_decay=weight_decay,
        decay_biases=decay_biases,
        sample_weights=sample_weights,
    )
    # Fused attention has no second derivative, which the Newton steps take.
    with sdpa_kernel(SDPBackend.MATH):
        start = objective.start()
        x, num_descents = _descend(objective, start, tolerance, max_iterations)
        x, num_steps = _polish(objective, x, tolerance)
    return _minimum(objective, x, num_descents + num_steps, tolerance)


def _minimum(
    objective: Objective, x: _Array, num_iterations: int, tolerance: float
) -> Minimum:
    value, gradient = objective(x)
    norm = float(np.linalg.norm(gradient))
    status: Literal["ok", "not_converged", "nonfinite"] = "ok"
    reason = None
    if not (math.isfinite(value) and math.isfinite(norm)):
        status, reason = "nonfinite", "the objective or its gradient is not finite"
    elif norm > tolerance:
        status = "not_converged"
        reason = (
            f"gradient norm {norm:.1e} above the tolerance {tolerance:.1e}: the "
            "iterations ran out, or no step descends any more (kinks, as of ReLU)"
        )
    for parameter in objective.parameters:
        parameter.grad = None
    return Minimum(
        model=objective.model,
        objective=value,
        loss=objective.loss_value(),
        gradient_norm=norm,
        num_iterations=num_iterations,
        status=status,
        reason=reason,
    )


def _descend(
    objective: Objective, x: _Array, tolerance: float, limit: int
) -> tuple[_Array, int]:
    """L-BFGS, begun again without history as long as that still gains."""
    used, best = 0, math.inf
    # The library stops by the largest entry, which is at most the Euclidean norm.
    largest = tolerance / math.sqrt(x.size)
    while used < limit:
        found = _scipy_minimize(
            objective,
            x,
            jac=True,
            method="L-BFGS-B",
            options={
                "maxcor": _HISTORY,
                "ftol": 0.0,
                "gtol": largest,
                "maxiter": limit - used,
                "maxfun": 20 * limit,
                "maxls": 40,
            },
        )
        used += max(int(found.nit), 1)
        if not np.isfinite(found.fun):
            break
        x = found.x
        gain, best = best - float(found.fun), float(found.fun)
        # At kinks every restart gains a little, for thousands of iterations.
        stalled = gain <= _WORTHWHILE * abs(best)
        if stalled or float(np.linalg.norm(found.jac)) <= tolerance:
            break
    return x, used


def _polish(objective: Objective, x: _Array, tolerance: float) -> tuple[_Array, int]:
    """Newton steps while they descend and the gradient shrinks."""
    value, gradient = objective(x)
    for step in range(_NEWTON_STEPS):
        norm = float(np.linalg.norm(gradient))
        if norm <= tolerance or not math.isfinite(norm):
            return x, step
        hessian = LinearOperator(
            (x.size, x.size), matvec=objective.hessian_product(x), dtype=np.float64
        )
        # MINRES, as a Hessian is singular along symmetries (linear layers). Its rtol is
        # one of ||H|| ||step||, so a loose one already gains a factor a thousand.
        direction, _ = minres(hessian, -gradient, rtol=1e-5, maxiter=_KRYLOV_STEPS)
        candidate = x + direction
        new_value, new_gradient = objective(candidate)
        # A direction that ascends leads to a saddle, though the gradient shrinks.
        descends = float(direction @ gradient) < 0.0
        rises = new_value > value + _ROUNDING * max(abs(value), 1e-300)
        if not descends or rises or float(np.linalg.norm(new_gradient)) >= 0.9 * norm:
            return x, step
        x, value, gradient = candidate, new_value, new_gradient
    return x, _NEWTON_STEPS
