"""Products of a Jacobian and its transpose with blocks of vectors, never formed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, final

import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap

from spectrank.model.differentiation import load_forward_mode, twice_backward
from spectrank.ntk.jacobian.blocks import slices
from spectrank.ntk.jacobian.rows import Rows

Direction = dict[str, Tensor]
_Way = Callable[[Tensor, Any], Any]
# Outputs of one sample whose rows are formed at a time, where nothing else works.
_ROWS = 16


@final
class VectorProducts:
    r""":math:`J^T u` by reverse mode, :math:`J t` by forward mode.

    The two are not always of one J: forward mode sends a tangent through
    ``torch.no_grad``, through the row of ``padding_idx`` and through whatever has a
    backward pass of its own. A check finds that; there, and where a step has no forward
    mode, :math:`J t` is the derivative of :math:`u \mapsto J^T u` (which is linear)
    along t: two backward passes. Where that fails too, J is formed for one sample at a
    time. Vectors are batched by ``vmap``; where it does not take the model they go one
    by one.

    Args:
        rows: The model with its chosen parameters.
    """

    def __init__(self, rows: Rows) -> None:
        load_forward_mode()
        self._rows = rows
        self._pulls: list[_Way] = [
            lambda x, u: vmap(lambda one: self._backward(x, one))(u),
            lambda x, u: _stacked([self._backward(x, one) for one in u]),
            self._backward_by_rows,
        ]
        batched, looped = (partial(w, self._forward) for w in (_batched, _looped))
        self._by_forward_mode = (batched, looped)
        self._pushes: list[_Way] = [
            batched,
            partial(_batched, self._twice_backward),
            looped,
            partial(_looped, self._twice_backward),
            self._forward_by_rows,
        ]

    def renew(self, rows: Rows) -> None:
        """Take other values of the parameters; what failed is not tried again.

        Args:
            rows: Of the same model and parameters.
        """
        self._rows = rows

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

    def push(
        self, x: Tensor, directions: Mapping[str, Tensor], *, check: bool
    ) -> Tensor:
        r""":math:`J t` of a block of samples.

        Args:
            x: (b, ...).
            directions: Parameter name to (r, *shape).
            check: Whether to check forward mode by the sum of all directions, for one
                backward pass. Where it fails it is not used again.

        Returns:
            (r, b, c).
        """
        while True:
            found: Tensor = _first_that_works(self._pushes, x, dict(directions))
            by_forward_mode = self._pushes[0] in self._by_forward_mode
            if not (check and by_forward_mode):
                return found
            t = {name: each.sum(0) for name, each in directions.items()}
            if self._agree(x, t, found.sum(0)):
                return found
            self._pushes = [w for w in self._pushes if w not in self._by_forward_mode]

    def _agree(self, x: Tensor, t: Direction, pushed: Tensor) -> bool:
        """Whether v . J t = J^T v . t for some v without pattern."""
        steps = torch.arange(1, pushed.numel() + 1, device=pushed.device)
        v = torch.cos(steps).to(pushed.dtype).view_as(pushed)
        pulled = {name: p[0] for name, p in self.pull(x, v[None]).items()}
        # Of size one: the square of 1e-200 vanishes.
        size = max(float(d.abs().max()) for d in t.values() if d.numel())
        t = {name: direction / size for name, direction in t.items()}
        pushed = pushed / size
        there = float((v * pushed).sum())
        back = sum(float((pulled[name] * t[name]).sum()) for name in t)
        scale = _norm([v]) * _norm([pushed])
        scale += _norm(pulled.values()) * _norm(t.values())
        # Not "<=": where all is zero or not finite there is nothing to tell.
        return not abs(there - back) > torch.finfo(v.dtype).eps ** 0.5 * scale

    def _backward(self, x: Tensor, cotangent: Tensor) -> Direction:
        pull = vjp(lambda p: self._rows.outputs(p, x), self._rows.values)[1]
        found: Direction = pull(cotangent)[0]
        return found

    def _backward_by_rows(self, x: Tensor, cotangents: Tensor) -> Direction:
        total: Direction = {}
        for a in range(len(x)):
            for name, found in self._rows(x[a : a + 1], cotangents[:, a]).items():
                total[name] = total[name] + found[0] if name in total else found[0]
        shapes = {name: value.shape for name, value in self._rows.values.items()}
        return {name: t.reshape(len(t), *shapes[name]) for name, t in total.items()}

    def _forward(self, x: Tensor, direction: Direction) -> Tensor:
        values = self._rows.values
        found: Tensor = jvp(
            lambda p: self._rows.outputs(p, x), (values,), (direction,)
        )[1]
        return found

    def _twice_backward(self, x: Tensor, direction: Direction) -> Tensor:
        values = self._rows.values
        return twice_backward(lambda p: self._rows.outputs(p, x), values, direction)[1]

    def _forward_by_rows(self, x: Tensor, directions: Direction) -> Tensor:
        outputs = self._rows.outputs(self._rows.values, x[:1])
        eye = torch.eye(outputs.shape[1], dtype=outputs.dtype, device=outputs.device)
        parts = slices(len(eye), _ROWS)
        of_samples = [
            torch.cat([self._times(one[None], eye[p], directions) for p in parts], 1)
            for one in x
        ]
        return torch.stack(of_samples, 1)

    def _times(self, x: Tensor, cotangents: Tensor, directions: Direction) -> Tensor:
        """Rows of one sample times directions, (r, k)."""
        found = self._rows(x, cotangents)
        products = [directions[n].flatten(1) @ found[n][0].T for n in found]
        return torch.stack(products).sum(0)


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


def _norm(tensors: Iterable[Tensor]) -> float:
    return math.hypot(*(float(torch.linalg.vector_norm(t)) for t in tensors))
