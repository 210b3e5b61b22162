"""Numbers that each member has of its own, as columns along the buckets of a group."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import final

import numpy as np
import torch
from torch import Tensor

from spectrank.errors import ShapeError

PerMember = float | Sequence[float] | np.ndarray | Tensor
"""A number for all members or one a member."""


def per_member(name: str, value: PerMember, num_members: int) -> np.ndarray:
    """Broadcast a coefficient.

    Args:
        name: For the message.
        value: A number, or one a member.
        num_members: M.

    Returns:
        (M,) float64.

    Raises:
        ShapeError: It is neither.
    """
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    values = np.asarray(value, dtype=np.float64)
    if values.shape not in {(), (num_members,)}:
        raise ShapeError(
            f"{name} is one number or one for each of the {num_members} members, got "
            f"the shape {values.shape}; repeat or cut the list"
        )
    return np.broadcast_to(values, (num_members,)).copy()


@final
class Coefficients:
    """Coefficients of a group, as columns that broadcast along its buckets.

    Attributes:
        numbers: Name to (G,) float64 values, from ``Optimizer.coefficients``.
        used: Names that are not 0 for the whole fleet. Of the fleet, not the group,
            so that a member's rounding is the same in any group.
        step: Number of updates before.
        factor: What the schedule multiplies the learning rate by.
    """

    def __init__(
        self, numbers: Mapping[str, np.ndarray], used: frozenset[str], like: Tensor
    ) -> None:
        self.numbers = numbers
        self.used = used
        self.step = 0
        self.factor = 1.0
        self._like = like
        self._columns: dict[str, tuple[float, Tensor]] = {}

    def column(
        self, name: str, values: Callable[[], np.ndarray], *, at: float = 0.0
    ) -> Tensor:
        """Give each member its number; kept until ``at`` changes.

        Args:
            name: Of the column.
            values: Makes the (G,) numbers.
            at: What they depend on beside the members: step or factor.

        Returns:
            (1, G, 1) in the dtype of the parameters.
        """
        if name not in self._columns or self._columns[name][0] != at:
            column = torch.from_numpy(values()).to(self._like.device, self._like.dtype)
            self._columns[name] = (at, column.view(1, -1, 1))
        return self._columns[name][1]

    def own(self, name: str) -> Tensor:
        """A coefficient that never changes.

        Args:
            name: In ``numbers``.

        Returns:
            (1, G, 1).
        """
        return self.column(name, lambda: self.numbers[name])

    def rate(self) -> np.ndarray:
        """Learning rates of this step.

        Returns:
            (G,).
        """
        return self.numbers["learning_rate"] * self.factor

    def shrink(self) -> Tensor:
        """What decoupled decay multiplies the parameters by.

        Returns:
            (1, G, 1).
        """
        return self.column(
            "shrink",
            lambda: 1.0 - self.rate() * self.numbers["weight_decay"],
            at=self.factor,
        )
