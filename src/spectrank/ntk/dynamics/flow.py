"""`gradient_flow`: training curves that a fixed kernel predicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from spectrank.errors import DomainError
from spectrank.linalg.ensembles.requests import check_number
from spectrank.linalg.value import Status
from spectrank.ntk.dynamics.convention import (
    Loss,
    Reduction,
    check_finite,
    check_semi_definite,
    limit,
    make_convention,
)
from spectrank.ntk.dynamics.modes import flow_factors, step_factors
from spectrank.ntk.dynamics.problem import Problem, make_problem
from spectrank.ntk.dynamics.result import KernelFlow
from spectrank.ntk.dynamics.softmax import apply, descend_weights, solve_weights
from spectrank.ntk.kernel_matrix import kernel_matrix


def gradient_flow(
    K: Tensor,
    labels: Any,
    times: Tensor | Sequence[float],
    *,
    loss: Loss = "mse",
    reduction: Reduction = "mean",
    factor: float = 1.0,
    initial: Tensor | None = None,
    K_test: Tensor | None = None,
    initial_test: Tensor | None = None,
    labels_test: Any = None,
    learning_rate: float | None = None,
    rtol: float = 1e-8,
) -> KernelFlow:
    r"""Outputs under training in the kernel regime: :math:`\dot f = -K \nabla L(f)`.

    Exact for the linearised model (`linearize`) and, in the limit of large width, for
    the network itself. With y the targets and r the rate of the loss (2 factor/(n c)
    for ``mse`` with ``mean`` as in torch.nn.MSELoss, 2 factor with ``sum``;
    factor/n and factor for ``cross_entropy``; half the sum of squares is ``sum`` with a
    factor of 1/2):
    ``mse`` in closed form, :math:`f - y = e^{-r K t}(f_0 - y)`, every eigenmode by
    itself; ``cross_entropy`` by a solver to relative tolerance ``rtol``, or, with
    ``learning_rate``, step by step. With a ``learning_rate`` the curve is that of
    gradient descent (full batch, no momentum) and ``times`` are numbers of steps; it
    diverges above ``largest_learning_rate``, which is part of the result.
    Eigenvalues below zero by rounding are taken as zero. At time inf (mse only)
    directions whose eigenvalue is not told from zero stay as they were.
    Source (derived): tests/ntk/dynamics.

    Args:
        K: (n, n, c, c) on the training points, or (n, n): of one output, or shared by
            all of them (a trace over c alike outputs is c times that; divide it).
        labels: Classes (n,) of whole numbers, or targets (n,) or (n, c): real values,
            for cross-entropy probabilities.
        times: Not negative, in any order; whole numbers with ``learning_rate``.
        loss: ``mse`` or ``cross_entropy``.
        reduction: ``mean`` or ``sum``, as the loss is trained.
        factor: Multiplies the loss.
        initial: (n, c) outputs at the start; zero by default.
        K_test: (m, n) or (m, n, c, c), test points first.
        initial_test: (m, c) outputs of the test points at the start.
        labels_test: Like ``labels``, for a loss of the test points.
        learning_rate: Of gradient descent; None for the continuous flow.
        rtol: Relative tolerance of the solver.

    Returns:
        The curves; ``.table()`` makes rows of their losses.

    Raises:
        UnknownNameError: If the loss has no kernel flow here.
        ArgumentTypeError: If a kernel is no real tensor, or what should be numbers are
            none.
        ShapeError: If kernels, labels and outputs do not go together.
        DomainError: If K is not symmetric, not finite or not positive semi-definite,
            or a time, label or rate lies outside its range.

    Example:
        >>> import math, torch
        >>> K = torch.diag(torch.tensor([2.0, 1.0], dtype=torch.float64))
        >>> flow = gradient_flow(
        ...     K, [1.0, 1.0], [0.0, math.log(2.0)], reduction="sum", factor=0.5
        ... )
        >>> flow.outputs[-1].flatten().tolist()
        [0.75, 0.5]
    """  # noqa: DOC502 - some are raised by the functions called
    convention = make_convention(loss, reduction, factor)
    kernel = kernel_matrix(K)
    check_finite(kernel)
    if not 0.0 < check_number("rtol", rtol, "leave it out for 1e-8") < 1.0:
        raise DomainError(f"rtol must lie in (0, 1), got {rtol}; leave it out for 1e-8")
    problem = make_problem(
        kernel,
        labels,
        times,
        convention=convention,
        initial=initial,
        K_test=K_test,
        initial_test=initial_test,
        labels_test=labels_test,
        learning_rate=learning_rate,
    )
    return _solved(problem, rtol)


def _solved(problem: Problem, rtol: float) -> KernelFlow:
    kernel, convention = problem.kernel, problem.convention
    values, vectors = torch.linalg.eigh(kernel.matrix)
    check_semi_definite(kernel, float(values[0]))
    values = values.clamp_min(0.0)
    n, c = problem.targets.shape
    largest = limit(convention, float(values[-1]), kernel.size, n, c)
    words = None
    if convention.loss == "mse":
        outputs, test = _squares(problem, values, vectors)
    else:
        outputs, test, words = _softmax(problem, rtol)
    status: Status = "ok" if words is None else "not_converged"
    if words is None and not bool(torch.isfinite(outputs).all()):
        status = "nonfinite"
        words = (
            f"outputs left the range of float64: the learning rate "
            f"{problem.learning_rate} lies above the largest, {largest:.6g}"
        )
    return KernelFlow(
        problem.times,
        outputs,
        convention.value(outputs, problem.targets),
        test,
        problem.test_losses(test),
        values.flip(0) * kernel.size,
        problem.rate,
        largest,
        problem.learning_rate,
        convention,
        status,
        words,
    )


def _squares(
    problem: Problem, values: Tensor, vectors: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Outputs (T, n, c) and (T, m, c) by eigenmodes."""
    kernel, T = problem.kernel, len(problem.times)
    rate = problem.rate * problem.scale
    if problem.learning_rate is None:
        decay, reach = flow_factors(values, problem.times * rate, kernel.error)
    else:
        step = problem.learning_rate * rate
        decay, reach = step_factors(values, problem.times, step)
    residual = problem.initial - problem.targets
    # One column a shared output, or one column of all outputs: (N, k).
    modes = vectors.T @ residual.reshape(len(vectors), -1)
    moved = vectors @ (decay[:, :, None] * modes)
    outputs = problem.targets + moved.reshape(T, *residual.shape)
    if problem.test is None:
        return outputs, None
    change = (problem.test.matrix @ vectors) @ (reach[:, :, None] * modes)
    initial = problem.test.initial
    return outputs, initial - change.reshape(T, *initial.shape)


def _softmax(problem: Problem, rtol: float) -> tuple[Tensor, Tensor | None, str | None]:
    """Outputs (T, n, c) and (T, m, c) by the weights of the samples."""
    kernel = problem.kernel
    rate = problem.rate * problem.scale
    M = kernel.matrix.cpu().numpy()
    start, targets = problem.initial.cpu().numpy(), problem.targets.cpu().numpy()
    # The solver wants increasing times, the caller may have any.
    times, places = torch.unique(problem.times, sorted=True, return_inverse=True)
    moments, words = times.cpu().numpy(), None
    if problem.learning_rate is None:
        weights, words = solve_weights(M, start, targets, moments * rate, rtol)
    else:
        step = problem.learning_rate * rate
        weights = descend_weights(M, start, targets, moments, step)
    order = places.cpu().numpy()
    device = problem.initial.device
    outputs = torch.as_tensor((start - apply(M, weights))[order], device=device)
    if problem.test is None:
        return outputs, None, words
    matrix = problem.test.matrix.cpu().numpy()
    change = torch.as_tensor(apply(matrix, weights)[order], device=device)
    return outputs, problem.test.initial - change, words
