"""The rank bound over the best partitions found, for a profile of ranks, as rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from spectrank.collapse.certificates.caveats import Applicability
from spectrank.collapse.certificates.partitions import (
    cross_of_partition,
    partition_profile,
)
from spectrank.collapse.certificates.rows import bound_row
from spectrank.collapse.certificates.tails import Norm
from spectrank.collapse.certificates.theorem import rank_bounds
from spectrank.linalg.shapes import Matrix, Shaped


def partition_rows(
    weight: Matrix,
    delta: Matrix,
    z: Matrix,
    *,
    divisor: float,
    weight_decay: float,
    ranks: Sequence[int],
    seed: int,
    labels: Shaped[Tensor, " N"] | None = None,
    norm: Norm = "frobenius",
    applicability: Applicability | None = None,
    num_starts: int = 2,
) -> list[dict[str, Any]]:
    """Judge theorem A over the best partition found into k cells, for each rank k.

    Needs every row that the gradient sums over: a sample of them gives no bound.
    Source (derived): tests/collapse/certificates/test_collapse_partitions.py.

    Args:
        weight: (m, n) matrix.
        delta: (N, m) output gradients.
        z: (N, n) inputs of the same rows.
        divisor: F.
        weight_decay: lambda.
        ranks: Ranks k, from 1.
        seed: Of the random starts.
        labels: (N,) classes, whose partition is among the starts.
        norm: In which the distance is measured.
        applicability: What stands against the theorem.
        num_starts: Random starts of each kind.

    Returns:
        Checks ``rank_bound`` with variant ``partition``, k as ``index``; where the
        search of the winner began is in ``route``.
    """
    known = applicability or Applicability(weight_decay)
    profile = partition_profile(
        delta, z, ranks, seed=seed, labels=labels, norm=norm, num_starts=num_starts
    )
    rows = []
    for k, partition in profile.items():
        bounds = rank_bounds(
            weight,
            cross_of_partition(delta, z, partition.labels),
            divisor=divisor,
            weight_decay=weight_decay,
            ranks=(k,),
            norms=(norm,),
        )
        # A partition with fewer cells than k bounds the distance to rank k too.
        own = bounds.b3[norm, bounds.num_cells]
        row = bound_row(bounds, known, "partition", norm, k, own)
        rows.append({**row, "route": f"partition from {partition.origin}"})
    return rows
