"""Marks on gradients: whether they changed between the steps of two optimizers."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from typing import final

from torch import Tensor, nn
from torch.optim import Optimizer

_Mark = tuple[weakref.ref[Tensor] | None, int]


@final
class Marks:
    """Gradients of some parameters as they are now; they are not kept alive.

    Args:
        parameters: Name to parameter.
        names: Which.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], names: Iterable[str]
    ) -> None:
        self._parameters = parameters
        self._marks = {name: _mark(parameters[name]) for name in names}

    def changed(self) -> frozenset[str]:
        """Parameters whose gradients are others than were marked.

        Returns:
            Their names; also of gradients that were multiplied in place.
        """
        found = set()
        for name, (mark, version) in self._marks.items():
            parameter = self._parameters[name]
            now, again = _mark(parameter)
            # Of one tensor there is one reference; equal ones would compare entries.
            if now is not mark or version != again:
                found.add(name)
        return frozenset(found)


def held_by(optimizer: Optimizer) -> frozenset[int]:
    """Identities of the parameters of an optimizer.

    Args:
        optimizer: Any.

    Returns:
        Their ``id``.
    """
    return frozenset(id(p) for g in optimizer.param_groups for p in g["params"])


def _mark(parameter: nn.Parameter) -> _Mark:
    gradient = parameter.grad
    if gradient is None:
        return None, -1
    return weakref.ref(gradient), gradient._version
