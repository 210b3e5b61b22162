"""Named views: the conventions that turn a weight tensor into one matrix.

A matrix is (m, n) = (outputs, inputs). The view is part of every result because it
changes the answer: a 64 x 32 x 3 x 3 kernel unfolded to 64 x 288 and the same kernel
cut into nine 64 x 32 slices have spectra that differ threefold.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor

from spectrank.errors import ShapeError, UnknownNameError


@dataclass(frozen=True)
class View:
    """One convention: which tensors it takes and the matrix it makes of them.

    Attributes:
        name: Key of the registry, as it stands in the ``view`` column.
        description: The convention in one line.
        min_dim: Smallest number of dimensions the view is defined on.
        max_dim: Largest number of dimensions the view is defined on.
        matrix_shape: Shape of the tensor to (m, n); reads no values.
        matrix: Tensor to matrix (m n); shares memory where the strides allow it.
    """

    name: str
    description: str
    min_dim: int
    max_dim: int
    matrix_shape: Callable[[tuple[int, ...]], tuple[int, int]]
    matrix: Callable[[Tensor], Tensor]

    def misfit(self, ndim: int) -> str | None:
        """Why the view is not defined on a number of dimensions.

        Args:
            ndim: Number of dimensions of a tensor.

        Returns:
            The reason; None where the view is defined.
        """
        if self.min_dim <= ndim <= self.max_dim:
            return None
        if self.min_dim == self.max_dim:
            wanted = str(self.min_dim)
        else:
            wanted = f"{self.min_dim} to {self.max_dim}"
        return f"view {self.name!r} needs {wanted} dimensions, the tensor has {ndim}"

    def apply(self, weight: Tensor) -> Tensor:
        """Matrix (m n) of ``weight``; no copy where the strides allow it.

        Args:
            weight: Tensor with ``min_dim`` to ``max_dim`` dimensions.

        Returns:
            The 2-D tensor, dtype and device as given.

        Raises:
            ShapeError: The tensor has another number of dimensions.
        """
        misfit = self.misfit(weight.ndim)
        if misfit is not None:
            raise ShapeError(f"{misfit}; choose a view that fits its shape")
        return self.matrix(weight)


def _same(shape: tuple[int, ...]) -> tuple[int, int]:
    return shape[0], shape[1]


def _swapped(shape: tuple[int, ...]) -> tuple[int, int]:
    return shape[1], shape[0]


def _first_by_rest(shape: tuple[int, ...]) -> tuple[int, int]:
    return shape[0], math.prod(shape[1:])


def _rest_by_first(shape: tuple[int, ...]) -> tuple[int, int]:
    return math.prod(shape[1:]), shape[0]


def _rest_by_last(shape: tuple[int, ...]) -> tuple[int, int]:
    return math.prod(shape[:-1]), shape[-1]


_ALL = (
    View(
        "linear",
        "a 2-D weight stored (outputs, inputs), as torch.nn.Linear stores it",
        2,
        2,
        _same,
        lambda weight: weight,
    ),
    View(
        "linear-transposed",
        "a 2-D weight stored (inputs, outputs), as transformers' Conv1D stores it",
        2,
        2,
        _swapped,
        lambda weight: weight.mT,
    ),
    View(
        "conv-unfolded",
        "a kernel (out, in / groups, *size) unfolded to out x (in / groups * size)",
        3,
        8,
        _first_by_rest,
        lambda weight: weight.flatten(1),
    ),
    View(
        "conv-transposed-unfolded",
        "a transposed kernel (in, out, *size): one input to its patch, out * size x in",
        3,
        8,
        _rest_by_first,
        lambda weight: weight.flatten(1).mT,
    ),
    View(
        "embedding",
        "one row per entry and one column per feature (the last axis)",
        2,
        8,
        _rest_by_last,
        lambda weight: weight.flatten(0, -2),
    ),
)

VIEWS: Mapping[str, View] = MappingProxyType({view.name: view for view in _ALL})
"""Every view by name, read-only."""


def get_view(name: str) -> View:
    """View of that name.

    Args:
        name: One of the keys of ``VIEWS``.

    Returns:
        The registered view.

    Raises:
        UnknownNameError: No view has that name; the message suggests the nearest.
    """
    view = VIEWS.get(name)
    if view is not None:
        return view
    near = difflib.get_close_matches(str(name), VIEWS, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UnknownNameError(
        f"a view must be a registered name, got {name!r}; "
        f"{hint}the views are {', '.join(VIEWS)}"
    )
