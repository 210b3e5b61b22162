"""What watching costs, told before it is paid."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from torch import nn

from spectrank.invariance.laws import GramTerm, Laws
from spectrank.invariance.watching.checks import check_laws
from spectrank.invariance.watching.narrowing import Features, Narrowed, narrowed


@final
@dataclass(frozen=True)
class Cost:
    """What a watch reads and computes.

    Attributes:
        read_bytes: Read at each step for the exact prediction, and again as many at
            each evaluation: every parameter of a law once.
        multiplications: At each step, and again at each evaluation, for matrix laws:
            about one multiplication and addition in float64 per entry and column.
        state_bytes: Kept between steps.
        num_narrowed: Matrix laws that are followed in part, as told in their rows.
    """

    read_bytes: int
    multiplications: int
    state_bytes: int
    num_narrowed: int = 0

    def __str__(self) -> str:
        return (
            f"{self.read_bytes / 1e6:.1f} MB read and "
            f"{self.multiplications / 1e6:.1f} million multiplications for matrices "
            f"at each step and at each evaluation; {self.state_bytes / 1e6:.1f} MB kept"
            f"{self._narrowed}"
        )

    @property
    def _narrowed(self) -> str:
        num = self.num_narrowed
        laws = "1 matrix law" if num == 1 else f"{num} matrix laws"
        return f"; {laws} followed on some of the features only" if num else ""


def watching_cost(model: nn.Module, laws: Laws, *, features: Features = 32) -> Cost:
    """What `Watch` would cost with these laws, without watching.

    Args:
        model: The module.
        laws: Of it.
        features: As in `Watch`.

    Returns:
        The cost.

    Raises:
        UnknownNameError: The model lacks a parameter of the laws.
        DomainError: There is no law, or its parameters are in half precision.
        ArgumentTypeError: ``laws`` are no Laws.

    Example:
        >>> import torch
        >>> from spectrank.invariance.laws import GramTerm, Law, Laws
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Linear(4, 8, bias=False), torch.nn.Linear(8, 2, bias=False)
        ... )
        >>> terms = (
        ...     GramTerm("0.weight", (8, 4), (0,), None, 1.0),
        ...     GramTerm("1.weight", (2, 8), (1,), None, -1.0),
        ... )
        >>> law = Law("matrix 0", "matrix", "gram", terms, (8, 8), 33, "", "derived")
        >>> watching_cost(model, Laws((law,))).multiplications
        384
    """  # noqa: DOC502 - raised by the functions called
    parameters = dict(model.named_parameters())
    return cost_of(narrowed(check_laws(laws, parameters), features), parameters)


def cost_of(followed: Narrowed, parameters: dict[str, nn.Parameter]) -> Cost:
    """Cost of families as they are.

    Args:
        followed: The families.
        parameters: Of the model.

    Returns:
        The cost.
    """
    laws = followed.laws
    read = sum(parameters[p].numel() * parameters[p].itemsize for p in laws.parameters)
    products = 0
    for law in laws:
        for term in law.terms:
            if isinstance(term, GramTerm):
                rows = term.num_rows if term.summed else law.shape[0] ** 2
                products += rows * term.num_columns
    entries = sum(math.prod(law.shape) for law in laws)
    # Start, two predictions, two carried forms, sizes, tolerance and travel.
    partly = sum(said is not None for said in followed.partly)
    return Cost(read, products, 8 * 8 * entries, partly)
