r"""What a loss sums and divides by, and the learning rate that it bears.

With outputs f (n, c) and a kernel K, training moves f by -K grad L(f), and

    mse            grad L = rate (f - y)           mean 2 factor/(n c), sum 2 factor
    cross_entropy  grad L = rate (softmax(f) - y)  mean factor/n,       sum factor

``mean`` is that of ``torch.nn.MSELoss`` and ``CrossEntropyLoss``: over samples and
outputs for the first, over samples for the second. Sum of |f - y|^2 / 2: ``sum`` with a
factor of 1/2, where the rate is 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, cast, final, get_args

import torch
from torch import Tensor
from torch.nn import functional

from spectrank.errors import (
    ArgumentTypeError,
    DomainError,
    ShapeError,
    UnknownNameError,
)
from spectrank.ntk.kernel_matrix import KernelMatrix, kernel_matrix
from spectrank.ntk.memory import check_size

Loss = Literal["mse", "cross_entropy"]
Reduction = Literal["mean", "sum"]
# Largest eigenvalue of diag(p) - p p^T over all p: (1/2, 1/2) has it.
_SOFTMAX_CURVATURE = 0.5


@final
@dataclass(frozen=True)
class Convention:
    """A loss whose kernel flow is known, with its reduction.

    Attributes:
        loss: ``mse`` or ``cross_entropy``.
        reduction: ``mean`` or ``sum``.
        factor: Multiplies the loss.
    """

    loss: Loss
    reduction: Reduction
    factor: float

    def rate(self, num_samples: int, num_outputs: int) -> float:
        """Return what multiplies f - y, or softmax(f) - y, in the gradient.

        Args:
            num_samples: n.
            num_outputs: c.

        Returns:
            The factor.
        """
        squares = self.loss == "mse"
        rate = 2.0 * self.factor if squares else self.factor
        if self.reduction == "sum":
            return rate
        return rate / (num_samples * num_outputs if squares else num_samples)

    def curvature(self) -> float:
        """Return the largest curvature of the loss over its rate."""
        return 1.0 if self.loss == "mse" else _SOFTMAX_CURVATURE

    def value(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of outputs.

        Args:
            outputs: (T, n, c).
            targets: (n, c), one-hot or probabilities for cross-entropy.

        Returns:
            (T,).
        """
        if self.loss == "mse":
            each = (outputs - targets).square()
        else:
            each = -functional.log_softmax(outputs, -1) * targets
        total = each.sum((-2, -1)) * self.factor
        if self.reduction == "sum":
            return total
        count = each[0].numel() if self.loss == "mse" else outputs.shape[-2]
        return total / count


def make_convention(loss: str, reduction: str, factor: Any) -> Convention:
    """Check a loss and its reduction, before anything is computed.

    Args:
        loss: Name.
        reduction: Name.
        factor: Positive.

    Returns:
        The convention.

    Raises:
        UnknownNameError: If the loss has no kernel flow here, or there is no such
            reduction.
        ArgumentTypeError: If the factor is no number.
        DomainError: If the factor is not positive and finite.
    """
    if loss not in get_args(Loss):
        raise UnknownNameError(
            "a kernel flow has a closed form for mse and one equation for "
            f"cross_entropy, got {loss!r}; for another loss train "
            "spectrank.ntk.linearize(model) with it"
        )
    if reduction not in get_args(Reduction):
        raise UnknownNameError(
            f"reduction is 'mean' or 'sum', as of torch's losses, got {reduction!r}; "
            "choose the one that the loss is trained with"
        )
    if isinstance(factor, bool) or not isinstance(factor, Real):
        raise ArgumentTypeError(
            f"factor is a positive number, got {factor!r}; 0.5 halves the loss"
        )
    if not 0.0 < float(factor) < math.inf:
        raise DomainError(
            f"factor must be positive and finite, got {factor}; 0.5 halves the loss"
        )
    return Convention(cast("Loss", loss), cast("Reduction", reduction), float(factor))


