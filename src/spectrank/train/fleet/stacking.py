"""From modules to stacked parameters and back."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from spectrank.errors import DomainError, ShapeError


def stack(modules: Sequence[nn.Module]) -> dict[str, Tensor]:
    """Stack the parameters of modules of one architecture.

    Args:
        modules: At least one; they are not changed, and share nothing with the result.

    Returns:
        Name, as in ``state_dict()``, to (num_modules, *shape). A parameter that
        occurs under several names is there once.

    Raises:
        ShapeError: Names or shapes differ, or there is no module.

    Example:
        >>> fleet = stack([nn.Linear(3, 2), nn.Linear(3, 2)])
        >>> {name: tuple(value.shape) for name, value in fleet.items()}
        {'weight': (2, 2, 3), 'bias': (2, 2)}
    """
    shapes = [
        {name: tuple(p.shape) for name, p in module.named_parameters()}
        for module in modules
    ]
    if not shapes or not shapes[0]:
        raise ShapeError(
            f"stack needs modules with parameters, got {len(shapes)} modules"
            f"{' without any' if shapes else ''}; give at least one"
        )
    for number, other in enumerate(shapes):
        if other != shapes[0]:
            odd = sorted(
                name
                for name in {*other, *shapes[0]}
                if other.get(name) != shapes[0].get(name)
            )
            raise ShapeError(
                "modules of a fleet have the same parameters, number "
                f"{number} differs from number 0 in {', '.join(odd[:3])}; "
                "stack each architecture by itself"
            )
    members = [dict(module.named_parameters()) for module in modules]
    return {
        name: torch.stack([member[name].detach() for member in members])
        for name in shapes[0]
    }


def unstack(
    template: nn.Module, parameters: Mapping[str, Tensor], member: int
) -> nn.Module:
    """Make a module of one member.

    Args:
        template: Of the architecture; it is not changed. Buffers are copied from it.
        parameters: Name to (M, *shape).
        member: Index in [-M, M).

    Returns:
        A new module with copies of the member's parameters, in their dtype and on
        their device.

    Raises:
        DomainError: There is no such member.
    """
    first = next(iter(parameters.values()))
    if not -len(first) <= member < len(first):
        raise DomainError(
            f"a member is an index below {len(first)}, got {member}; choose another"
        )
    module = copy.deepcopy(template).to(first.device, first.dtype)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(parameters[name][member])
    return module
