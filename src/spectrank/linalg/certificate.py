"""Proved ends of the largest singular value, by Cholesky and by one product."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from spectrank.linalg.enclosure import float64_pass, start_vector
from spectrank.linalg.gram import symmetrised
from spectrank.linalg.lanczos import lanczos
from spectrank.linalg.operand import UNIT_ROUNDOFF, Operand
from spectrank.linalg.shapes import Square
from spectrank.linalg.value import Value

# Up to this order a dense eigenvector is cheap.
_DENSE_VECTOR = 256


def certify(operand: Operand, upper: Square, value: Value) -> Value | None:
    """Replace the ends of an enclosure of sigma_1 by proved ones.

    Upper: if Cholesky of ``x^2 I - A^T A`` runs to completion, that matrix is positive
    definite up to its backward error, so ``sigma_1 <= x`` after adding the rounding
    errors of the Gram matrix and of the factorisation. Lower: ``||A y|| / ||y||`` of
    any vector, less the rounding of that product.
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
    shift = value.upper**2
    shifted = -torch.triu(upper)
    shifted.diagonal().add_(shift)
    _, info = torch.linalg.cholesky_ex(shifted, upper=True)
    if int(info) != 0:
        return None
    del shifted
    y = _top_vector(upper)
    _, (length,), frobenius = float64_pass(operand, [y])
    gram_rounding = 2.0 * rows * UNIT_ROUNDOFF * frobenius.upper**2
    factor_rounding = 4.0 * (n + 1) * UNIT_ROUNDOFF * n * shift
    proved = math.sqrt(shift + gram_rounding + factor_rounding)
    # fl(A y) errs by gamma_n ||A||_F ||y||, its length by gamma_rows, ||y|| by gamma_n.
    lost = 2.0 * (n + 4) * UNIT_ROUNDOFF * (frobenius.upper + length)
    lost += 2.0 * (rows + 4) * UNIT_ROUNDOFF * length
    lower = max(length / float(torch.linalg.vector_norm(y)) - lost, 0.0)
    return Value(min(max(value.value, lower), proved), lower, proved, "certified")


def _top_vector(upper: Tensor) -> Tensor:
    """Return a unit vector near the top eigenvector; nothing is claimed of it."""
    full = symmetrised(upper)
    n = full.shape[0]
    if n <= _DENSE_VECTOR:
        vectors: Tensor = torch.linalg.eigh(full)[1]
        return vectors[:, -1]
    run = lanczos(
        lambda v: torch.mv(full, v),
        start_vector(n, 0, full.device),
        rtol=1e-10,
        failure_probability=1e-9,
        max_steps=min(n - 1, 200),
    )
    return torch.div(run.vector, torch.linalg.vector_norm(run.vector))