def largest_learning_rate(
    K: Tensor,
    *,
    loss: Loss = "mse",
    reduction: Reduction = "mean",
    factor: float = 1.0,
    num_outputs: int | None = None,
) -> float:
    r"""Learning rate above which gradient descent in the kernel regime diverges.

    :math:`2/(r\,\lambda_{max}(K))` with r the rate of the loss (see the module): for
    ``mse`` with reduction ``mean`` :math:`n c/\lambda_{max}`, for half the sum of
    squares :math:`2/\lambda_{max}`. For ``cross_entropy``, whose curvature is at most
    half its rate, :math:`4/(r\,\lambda_{max})`: below it the loss falls at every step,
    above it may still. In units of the optimizer's learning rate, without momentum.
    inf for a zero kernel.
    Source (derived): tests/ntk/dynamics/test_dynamics_convention.py.

    Args:
        K: (n, n) or (n, n, c, c), on the training set.
        loss: ``mse`` or ``cross_entropy``.
        reduction: ``mean`` or ``sum``, as the loss is trained.
        factor: Multiplies the loss.
        num_outputs: c for a kernel (n, n) that several outputs share; 1 by default.

    Returns:
        The limit.

    Raises:
        UnknownNameError: If there is no such loss or reduction.
        ArgumentTypeError: If K is no real tensor.
        ShapeError: If K is no kernel of one set of points, or of other outputs.
        DomainError: If K is not symmetric, finite and positive semi-definite, or
            ``factor`` not positive.

    Example:
        >>> K = torch.diag(torch.tensor([4.0, 1.0]))
        >>> largest_learning_rate(K, reduction="sum", factor=0.5)
        0.5
    """  # noqa: DOC502 - raised by the functions called
    convention = make_convention(loss, reduction, factor)
    kernel = kernel_matrix(K)
    check_finite(kernel)
    c = kernel.num_outputs
    check_size("num_outputs", num_outputs)
    if c is None:
        c = num_outputs or 1
    elif num_outputs not in (None, c):
        raise ShapeError(
            f"num_outputs is that of K where it has the axes, {c}, got {num_outputs}; "
            "leave it out"
        )
    values = torch.linalg.eigvalsh(kernel.matrix)
    check_semi_definite(kernel, float(values[0]))
    return limit(convention, float(values[-1]), kernel.size, kernel.num_samples, c)


def limit(
    convention: Convention, top: float, size: float, num_samples: int, num_outputs: int
) -> float:
    """Return the largest learning rate from the largest eigenvalue.

    Args:
        convention: Of the loss.
        top: Largest eigenvalue over ``size``.
        size: Scale of the kernel.
        num_samples: n.
        num_outputs: c.

    Returns:
        The limit; inf where the eigenvalue is not positive.
    """
    if top <= 0.0 or size == 0.0:
        return math.inf
    rate = convention.rate(num_samples, num_outputs) * convention.curvature()
    return 2.0 / rate / top / size


def check_finite(kernel: KernelMatrix) -> None:
    """Refuse a kernel with NaN or infinite entries.

    Args:
        kernel: Checked otherwise.

    Raises:
        DomainError: If it has such entries.
    """
    if not kernel.is_finite:
        raise DomainError(
            "the kernel of a training curve must be finite, got NaN or inf among its "
            "entries; look at spectrum(K) and at the model's outputs"
        )


def check_semi_definite(kernel: KernelMatrix, smallest: float) -> None:
    """Refuse a matrix that is no kernel.

    Args:
        kernel: Checked otherwise.
        smallest: Eigenvalue over its ``size``.

    Raises:
        DomainError: If it lies below zero by more than rounding.
    """
    if smallest < -kernel.error:
        raise DomainError(
            "a kernel must be positive semi-definite, the smallest eigenvalue is "
            f"{smallest * kernel.size:.6g}, below zero by more than rounding "
            f"({kernel.error * kernel.size:.3g}); see spectrum(K)"
        )
