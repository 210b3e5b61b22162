"""Cells of a class, a use and a position: the finest partition that stays small.

Rows of the same position of the same use vary less than those of a whole class, and any
partition gives a valid bound, so they get cells of their own where K times their number
is below min(m, n).

    N  samples    R  rows: positions of samples    P  positions of a use    K  classes
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from spectrank.collapse.statistics.labels import BatchTargets
from spectrank.collapse.statistics.rows import CallRows
from spectrank.errors import DomainError
from spectrank.linalg.shapes import Shaped
from spectrank.model import Batch


def use_positions(
    calls: Sequence[CallRows],
    batch: Batch,
    targets: BatchTargets,
    *,
    num_classes: int,
    most: int,
) -> tuple[int, ...] | None:
    """Positions of each use; None where their cells would not be few, or are no cells.

    Args:
        calls: The rows of each use, in the first batch.
        batch: It.
        targets: Of the batch.
        num_classes: K.
        most: Number that the cells must stay below, min(m, n).

    Returns:
        P of each use; None where labels are not one a sample, rows are ordered
        otherwise, there is a single position, or there are too many.
    """
    if targets.labels is None or targets.labels.ndim != 1:
        return None
    found = [row_positions(rows, batch.num_samples) for rows in calls]
    counts = tuple(p for p in found if p is not None)
    total = sum(counts)
    if len(counts) < len(found) or total <= 1:
        return None
    return counts if num_classes * total < most else None


def row_positions(rows: CallRows, num_samples: int | None) -> int | None:
    """P where the rows are those of P positions of each sample, one sample at a time.

    Args:
        rows: Of a call.
        num_samples: N.

    Returns:
        The number of positions; None where rows are ordered otherwise.
    """
    size = len(rows.inputs)
    if rows.samples is None or not num_samples or size % num_samples:
        return None
    positions = size // num_samples
    wanted = torch.arange(size, device=rows.samples.device) // max(positions, 1)
    return positions if torch.equal(rows.samples, wanted) else None


def cell_numbers(
    labels: Shaped[Tensor, " R"],
    use: int,
    counts: tuple[int, ...],
    num_samples: int | None,
    *,
    name: str,
) -> Shaped[Tensor, " R"]:
    """Number the cell of each row of a use: class first, then use and position.

    Args:
        labels: (R,) class of each row.
        use: Which one.
        counts: P of each use.
        num_samples: N.
        name: Of the layer, for the message.

    Returns:
        (R,) cells in [0, K sum P).

    Raises:
        DomainError: The batch has other positions than the first one had.
    """
    wanted = (num_samples or 0) * (counts[use] if use < len(counts) else 0)
    if len(labels) != wanted:
        raise DomainError(
            "(class, position) cells need the same positions in every batch, "
            f"{name} had {counts} in the first and others later; "
            "pass positions=False"
        )
    place = torch.arange(len(labels), device=labels.device) % counts[use]
    return labels * sum(counts) + sum(counts[:use]) + place
