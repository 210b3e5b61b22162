"""The spectrum of a matrix whose singular values are those of many blocks together."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from spectrank.linalg.gram import dense_error, gram_error
from spectrank.linalg.routes import Certify, singular_values_of
from spectrank.linalg.shapes import Spectral
from spectrank.linalg.spectrum import RESOLVED
from spectrank.linalg.value import Value

NO_CERTIFICATE = "no certificate: the matrix is not formed, its ends are by rounding"
# Root of the smallest normal float64.
_UNDERFLOW = 2.0**-511


def sorted_together(sigma: Tensor, error: Tensor) -> tuple[Spectral, Spectral]:
    """All values in descending order, with the error of each place.

    The i-th largest true value lies between the i-th largest lower and the i-th largest
    upper end.

    Args:
        sigma: Values of all blocks, any shape.
        error: Absolute error of each.

    Returns:
        (k,) values, descending, and (k,) errors, on the CPU.
    """
    flat, slack = sigma.reshape(-1).cpu(), error.reshape(-1).cpu()
    ordered = flat.sort(descending=True).values
    lower = (flat - slack).sort(descending=True).values
    upper = (flat + slack).sort(descending=True).values
    return ordered, torch.maximum(ordered - lower, upper - ordered)


def block_values(
    blocks: Tensor, *, small_end: bool, slack: Tensor | float = 0.0
) -> tuple[Tensor, Tensor, float, bool]:
    """Singular values of many small matrices at once.

    By their Gram matrices; by a dense SVD where the small ones are wanted and a Gram
    matrix cannot see them.

    Args:
        blocks: (g, m, n) float64 or complex128.
        small_end: Whether the small values are wanted to relative accuracy.
        slack: Absolute error of the blocks themselves in the spectral norm, (g, 1).

    Returns:
        Values (g, min(m, n)), their absolute errors, the sum of the fourth powers, and
        whether they come of an SVD.
    """
    tall = blocks if blocks.shape[-2] >= blocks.shape[-1] else blocks.mH
    rows, cols = tall.shape[-2:]
    squares = tall.mH @ tall
    fourth = float(torch.linalg.vector_norm(squares).square())
    eigenvalues = (
        squares[..., 0].real
        if cols == 1
        else torch.linalg.eigvalsh(squares).flip(-1).clamp_min(0.0)
    )
    # Complex arithmetic rounds up to four times as much (Higham 2002, lemma 3.5).
    factor = 4.0 if blocks.is_complex() else 1.0
    sigma, error = singular_values_of(eigenvalues, factor * gram_error(rows, cols))
    # Squares of small entries beside entries of one underflow.
    filled = (tall != 0).any(-1).any(-1).to(sigma)[:, None]
    error = error + slack + math.sqrt(rows * cols) * _UNDERFLOW * filled
    if not (small_end and bool((error > RESOLVED * sigma).any())):
        return sigma, error, fourth, False
    sigma = torch.linalg.svdvals(tall)
    error = factor * dense_error(rows, cols) * sigma[:, :1] + slack
    return sigma, error.expand_as(sigma), fourth, True


def top_value(sigma: Spectral, error: Spectral, certify: Certify) -> Value:
    """Largest value with its error.

    Args:
        sigma: (k,) descending.
        error: (k,).
        certify: What was asked for.

    Returns:
        Enclosed by rounding; with a reason where a certificate was asked for.
    """
    top = Value.around(float(sigma[0]), float(error[0]))
    if certify == "probabilistic":
        return top
    return replace(top, reason=NO_CERTIFICATE)


def schatten4_of(fourth: float, relative: float) -> Value:
    """Schatten-4 norm of the sum of fourth powers.

    Args:
        fourth: The sum.
        relative: Relative error of its square root.

    Returns:
        The norm.
    """
    squared = math.sqrt(fourth)
    return Value.around(squared, squared * relative) ** 0.5
