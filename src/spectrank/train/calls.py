"""Which call of ``step()`` is the whole step.

torch wraps ``step`` of every class of optimizers that has been used. The step of a
subclass that calls ``super().step()`` then runs the hooks twice, one pair in the other.
"""

from __future__ import annotations

from types import FrameType
from typing import final

from torch.optim import Optimizer


@final
class Calls:
    """The outermost call of ``step()`` of each optimizer, while it runs."""

    def __init__(self) -> None:
        self._outermost: dict[int, FrameType] = {}

    def nested(self, optimizer: Optimizer, frame: FrameType) -> bool:
        """Whether a call runs inside another one of the same optimizer.

        Args:
            optimizer: That is called.
            frame: Of the call.

        Returns:
            True inside another call; False for the outermost, which is kept.
        """
        outermost = self._outermost.get(id(optimizer))
        above = frame.f_back
        # A call that raised has left its frame here, but not on the stack.
        while outermost is not None and above is not None:
            if above is outermost:
                return True
            above = above.f_back
        self._outermost[id(optimizer)] = frame
        return False

    def over(
        self, optimizer: Optimizer, frame: FrameType, *, unseen: bool = False
    ) -> bool:
        """Whether the outermost call is at its end.

        Args:
            optimizer: That is called.
            frame: Of the call that ends.
            unseen: The answer where no call was seen to begin.

        Returns:
            True for the outermost, which is forgotten.
        """
        if id(optimizer) not in self._outermost:
            return unseen
        if self._outermost[id(optimizer)] is not frame:
            return False
        del self._outermost[id(optimizer)]
        return True
