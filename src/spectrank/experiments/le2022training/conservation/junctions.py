"""Laws at junctions of layers, and the pieces of the networks that have them.

R  seeds    n  samples    o, c  channels    t  positions    k  places of a kernel
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from spectrank.experiments.le2022training.problems import Forward
from spectrank.invariance.laws import GramTerm, Law, SquareTerm, evaluate

Activation = Callable[[Tensor], Tensor]
Shapes = dict[str, tuple[int, ...]]


@final
@dataclass(frozen=True)
class Junction:
    """Maps that write into the same units, and maps that read from them.

    Attributes:
        name: In a claim's key.
        words: In a claim's statement.
        writes: Layers whose outputs are added there, biases included.
        reads: Layer to the shape of its weight in which axis 1 is that of the units.
        diagonals: Learned diagonal skips that end there and that begin there; they
            count in the law of a unit.
    """

    name: str
    words: str
    writes: tuple[str, ...]
    reads: Mapping[str, tuple[int, ...]]
    diagonals: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())

    def values(self, params: Mapping[str, Tensor]) -> Tensor:
        """Writes minus reads, W W^T + b b^T of those and W^T W of these.

        Args:
            params: Of every seed.

        Returns:
            (R, units, units).
        """
        laws = self.laws({k: v.shape[1:] for k, v in params.items()})
        found = []
        for r in range(len(next(iter(params.values())))):
            own = {k: v[r] for k, v in params.items()}
            total = evaluate(laws[0], own)
            for law in laws[1:]:
                total = total + evaluate(law, own).diag()
            found.append(total)
        return torch.stack(found)

    def laws(self, shapes: Mapping[str, tuple[int, ...]]) -> list[Law]:
        """Return the matrix law and, with diagonal skips, what a unit's law adds.

        Args:
            shapes: Of the parameters of one seed.

        Returns:
            One law or two.
        """
        n = shapes[f"{self.writes[0]}.weight"][0]
        terms = []
        for name in self.writes:
            for parameter in (f"{name}.weight", f"{name}.bias"):
                view: tuple[int, ...] = (n, math.prod(shapes[parameter]) // n)
                terms.append(GramTerm(parameter, view, (0,), None, 1.0))
        terms += [
            GramTerm(f"{name}.weight", shape, (1,), None, -1.0)
            for name, shape in self.reads.items()
        ]
        matrix = Law(
            self.name, "matrix", "gram", tuple(terms), (n, n), 0, "", self.words
        )
        every = np.arange(n)
        squares = tuple(
            SquareTerm(name, (n,), (0,), every, every, np.full(n, sign))
            for names, sign in zip(self.diagonals, (1.0, -1.0), strict=True)
            for name in names
        )
        if not squares:
            return [matrix]
        skips = Law("skips", "vertex", "squares", squares, (n,), 0, "", self.words)
        return [matrix, skips]


@final
@dataclass(frozen=True)
class Network:
    """A network of the table.

    Attributes:
        name: Such as ``conv``.
        words: In a protocol.
        shapes: Of its parameters, without the axis of seeds.
        forward: Maps the activations after an inner and after an outer layer of a
            block to the function.
        junctions: At which laws are looked at.
    """

    name: str
    words: str
    shapes: Shapes
    forward: Callable[[Activation, Activation], Forward]
    junctions: tuple[Junction, ...]


def convolve(
    params: Mapping[str, Tensor], name: str, h: Tensor, *, stride: int = 1
) -> Tensor:
    """Apply a one-dimensional convolution of every seed.

    Args:
        params: With ``name.weight`` (R, o, c, k) and, or not, ``name.bias`` (R, o).
        name: Of the layer.
        h: (R, n, c, t).
        stride: Step between positions.

    Returns:
        (R, n, o, t').
    """
    weight = params[f"{name}.weight"]
    windows = h.unfold(3, weight.shape[3], stride)
    z = torch.einsum("rnctk,rock->rnot", windows, weight)
    bias = params.get(f"{name}.bias")
    return z if bias is None else z + bias[:, None, :, None]


def layer_shapes(name: str, *shape: int) -> Shapes:
    """Return the shapes of a layer with a bias.

    Args:
        name: Of the layer.
        *shape: Of its weight.

    Returns:
        ``name.weight`` and ``name.bias`` to their shapes.
    """
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
