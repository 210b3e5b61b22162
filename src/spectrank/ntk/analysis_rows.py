"""Rows of an analysed kernel; every computation is free of its scale."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from spectrank.linalg import Spectrum, Value
from spectrank.linalg.value import Status
from spectrank.metrics import get_metric
from spectrank.ntk.kernel_matrix import KernelMatrix, flatten
from spectrank.scanning.rows import value_columns

Row = dict[str, Any]

RANKS = ("stable_rank", "participation_ratio", "effective_rank", "condition_number")
"""Metrics of a spectrum that are taken of the eigenvalues."""

_PLAIN = ("largest_eigenvalue", "smallest_eigenvalue", "trace")
_RATE = "largest_learning_rate"


def key_of(kernel: KernelMatrix) -> Row:
    """Return the columns that tell the size of a kernel.

    Args:
        kernel: Checked.

    Returns:
        Column to value.
    """
    return {"num_samples": kernel.num_samples, "num_outputs": kernel.num_outputs}


def number_row(
    metric: str, value: float, status: Status = "ok", reason: str | None = None
) -> Row:
    """Return a row of a number without enclosure.

    Args:
        metric: Its name.
        value: The number; NaN where it has no meaning.
        status: Of the number.
        reason: Why it is not ``ok``.

    Returns:
        A row for `Table.from_rows`.
    """
    return {
        "kind": "measurement",
        "subject": "kernel",
        "metric": metric,
        "value": value,
        "status": status,
        "reason": reason,
    }


def spectrum_rows(kernel: KernelMatrix) -> Iterator[Row]:
    """Yield the eigenvalues and what is made of them.

    Args:
        kernel: Checked.

    Yields:
        Rows.
    """
    names = (*_PLAIN, *RANKS, _RATE)
    if not kernel.is_finite:
        for name in names:
            yield number_row(
                name, math.nan, "nonfinite", "K has NaN or infinite entries"
            )
        return
    values = torch.linalg.eigvalsh(kernel.matrix).flip(0).cpu()
    yield {
        "kind": "spectrum",
        "subject": "kernel",
        "metric": "eigenvalues",
        "values": (values * kernel.size).tolist(),
        "error_kind": "rounding",
        "status": "ok" if kernel.size > 0.0 else "degenerate",
        "route": "eigh",
    }
    error = kernel.error * kernel.size
    plain = (float(values[0]), float(values[-1]), float(values.sum()))
    for name, value in zip(_PLAIN, plain, strict=True):
        width = error * (len(values) if name == "trace" else 1)
        yield number_row(name, value * kernel.size) | _interval(
            value * kernel.size, width
        )
    fault = _fault(kernel, values)
    if fault is not None:
        for name in (*RANKS, _RATE):
            yield number_row(name, math.nan, "degenerate", fault)
        return
    s = _as_spectrum(kernel, values)
    for name in RANKS:
        yield number_row(name, 0.0) | value_columns(get_metric(name)(s))
    rate = Value.exact(2.0) / (s.sigma_max * kernel.size)
    yield number_row(_RATE, 0.0) | value_columns(rate)


def aligned(
    kernel: KernelMatrix, Y: Tensor, centre: bool
) -> tuple[float, Status, str | None]:
    """Alignment of a kernel with targets.

    Args:
        kernel: Checked; N rows.
        Y: (N, k) targets.
        centre: Whether both are centred over the samples.

    Returns:
        Value, status and reason.
    """
    if not kernel.is_finite:
        return math.nan, "nonfinite", "K has NaN or infinite entries"
    K = kernel.matrix
    largest = Y.abs().max()
    Y = Y / largest if largest > 0.0 else Y
    before = float(torch.linalg.matrix_norm(K)), float(torch.linalg.matrix_norm(Y))
    if centre:
        c = kernel.num_outputs or 1
        K = _centred(_centred(K, c).T, c)
        Y = _centred(Y, c)
    norms = float(torch.linalg.matrix_norm(K)), float(torch.linalg.matrix_norm(Y))
    words = "centred " if centre else ""
    unit = float(torch.finfo(torch.float64).eps)
    for what, norm, full in zip(("kernel", "labels"), norms, before, strict=True):
        # What centring leaves of a constant is rounding.
        if norm <= len(Y) * unit * full:
            return math.nan, "degenerate", f"the {words}{what} are zero"
    # |Y Y^T|_F = |Y^T Y|_F, of the small side.
    target = float(torch.linalg.matrix_norm(Y.T @ Y))
    value = float((Y * (K @ Y)).sum()) / norms[0] / target
    return value, "ok", None


def velocity_rows(K0: Tensor, K1: Tensor, elapsed: float | None) -> Iterator[Row]:
    """Yield distance, relative change and ratio of norms of two kernels.

    Args:
        K0: Before.
        K1: After, of the same shape.
        elapsed: Between them; None for no velocity.

    Yields:
        Rows.
    """
    A, B = flatten(K0), flatten(K1.to(K0.device))
    sizes = float(A.abs().max()), float(B.abs().max())
    names = ["kernel_distance", "relative_change", "norm_ratio"]
    if elapsed is not None:
        names.append("kernel_velocity")
    if not all(map(math.isfinite, sizes)):
        for name in names:
            reason = "a kernel has NaN or infinite entries"
            yield number_row(name, math.nan, "nonfinite", reason)
        return
    if min(sizes) == 0.0:
        for name in names:
            yield number_row(name, math.nan, "degenerate", "a kernel is zero")
        return
    A, B = A / sizes[0], B / sizes[1]
    norms = float(torch.linalg.matrix_norm(A)), float(torch.linalg.matrix_norm(B))
    # 1 - cosine cancels; |u - v|^2 / 2 of unit vectors is the same number.
    gap = torch.linalg.matrix_norm(A / norms[0] - B / norms[1])
    distance = 0.5 * float(gap) ** 2
    scale = sizes[1] / sizes[0]
    change = float(torch.linalg.matrix_norm(B * scale - A)) / norms[0]
    yield number_row("kernel_distance", distance)
    yield number_row("relative_change", change)
    yield number_row("norm_ratio", norms[1] / norms[0] * scale)
    if elapsed is not None:
        yield number_row("kernel_velocity", distance / elapsed)


def _interval(value: float, error: float) -> Row:
    return {
        "lower": value - error,
        "upper": value + error,
        "error_kind": "rounding",
    }


def _fault(kernel: KernelMatrix, values: Tensor) -> str | None:
    """Why a symmetric matrix is no kernel to speak of; None where it is one."""
    if kernel.size == 0.0:
        return "K is zero"
    negative = int((values < -kernel.error).sum())
    if negative:
        return (
            f"K is not positive semi-definite: {negative} of {len(values)} eigenvalues "
            f"lie below zero by more than rounding ({kernel.error * kernel.size:.3g}), "
            f"the smallest at {float(values[-1]) * kernel.size:.6g}"
        )
    return None


def _as_spectrum(kernel: KernelMatrix, values: Tensor) -> Spectrum:
    """Read eigenvalues as singular values, for the metrics of ranks."""
    sigma = values.abs().sort(descending=True).values
    error = torch.full_like(sigma, kernel.error)
    norm = float(torch.linalg.vector_norm(sigma))
    fourth = float(sigma.square().square().sum() ** 0.25)
    shape = (len(sigma), len(sigma))
    return Spectrum(
        shape,
        # Norms of the matrix of errors: each of N values moves by at most that.
        Value.around(norm, kernel.error * math.sqrt(len(sigma))),
        Value.around(float(sigma[0]), kernel.error),
        Value.around(fourth, kernel.error * len(sigma) ** 0.25),
        sigma,
        error,
        "svd",
    )


def _centred(A: Tensor, c: int) -> Tensor:
    """Subtract from every row the mean over samples of the rows of its output."""
    split = A.reshape(-1, c, A.shape[1])
    return (split - split.mean(0, keepdim=True)).reshape(A.shape)
