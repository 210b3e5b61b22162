"""Losses of a group with the gradient by hand, and of one member for autograd.

Each is the mean over the batch as torch.nn.functional has it. Legend: G members of a
group, B batch, C outputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from spectrank.errors import ShapeError, UnknownNameError


class Loss(ABC):
    """A mean loss over a batch.

    Attributes:
        name: As the user gives it.
        classifies: Whether an accuracy is defined.
    """

    name: str
    classifies: bool

    @abstractmethod
    def of_group(self, outputs_GBC: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Losses and their gradient.

        Args:
            outputs_GBC: Of the networks; may be overwritten.
            targets: (G, B) or (G, B, C).

        Returns:
            (G,) mean losses, and (G, B, C) their gradient.
        """

    @abstractmethod
    def of_member(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of one member, for autograd.

        Args:
            outputs: (B, C).
            targets: (B,) or (B, C).

        Returns:
            A scalar.
        """

    @abstractmethod
    def num_correct(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Right answers.

        Args:
            outputs: (G, B, C).
            targets: (G, B).

        Returns:
            (G,) counts.
        """

    @abstractmethod
    def check(self, outputs: Tensor, targets: Tensor) -> None:
        """Refuse targets that do not fit.

        Args:
            outputs: Of one member on a few samples.
            targets: (N,) or (N, C), all of them.

        Raises:
            ShapeError: They do not fit the outputs.
        """


@final
class CrossEntropy(Loss):
    """``-log softmax(outputs)[target]``."""

    name = "cross_entropy"
    classifies = True

    def of_group(  # noqa: D102
        self, outputs_GBC: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        logs = torch.log_softmax(outputs_GBC, -1)
        index = targets.unsqueeze(-1)
        losses = logs.gather(-1, index).squeeze(-1).mean(1).neg_()
        gradient = logs.exp_()
        gradient.scatter_add_(-1, index, gradient.new_full((), -1.0).expand_as(index))
        return losses, gradient.mul_(1.0 / targets.shape[1])

    def of_member(self, outputs: Tensor, targets: Tensor) -> Tensor:  # noqa: D102
        return functional.cross_entropy(outputs, targets)

    def num_correct(self, outputs: Tensor, targets: Tensor) -> Tensor:  # noqa: D102
        return (outputs.argmax(-1) == targets).sum(-1)

    def check(self, outputs: Tensor, targets: Tensor) -> None:  # noqa: D102
        if targets.dtype != torch.int64 or targets.ndim != 1 or outputs.ndim != 2:
            raise ShapeError(
                "cross_entropy takes (N,) class indices of dtype int64 and networks "
                f"with (N, classes) outputs, got targets {tuple(targets.shape)} of "
                f"{targets.dtype} and {outputs.ndim - 1} output axes; convert the "
                "targets with .long(), or give loss='mse' for real targets"
            )
        low, high = int(targets.min()), int(targets.max())
        if low < 0 or high >= outputs.shape[1]:
            raise ShapeError(
                f"class indices must lie in 0 ... {outputs.shape[1] - 1} for networks "
                f"with {outputs.shape[1]} outputs, got {low} ... {high}; renumber the "
                "classes or widen the last layer"
            )


class _Real(Loss):
    """Targets of the shape of the outputs; (N,) stands for (N, 1)."""

    @staticmethod
    def _shaped(outputs: Tensor, targets: Tensor) -> Tensor:
        return targets.reshape(outputs.shape).to(outputs.dtype)

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        wanted = tuple(outputs.shape[1:])
        got = tuple(targets.shape[1:])
        if got != wanted and not (got == () and wanted == (1,)):
            raise ShapeError(
                f"{self.name} takes targets of the shape of the outputs, "
                f"got {got} a sample where the networks give {wanted}; reshape the "
                "targets (labels of classes: torch.nn.functional.one_hot)"
            )


@final
class MeanSquares(_Real):
    """``mean (outputs - targets)^2`` over batch and outputs."""

    name = "mse"
    classifies = False

    def of_group(  # noqa: D102
        self, outputs_GBC: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        residual = outputs_GBC - self._shaped(outputs_GBC, targets)
        losses = residual.square().flatten(1).mean(1)
        return losses, residual.mul_(2.0 / residual[0].numel())

    def of_member(self, outputs: Tensor, targets: Tensor) -> Tensor:  # noqa: D102
        return functional.mse_loss(outputs, self._shaped(outputs, targets))

    def num_correct(self, outputs: Tensor, targets: Tensor) -> Tensor:  # noqa: D102
        raise NotImplementedError


@final
class Logistic(_Real):
    """``log(1 + exp(output)) - target * output`` with targets in [0, 1]."""

    name = "bce_with_logits"
    classifies = True

    def of_group(  # noqa: D102
        self, outputs_GBC: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        targets = self._shaped(outputs_GBC, targets)
        losses = functional.binary_cross_entropy_with_logits(
            outputs_GBC, targets, reduction="none"
        )
        gradient = torch.sigmoid(outputs_GBC).sub_(targets)
        gradient.mul_(1.0 / gradient[0].numel())
        return losses.flatten(1).mean(1), gradient

    def of_member(self, outputs: Tensor, targets: Tensor) -> Tensor:  # noqa: D102
        targets = self._shaped(outputs, targets)
        return functional.binary_cross_entropy_with_logits(outputs, targets)

    def num_correct(self, outputs: Tensor, targets: Tensor) -> Tensor:  # noqa: D102
        right = (outputs > 0) == (self._shaped(outputs, targets) > 0.5)
        return right.flatten(2).all(-1).sum(-1)

    def check(self, outputs: Tensor, targets: Tensor) -> None:  # noqa: D102
        super().check(outputs, targets)
        if not bool(((targets >= 0) & (targets <= 1)).all()):
            raise ShapeError(
                "bce_with_logits takes targets in [0, 1], got values between "
                f"{float(targets.min())} and {float(targets.max())}; map labels -1 "
                "and 1 to 0 and 1"
            )


_LOSSES: dict[str, type[Loss]] = {
    loss.name: loss for loss in (CrossEntropy, MeanSquares, Logistic)
}


def find_loss(name: str) -> Loss:
    """The loss of a name.

    Args:
        name: ``cross_entropy``, ``mse`` or ``bce_with_logits``.

    Returns:
        The loss.

    Raises:
        UnknownNameError: There is none of that name.
    """
    if name not in _LOSSES:
        raise UnknownNameError(
            f"a fleet's loss is one of {', '.join(_LOSSES)}, got {name!r}; "
            "choose one of these"
        )
    return _LOSSES[name]()
