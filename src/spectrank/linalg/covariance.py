"""The spectrum of rows of which only mean and scatter were kept."""

from __future__ import annotations

import math

import torch

from spectrank.linalg.gram import gram_eigenvalues
from spectrank.linalg.moments.plain import MomentSummary
from spectrank.linalg.operand import EPS
from spectrank.linalg.routes import singular_values_of
from spectrank.linalg.spectrum import Spectrum, without_values
from spectrank.linalg.value import Value


def spectrum_of_rows(summary: MomentSummary, *, centred: bool) -> Spectrum:
    r"""Singular values of :math:`X/\sqrt N`, or of it less its mean.

    Their squares are the eigenvalues of the covariance (with 1/N) or of the second
    moment. There are min(N, d) of them; a centred matrix has one zero more.
    Source (derived): test against a dense SVD of the rows.

    Args:
        summary: Of N rows of length d, with the full scatter.
        centred: Whether the mean is taken off.

    Returns:
        The spectrum of an (N, d) matrix by the route ``gram``.
    """
    shape = (summary.count, len(summary.mean))
    if summary.status == "nonfinite":
        reason = summary.reason or "some rows are not finite"
        return without_values(shape, math.nan, "nonfinite", reason)
    if not min(shape):
        return without_values(shape, 0.0, "degenerate", "there are no rows")
    matrix = summary.covariance if centred else summary.second_moment()
    total = float(matrix.trace())
    if total == 0.0:
        what = "all rows are equal" if centred else "all rows are zero"
        return without_values(shape, 0.0, "degenerate", what)
    eigenvalues = gram_eigenvalues(matrix)
    if eigenvalues is None:
        return without_values(
            shape, math.nan, "not_converged", "every LAPACK driver failed to converge"
        )
    # An entry errs by scatter_error sqrt(S_ii S_jj): in the spectral norm by at most
    # that times the trace. The mean of raw rows rounds once more.
    entries = (summary.scatter_error + 4.0 * EPS) * total
    relative = entries / float(eigenvalues[0]) + shape[1] * EPS
    sigma, error = singular_values_of(eigenvalues[: min(shape)], relative)
    return Spectrum(
        shape=shape,
        frobenius=Value.around(math.sqrt(total), math.sqrt(total) * shape[1] * EPS),
        sigma_max=Value.around(float(sigma[0]), float(error[0])),
        schatten4=Value.around(
            float(torch.linalg.vector_norm(eigenvalues)),
            relative * float(eigenvalues.sum()),
        )
        ** 0.5,
        sigma=sigma,
        sigma_error=error,
        route="gram",
    )
