r"""Partitions of dense rows into K cells that make the rank bound small.

Theorem A holds for every partition, so the best one found is a certificate however it
was found. The search lowers B2, that is :math:`S(\delta)S(z)`, from several starts, and
the start that ends in the smallest R is kept. With t the ratio of the two scatters,

    2 sqrt(a b) = min_t (a t + b / t),

so Lloyd's steps on the joint rows, the two sides weighted by what they are now, lower
the product at every step; k-means on one side alone does not.
Source (derived): tests/collapse/certificates/test_collapse_partitions.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from spectrank.collapse.certificates.tails import (
    Norm,
    check_norm,
    needs_of,
    norm_of,
)
from spectrank.errors import DomainError, ShapeError
from spectrank.linalg import Value, spectrum
from spectrank.linalg.moments import CrossMoments, CrossSummary
from spectrank.linalg.shapes import Float64, Matrix, Shaped

_MAX_STEPS = 100


@final
@dataclass(frozen=True, eq=False)
class Partition:
    r"""A partition of pairs into cells.

    Attributes:
        labels: (N,) cell of each pair.
        num_cells: Cells that have pairs, at most the K asked for.
        origin: Where the search began: ``classes``, ``inputs``, ``gradients``,
            ``both``, or ``fewer`` for the best one of a smaller K.
        within_norm: Norm of :math:`\sum_c\sum_i(\delta_i-\bar\delta_c)
            (z_i-\bar z_c)^T`, F times that of R.
    """

    labels: Shaped[Tensor, " N"]
    num_cells: int
    origin: str
    within_norm: Value


def best_partition(
    delta: Matrix,
    z: Matrix,
    num_cells: int,
    *,
    seed: int,
    labels: Shaped[Tensor, " N"] | None = None,
    norm: Norm = "frobenius",
    num_starts: int = 2,
) -> Partition:
    """Search a partition into at most K cells with a small within-cells product.

    An upper end of the best one, which is NP-hard to find. Never worse than the class
    partition where the classes are at most K.
    Source (derived): tests/collapse/certificates/test_collapse_partitions.py.

    Args:
        delta: (N, m) output gradients.
        z: (N, n) inputs of the same rows.
        num_cells: K, from 1.
        seed: Of the random starts.
        labels: (N,) classes.
        norm: Of the product.
        num_starts: Random starts of each kind.

    Returns:
        The best partition found.

    Raises:
        DomainError: K or the number of starts is below 1.
        ShapeError: Unequal numbers of rows, or none.
        UnknownNameError: No such norm.
    """  # noqa: DOC502 - the latter two by the checks called
    check_norm(norm)
    if num_cells < 1 or num_starts < 1:
        raise DomainError(
            "a partition has at least one cell and the search one start, got "
            f"num_cells={num_cells} and num_starts={num_starts}; 1 cell is the mean"
        )
    sides = _sides(delta, z, labels)
    found = [
        _partition(sides, cells, origin, norm)
        for origin, cells in _candidates(sides, num_cells, labels, num_starts, seed)
    ]
    return min(found, key=lambda partition: partition.within_norm.value)


def partition_profile(
    delta: Matrix,
    z: Matrix,
    ranks: Sequence[int],
    *,
    seed: int,
    labels: Shaped[Tensor, " N"] | None = None,
    norm: Norm = "frobenius",
    num_starts: int = 2,
) -> dict[int, Partition]:
    """Best partitions for several K; the norm does not rise with K.

    Args:
        delta: (N, m) output gradients.
        z: (N, n) inputs of the same rows.
        ranks: Numbers of cells, from 1.
        seed: Of the random starts.
        labels: (N,) classes.
        norm: Of the product.
        num_starts: Random starts of each kind.

    Returns:
        K to partition, by rising K.
    """
    profile: dict[int, Partition] = {}
    best: Partition | None = None
    for k in sorted(set(ranks)):
        found = best_partition(
            delta, z, k, seed=seed, labels=labels, norm=norm, num_starts=num_starts
        )
        if best is not None and best.within_norm.value < found.within_norm.value:
            # What has fewer cells has rank at most k too.
            value, cells = best.within_norm, best.num_cells
            found = Partition(best.labels, cells, "fewer", value)
        profile[k] = best = found
    return profile


def cross_of_partition(delta: Matrix, z: Matrix, labels: Tensor) -> CrossSummary:
    """Return the statistics of dense pairs over the cells of a partition.

    Args:
        delta: (N, m) output gradients.
        z: (N, n) inputs.
        labels: (N,) cell of each.

    Returns:
        The summary that `rank_bounds` takes.
    """
    cells = int(labels.max()) + 1
    moments = CrossMoments(cells, delta.shape[1], z.shape[1], device=z.device)
    moments.update(delta, z, labels)
    return moments.compute()


def _sides(
    delta: Matrix, z: Matrix, labels: Tensor | None
) -> tuple[Float64[Tensor, "N m"], Float64[Tensor, "N n"]]:
    """Both sides in float64 less their first row: no offset costs digits."""
    counts = {len(delta), len(z), len(z) if labels is None else len(labels)}
    if len(counts) != 1 or len(z) == 0:
        raise ShapeError(
            "delta, z and labels are of the same rows, at least one, got "
            f"{len(delta)}, {len(z)} and "
            f"{'no' if labels is None else len(labels)} labels; pass whole batches"
        )
    left, right = (rows.detach().to(torch.float64) for rows in (delta, z))
    return left - left[0], right - right[0]


def _partition(
    sides: tuple[Tensor, Tensor], cells: Tensor, origin: str, norm: Norm
) -> Partition:
    within = _within(sides, cells)
    size = norm_of(spectrum(within, needs_of((norm,))), norm)
    return Partition(cells, len(torch.unique(cells)), origin, size)


def _within(sides: tuple[Tensor, Tensor], cells: Tensor) -> Tensor:
    left, right = (side - _means(side, cells)[cells] for side in sides)
    return left.mT @ right


def _candidates(
    sides: tuple[Tensor, Tensor],
    num_cells: int,
    labels: Tensor | None,
    num_starts: int,
    seed: int,
) -> list[tuple[str, Tensor]]:
    """Partitions found from each start, and the class partition as it stands."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    if labels is not None:
        classes = torch.unique(labels, return_inverse=True)[1].to(sides[1].device)
        if int(classes.max()) < num_cells:
            found += [("classes", classes), ("classes", _descend(sides, classes))]
    whole = [float(side.sub(side.mean(0)).square().sum()) for side in sides]
    # A side that does not vary cannot steer the choice.
    both = tuple(1.0 / total if total > 0.0 else 0.0 for total in whole)
    starts = (("gradients", (both[0], 0.0)), ("inputs", (0.0, both[1])), ("both", both))
    for origin, weights in starts:
        for _ in range(num_starts):
            joint = _joint(sides, weights)
            seeds = joint[_spread(joint, num_cells, generator)]
            cells = torch.cdist(joint, seeds).argmin(1)
            found.append((origin, _descend(sides, cells)))
    return found


