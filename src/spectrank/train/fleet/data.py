"""Data of a fleet: checked, and brought to the device and dtype of its parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spectrank.errors import DomainError, ShapeError


@dataclass(frozen=True)
class Data:
    """Inputs and targets.

    Attributes:
        inputs: (N, *shape), or (D, N, *shape).
        targets: (N, ...), or (D, N, ...).
        num_samples: N.
        sets: Whether there is the axis D.
    """

    inputs: Tensor
    targets: Tensor
    num_samples: int
    sets: bool

    def first(self, count: int) -> tuple[Tensor, Tensor]:
        """A few samples of the first set.

        Args:
            count: At most.

        Returns:
            Inputs and targets.
        """
        inputs, targets = self.inputs, self.targets
        if self.sets:
            inputs, targets = inputs[0], targets[0]
        return inputs[:count], targets[:count]

    def all_targets(self) -> Tensor:
        """Targets of all sets.

        Returns:
            (N, ...) or (D * N, ...).
        """
        return self.targets.flatten(0, 1) if self.sets else self.targets


def data_on(inputs: Tensor, targets: Tensor, like: Tensor, *, sets: bool) -> Data:
    """Check data, and bring floating inputs to the dtype of the parameters.

    Args:
        inputs: (N, *shape), or (D, N, *shape) with ``sets``.
        targets: (N, ...), or (D, N, ...) with ``sets``.
        like: A parameter.
        sets: Whether there is the axis D.

    Returns:
        The data.

    Raises:
        ShapeError: Inputs and targets differ in number, or there are none.
    """
    axes = 2 if sets else 1
    lead = tuple(inputs.shape[:axes])
    if inputs.ndim <= axes or 0 in lead or tuple(targets.shape[:axes]) != lead:
        wanted = "(D, N, *shape) inputs" if sets else "(N, *shape) inputs"
        raise ShapeError(
            f"training data are {wanted} with as many targets, N > 0, got "
            f"{tuple(inputs.shape)} and {tuple(targets.shape)}; reshape them (one "
            "feature: inputs of shape (N, 1))"
        )

    def moved(tensor: Tensor) -> Tensor:
        dtype = like.dtype if tensor.is_floating_point() else tensor.dtype
        return tensor.detach().to(like.device, dtype).contiguous()

    return Data(moved(inputs), moved(targets), lead[-1], sets)


def check_dataset(
    inputs: Tensor, dataset: Sequence[int] | None, num_members: int
) -> tuple[int, ...] | None:
    """Validate which set each member learns.

    Args:
        inputs: (D, N, *shape).
        dataset: One index a member, or None.
        num_members: M.

    Returns:
        The indices.

    Raises:
        ShapeError: There is not one entry a member.
        DomainError: A set does not exist.
    """
    if dataset is None:
        return None
    found = tuple(torch.as_tensor(dataset).tolist())
    if len(found) != num_members:
        raise ShapeError(
            f"dataset has one entry for each of the {num_members} members, got "
            f"{len(found)}; repeat or cut the list"
        )
    wrong = [index for index in found if not 0 <= index < len(inputs)]
    if wrong:
        raise DomainError(
            f"dataset holds indices below {len(inputs)}, the number of sets, got "
            f"{wrong[0]}; stack the sets along the first axis of inputs and targets"
        )
    return found
