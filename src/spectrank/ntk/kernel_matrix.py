"""A kernel as one symmetric matrix, and labels as target outputs.

(n, n)        a scalar kernel: one output, or the same for every output
(n, n, c, c)  a kernel of c outputs; as a matrix row a * c + i is output i of x_a
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from spectrank.errors import ArgumentTypeError, DomainError, ShapeError

# Multiple of the unit roundoff of the kernel's dtype that its entries are trusted to.
_ENTRY_ERROR = 8.0
# Entries of one-hot rows, 1 GiB.
_MOST_TARGETS = 1 << 27


@final
@dataclass(frozen=True, eq=False)
class KernelMatrix:
    """A kernel on one set of points, flattened, in float64.

    Attributes:
        matrix: (N, N) symmetric, N = n or n * c, divided by ``size``.
        size: Largest absolute entry of the kernel; NaN or inf where one is not finite.
        num_samples: n.
        num_outputs: c; None for a scalar kernel.
        error: Absolute error of an eigenvalue of ``matrix`` from rounding: 8 units of
            the kernel's dtype times its Frobenius norm, N units of float64 times its
            largest eigenvalue.
    """

    matrix: Tensor
    size: float
    num_samples: int
    num_outputs: int | None
    error: float

    @property
    def is_finite(self) -> bool:
        """Whether every entry is finite."""
        return math.isfinite(self.size)


def kernel_matrix(K: Tensor, *, name: str = "K") -> KernelMatrix:
    """Check a kernel on one set of points and flatten it.

    Args:
        K: (n, n) or (n, n, c, c), float32 or float64, symmetric up to rounding.
        name: Of the argument, for messages.

    Returns:
        The matrix; entries that are not finite are let through.

    Raises:
        ArgumentTypeError: If K is no real tensor.
        ShapeError: If it is no kernel of one set of points.
        DomainError: If it is not symmetric.
    """  # noqa: DOC502 - one is raised by the function called
    check_kernel(K, name=name)
    if K.shape[0] != K.shape[1]:
        raise ShapeError(
            f"{name} must be a kernel of one set of points with itself, got shape "
            f"{tuple(K.shape)}; take empirical(model, x) without a second set"
        )
    flat = flatten(K)
    size = float(flat.abs().max())
    finite, unit = math.isfinite(size), float(torch.finfo(K.dtype).eps)
    if finite and size > 0.0:
        flat = flat / size
        gap = float((flat - flat.T).abs().max())
        if gap > math.sqrt(unit):
            raise DomainError(
                f"{name} must be symmetric to half the digits of its dtype, got entries"
                f" that differ by {gap:.2g} of the largest; pass (K + K.T) / 2 if that "
                "is what is meant"
            )
        flat = 0.5 * (flat + flat.T)
    norm = float(torch.linalg.matrix_norm(flat)) if finite else math.nan
    double = float(torch.finfo(torch.float64).eps)
    error = (_ENTRY_ERROR * unit + len(flat) * double) * norm
    c = K.shape[2] if K.ndim == 4 else None
    return KernelMatrix(flat, size, K.shape[0], c, error)


def check_kernel(K: Any, *, name: str) -> None:
    """Refuse what is not a kernel between two sets of points.

    Args:
        K: As given.
        name: Of the argument.

    Raises:
        ArgumentTypeError: If it is no real tensor.
        ShapeError: If its shape is neither (n1, n2) nor (n1, n2, c, c).
    """
    if not isinstance(K, Tensor) or not K.is_floating_point():
        got = f"a tensor of {K.dtype}" if isinstance(K, Tensor) else type(K).__name__
        raise ArgumentTypeError(
            f"{name} must be a real floating-point tensor, got {got}; convert it with "
            "torch.as_tensor(K, dtype=torch.float64)"
        )
    square = K.ndim == 2 or (K.ndim == 4 and K.shape[2] == K.shape[3])
    if not square or K.numel() == 0:
        raise ShapeError(
            f"{name} must have shape (n1, n2) or (n1, n2, c, c) and entries, got "
            f"{tuple(K.shape)}; pass the tensor that empirical() returns"
        )


def flatten(K: Tensor) -> Tensor:
    """Rows a * c + i for output i of sample a, in float64.

    Args:
        K: (n1, n2) or (n1, n2, c, c).

    Returns:
        (n1, n2) or (n1 c, n2 c).
    """
    K = K.detach().to(torch.float64)
    if K.ndim == 2:
        return K
    n1, n2, c, _ = K.shape
    return K.permute(0, 2, 1, 3).reshape(n1 * c, n2 * c)


def as_numbers(name: str, given: Any, what: str, device: torch.device) -> Tensor:
    """Real numbers as a tensor, in the precision that they are given in.

    Args:
        name: Of the argument.
        given: A tensor, an array, a sequence of numbers or one number.
        what: Is to be passed, for the message.
        device: Where the result lives.

    Returns:
        Without history.

    Raises:
        ArgumentTypeError: If it is none of these.
    """
    numbers, got = given, type(given).__name__
    if not isinstance(given, Tensor):
        # Not torch.as_tensor of a list, which would round its numbers to float32.
        with suppress(TypeError, ValueError, RuntimeError):
            numbers = np.asarray(given)
        real = isinstance(numbers, np.ndarray) and numbers.dtype.kind in "biuf"
    else:
        real, got = not given.is_complex(), f"a tensor of {given.dtype}"
    if not real:
        raise ArgumentTypeError(f"{name} must be real numbers, got {got}; pass {what}")
    return torch.as_tensor(numbers, device=device).detach()


def target_outputs(
    labels: Any, num_samples: int, num_outputs: int | None, device: torch.device
) -> Tensor:
    """Targets of every output: one-hot rows of classes, or the values given.

    Args:
        labels: Whole numbers (n,), the classes from 0; or real values (n,) or (n, c).
        num_samples: n.
        num_outputs: c; None for one more than the largest class.
        device: Where the result lives.

    Returns:
        (n, c) float64.

    Raises:
        ArgumentTypeError: If they are no real numbers.
        ShapeError: If their number or that of the outputs is another.
        DomainError: If a class is not among the outputs or a value is not finite.
    """  # noqa: DOC502 - one is raised by the function called
    y = as_numbers("labels", labels, "whole numbers for classes, from 0", device)
    if y.ndim not in {1, 2} or len(y) != num_samples:
        raise ShapeError(
            f"labels must be ({num_samples},) or ({num_samples}, c) for a kernel of "
            f"{num_samples} samples, got shape {tuple(y.shape)}; one row per sample"
        )
    if not y.is_floating_point() and y.ndim == 1:
        return _one_hot(y.long(), num_outputs)
    y = y.to(torch.float64).reshape(num_samples, -1)
    if num_outputs is not None and y.shape[1] != num_outputs:
        raise ShapeError(
            f"labels must have the {num_outputs} outputs of the kernel, got "
            f"{y.shape[1]}; pass ({num_samples}, {num_outputs}) values or classes"
        )
    if not bool(torch.isfinite(y).all()):
        raise DomainError(
            "labels must be finite, got NaN or inf among them; leave those samples out"
        )
    return y


def _one_hot(y: Tensor, num_outputs: int | None) -> Tensor:
    top = int(y.max()) + 1
    c = top if num_outputs is None else num_outputs
    if int(y.min()) < 0 or top > c or c < 2:
        raise DomainError(
            f"classes must be whole numbers from 0 to {c - 1}, at least two, got "
            f"{int(y.min())} to {top - 1}; pass real numbers, such as -1.0 and 1.0, "
            "for the values of a single output"
        )
    if len(y) * c > _MOST_TARGETS:
        raise DomainError(
            f"classes are numbered from 0 without gaps, got up to {top - 1} of "
            f"{len(y)} samples; number those that occur, torch.unique(labels, "
            "return_inverse=True)"
        )
    return functional.one_hot(y, c).to(torch.float64)
