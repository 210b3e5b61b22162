"""The product of two stored factors as a way to read one of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final

from torch import Tensor

from spectrank.linalg.implicit import FactorProduct


@final
@dataclass(frozen=True)
class Product:
    """Takes the right factor as stored and multiplies the left one to it.

    Attributes:
        shape: (m, n) of the product.
        stored: Entries of both factors.
        inferred: The scale is not known.
        note: What is to be said of the scale.
        left: Gives the left factor as stored.
        scale: Gives the scale.
        table: The product is that of an embedding, shown with one row per entry.
    """

    shape: tuple[int, int]
    stored: int
    inferred: bool
    note: str | None
    left: Callable[[], Tensor] = field(repr=False)
    scale: Callable[[], float] = field(repr=False)
    table: bool = False

    def __call__(self, weight: Tensor) -> FactorProduct:
        """The product of both factors.

        Args:
            weight: Right factor (r, inputs), or a kernel (r, in, *size).

        Returns:
            It, not formed.
        """
        left = self.left().detach().flatten(1)
        right, scale = weight.flatten(1), self.scale()
        if self.table:
            return FactorProduct(right.mT, left.mT, scale)
        return FactorProduct(left, right, scale)
