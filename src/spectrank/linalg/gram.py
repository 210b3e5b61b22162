"""The Gram matrix of the smaller side, its eigenvalues, and the dense fallback.

Everything here is float64. A Gram matrix squares the condition number: its small
eigenvalues carry an absolute error of about ``n * eps * sigma_1**2``, so a singular
value has error ``n * eps * sigma_1**2 / sigma`` and below ``sqrt(n * eps) * sigma_1``
nothing is known but that it is small. `dense_singular_values` sees the small end.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from spectrank.linalg.operand import EPS, Operand
from spectrank.linalg.value import Value

# Rows of a converted block: enough for full-speed rank-k updates, small beside a large
# matrix.
_UPDATE_ROWS = 1024
# From this order on a rank-k update (half the work) by SciPy's BLAS is faster than
# torch's full product. Below, the two libraries' thread pools get into each other's
# way: 36 small matrices took 1.1 s with SciPy's BLAS between torch's, 0.5 s without.
_UPDATE_FROM = 3072
# What torch and SciPy raise when LAPACK does not converge.
_FAILED = (torch.linalg.LinAlgError, np.linalg.LinAlgError)  # type: ignore[attr-defined]


def gram(operand: Operand) -> Tensor:
    """Upper triangle of ``A^T A`` in float64; the strictly lower one is unset.

    On the CPU, large ones by symmetric rank-k updates, half the work of a product.

    Args:
        operand: Matrix of shape (rows, cols), rows >= cols.

    Returns:
        (cols, cols) float64 tensor on the operand's device, of the scaled matrix.
    """
    op, dtype = operand, torch.float64
    is_float64 = op.tensor.dtype == dtype and not op.exponent
    step = op.rows if is_float64 and op.is_cpu else _UPDATE_ROWS
    if op.is_cpu and op.cols >= _UPDATE_FROM:
        return _rank_k_updates(op.blocks(dtype, num_rows=step), op.cols)
    total = torch.zeros(op.cols, op.cols, dtype=dtype, device=op.tensor.device)
    for block in op.blocks(dtype, num_rows=step):
        total.addmm_(block.T, block)
    return total


def _rank_k_updates(blocks: Iterable[Tensor], n: int) -> Tensor:
    c = np.zeros((n, n), order="F")
    for block in blocks:
        a = block.numpy()
        # BLAS wants columns: a row-major block is its own transpose in column-major.
        if a.flags.c_contiguous:
            c = scipy.linalg.blas.dsyrk(1.0, a.T, beta=1.0, c=c, overwrite_c=1)
        else:
            c = scipy.linalg.blas.dsyrk(1.0, a, beta=1.0, c=c, trans=1, overwrite_c=1)
    return torch.from_numpy(c)


def gram_error(rows: int, cols: int) -> float:
    """Relative error ``e`` of the eigenvalues: ``|error| <= e * lambda_max``.

    Backward error of the symmetric eigensolver, linear in the order, and of the
    accumulation of the entries, which grows like the square root of their number.

    Args:
        rows: Longer side.
        cols: Shorter side.

    Returns:
        Dimensionless error.
    """
    return float((cols + 4.0 * rows**0.5) * EPS)


def gram_eigenvalues(upper: Tensor) -> Tensor | None:
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
        except _FAILED:
            continue
        if bool(torch.isfinite(values).all()):
            return values.flip(0).clamp_min(0.0)
    return None


def _by_scipy(upper: Tensor) -> Tensor:
    values = scipy.linalg.eigh(
        upper.numpy(), eigvals_only=True, lower=False, driver="evr", check_finite=False
    )
    return torch.from_numpy(values)


def _by_torch(upper: Tensor) -> Tensor:
    values: Tensor = torch.linalg.eigvalsh(upper, UPLO="U").cpu()
    return values


def gram_frobenius(upper: Tensor) -> float:
    """Frobenius norm of the symmetric matrix given by its upper triangle.

    Args:
        upper: (n, n) float64 tensor, upper triangle set.

    Returns:
        ``||A^T A||_F``, the square of the Schatten-4 norm of ``A``.
    """
    strict = torch.linalg.vector_norm(torch.triu(upper, 1))
    diagonal = torch.linalg.vector_norm(upper.diagonal())
    return float((2.0 * strict.square() + diagonal.square()).sqrt())


def trace_norm(upper: Tensor, rows: int) -> Value:
    """Frobenius norm of ``A`` as the root of the trace of ``A^T A``.

    Args:
        upper: (n, n) float64 tensor, diagonal set.
        rows: Number of terms behind each diagonal entry.

    Returns:
        The norm with the rigorous error of the sums of squares.
    """
    norm = float(upper.diagonal().sum().sqrt())
    return Value.around(norm, norm * EPS * (rows + upper.shape[0] + 4) / 4)


def symmetrised(upper: Tensor) -> Tensor:
    """Return the full symmetric matrix of an upper triangle."""
    return torch.triu(upper) + torch.triu(upper, 1).T


def dense_singular_values(operand: Operand) -> Tensor | None:
    """Singular values by a dense SVD in float64, small end included.

    The operand is tall, which LAPACK takes 2 to 4 times faster than wide. Absolute
    error per value about ``cols * eps * sigma_1``.

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
    except _FAILED:
        pass
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
