"""Products of a Jacobian and its transpose with blocks of vectors, never formed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, final

import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap

from spectrank.model.differentiation import load_forward_mode, twice_backward
from spectrank.ntk.jacobian.rows import Rows

Direction = dict[str, Tensor]
_Way = Callable[[Tensor, Any], Any]


@final
class VectorProducts:
    r""":math:`J^T u` by reverse mode, :math:`J t` by forward mode.

    Where a step of the model has no forward mode, :math:`J t` is the derivative of
    :math:`u \mapsto J^T u` (which is linear) along t: two backward passes. Vectors are
    batched by ``vmap``; where it does not take the model they go one by one.

    Args:
        rows: The model with its chosen parameters.
    """

    def __init__(self, rows: Rows) -> None:
        load_forward_mode()
        self._rows = rows
        self._pulls: list[_Way] = [
            lambda x, u: vmap(lambda one: self._backward(x, one))(u),
            lambda x, u: _stacked([self._backward(x, one) for one in u]),
        ]
        one_by_one = (self._forward, self._twice_backward)
        self._pushes: list[_Way] = [
            *(partial(_batched, way) for way in one_by_one),
            *(partial(_looped, way) for way in one_by_one),
        ]

    def pull(self, x: Tensor, cotangents: Tensor) -> Direction:
        r""":math:`J^T u` of a block of samples.

        Args:
            x: (b, ...).
            cotangents: (r, b, c).

        Returns:
            Parameter name to (r, *shape).
        """
        found: Direction = _first_that_works(self._pulls, x, cotangents)
        return found

    def push(self, x: Tensor, directions: Mapping[str, Tensor]) -> Tensor:
        r""":math:`J t` of a block of samples.

        Args:
            x: (b, ...).
            directions: Parameter name to (r, *shape).

        Returns:
            (r, b, c).
        """
        found: Tensor = _first_that_works(self._pushes, x, dict(directions))
        return found

    def _backward(self, x: Tensor, cotangent: Tensor) -> Direction:
        pull = vjp(lambda p: self._rows.outputs(p, x), self._rows.values)[1]
        found: Direction = pull(cotangent)[0]
        return found

    def _forward(self, x: Tensor, direction: Direction) -> Tensor:
        values = self._rows.values
        found: Tensor = jvp(
            lambda p: self._rows.outputs(p, x), (values,), (direction,)
        )[1]
        return found

    def _twice_backward(self, x: Tensor, direction: Direction) -> Tensor:
        values = self._rows.values
        return twice_backward(lambda p: self._rows.outputs(p, x), values, direction)[1]


def _first_that_works(ways: list[_Way], x: Tensor, vectors: Any) -> Any:
    """Try the ways in order; one that fails is not tried again."""
    while True:
        try:
            return ways[0](x, vectors)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, NotImplementedError):
            if len(ways) == 1:
                raise
            ways.pop(0)


def _batched(way: _Way, x: Tensor, directions: Direction) -> Tensor:
    found: Tensor = vmap(lambda one: way(x, one))(directions)
    return found


def _looped(way: _Way, x: Tensor, directions: Direction) -> Tensor:
    count = len(next(iter(directions.values())))
    ones = [{name: t[i] for name, t in directions.items()} for i in range(count)]
    return torch.stack([way(x, one) for one in ones])


def _stacked(parts: list[Direction]) -> Direction:
    return {name: torch.stack([part[name] for part in parts]) for name in parts[0]}
