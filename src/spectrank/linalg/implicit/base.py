"""What a matrix that is never formed can tell, and how its spectrum is asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor

from spectrank.errors import ArgumentTypeError, DomainError, ShapeError
from spectrank.linalg.operand import make_operand
from spectrank.linalg.routes import Certify
from spectrank.linalg.shapes import Matrix
from spectrank.linalg.spectrum import Need, Spectrum


@final
@dataclass(frozen=True)
class Settings:
    """How a spectrum is asked for.

    Attributes:
        wanted: What of it.
        rtol: Largest relative width of the enclosure of sigma_1.
        certify: ``probabilistic`` or ``deterministic`` upper ends.
        failure_probability: Of a probabilistic upper end.
        seed: Of the random start.
    """

    wanted: frozenset[Need]
    rtol: float
    certify: Certify
    failure_probability: float
    seed: int

    @property
    def whole(self) -> bool:
        """Whether all singular values are wanted."""
        return bool(self.wanted & {"sigma", "small_end"})

    @property
    def small_end(self) -> bool:
        """Whether the small ones are wanted to relative accuracy."""
        return "small_end" in self.wanted


class Implicit(ABC):
    """A matrix (m, n) given by the few tensors it is made of; not formed to measure it.

    `spectrank.linalg.spectrum` takes one wherever it takes a 2-D tensor. The matrix is
    linear in each of its factors. A subclass is a frozen dataclass.
    """

    gain: float = 1.0
    """Number that the matrix of the factors is multiplied by."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(m, n) = (outputs, inputs)."""

    @property
    @abstractmethod
    def factors(self) -> tuple[Tensor, ...]:
        """The tensors it is made of."""

    @abstractmethod
    def with_factors(self, factors: tuple[Tensor, ...]) -> Self:
        """The same structure with other values and a gain of 1.

        Args:
            factors: As many, of the same shapes.

        Returns:
            A new object.
        """

    @abstractmethod
    def dense(self) -> Matrix:
        """The matrix (m n) itself: m n entries, so for small ones only."""

    @abstractmethod
    def measure(self, settings: Settings) -> Spectrum:
        """The spectrum; called with factors in float64 whose squares are in range.

        Args:
            settings: What is wanted.

        Returns:
            By the route of the class.
        """

    @property
    def num_entries(self) -> int:
        """Entries of the factors."""
        return sum(factor.numel() for factor in self.factors)

    @property
    def dtype(self) -> torch.dtype:
        """Of the first factor."""
        return self.factors[0].dtype

    @property
    def device(self) -> torch.device:
        """Of the first factor."""
        return self.factors[0].device


Operand = Tensor | Implicit
"""What can be measured: a 2-D tensor, or a matrix that is never formed."""


def check_factor(name: str, factor: object, *, ndim: tuple[int, ...]) -> None:
    """Refuse what is no real floating-point tensor of so many axes.

    Args:
        name: Of the argument, for the message.
        factor: As given.
        ndim: Numbers of axes allowed.

    Raises:
        ArgumentTypeError: It is no tensor.
        DomainError: Its entries are of another kind.
        ShapeError: It has other axes.
    """
    if not isinstance(factor, Tensor):
        raise ArgumentTypeError(
            f"{name} is a torch.Tensor, got {type(factor).__name__}; convert first, "
            "e.g. torch.as_tensor(x)"
        )
    if factor.ndim not in ndim:
        raise ShapeError(
            f"{name} has {' or '.join(map(str, ndim))} axes, got shape "
            f"{tuple(factor.shape)}; reshape it first"
        )
    if not factor.is_floating_point() or factor.layout != torch.strided:
        raise DomainError(
            f"{name} has real floating-point entries in a dense layout, got "
            f"{factor.dtype}, {factor.layout}; convert first, e.g. x.to(torch.float32)"
        )


def amax_of(factor: Tensor) -> float:
    """Largest absolute entry; NaN or infinite where an entry is; 0 for none.

    Args:
        factor: Any shape.

    Returns:
        The number.
    """
    return make_operand(factor.detach().reshape(-1, 1)).amax
