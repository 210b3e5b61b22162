"""The product of two thin factors: the update of a low-rank adapter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from spectrank.errors import DomainError, ShapeError
from spectrank.linalg.implicit.base import Implicit, Settings, check_factor
from spectrank.linalg.implicit.union import top_value
from spectrank.linalg.operand import EPS
from spectrank.linalg.shapes import Matrix
from spectrank.linalg.spectrum import Spectrum
from spectrank.linalg.value import Value


@final
@dataclass(frozen=True, eq=False)
class FactorProduct(Implicit):
    r"""The matrix :math:`c\, L R` with thin factors.

    :math:`L = Q_1 R_1`, :math:`R^T = Q_2 R_2` with orthonormal columns, so its non-zero
    singular values are those of :math:`c\, R_1 R_2^T` of order r; the others are
    exactly zero.
    Source (derived): tests/linalg/implicit/test_factor_product.py.

    Attributes:
        left: (m, r) real floating point.
        right: (r, n).
        scale: The number c.
    """

    left: Tensor
    right: Tensor
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_factor("left", self.left, ndim=(2,))
        check_factor("right", self.right, ndim=(2,))
        if self.left.shape[1] != self.right.shape[0]:
            raise ShapeError(
                "the factors are (m, r) and (r, n), got "
                f"{tuple(self.left.shape)} and {tuple(self.right.shape)}; "
                "transpose one of them"
            )
        if isinstance(self.scale, bool) or not isinstance(self.scale, int | float):
            raise DomainError(
                f"scale is a number, got {self.scale!r}; leave it out for 1"
            )
        object.__setattr__(self, "gain", float(self.scale))

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n)."""
        return self.left.shape[0], self.right.shape[1]

    @property
    def factors(self) -> tuple[Tensor, ...]:
        """Left and right factor."""
        return self.left, self.right

    def with_factors(self, factors: tuple[Tensor, ...]) -> FactorProduct:
        """The same with other factors and a scale of 1."""
        left, right = factors
        return FactorProduct(left, right)

    def dense(self) -> Matrix:
        """The product itself, in the precision of the factors."""
        return self.scale * (self.left.detach() @ self.right.detach())

    def measure(self, settings: Settings) -> Spectrum:
        """By QR of both factors and an SVD of order r."""
        m, n = self.shape
        r = self.left.shape[1]
        first, second = _triangle(self.left), _triangle(self.right.mT)
        core = first @ second.mT
        known = torch.linalg.svdvals(core).cpu()
        # Householder QR, product and SVD are each backward stable: a model of rounding
        # in the norms of the factors, since the product may be far smaller than they.
        sizes = float(torch.linalg.matrix_norm(first, 2)) * float(
            torch.linalg.matrix_norm(second, 2)
        )
        slack = (m + n + 4 * r + 12) * EPS * sizes
        sigma = torch.zeros(min(m, n), dtype=torch.float64)
        error = torch.zeros_like(sigma)
        sigma[: len(known)], error[: len(known)] = known, slack
        norm = float(torch.linalg.vector_norm(core))
        fourth = float(torch.linalg.vector_norm(sigma, 4))
        spread = slack * len(known) ** 0.5
        return Spectrum(
            shape=self.shape,
            frobenius=Value.around(norm, spread),
            sigma_max=top_value(sigma, error, settings.certify),
            schatten4=Value.around(fourth, spread),
            sigma=sigma,
            sigma_error=error,
            route="qr-core",
        )


def _triangle(tall: Tensor) -> Tensor:
    """The triangle of a QR factorisation; the Q is not needed."""
    triangle: Tensor = torch.linalg.qr(tall, mode="r").R
    return triangle
