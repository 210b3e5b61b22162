"""A layered drawing: ranks from top to bottom, lines that touch no box on their way.

Positions are in pixels. A vertex stands one rank below the lowest vertex that leads to
it (longest path). Lines bend in the free gaps between ranks only; a line that passes
over ranks does so in a lane of its own beside everything that stands there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

_GAP_X = 22.0
_SWEEPS = 4
_LOOSE_PER_RANK = 4


@dataclass(frozen=True)
class Box:
    """Where a vertex stands: its rank, its left upper corner and its size."""

    rank: int
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Route:
    """A line: its ends, and its path in the syntax of SVG.

    Attributes:
        start: On the lower edge of the box where it begins.
        end: On the upper edge of the box where it ends, or on its side.
        lane: Position of its vertical part when it passes over ranks, else None.
        path: Commands M, V, H and C in absolute coordinates.
    """

    start: tuple[float, float]
    end: tuple[float, float]
    lane: float | None
    path: str


@dataclass(frozen=True)
class Drawing:
    """Boxes and routes in the order of the vertices and arrows, and the whole size."""

    boxes: tuple[Box, ...]
    routes: tuple[Route, ...]
    width: float
    height: float


def ranks(num_vertices: int, arrows: Sequence[tuple[int, int]]) -> list[int]:
    """Longest path from a start; a start stands just above what it leads to.

    Args:
        num_vertices: Number of vertices.
        arrows: Pairs (tail, head) without cycles.

    Returns:
        A rank for each vertex, at least 0, growing along every arrow; what nothing
        leads to or from stands below all else, a few to a rank.
    """
    heads: list[list[int]] = [[] for _ in range(num_vertices)]
    waiting = [0] * num_vertices
    for tail, head in arrows:
        heads[tail].append(head)
        waiting[head] += 1
    starts = [v for v in range(num_vertices) if not waiting[v] and heads[v]]
    loose = [v for v in range(num_vertices) if not waiting[v] and not heads[v]]
    found, ready = [0] * num_vertices, list(starts)
    while ready:
        tail = ready.pop()
        for head in heads[tail]:
            found[head] = max(found[head], found[tail] + 1)
            waiting[head] -= 1
            if not waiting[head]:
                ready.append(head)
    for start in starts:
        # A constant that the tenth layer adds is drawn there, not at the top.
        found[start] = min(found[head] for head in heads[start]) - 1
    lowest = max(found, default=0) + 1 if starts else 0
    for at, v in enumerate(loose):
        found[v] = lowest + at // _LOOSE_PER_RANK
    return found


def spread(wanted: Sequence[float], widths: Sequence[float]) -> list[float]:
    """Puts boxes beside each other as near as can be to where they are wanted.

    Args:
        wanted: Centre wanted for each box, in their order.
        widths: Width of each box.

    Returns:
        Centres in that order, apart by the widths and a gap, with the least sum of
        squared distances to those wanted.
    """
    # Least squares under order constraints: pool adjacent violators.
    offsets = [0.0]
    for left, right in pairwise(widths):
        offsets.append(offsets[-1] + (left + right) / 2 + _GAP_X)
    pools: list[tuple[float, int]] = []
    for want, offset in zip(wanted, offsets, strict=True):
        mean, size = want - offset, 1
        while pools and pools[-1][0] > mean:
            before, count = pools.pop()
            mean = (mean * size + before * count) / (size + count)
            size += count
        pools.append((mean, size))
    starts = [mean for mean, size in pools for _ in range(size)]
    return [start + offset for start, offset in zip(starts, offsets, strict=True)]


def centres(
    rows: list[list[int]],
    widths: Sequence[float],
    arrows: Sequence[tuple[int, int]],
    rank: Sequence[int],
) -> list[float]:
    """Places the vertices of each rank beside each other, near what they join.

    Args:
        rows: Vertices of each rank; put in order here (barycentres).
        widths: Width of each vertex.
        arrows: Pairs (tail, head).
        rank: Rank of each vertex.

    Returns:
        The centre of every vertex, the middle of the drawing near 0.
    """
    above: list[list[int]] = [[] for _ in rank]
    below: list[list[int]] = [[] for _ in rank]
    for tail, head in arrows:
        if rank[head] == rank[tail] + 1:
            above[head].append(tail)
            below[tail].append(head)
    both = [up + down for up, down in zip(above, below, strict=True)]
    x = [0.0] * len(rank)

    def place(row: list[int], near: Sequence[Sequence[int]], *, sort: bool) -> None:
        wanted = {
            v: sum(x[u] for u in near[v]) / len(near[v]) if near[v] else x[v]
            for v in row
        }
        if sort:
            row.sort(key=wanted.__getitem__)
        centres = spread([wanted[v] for v in row], [widths[v] for v in row])
        for v, centre in zip(row, centres, strict=True):
            x[v] = centre

    for row in rows:
        place(row, [()] * len(rank), sort=False)
    for _ in range(_SWEEPS):
        for row in rows:
            place(row, above, sort=True)
        for row in reversed(rows):
            place(row, below, sort=True)
    for row in [*reversed(rows), *rows]:
        place(row, both, sort=False)
    # Last from above alone: a chain is a straight line.
    for row in rows:
        place(row, above, sort=False)
    place(rows[0], below, sort=False)
    return x
