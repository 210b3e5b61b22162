"""A block-diagonal matrix by its blocks: the kernel of a grouped convolution."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from spectrank.linalg.gram import gram_error
from spectrank.linalg.implicit.base import Implicit, Settings, check_factor
from spectrank.linalg.implicit.union import (
    block_values,
    schatten4_of,
    sorted_together,
    top_value,
)
from spectrank.linalg.operand import FrobeniusSum, make_operand
from spectrank.linalg.routes import Route
from spectrank.linalg.shapes import Matrix
from spectrank.linalg.spectrum import Spectrum, without_values
from spectrank.linalg.value import Value

# Up to this shorter side blocks are decomposed many at a time.
_SMALL = 64
# Entries of the blocks in one go.
_BATCH_ENTRIES = 1 << 22


@final
@dataclass(frozen=True, eq=False)
class BlockDiagonal(Implicit):
    r"""The matrix :math:`\operatorname{diag}(B_1, \dots, B_g)`.

    Its singular values are those of all blocks together.
    Source (derived): tests/linalg/implicit/test_block_diagonal.py.

    Attributes:
        blocks: (g, m, n) real floating point, any precision.
    """

    blocks: Tensor

    def __post_init__(self) -> None:
        check_factor("blocks", self.blocks, ndim=(3,))

    @property
    def shape(self) -> tuple[int, int]:
        """(g m, g n)."""
        g, m, n = self.blocks.shape
        return g * m, g * n

    @property
    def factors(self) -> tuple[Tensor, ...]:
        """The blocks."""
        return (self.blocks,)

    def with_factors(self, factors: tuple[Tensor, ...]) -> BlockDiagonal:
        """The same with other blocks."""
        return BlockDiagonal(*factors)

    def dense(self) -> Matrix:
        """The matrix with its zeros, g m by g n."""
        whole: Tensor = torch.block_diag(*self.blocks.detach())  # type: ignore[no-untyped-call]
        return whole

    def measure(self, settings: Settings) -> Spectrum:
        """By all blocks, each by Gram matrix or SVD."""
        small = min(self.blocks.shape[1:]) <= _SMALL
        if small and settings.certify == "probabilistic":
            return self._batched(settings)
        return self._one_by_one(settings)

    def _batched(self, settings: Settings) -> Spectrum:
        _, m, n = self.blocks.shape
        count = max(_BATCH_ENTRIES // (m * n), 1)
        frobenius = FrobeniusSum()
        values, errors, total, by_svd = [], [], 0.0, False
        for batch in torch.split(self.blocks, count):
            frobenius.add(batch)
            sigma, error, fourth, svd = block_values(
                batch, small_end=settings.small_end
            )
            values.append(sigma)
            errors.append(error)
            total, by_svd = total + fourth, by_svd or svd
        sigma, error = sorted_together(torch.cat(values), torch.cat(errors))
        relative = gram_error(max(m, n), min(m, n))
        return Spectrum(
            shape=self.shape,
            frobenius=frobenius.value(),
            sigma_max=top_value(sigma, error, settings.certify),
            schatten4=schatten4_of(total, relative),
            sigma=sigma,
            sigma_error=error,
            route="block-svd" if by_svd else "block-gram",
        )

    def _one_by_one(self, settings: Settings) -> Spectrum:
        share = settings.failure_probability / len(self.blocks)
        found = []
        for block in self.blocks:
            operand = make_operand(block)
            shape = (block.shape[0], block.shape[1])
            if operand.amax == 0.0:
                found.append(without_values(shape, 0.0, "ok", "a block of zeros"))
                continue
            route = Route(
                operand, shape, settings.rtol, settings.certify, share, settings.seed
            )
            found.append(route.take(settings.wanted))
        if bad := next((s for s in found if s.status != "ok"), None):
            reason = f"one of the blocks: {bad.reason}"
            return without_values(self.shape, math.nan, bad.status, reason)
        return self._together(found)

    def _together(self, found: list[Spectrum]) -> Spectrum:
        sigma = error = schatten4 = None
        if all(s.sigma is not None for s in found):
            sigma, error = sorted_together(
                torch.cat([s.sigma for s in found if s.sigma is not None]),
                torch.cat([s.sigma_error for s in found if s.sigma_error is not None]),
            )
        fourths = [s.schatten4 for s in found if s.schatten4 is not None]
        if len(fourths) == len(found):
            schatten4 = _sum_of_powers(fourths, 4.0)
        by_svd = any(s.route == "svd" for s in found)
        return Spectrum(
            shape=self.shape,
            frobenius=_sum_of_powers([s.frobenius for s in found], 2.0),
            sigma_max=_largest([s.sigma_max for s in found]),
            schatten4=schatten4,
            sigma=sigma,
            sigma_error=error,
            route="block-svd" if by_svd else "block-gram",
        )


def _sum_of_powers(values: Iterable[Value], power: float) -> Value:
    """The norm of all from the norms of the parts."""
    powers = [value**power for value in values]
    ends = [
        math.fsum(end)
        for end in zip(*((p.value, p.lower, p.upper) for p in powers), strict=True)
    ]
    # The promise of the product is the weakest, its failure probability the sum.
    promise = powers[0]
    for other in powers[1:]:
        promise = promise * other
    total = replace(promise, value=ends[0], lower=ends[1], upper=ends[2])
    return total ** (1.0 / power)


def _largest(values: Iterable[Value]) -> Value:
    ordered = sorted(values, key=lambda value: value.value, reverse=True)
    promise = ordered[0]
    for other in ordered[1:]:
        promise = promise * other
    return replace(
        promise,
        value=ordered[0].value,
        lower=max(value.lower for value in ordered),
        upper=max(value.upper for value in ordered),
    )
