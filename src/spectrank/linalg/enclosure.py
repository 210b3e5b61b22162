"""The largest singular value with both ends, by products with the matrix alone."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from spectrank.linalg.gram import symmetrised
from spectrank.linalg.lanczos import ROUNDING, LanczosRun, lanczos
from spectrank.linalg.operand import EPS, UNIT_ROUNDOFF, Operand
from spectrank.linalg.shapes import Spectral, Square
from spectrank.linalg.value import Value

# Below this relative width the rounding of float32 products would show.
_FLOAT32_RTOL = 3e-5
# Part of the width left to the rounding of float32 products.
_FLOAT32_SHARE = 0.15
# How far the largest rounding error of the steps may exceed the one measured.
_FLOAT32_SAFETY = 2.0
# A block stays in the second-level cache between the two products with it.
_BLOCK_BYTES = 1 << 21


def enclose_sigma_max(
    operand: Operand,
    *,
    rtol: float,
    failure_probability: float,
    max_steps: int,
    seed: int,
) -> tuple[Value, str] | None:
    """Enclose the largest singular value of the scaled matrix.

    Products are taken in float32 where ``rtol`` is coarse enough to bear it; their
    rounding, measured against a float64 product, is part of the enclosure. The value
    is the float64 Rayleigh quotient of the Ritz vector.

    Args:
        operand: Matrix of shape (rows, cols), rows >= cols, not zero.
        rtol: Relative width of the enclosure.
        failure_probability: That the upper end misses.
        max_steps: Largest number of products.
        seed: Of the start vector.

    Returns:
        The value and the route; None when the width was not reached.
    """
    max_steps = min(max_steps, operand.cols - 1)
    dtypes = [torch.float32] if rtol >= _FLOAT32_RTOL else []
    for dtype in [*dtypes, torch.float64]:
        single = dtype == torch.float32
        run = lanczos(
            gram_product(operand, dtype),
            start_vector(operand.cols, seed, operand.tensor.device),
            rtol=rtol * (1.0 - _FLOAT32_SHARE) if single else rtol,
            failure_probability=failure_probability,
            max_steps=max_steps,
        )
        if not run.converged:
            return None
        value = _with_rounding(operand, run, dtype, failure_probability)
        if value.relative_width <= rtol * (1.0 + 1e-6):
            return value, f"lanczos-{'float32' if single else 'float64'}"
    return None


def enclose_from_gram(
    upper: Square,
    error: float,
    *,
    rtol: float,
    failure_probability: float,
    max_steps: int,
    seed: int,
) -> Value | None:
    """Enclose the largest singular value of ``A`` from ``A^T A``.

    Args:
        upper: (n, n) float64, upper triangle of the Gram matrix.
        error: Relative error of its eigenvalues.
        rtol: Relative width of the enclosure.
        failure_probability: That the upper end misses.
        max_steps: Largest number of products.
        seed: Of the start vector.

    Returns:
        The value; None when the width was not reached.
    """
    full = symmetrised(upper)
    n = full.shape[0]
    run = lanczos(
        lambda v: torch.mv(full, v),
        start_vector(n, seed, full.device),
        rtol=rtol,
        failure_probability=failure_probability,
        max_steps=min(max_steps, n - 1),
    )
    if not run.converged:
        return None
    slack = error + ROUNDING * (run.num_steps + 4) * EPS
    return _probabilistic(run, run.theta, slack, slack, failure_probability)


def start_vector(n: int, seed: int, device: torch.device) -> Spectral:
    """Return a Gaussian vector that depends on the seed alone.

    Args:
        n: Length.
        seed: Of a generator of its own; the global random state is not touched.
        device: Where the vector goes; it is drawn on the CPU.

    Returns:
        (n,) float64 tensor.
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, dtype=torch.float64, generator=generator).to(device)


