"""Codes that are shifted and scaled in groups of inputs."""

from __future__ import annotations

import torch
from torch import Tensor

from spectrank.errors import CheckpointError


def shifted_and_scaled(
    values: Tensor, zero: Tensor | None, scale: Tensor, places: Tensor | None
) -> Tensor:
    """Codes minus zero points times scales, in place.

    Args:
        values: Codes (out, in).
        zero: Zero points (out, groups); None for zero.
        scale: Scales (out, groups), or (1, groups) for the same in all rows.
        places: Group of each input; None for groups of neighbours.

    Returns:
        The values, which are overwritten.
    """
    if places is None:
        groups = values.view(values.shape[0], scale.shape[1], -1)
        if zero is not None:
            groups -= zero[..., None]
        groups *= scale[..., None]
        return values
    if zero is not None:
        values -= zero[:, places]
    values *= scale[:, places]
    return values


def checked_places(places: Tensor, groups: int, name: str) -> Tensor | None:
    """Groups of the inputs, checked.

    Args:
        places: Group of each input, int64.
        groups: Number of groups.
        name: Of the tensor, for the message.

    Returns:
        As given; None where the groups are those of neighbours.

    Raises:
        CheckpointError: A group is out of range.
    """
    if places.numel() and not 0 <= int(places.min()) <= int(places.max()) < groups:
        raise CheckpointError(
            f"{name} must lie in [0, {groups - 1}], it reaches from "
            f"{int(places.min())} to {int(places.max())}; fetch the file again"
        )
    # As it is without activation ordering: a fifth of the time.
    size = places.numel() // max(groups, 1)
    neighbours = torch.arange(places.numel(), device=places.device) // max(size, 1)
    plain = size * groups == places.numel() and torch.equal(places, neighbours)
    return None if plain else places