def _spread(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Rows far from each other, drawn as k-means++ does."""
    chosen = [int(torch.randint(len(rows), (), generator=generator))]
    nearest = (rows - rows[chosen[0]]).square().sum(1)
    while len(chosen) < count and float(nearest.max()) > 0.0:
        draw = torch.multinomial(nearest.cpu(), 1, generator=generator)
        chosen.append(int(draw))
        nearest = nearest.minimum((rows - rows[chosen[-1]]).square().sum(1))
    return torch.tensor(chosen, device=rows.device)


def _descend(sides: tuple[Tensor, Tensor], cells: Tensor) -> Tensor:
    """Lloyd's steps on the product of both scatters, until no row moves."""
    for _ in range(_MAX_STEPS):
        cells = torch.unique(cells, return_inverse=True)[1]
        means = [_means(side, cells) for side in sides]
        scatters = [
            float((side - mean[cells]).square().sum())
            for side, mean in zip(sides, means, strict=True)
        ]
        if 0.0 in scatters:
            return cells
        weights = (1.0 / scatters[0], 1.0 / scatters[1])
        centres = _joint((means[0], means[1]), weights)
        moved = torch.cdist(_joint(sides, weights), centres).argmin(1)
        if torch.equal(moved, cells):
            return cells
        cells = moved
    return cells


def _joint(sides: tuple[Tensor, Tensor], weights: tuple[float, ...]) -> Tensor:
    return torch.cat([side * w**0.5 for side, w in zip(sides, weights, strict=True)], 1)


def _means(rows: Tensor, cells: Tensor) -> Tensor:
    """(K, d) means of cells that all have rows."""
    totals = rows.new_zeros(int(cells.max()) + 1, rows.shape[1])
    counts = torch.bincount(cells, minlength=len(totals)).to(rows.dtype)
    return totals.index_add_(0, cells, rows) / counts[:, None]
