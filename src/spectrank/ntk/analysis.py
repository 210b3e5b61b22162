"""What a kernel says of training: its spectrum, its labels, how far it moved."""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import Any

import polars as pl
from torch import Tensor

from spectrank.errors import DomainError, ShapeError
from spectrank.linalg.ensembles.requests import check_number
from spectrank.metrics import get_metric
from spectrank.ntk.analysis_rows import (
    RANKS,
    aligned,
    key_of,
    number_row,
    spectrum_rows,
    velocity_rows,
)
from spectrank.ntk.kernel_matrix import check_kernel, kernel_matrix, target_outputs
from spectrank.table import Table

COLUMNS = MappingProxyType({"num_samples": pl.Int64, "num_outputs": pl.Int64})
"""Producer columns: n, and c where the kernel has the axes of outputs."""

_SPECTRUM = MappingProxyType(
    {
        "eigenvalues": "of K as one matrix, descending",
        "largest_eigenvalue": "lambda_max",
        "smallest_eigenvalue": "lambda_min",
        "trace": "sum lambda_i",
        **{name: get_metric(name).formula + ", s_i = lambda_i" for name in RANKS},
        "largest_learning_rate": "2 / lambda_max, for the loss sum |f - y|^2 / 2",
    }
)
_ALIGNMENT = "<K, Y Y^T>_F / (|K|_F |Y Y^T|_F); centred: H K H and H Y, H = I - 1 1^T/n"
_VELOCITY = MappingProxyType(
    {
        "kernel_distance": "1 - <K0, K1>_F / (|K0|_F |K1|_F)",
        "kernel_velocity": "kernel_distance / elapsed",
        "relative_change": "|K1 - K0|_F / |K0|_F",
        "norm_ratio": "|K1|_F / |K0|_F",
    }
)


def spectrum(K: Tensor) -> Table:
    r"""Eigenvalues of a kernel, its ranks and the largest stable learning rate.

    Of the (n c, n c) matrix where K has output axes. Kind ``spectrum`` for the
    eigenvalues (descending, signed); ranks and the condition number are metrics of that
    name with singular values read as eigenvalues, enclosed by rounding: 8 units of K's
    dtype times its Frobenius norm on every eigenvalue. ``largest_learning_rate``:
    :math:`2/\lambda_{max}`, above which gradient descent on
    :math:`\tfrac12\sum|f - y|^2` diverges; for other conventions see
    `largest_learning_rate`.
    Status ``degenerate`` for a zero kernel, and for one with an eigenvalue below zero
    by more than rounding, which is no kernel (eigenvalues are given, the rest is NaN);
    ``nonfinite`` for NaN or inf.
    Source (derived): tests/ntk/test_analysis.py.

    Args:
        K: (n, n) or (n, n, c, c), symmetric up to rounding. Not changed.

    Returns:
        Table with one row per number.

    Raises:
        ArgumentTypeError: If K is no real tensor.
        ShapeError: If it is no kernel of one set of points.
        DomainError: If it is not symmetric.

    Example:
        >>> import torch
        >>> table = spectrum(torch.diag(torch.tensor([4.0, 2.0, 1.0])))
        >>> table.spectrum("kernel")
        [4.0, 2.0, 1.0]
        >>> table.value("kernel", "largest_learning_rate")
        0.5
    """  # noqa: DOC502 - raised by the functions called
    kernel = kernel_matrix(K)
    key = key_of(kernel)
    rows = [key | row for row in spectrum_rows(kernel)]
    provenance = {"definitions": dict(_SPECTRUM), "dtype": str(K.dtype)}
    return Table.from_rows(rows, provenance=provenance, columns=COLUMNS)


