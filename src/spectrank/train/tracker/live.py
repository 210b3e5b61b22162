"""The matrices of a model that is being trained: read in place, followed when moved."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import final

from torch import Tensor, nn
from torch.optim import Optimizer

from spectrank.model import WeightMatrix, iter_weights


@final
class LiveWeight:
    """One matrix of a live model.

    A parameter's view is made once and read again and again; it is made anew where
    the parameter's memory moved. A computed weight is computed at every look.

    Attributes:
        weight: What is followed.
        parameter: Behind it; None for a computed weight.
    """

    def __init__(self, weight: WeightMatrix, model: nn.Module) -> None:
        self.weight = weight
        *self._path, self._local = weight.name.split(".")
        self._model = model
        self._owner = self._find_owner()
        self.parameter = self._current()
        self._key: Hashable = None
        self._matrix: Tensor | None = None
        self._home = _home(self.parameter)

    def _find_owner(self) -> nn.Module | None:
        # By hand: get_submodule takes ten times as long, at every tick.
        owner: nn.Module | None = self._model
        for name in self._path:
            owner = None if owner is None else owner._modules.get(name)
        return owner

    def _current(self) -> Tensor | None:
        return None if self._owner is None else self._owner._parameters.get(self._local)

    @property
    def device(self) -> str:
        """Type of the device, such as ``cuda``."""
        return "cpu" if self.parameter is None else self.parameter.device.type

    @property
    def replaced(self) -> bool:
        """Whether another tensor, or one of another kind, is in the model's place."""
        if self._find_owner() is not self._owner:
            return True
        now = self._current()
        return now is not self.parameter or _home(now) != self._home

    def matrix(self) -> Tensor:
        """Return the matrix (m, n) as it is now, detached, sharing memory if it can."""
        if self.parameter is None:
            return self.weight.tensor()
        key = (self.parameter.data_ptr(), self.parameter.stride())
        if self._matrix is None or key != self._key:
            matrix = self.weight.tensor()
            shared = (
                matrix.untyped_storage().data_ptr()
                == self.parameter.untyped_storage().data_ptr()
            )
            self._key, self._matrix = key, matrix if shared else None
            return matrix
        return self._matrix


def _home(tensor: Tensor | None) -> Hashable:
    if tensor is None:
        return None
    return tensor.shape, tensor.dtype, tensor.device


def relocate(
    weight: WeightMatrix, model: nn.Module, views: Mapping[str, str] | None
) -> LiveWeight | None:
    """Find a matrix whose parameter was replaced.

    Args:
        weight: As it was.
        model: Where it was.
        views: As given to the tracker.

    Returns:
        It as it is now; None where no matrix of that name is left.
    """
    for found in iter_weights(model, views=views, split=False):
        if isinstance(found, WeightMatrix) and found.name == weight.name:
            return LiveWeight(found, model)
    return None


@dataclass(frozen=True, eq=False)
class LearningRates:
    """Which parameter group of which optimizer holds a parameter."""

    optimizers: tuple[Optimizer, ...]
    groups: Mapping[int, tuple[int, int]]

    @classmethod
    def of(cls, optimizers: tuple[Optimizer, ...]) -> LearningRates:
        """Look through the groups once."""
        groups = {
            id(parameter): (i, j)
            for i, optimizer in enumerate(optimizers)
            for j, group in enumerate(optimizer.param_groups)
            for parameter in group["params"]
        }
        return cls(optimizers, groups)

    def fits(self, optimizers: tuple[Optimizer, ...]) -> bool:
        """Whether these optimizers with these groups were looked through."""
        if len(optimizers) != len(self.optimizers):
            return False
        if any(a is not b for a, b in zip(optimizers, self.optimizers, strict=True)):
            return False
        groups = (group for o in optimizers for group in o.param_groups)
        return len(self.groups) == sum(len(group["params"]) for group in groups)

    def rate(self, parameter: Tensor | None) -> float | None:
        """Return the learning rate of a parameter; None where it has none."""
        place = self.groups.get(id(parameter))
        if place is None:
            return None
        rate = self.optimizers[place[0]].param_groups[place[1]].get("lr")
        return None if rate is None else float(rate)
