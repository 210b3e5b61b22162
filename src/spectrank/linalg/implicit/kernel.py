"""What the operators of a convolution share: channels, groups and the grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from spectrank.errors import DomainError, ShapeError
from spectrank.linalg.implicit.base import check_factor
from spectrank.linalg.operand import UNIT_ROUNDOFF
from spectrank.linalg.value import Value

Axes = int | Sequence[int]


@final
@dataclass(frozen=True)
class Grid:
    """A kernel on a grid of inputs, checked; d spatial axes, 1 to 3.

    Attributes:
        size: Inputs along each axis.
        stride: Step between two outputs.
        dilation: Step between two taps of the kernel.
        taps: Taps along each axis.
        groups: Of the convolution.
        out: Output channels.
        channels: Input channels.
    """

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    taps: tuple[int, ...]
    groups: int
    out: int
    channels: int

    @property
    def num_inputs(self) -> int:
        """Input positions."""
        return math.prod(self.size)


def checked_grid(
    kernel: Tensor, size: Axes, stride: Axes, dilation: Axes, groups: int
) -> Grid:
    """The grid of a convolution, refused where its numbers do not fit.

    Args:
        kernel: (out, in / groups, *taps) with 1 to 3 spatial axes.
        size: Inputs along each axis; one number for all.
        stride: The same for the stride.
        dilation: The same for the dilation.
        groups: Of the convolution.

    Returns:
        The grid.

    Raises:
        DomainError: A number is below 1, or the groups do not divide the outputs.
    """
    check_factor("kernel", kernel, ndim=(3, 4, 5))
    d = kernel.ndim - 2
    sizes = axes_of("size", size, d)
    strides = axes_of("stride", stride, d)
    dilations = axes_of("dilation", dilation, d)
    out, channels = kernel.shape[:2]
    if groups < 1 or out % groups:
        raise DomainError(
            f"groups divide the outputs of a kernel, got groups={groups} with shape "
            f"{tuple(kernel.shape)}; pass the groups of the convolution"
        )
    taps = tuple(kernel.shape[2:])
    return Grid(sizes, strides, dilations, taps, groups, out, channels * groups)


def axes_of(name: str, value: Axes, d: int, *, least: int = 1) -> tuple[int, ...]:
    """One whole number for each spatial axis.

    Args:
        name: Of the argument, for the message.
        value: One number for all axes, or one each.
        d: Number of axes.
        least: Smallest number allowed.

    Returns:
        d numbers.

    Raises:
        ShapeError: There are not d numbers.
        DomainError: One of them is too small or no whole number.
    """
    numbers = (value,) * d if isinstance(value, int) else tuple(value)
    if len(numbers) != d:
        raise ShapeError(
            f"{name} has one number for each of {d} axes, got {numbers}; give {d}, or "
            "one for all"
        )
    if any(isinstance(x, bool) or not isinstance(x, int) or x < least for x in numbers):
        raise DomainError(
            f"{name} is made of whole numbers of at least {least}, got {numbers}; "
            "see the layer's own arguments"
        )
    return numbers


def as_taps(kernel: Tensor, groups: int) -> Tensor:
    """The kernel as one matrix per group and tap.

    Args:
        kernel: (out, in / groups, *taps).
        groups: Of the convolution.

    Returns:
        (groups, out / groups, in / groups, number of taps).
    """
    out, channels = kernel.shape[:2]
    return kernel.reshape(groups, out // groups, channels, -1)


def weighted_norm(kernel: Tensor, weights: Tensor) -> Value:
    r"""The norm :math:`(\sum_t w_t \|K_t\|_F^2)^{1/2}` over the taps.

    Args:
        kernel: (out, in / groups, *taps) float64.
        weights: (number of taps,) non-negative whole numbers, how often each counts.

    Returns:
        The norm with the proved error of the sums.
    """
    flat = kernel.reshape(kernel.shape[0] * kernel.shape[1], -1)
    squares = flat.square().sum(0)
    norm = math.sqrt(float((squares * weights.to(squares)).sum()))
    terms = len(flat) + flat.shape[1] + 6
    return Value.around(norm, norm * UNIT_ROUNDOFF * terms, "certified")


def positions(shape: Sequence[int]) -> Tensor:
    """Every index of a grid, in order.

    Args:
        shape: Of the grid.

    Returns:
        (number of positions, d) int64.
    """
    axes = [torch.arange(side) for side in shape]
    return torch.cartesian_prod(*axes).reshape(-1, len(axes))