def alignment(K: Tensor, labels: Any, *, centred: bool | None = None) -> Table:
    r"""Kernel-target alignment, plain and centred.

    :math:`\langle K, YY^T\rangle_F / (\|K\|_F \|YY^T\|_F)`, in [0, 1] for a kernel,
    dimensionless; 1 where K is a multiple of :math:`YY^T`. ``centred`` (variant of the
    row) takes :math:`HKH` and :math:`HY`, :math:`H = I - 11^T/n`, so that a constant
    in the kernel or the labels does not count. Y is one-hot for classes, which is not
    the same as targets of -1 and 1 for the plain variant, but is for the centred one of
    two classes. With output axes K is the (n c, n c) matrix and Y the vector of all
    targets; H acts on samples.
    Status ``degenerate`` where one of the two is zero (labels all alike, centred);
    ``nonfinite`` for NaN or inf.
    Source (stated): Cristianini, Shawe-Taylor, Elisseeff & Kandola (2001), On
    kernel-target alignment, NIPS; Cortes, Mohri & Rostamizadeh (2012), Algorithms for
    learning kernels based on centered alignment, JMLR 13; (derived):
    tests/ntk/test_analysis.py.

    Args:
        K: (n, n) or (n, n, c, c), symmetric up to rounding.
        labels: Classes (n,) of whole numbers, or real targets (n,) or (n, c).
        centred: Which of the two; None for both.

    Returns:
        Table of ``kernel_target_alignment``; the centred row has variant ``centred``.

    Raises:
        ArgumentTypeError: If K is no real tensor, or labels are no real numbers.
        ShapeError: If labels and kernel differ in samples or outputs.
        DomainError: If K is not symmetric, or a class or target is no such.

    Example:
        >>> import torch
        >>> y = torch.tensor([1.0, -1.0, 1.0])
        >>> table = alignment(3.0 * torch.outer(y, y), y, centred=False)
        >>> round(table.value("kernel", "kernel_target_alignment"), 12)
        1.0
    """  # noqa: DOC502 - raised by the functions called
    kernel = kernel_matrix(K)
    n, c = kernel.num_samples, kernel.num_outputs
    Y = target_outputs(labels, n, c, kernel.matrix.device)
    if c is not None:
        Y = Y.reshape(-1, 1)
    rows = []
    for centre in (False, True) if centred is None else (centred,):
        value, status, reason = aligned(kernel, Y, centre)
        rows.append(
            key_of(kernel)
            | number_row("kernel_target_alignment", value, status, reason)
            | {"variant": "centred" if centre else None}
        )
    provenance = {"definitions": {"kernel_target_alignment": _ALIGNMENT}}
    return Table.from_rows(rows, provenance=provenance, columns=COLUMNS)


def velocity(K0: Tensor, K1: Tensor, *, elapsed: float | None = None) -> Table:
    r"""How far a kernel moved: its distance and its relative change.

    ``kernel_distance`` :math:`1 - \langle K_0, K_1\rangle_F/(\|K_0\|_F\|K_1\|_F)`,
    dimensionless, in [0, 1] for two kernels and 0 where they are proportional;
    computed as half the squared distance of the normalised kernels, which keeps the
    digits of a small one. ``relative_change`` sees the scale too. With ``elapsed`` the
    distance per unit of it, ``kernel_velocity``.
    Status ``degenerate`` where a kernel is zero, ``nonfinite`` for NaN or inf.
    Source (stated): Fort et al. (2020), arXiv:2010.15110, for distance and velocity;
    (derived): tests/ntk/test_analysis.py.

    Args:
        K0: (n1, n2) or (n1, n2, c, c), before.
        K1: The same shape, after.
        elapsed: Time, steps or epochs between the two, positive.

    Returns:
        Table of the three numbers, four with ``elapsed``.

    Raises:
        ArgumentTypeError: If one is no real tensor, or ``elapsed`` no number.
        ShapeError: If the shapes differ.
        DomainError: If ``elapsed`` is not positive.
    """  # noqa: DOC502 - one is raised by the function called
    for name, K in (("K0", K0), ("K1", K1)):
        check_kernel(K, name=name)
    if K0.shape != K1.shape:
        raise ShapeError(
            "two kernels must be of the same points and outputs to be compared, got "
            f"{tuple(K0.shape)} and {tuple(K1.shape)}; take both on the same inputs"
        )
    way_out = "leave it out for the distance alone"
    if (
        elapsed is not None
        and not 0.0 < check_number("elapsed", elapsed, way_out) < math.inf
    ):
        raise DomainError(
            f"elapsed must be positive and finite, got {elapsed}; {way_out}"
        )
    key = {
        "num_samples": K0.shape[0],
        "num_outputs": K0.shape[2] if K0.ndim == 4 else None,
    }
    rows = [key | row for row in velocity_rows(K0, K1, elapsed)]
    provenance = {"definitions": dict(_VELOCITY), "elapsed": elapsed}
    return Table.from_rows(rows, provenance=provenance, columns=COLUMNS)
