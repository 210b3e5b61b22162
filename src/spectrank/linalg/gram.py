"""The Gram matrix of the smaller side, its eigenvalues, and the dense fallback.

Everything here is float64. A Gram matrix squares the condition number: its small
eigenvalues carry an absolute error of about ``n * eps * sigma_1**2``, so a singular
value has error ``n * eps * sigma_1**2 / sigma`` and below ``sqrt(n * eps) * sigma_1``
nothing is known but that it is small. `dense_singular_values` sees the small end.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from spectrank.linalg.operand import EPS, UNIT_ROUNDOFF, Operand
from spectrank.linalg.shapes import Spectral, Square
from spectrank.linalg.value import Value

# Rows of a block: enough for full-speed updates, in the second-level cache for the
# widths of most models, and it keeps the rounding of long columns down (see
# `gram_error`).
UPDATE_ROWS = 512
# Narrow products add each term to the running total, and blocks would not help: the
# square of a column of a million equal entries came out 2e-11 off, 2e-14 with a block
# summed by itself first, as is done below this number of columns.
_NARROW = 256
# Columns of a panel of the upper triangle: small enough to leave out nearly half the
# work, large enough for full speed (4096 in float64: 0.62 s against 0.91 s for the full
# product and 0.60 s for SciPy's dsyrk, whose thread pool then gets into the way of
# torch's: 36 small matrices took 1.1 s with the two in turn, 0.5 s with torch alone).
# An eighth of the matrix, within limits: of 4000 x 384, panels of 128 and blocks of 512
# rows take 21 ms, one panel and blocks of 1024 rows 28 ms.
_PANEL, _LEAST_PANEL = 512, 128
# What torch and SciPy raise when LAPACK does not converge or refuses its workspace;
# memory that runs out is another matter.
FAILED = (RuntimeError, np.linalg.LinAlgError)


def gram(operand: Operand) -> Square:
    """Upper triangle of ``A^T A`` in float64; the strictly lower one is unset.

    A symmetric rank-k update by panels, about half the work of a full product.

    Args:
        operand: Matrix of shape (rows, cols), rows >= cols.

    Returns:
        (cols, cols) float64 tensor on the operand's device, of the scaled matrix.
    """
    op, dtype = operand, torch.float64
    total = torch.zeros(op.cols, op.cols, dtype=dtype, device=op.tensor.device)
    width = min(max(op.cols // 8, _LEAST_PANEL), _PANEL)
    for block in op.blocks(dtype, num_rows=UPDATE_ROWS):
        if op.cols < _NARROW:
            total.add_(block.T @ block)
            continue
        for left in range(0, op.cols, width):
            panel = total[left : left + width, left:]
            panel.addmm_(block[:, left : left + width].T, block[:, left:])
    return total


def gram_error(rows: int, cols: int) -> float:
    """Relative error ``e`` of the eigenvalues: ``|error| <= e * lambda_max``.

    A model of rounding, not a proof: the eigensolver's backward error, linear in the
    order, and a dot product of the rows, which is summed in blocks: b terms within a
    block and one for each block.

    Args:
        rows: Longer side.
        cols: Shorter side.

    Returns:
        Dimensionless error.
    """
    block = min(rows, UPDATE_ROWS)
    return (cols + block + rows / block) * EPS


def gram_eigenvalues(upper: Square) -> Spectral | None:
    """Eigenvalues of a symmetric matrix given by its upper triangle.

    Args:
        upper: (n, n) float64 tensor, upper triangle set.

    Returns:
        (n,) float64 tensor on the CPU, descending, cut at zero; None when every
        driver failed.
    """
    drivers = (_by_torch, _by_scipy) if upper.device.type == "cpu" else (_by_torch,)
    for driver in drivers:
        try:
            values = driver(upper)
        except FAILED as error:
            refuse_out_of_memory(error)
            continue
        if bool(torch.isfinite(values).all()):
            return values.flip(0).clamp_min(0.0)
    return None


def refuse_out_of_memory(error: Exception) -> None:
    """Raise an error again that is no failure of a solver but of memory.

    Args:
        error: One of ``FAILED``.

    Raises:
        error: If memory ran out.
    """  # noqa: DOC502 - the one that was given
    if isinstance(error, torch.OutOfMemoryError) or "allocate" in str(error):
        raise error


def _by_scipy(upper: Tensor) -> Tensor:
    values = scipy.linalg.eigh(
        upper.numpy(), eigvals_only=True, lower=False, driver="evr", check_finite=False
    )
    return torch.from_numpy(values)


def _by_torch(upper: Tensor) -> Tensor:
    values: Tensor = torch.linalg.eigvalsh(upper, UPLO="U").cpu()
    return values


def gram_frobenius(upper: Square) -> float:
    """Frobenius norm of the symmetric matrix given by its upper triangle.

    Args:
        upper: (n, n) float64 tensor, upper triangle set.

    Returns:
        ``||A^T A||_F``, the square of the Schatten-4 norm of ``A``.
    """
    strict = torch.linalg.vector_norm(torch.triu(upper, 1))
    diagonal = torch.linalg.vector_norm(upper.diagonal())
    return float((2.0 * strict.square() + diagonal.square()).sqrt())


def trace_norm(upper: Square, rows: int) -> Value:
    """Frobenius norm of ``A`` as the root of the trace of ``A^T A``.

    Args:
        upper: (n, n) float64 tensor, diagonal set.
        rows: Number of terms behind each diagonal entry.

    Returns:
        The norm with the proved error of the sums of squares.
    """
    norm = float(upper.diagonal().sum().sqrt())
    terms = rows + upper.shape[0] + 4
    return Value.around(norm, norm * UNIT_ROUNDOFF * terms, "certified")


def symmetrised(upper: Square) -> Square:
    """Return the full symmetric matrix of an upper triangle."""
    return torch.triu(upper) + torch.triu(upper, 1).T


def dense_error(rows: int, cols: int) -> float:
    """Absolute error over sigma_1 of values by `dense_singular_values`.

    A model of rounding, not a proof: linear in both sides. Constant matrices with a
    million rows come near it.

    Args:
        rows: Longer side.
        cols: Shorter side.

    Returns:
        Dimensionless error.
    """
    return (rows + cols + 4) * EPS


def dense_singular_values(operand: Operand) -> Spectral | None:
    """Singular values by a dense SVD in float64, small end included.

    The operand is tall, which LAPACK takes 2 to 4 times faster than wide.

    Args:
        operand: Matrix of shape (rows, cols), rows >= cols.

    Returns:
        (cols,) float64 tensor on the CPU, descending, of the scaled matrix; None
        when every driver failed.
    """
    a = operand.scaled(operand.tensor, torch.float64)
    try:
        values: Tensor = torch.linalg.svdvals(a).cpu()
        if bool(torch.isfinite(values).all()):
            return values
    except FAILED as error:
        refuse_out_of_memory(error)
    try:
        # QR iteration converges where divide and conquer did not.
        values = torch.from_numpy(
            scipy.linalg.svd(
                a.cpu().numpy(),
                compute_uv=False,
                lapack_driver="gesvd",
                check_finite=False,
            )
        )
    except np.linalg.LinAlgError:
        return None
    return values if bool(torch.isfinite(values).all()) else None
