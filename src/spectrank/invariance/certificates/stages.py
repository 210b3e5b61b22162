"""Stages: which parameters form a level of a linear tail, and how they are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from spectrank.errors import ShapeError, UnknownNameError
from spectrank.invariance.certificates.levels import Inner, Level

Tensors = Mapping[str, Tensor]


@final
@dataclass(frozen=True)
class Part:
    """One learned linear map.

    Attributes:
        name: Of the layer, or of its parameter where the layer has none.
        weight: Name of the parameter.
        biases: Names of the biases that are added to its outputs.
        transposed: Whether the parameter is stored as (inputs, outputs, ...).
        skip: Whether its input is added to its output: the map is I + W.
        tap: Position of the kernel at which that identity stands.
        gather: For each feature below the columns that read it, one per position, in
            the same order of positions; None where column c reads feature c.
    """

    name: str
    weight: str
    biases: tuple[str, ...] = ()
    transposed: bool = False
    skip: bool = False
    tap: int = 0
    gather: tuple[tuple[int, ...], ...] | None = None

    def kernel(self, tensors: Tensors) -> Tensor:
        """The map as (out, in, positions), ``in`` the features below.

        Args:
            tensors: Name of each parameter to its values.

        Returns:
            float64; one position for a matrix that reads each feature once.

        Raises:
            ShapeError: The parameter is not of the shape that the graph was read with.
        """
        w = self._tensor(tensors, self.weight)
        if w.ndim < 2:
            raise ShapeError(
                f"a weight has two or more axes, got shape {tuple(w.shape)} for "
                f"{self.weight!r}; give the weights of the model that was traced"
            )
        w = w.transpose(0, 1) if self.transposed else w
        kernel = w.reshape(len(w), w.shape[1], -1)
        if self.skip:
            # The gradient of W is that of I + W, so I + W is what is balanced.
            one = torch.zeros_like(kernel)
            one[:, :, self.tap] = torch.eye(len(w), dtype=w.dtype, device=w.device)
            kernel = kernel + one
        if self.gather is None:
            return kernel
        index = torch.tensor(self.gather, device=w.device)
        if index.numel() != kernel.shape[1]:
            raise ShapeError(
                f"{self.weight!r} reads {index.numel()} inputs, got shape "
                f"{tuple(w.shape)}; give the weights of the model that was traced"
            )
        return kernel[:, index].flatten(2)

    def columns(self, tensors: Tensors) -> Tensor:
        """Biases as columns, (out, k).

        Args:
            tensors: Name of each parameter to its values.

        Returns:
            float64.
        """
        found = [self._tensor(tensors, name).reshape(-1) for name in self.biases]
        if found:
            return torch.stack(found, 1)
        w = self._tensor(tensors, self.weight)
        return w.new_zeros(w.shape[1] if self.transposed else w.shape[0], 0)

    def _tensor(self, tensors: Tensors, name: str) -> Tensor:
        if name not in tensors:
            raise UnknownNameError(
                f"a tail is read from all its parameters, got none named {name!r}; "
                "give a state dict of the model that was traced"
            )
        return tensors[name].detach().double()


@final
@dataclass(frozen=True)
class Stage:
    """One level of a tail, or the layer with an activation below it.

    Attributes:
        name: Of the layer or block.
        kind: ``dense``, ``conv``, ``block`` or, of convolutions, ``conv block``.
        main: The layer; of a block Z, the skip.
        first: Y of a block, else None.
        second: U of a block, else None.
    """

    name: str
    kind: Literal["dense", "conv", "block", "conv block"]
    main: Part
    first: Part | None = None
    second: Part | None = None

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of its weights and biases."""
        parts = [p for p in (self.main, self.first, self.second) if p is not None]
        return tuple(name for p in parts for name in (p.weight, *p.biases))

    def level(self, tensors: Tensors) -> Level:
        """Read its matrices.

        Args:
            tensors: Name of each parameter to its values.

        Returns:
            The level, in float64.
        """
        z = self.main.kernel(tensors)
        if self.first is None or self.second is None:
            bias = self.main.columns(tensors)
            return Level(z.flatten(1), bias, _leaving(z), _factor(z))
        y = self.first.kernel(tensors)
        u = self.second.kernel(tensors)
        return Level(
            torch.cat([u.flatten(1), z.flatten(1)], 1),
            torch.cat([self.second.columns(tensors), self.main.columns(tensors)], 1),
            torch.cat([_leaving(y), _leaving(z)]),
            max(_factor(u) * _factor(y), _factor(z)),
            Inner(y.flatten(1), self.first.columns(tensors), _leaving(u), _factor(u)),
        )


def _leaving(kernel: Tensor) -> Tensor:
    """(out, in, k) as (out k) x in."""
    return kernel.transpose(1, 2).flatten(0, 1)


def _factor(kernel: Tensor) -> int:
    return int(min(kernel.shape[1], kernel.shape[2])) if kernel.shape[2] > 1 else 1
