"""Layouts of grouped kernels: one block per group."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from torch import Tensor

from spectrank.errors import ShapeError
from spectrank.linalg.implicit import BlockDiagonal
from spectrank.model.splits import Layout, Options, Part, Shape, count_option


@final
@dataclass(frozen=True)
class Blocks:
    """Takes the groups of a kernel as the blocks of a block-diagonal matrix.

    Attributes:
        groups: Number of groups.
        transposed: The kernel is that of a transposed convolution.
    """

    groups: int
    transposed: bool = False

    def __call__(self, weight: Tensor) -> BlockDiagonal:
        """One block per group, (out / groups) x (in / groups * size).

        Args:
            weight: (out, in / groups, *size); (in, out / groups, *size) transposed.

        Returns:
            The matrix, not formed.
        """
        height = weight.shape[0] // self.groups
        blocks = weight.reshape(self.groups, height, -1)
        return BlockDiagonal(blocks.mT if self.transposed else blocks)


@final
@dataclass(frozen=True)
class _Grouped:
    view: str
    transposed: bool = False

    def __call__(self, shape: Shape, options: Options) -> tuple[Part, ...]:
        groups = count_option(options, "groups")
        if not 3 <= len(shape) <= 5:
            raise ShapeError(
                f"view {self.view!r} needs 3 to 5 dimensions, the tensor has "
                f"{len(shape)}"
            )
        first, rest = shape[0], math.prod(shape[1:])
        if first % groups:
            raise ShapeError(f"{first} channels are not {groups} groups")
        sides = (first, rest * groups)
        take = Blocks(groups, self.transposed)
        shown = sides[::-1] if self.transposed else sides
        return (Part(self.view, shown, take, first * rest),)


GROUPS: tuple[Layout, ...] = (
    Layout(
        "conv-grouped",
        "a grouped kernel as a block-diagonal matrix, one block per group",
        ("groups",),
        _Grouped("conv-grouped"),
        ("groups",),
    ),
    Layout(
        "conv-depthwise",
        "a kernel with one input channel per group, block-diagonal",
        ("groups",),
        _Grouped("conv-depthwise"),
        ("groups",),
    ),
    Layout(
        "conv-transposed-grouped",
        "a grouped transposed kernel as a block-diagonal matrix",
        ("groups",),
        _Grouped("conv-transposed-grouped", transposed=True),
        ("groups",),
    ),
)
"""Layouts of grouped kernels."""
