"""Which parameter a traced value is, and which matrix of it.

A view of a parameter is known by its memory: storage, shape, strides and offset say
exactly which entries it shows, so that ``W.T``, ``W.chunk(3)[1]`` and
``W.view(out, -1)`` need no rule of their own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spectrank.model.graph.nodes import MatrixView


@dataclass(frozen=True)
class Layout:
    """Which entries of a block of memory a tensor shows, in which order."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int

    @classmethod
    def of(cls, tensor: Tensor) -> Layout:
        """Layout of a tensor.

        Args:
            tensor: Dense, with or without values.

        Returns:
            Its shape, strides and offset.
        """
        offset = int(tensor.storage_offset())
        return cls(tuple(tensor.shape), tuple(tensor.stride()), offset)

    def share(self, other: Layout) -> float:
        """Share of another layout's entries that are entries of this one.

        Args:
            other: Of the same memory.

        Returns:
            In [0, 1]; 1 where all are, 0 where none is.
        """
        last = 1
        for item in (self, other):
            spans = zip(item.shape, item.strides, strict=True)
            end = item.offset + sum((size - 1) * stride for size, stride in spans)
            last = max(last, end + 1)
        mask = torch.zeros(last, dtype=torch.bool)
        if 0 in self.shape or 0 in other.shape:
            return 0.0
        mask.as_strided(self.shape, self.strides, self.offset).fill_(True)
        common = mask.as_strided(other.shape, other.strides, other.offset)
        return float(common.double().mean())

    def steps(self) -> tuple[tuple[int, int], ...]:
        """Size and stride of the axes longer than one: strides of others say nothing.

        Returns:
            Pairs in the order of the axes.
        """
        pairs = zip(self.shape, self.strides, strict=True)
        return tuple((size, stride) for size, stride in pairs if size != 1)


@dataclass(frozen=True)
class Learned:
    """A parameter, or a view of one.

    Attributes:
        name: Dotted name; of a tied parameter its first.
        full: The parameter.
        shown: What is shown of it.
    """

    name: str
    full: Layout
    shown: Layout

    @property
    def whole(self) -> bool:
        """Whether it is the parameter itself."""
        return (
            self.shown.shape == self.full.shape
            and self.shown.steps() == self.full.steps()
            and self.shown.offset == self.full.offset
        )

    @property
    def vector(self) -> bool:
        """Whether all entries are shown once, in order, up to axes of length one."""
        sizes = [size for size, _ in self.full.steps()]
        return (
            self.shown.steps() == self.full.steps()
            and self.shown.offset == self.full.offset
            and math.prod(sizes) == math.prod(self.shown.shape)
        )

    def attributes(self) -> dict[str, Any]:
        """What tells the view from the whole, as JSON.

        Returns:
            Nothing for the whole parameter and for a vector with axes of length one.
        """
        if self.whole or self.vector:
            return {}
        rows = leading_rows(self)
        if rows is not None:
            return {"rows": list(rows)}
        return {
            "strides": list(self.shown.strides),
            "offset": self.shown.offset - self.full.offset,
        }


def leading_rows(value: Learned) -> tuple[int, int] | None:
    """First and one past the last entry along the first axis, where that is the view.

    Args:
        value: A view of a parameter.

    Returns:
        The range; None where the view is no range of rows.
    """
    full, shown = value.full, value.shown
    if len(full.shape) != len(shown.shape) or not full.shape:
        return None
    if full.shape[1:] != shown.shape[1:] or full.strides != shown.strides:
        return None
    first, rest = divmod(shown.offset - full.offset, full.strides[0] or 1)
    last = first + shown.shape[0]
    return (first, last) if rest == 0 and last <= full.shape[0] else None


def matrix_of(value: Learned) -> MatrixView | None:
    """The matrix that a 2-D view, used as (outputs, inputs), is of its parameter.

    Args:
        value: A view of a parameter with two axes.

    Returns:
        View, shape and rows; None where it is none of the registered views.
    """
    m, n = value.shown.shape
    full, shown = value.full, value.shown
    if value.whole and len(full.shape) == 2:
        return MatrixView(value.name, "linear", (m, n))
    unfolded = (full.shape[0], math.prod(full.shape[1:])) if full.shape else None
    if len(full.shape) > 2 and shown.shape == unfolded and _dense(full, shown):
        return MatrixView(value.name, "conv-unfolded", (m, n))
    if len(full.shape) != 2 or 0 in full.shape:
        return None
    for view, order in (("linear", (0, 1)), ("linear-transposed", (1, 0))):
        sizes = (full.shape[order[0]], full.shape[order[1]])
        strides = (full.strides[order[0]], full.strides[order[1]])
        # Of a row or a column alone the stride says nothing: m or n is one.
        fits = [
            side == 1 or ours == theirs
            for side, ours, theirs in zip((m, n), shown.strides, strides, strict=True)
        ]
        if not all(fits) or n != sizes[1]:
            continue
        first, rest = divmod(shown.offset - full.offset, strides[0])
        if rest == 0 and first + m <= sizes[0]:
            rows = None if m == sizes[0] else (first, first + m)
            return MatrixView(value.name, view, (m, n), rows)
    return None


def _dense(full: Layout, shown: Layout) -> bool:
    expected = [1]
    for size in reversed(full.shape[1:]):
        expected.insert(0, expected[0] * size)
    contiguous = all(
        size == 1 or stride == wanted
        for size, stride, wanted in zip(full.shape, full.strides, expected, strict=True)
    )
    flat = all(
        size == 1 or stride == wanted
        for size, stride, wanted in zip(
            shown.shape, shown.strides, (shown.shape[1], 1), strict=True
        )
    )
    return contiguous and flat and shown.offset == full.offset
