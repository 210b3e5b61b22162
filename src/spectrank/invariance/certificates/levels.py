r"""Levels: the matrices of a linear tail from which its certificate is computed.

Level j maps features to features by one linear map: a matrix, a linear convolution, or
a linear block U Y x + Z x. A_j, of shape (n_j, p), is what *enters* its outputs: the
matrix, the kernel as out x (in k), or [U Z]. B_j, of shape (q, n_{j-1}), is what
*leaves* its inputs: the matrix, the kernel as (out k) x in, or [Y; Z]. The gap at the
outputs of level j, below level n = j + 1, is

    D_j = B_n^T B_n - [A_j b_j] [A_j b_j]^T.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from spectrank.errors import ShapeError


@final
@dataclass(frozen=True, eq=False)
class Inner:
    """The two factors of a linear block U (Y x + c) + Z x.

    Attributes:
        first: Y, (h, in).
        bias: c, (h, k); k is 0 without a bias.
        second: U as (out, h), of a kernel as (out k) x h.
        factor: m with ||U||_2^2 <= m ||second||_2^2, U the kernel as out x (h k):
            min(h, k), 1 for a matrix.
    """

    first: Tensor
    bias: Tensor
    second: Tensor
    factor: int = 1

    @property
    def gap(self) -> Tensor:
        """U^T U - [Y c] [Y c]^T, (h, h)."""
        return self.second.mT @ self.second - self.augmented @ self.augmented.mT

    @property
    def augmented(self) -> Tensor:
        """[Y c], (h, in + k)."""
        return torch.cat([self.first, self.bias], 1)


@final
@dataclass(frozen=True, eq=False)
class Level:
    """One linear map of a tail, as numbers in float64.

    Attributes:
        entering: A_j, (n, p), without biases.
        bias: Learned biases as columns, (n, k); k is 0 without one.
        leaving: B_j, (q, c), c the features below.
        factor: m with ||A_j||_2^2 <= m ||B_j||_2^2: 1 for a matrix, min(in, k) for a
            kernel of k positions. Of a block, the larger of m_U m_Y and m_Z.
        inner: The factors of a block; None for any other level.
    """

    entering: Tensor
    bias: Tensor
    leaving: Tensor
    factor: int = 1
    inner: Inner | None = None

    @property
    def augmented(self) -> Tensor:
        """[A_j b_j], (n, p + k)."""
        return torch.cat([self.entering, self.bias], 1)


def dense_levels(
    weights: Sequence[Tensor], biases: Sequence[Tensor | None] | None = None
) -> tuple[Level, ...]:
    """Levels of consecutive matrices, the first one first.

    Args:
        weights: (n_l, n_{l-1}) each.
        biases: (n_l,) each, None where there is none; None for no biases at all.

    Returns:
        One level a matrix, in float64.

    Raises:
        ShapeError: Two neighbours do not fit, or a bias does not.
    """
    given = [None] * len(weights) if biases is None else list(biases)
    found: list[Level] = []
    for weight, bias in zip(weights, given, strict=True):
        w = weight.detach().double()
        columns = w.new_zeros(len(w), 0) if bias is None else _column(bias, w)
        if w.ndim != 2 or (found and found[-1].entering.shape[0] != w.shape[1]):
            raise ShapeError(
                "matrices of a chain are (outputs, inputs), the inputs of each the "
                f"outputs of the one before, got {tuple(w.shape)}; order them from "
                "the input on"
            )
        found.append(Level(w, columns, w))
    return tuple(found)


def gap(level: Level, above: Level) -> Tensor:
    r"""Gap matrix :math:`D_j = B_n^T B_n - [A_j\ b_j][A_j\ b_j]^T` between two levels.

    In the squared unit of the weights; symmetric. Conserved by gradient flow where all
    that stands between the two levels is linear and acts on all features alike.
    Source (derived): tests/invariance/certificates/test_recursion.py.

    Args:
        level: Level j.
        above: The level that reads its outputs.

    Returns:
        (n_j, n_j).

    Raises:
        ShapeError: The features do not fit.
    """
    augmented = level.augmented
    if above.leaving.shape[1] != len(augmented):
        raise ShapeError(
            "a level reads as many features as the one below gives, got "
            f"{above.leaving.shape[1]} and {len(augmented)}; order levels from the "
            "input on"
        )
    return above.leaving.mT @ above.leaving - augmented @ augmented.mT


def scaled(levels: Sequence[Level], factor: float) -> tuple[Level, ...]:
    """The same levels in another unit, so that no square over- or underflows.

    Args:
        levels: The levels.
        factor: By which all matrices are multiplied.

    Returns:
        New levels.
    """
    return tuple(
        Level(
            level.entering * factor,
            level.bias * factor,
            level.leaving * factor,
            level.factor,
            None
            if level.inner is None
            else Inner(
                level.inner.first * factor,
                level.inner.bias * factor,
                level.inner.second * factor,
                level.inner.factor,
            ),
        )
        for level in levels
    )


def largest_entry(levels: Sequence[Level]) -> float:
    """Largest absolute value in any matrix of the levels, 0 where all vanish.

    Args:
        levels: The levels.

    Returns:
        The number.
    """
    matrices = [m for level in levels for m in _matrices(level) if m.numel()]
    return max((float(m.abs().max()) for m in matrices), default=0.0)


def _matrices(level: Level) -> list[Tensor]:
    own = [level.entering, level.bias]
    if level.inner is not None:
        own += [level.inner.first, level.inner.bias, level.inner.second]
    return own


def _column(bias: Tensor, weight: Tensor) -> Tensor:
    if bias.shape != weight.shape[:1]:
        raise ShapeError(
            f"a bias has one entry an output, {len(weight)}, got "
            f"{tuple(bias.shape)}; give None where there is no bias"
        )
    return bias.detach().double()[:, None]
