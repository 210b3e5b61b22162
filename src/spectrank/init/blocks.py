r"""The matrices in a weight tensor: how they are cut out, and written back.

A weight of 2 axes is one matrix (m, n) = (outputs, inputs). A kernel
(out, in / groups, *size) has a matrix per group. ``unfolded``: (out / groups) x
(in / groups * positions), as in the view ``conv-unfolded``. ``delta``: (out / groups) x
(in / groups) at the centre of the kernel, zeros elsewhere, so that the convolution
operator has the singular values of the matrix, each repeated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, final, get_args

import torch
from torch import Tensor

from spectrank.errors import ArgumentTypeError, DomainError, ShapeError
from spectrank.linalg.ensembles.requests import check_choice
from spectrank.linalg.haar import check_count
from spectrank.linalg.shapes import Matrix
from spectrank.model.weights import WeightMatrix, tensor_refusal

Layout = Literal["unfolded", "delta"]
DRAWN = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
"""Precisions that matrices are drawn in."""

EXPANDED = "several of its entries share one memory cell (an expanded tensor)"
INFERENCE = "made in inference mode: it cannot be written outside of it"


@final
@dataclass(frozen=True)
class Block:
    """One matrix in a weight tensor.

    Attributes:
        rows: First and one past the last row, along the first axis of the tensor (of
            its transpose where ``transposed``).
        m: Number of outputs.
        n: Number of inputs.
        positions: Kernel positions that an entry of the input meets; 1 for a linear
            layer.
        part: What the rows are, such as ``gate.f`` or ``group.3``; None for a whole.
        centre: Index of the kernel position that holds the matrix; None for all.
        transposed: The tensor is stored (inputs, outputs).
    """

    rows: tuple[int, int]
    m: int
    n: int
    positions: int = 1
    part: str | None = None
    centre: tuple[int, ...] | None = None
    transposed: bool = False

    def read(self, tensor: Tensor) -> Matrix:
        """Return the matrix (m, n) of a tensor, detached; may be a copy."""
        rows = self._rows(tensor.detach())
        if self.centre is not None:
            rows = rows[self._centre]
        return rows.reshape(self.m, self.n)

    def write(self, tensor: Tensor, matrix: Matrix) -> None:
        """Write the matrix (m, n) into a tensor of any strides, without autograd."""
        with torch.no_grad():
            rows = self._rows(tensor)
            if self.centre is None:
                rows.copy_(matrix.reshape(rows.shape))
                return
            rows.zero_()
            rows[self._centre] = matrix

    @property
    def _centre(self) -> tuple[slice | int, ...]:
        return (slice(None), slice(None), *(self.centre or ()))

    def _rows(self, tensor: Tensor) -> Tensor:
        first, last = self.rows
        return (tensor.mT if self.transposed else tensor)[first:last]


def cut(
    shape: tuple[int, ...], *, groups: int = 1, layout: Layout = "unfolded"
) -> tuple[Block, ...]:
    """The matrices of a weight of some shape, one per group.

    Args:
        shape: (out, in), or (out, in / groups, *size) with one to three sizes.
        groups: Of the convolution.
        layout: How a matrix becomes a kernel.

    Returns:
        One block per group, all of one shape.

    Raises:
        ShapeError: If the shape is none of these.
        DomainError: If the groups do not divide the outputs, or a ``delta`` kernel has
            no centre.
        UnknownNameError: If there is no such layout.
    """  # noqa: DOC502 - some are raised by the functions called
    check_choice("layout", layout, get_args(Layout))
    check_count("groups", groups)
    if not 2 <= len(shape) <= 5 or 0 in shape:
        raise ShapeError(
            "a weight is (out, in) or a kernel (out, in / groups, *size) with one to "
            f"three sizes, got shape {shape}; a vector or a scalar has no stable rank "
            "to set"
        )
    out, channels, *size = shape
    if out % groups or (groups > 1 and not size):
        raise DomainError(
            f"groups divide the outputs of a kernel, got groups={groups} with shape "
            f"{shape}; pass the groups of the convolution"
        )
    positions, centre = math.prod(size), None
    if layout == "delta":
        if not size or any(side % 2 == 0 for side in size):
            raise DomainError(
                "a delta layout needs a kernel of odd sizes, whose centre it fills, "
                f"got shape {shape}; layout='unfolded' takes every kernel"
            )
        positions, centre = 1, tuple(side // 2 for side in size)
    m = out // groups
    return tuple(
        Block(
            rows=(i * m, (i + 1) * m),
            m=m,
            n=channels * positions,
            positions=positions,
            part=f"group.{i}" if groups > 1 else None,
            centre=centre,
        )
        for i in range(groups)
    )


def matrices_of(weight: WeightMatrix, groups: int) -> tuple[Block, ...]:
    """The matrices of a weight by its view, without a graph.

    Args:
        weight: One matrix in its view.
        groups: Of the convolution it belongs to, 1 elsewhere.

    Returns:
        One block per group of a kernel, else one.
    """
    m, n = weight.shape
    grouped = groups if weight.view == "conv-unfolded" else 1
    swapped = weight.view == "linear-transposed"
    size = m // grouped
    return tuple(
        Block(
            rows=(i * size, (i + 1) * size),
            m=size,
            n=n,
            part=f"group.{i}" if grouped > 1 else None,
            transposed=swapped,
        )
        for i in range(grouped)
    )


def unwritable(tensor: Tensor) -> str | None:
    """Why a tensor cannot be filled in place; None where it can.

    Args:
        tensor: Any tensor.

    Returns:
        The reason.
    """
    refusal = tensor_refusal(tensor)
    if refusal is not None:
        return refusal
    if tensor.dtype not in DRAWN:
        return f"stored as {tensor.dtype}, matrices are drawn in float16 to float64"
    # Strides of 0 make several entries one; 1 is torch's word for "yes".
    if torch._debug_has_internal_overlap(tensor) == 1:
        return EXPANDED
    if tensor.is_inference() and not torch.is_inference_mode_enabled():
        return INFERENCE
    return None


def check_writable(tensor: object) -> Tensor:
    """Refuse what cannot be filled in place.

    Args:
        tensor: As given.

    Returns:
        The same.

    Raises:
        ArgumentTypeError: If it is no tensor of real floating-point numbers.
        DomainError: If it has no dense values of its own.
    """
    if not isinstance(tensor, Tensor):
        raise ArgumentTypeError(
            "an initialiser fills a torch.Tensor in place, got "
            f"{type(tensor).__name__}; pass the weight itself, e.g. layer.weight"
        )
    reason = unwritable(tensor)
    if reason is None:
        return tensor
    if not tensor.is_floating_point():
        raise ArgumentTypeError(
            "an initialiser fills a floating-point tensor, got one of "
            f"{tensor.dtype} ({reason}); convert it first"
        )
    copies = tensor.dtype not in DRAWN or reason in {EXPANDED, INFERENCE}
    way = (
        "fill a copy, tensor.clone() or tensor.float()"
        if copies
        else "materialise it first, e.g. module.to_empty(device='cpu')"
    )
    raise DomainError(
        "an initialiser fills a dense tensor that has values of its own, got one that "
        f"is not so ({reason}); {way}"
    )
