r"""Truncated weights: the rank to keep by a rule, and the matrix of that rank.

The truncation :math:`W_r = \sum_{i \le r} \sigma_i u_i v_i^T` is the nearest matrix of
rank r in every unitarily invariant norm (Eckart-Young-Mirsky); kernels are unfolded.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from spectrank.errors import DomainError, ShapeError
from spectrank.metrics import effective_rank, energy_rank


def ranks_by_energy(weights: Sequence[Tensor], share: float) -> tuple[int, ...]:
    """Least ranks that keep a share of the squared singular values.

    Args:
        weights: (m, n) matrices.
        share: In (0, 1).

    Returns:
        One rank a matrix.
    """
    return tuple(round(energy_rank(w, q=share).value) for w in weights)


def ranks_by_entropy(weights: Sequence[Tensor]) -> tuple[int, ...]:
    """Effective ranks, exp of the entropy of the singular values, rounded up.

    Args:
        weights: (m, n) matrices.

    Returns:
        One rank a matrix.
    """
    return tuple(math.ceil(effective_rank(w).value - 1e-9) for w in weights)


def truncated(weight: Tensor, rank: int) -> Tensor:
    """Return the nearest matrix of a rank, in float64.

    Args:
        weight: (m, n), or a kernel, unfolded to (m, n) and folded back.
        rank: At least 0; at least min(m, n) changes nothing.

    Returns:
        Of the shape of ``weight``.

    Raises:
        DomainError: The rank is negative.
    """
    if rank < 0:
        raise DomainError(
            f"a matrix is truncated to a rank from 0, got {rank}; keep at least none"
        )
    matrix = weight.detach().flatten(1).double()
    if rank >= min(matrix.shape):
        return matrix.view_as(weight)
    left, sigma, right = torch.linalg.svd(matrix, full_matrices=False)
    kept: Tensor = left[:, :rank] * sigma[:rank] @ right[:rank]
    return kept.view_as(weight)


def with_ranks(
    model: nn.Module, weights: Sequence[str], ranks: Sequence[int]
) -> nn.Module:
    """Return a copy of a network whose weights are truncated.

    Args:
        model: Not changed.
        weights: Names of the parameters.
        ranks: One for each.

    Returns:
        The copy, in the dtype of the model.

    Raises:
        ShapeError: There are not as many ranks as weights.
    """
    if len(weights) != len(ranks):
        raise ShapeError(
            f"each weight is truncated to a rank of its own, got {len(ranks)} ranks "
            f"for {len(weights)} weights; give one a weight"
        )
    cut = copy.deepcopy(model)
    with torch.no_grad():
        for name, rank in zip(weights, ranks, strict=True):
            parameter = cut.get_parameter(name)
            parameter.copy_(truncated(parameter, rank))
    return cut


def num_parameters(shape: Sequence[int], rank: int) -> int:
    """Numbers that a weight of a rank takes: r (m + n), or m n where that is less.

    Args:
        shape: (m, n), or that of a kernel.
        rank: At least 0.

    Returns:
        The count.
    """
    m, n = shape[0], math.prod(shape[1:])
    return min(rank * (m + n), m * n)


def share_kept(shapes: Mapping[str, Sequence[int]], ranks: Sequence[int]) -> float:
    """Numbers of truncated weights over those of the whole ones.

    Args:
        shapes: Name of a weight to its shape.
        ranks: One for each.

    Returns:
        In [0, 1].
    """
    kept = sum(map(num_parameters, shapes.values(), ranks))
    return kept / sum(math.prod(shape) for shape in shapes.values())
