"""From a matrix to the convolution kernel that unfolds to it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from spectrank.errors import ShapeError
from spectrank.linalg.shapes import Matrix


def conv_kernel(matrix: Matrix, shape: Sequence[int]) -> Tensor:
    """Kernel (out, in / groups, *size) whose unfolding is the matrix; no copy.

    The inverse of the view ``conv-unfolded``: column j of the matrix meets input
    channel j // prod(size) at offset j % prod(size), as in
    ``torch.nn.functional.unfold``. The stable rank is that of the unfolded matrix, not
    of the convolution operator.
    Source (derived): tests/linalg/ensembles/test_ensembles_conv.py.

    Args:
        matrix: (m, n), m output channels, n = in / groups times kernel positions.
        shape: Of the kernel, as ``torch.nn.Conv2d.weight`` has it.

    Returns:
        A view of the matrix in that shape.

    Raises:
        ShapeError: If the shape does not unfold to that of the matrix.

    Example:
        >>> import torch
        >>> conv_kernel(torch.eye(8, 18), (8, 2, 3, 3)).shape
        torch.Size([8, 2, 3, 3])
    """
    sizes = tuple(shape)
    unfolded = (sizes[0], math.prod(sizes[1:])) if len(sizes) >= 3 else ()
    if matrix.ndim != 2 or tuple(matrix.shape) != unfolded:
        raise ShapeError(
            "a kernel (out, in / groups, *size) unfolds to out x (in / groups * size), "
            f"got a matrix of shape {tuple(matrix.shape)} for a kernel {sizes}; "
            f"draw the matrix as {unfolded or '(out, in * size)'}"
        )
    return matrix.reshape(sizes)
