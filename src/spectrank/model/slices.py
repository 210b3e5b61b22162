"""Stacks that are computed when loaded, slice by slice where one is enough."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from torch import Tensor


@final
@dataclass(frozen=True)
class Slices:
    """Loads a stack that has to be computed, or one slice of it alone.

    Attributes:
        whole: Gives the stack.
        one: Gives a slice of its first axis, by index.
        number: Slices of the stack.
    """

    whole: Callable[[], Tensor]
    one: Callable[[int], Tensor]
    number: int

    def __call__(self) -> Tensor:
        """The stack."""
        return self.whole()

    def alone(self, index: int) -> Tensor:
        """A stack of the shape of the whole whose every slice is that one."""
        slice_ = self.one(index)
        return slice_.expand(self.number, *slice_.shape)