def gram_product(operand: Operand, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """Return the map ``v -> A^T (A v)`` with products in ``dtype``.

    On the CPU both products are taken block by block, so that the matrix is read from
    memory once a step.

    Args:
        operand: Matrix of shape (rows, cols).
        dtype: float32 or float64.

    Returns:
        A function of a float64 vector (cols,) with a float64 result.
    """
    a = operand.scaled(operand.tensor, dtype)
    if not operand.is_cpu:
        return lambda v: torch.mv(a.T, torch.mv(a, v.to(dtype))).to(torch.float64)
    rows = max(_BLOCK_BYTES // (a.shape[1] * a.element_size()), 1)
    blocks = [(block, block.T) for block in torch.split(a, rows)]

    def product(v: Tensor) -> Tensor:
        x = v.to(dtype)
        total = torch.zeros_like(x)
        for block, transposed in blocks:
            total.addmv_(transposed, torch.mv(block, x))
        return total.to(torch.float64)

    return product


def _with_rounding(
    operand: Operand, run: LanczosRun, dtype: torch.dtype, failure_probability: float
) -> Value:
    y = run.vector / torch.linalg.vector_norm(run.vector)
    exact, length = _float64_product(operand, y)
    rayleigh = length**2
    slack = ROUNDING * (run.num_steps + 4) * EPS
    if dtype == torch.float64:
        return _probabilistic(run, rayleigh, slack, slack, failure_probability)
    # The steps are exact for M + E with E = -F V^T - V F^T + V (V^T F) V^T, where
    # column j of F is the rounding of step j; so ||E|| <= 2 sqrt(k) max_j ||f_j||.
    rounded = gram_product(operand, dtype)(y)
    measured = float(torch.linalg.vector_norm(rounded - exact)) / rayleigh
    floor = float(torch.finfo(dtype).eps)
    single = _FLOAT32_SAFETY * 2.0 * math.sqrt(run.num_steps) * max(measured, floor)
    return _probabilistic(run, rayleigh, slack, slack + single, failure_probability)


def _float64_product(operand: Operand, y: Tensor) -> tuple[Tensor, float]:
    """Return ``A^T A y`` and ``||A y||``, in float64 block by block."""
    total, squared = torch.zeros_like(y), torch.zeros((), dtype=torch.float64)
    squared = squared.to(y.device)
    for block in operand.blocks(torch.float64):
        image = torch.mv(block, y)
        total += torch.mv(block.T, image)
        squared += torch.dot(image, image)
    return total, math.sqrt(float(squared))


def _probabilistic(
    run: LanczosRun,
    squared: float,
    slack_below: float,
    slack_above: float,
    failure_probability: float,
) -> Value:
    """Turn an enclosure of sigma_1^2 into one of sigma_1; slacks are relative."""
    above = max(run.root, squared) + slack_above * squared
    return Value(
        value=math.sqrt(squared),
        lower=math.sqrt(squared * (1.0 - slack_below)),
        upper=math.sqrt(above),
        error_kind="probabilistic",
        failure_probability=failure_probability,
    )


def certify_upper(operand: Operand, upper: Square, value: Value) -> Value | None:
    """Replace a probabilistic upper end by one proved through Cholesky.

    If Cholesky of ``x^2 I - A^T A`` runs to completion, that matrix is positive
    definite up to its backward error, so ``sigma_1 <= x`` after adding the rounding
    errors of the Gram matrix and of the factorisation.
    Source (stated): Rump (2006), Verification of positive definiteness, BIT 46:
    success for ``P - c I`` with ``c >= gamma_(n+1) / (1 - gamma_(n+1)) trace(P)``.

    Args:
        operand: The scaled matrix.
        upper: Upper triangle of its Gram matrix.
        value: Enclosure of sigma_1 whose upper end is to be proved.

    Returns:
        The value with a certified enclosure; None when the proof failed.
    """
    rows, n = operand.rows, operand.cols
    frobenius = operand.frobenius().upper
    shift = value.upper**2
    shifted = -torch.triu(upper)
    shifted.diagonal().add_(shift)
    _, info = torch.linalg.cholesky_ex(shifted, upper=True)
    if int(info) != 0:
        return None
    gram_rounding = 2.0 * rows * UNIT_ROUNDOFF * frobenius**2
    factor_rounding = 4.0 * (n + 1) * UNIT_ROUNDOFF * n * shift
    proved = math.sqrt(shift + gram_rounding + factor_rounding)
    # ||fl(A y)|| of a unit vector errs by gamma_n ||A||_F at the most.
    lost = 2.0 * (n + 4) * UNIT_ROUNDOFF * frobenius
    return Value(value.value, max(value.value - lost, 0.0), proved, "certified")
