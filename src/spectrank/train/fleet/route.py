"""What a route offers: losses and gradients of a group, and its outputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor


class Pass(ABC):
    """Forward and backward pass of one group, bound to its storage."""

    @abstractmethod
    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Write the gradients of the mean losses; return the losses.

        Args:
            inputs: (G, B, *shape); may be expanded along G.
            targets: (G, B) or (G, B, C).

        Returns:
            (G,) losses before the step.
        """


class Route(ABC):
    """How a group is computed.

    Attributes:
        name: ``mlp``, ``vmap`` or ``loop``.
        placeless: Whether, on a CPU, a member's bits do not depend on the size of its
            group and its place there, so that those who stopped may be left out.
    """

    name: str
    placeless: bool

    @abstractmethod
    def bind(
        self,
        values: Mapping[str, Tensor],
        gradients: Mapping[str, Tensor],
        batch_size: int,
    ) -> Pass:
        """Make a pass for a group.

        Args:
            values: Parameters, name to (G, *shape); read at each call.
            gradients: Where the gradients go, of the same shapes.
            batch_size: Samples a batch.

        Returns:
            The pass.
        """

    @abstractmethod
    def outputs(self, values: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Outputs of a group, without gradients.

        Args:
            values: Parameters, name to (G, *shape).
            inputs: (G, B, *shape).

        Returns:
            (G, B, C).
        """
