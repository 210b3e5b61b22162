"""Lines of a layered drawing: lanes for those that pass over ranks, ports, paths."""

from collections.abc import Sequence
from dataclasses import dataclass

from spectrank.report._layout import Box, Drawing, Route, centres, ranks

MARGIN = 14.0
"""Free room around a drawing."""

_GAP_Y = 22.0
_MORE_GAP_Y = 34.0
_LANE = 13.0
_LANE_GAP = 18.0
_PORT = 13.0
_BEND = 10.0


@dataclass(frozen=True)
class Lane:
    """Where a line that passes over ranks runs down, and if it ends at the side."""

    x: float
    sideways: bool


@dataclass(frozen=True)
class _Plan:
    """All that is known before heights are: ranks, rows, centres and widths."""

    rank: list[int]
    rows: list[list[int]]
    x: list[float]
    sizes: Sequence[tuple[float, float]]

    def edge(self, rank: int, side: int) -> float:
        """Outermost edge of a rank on a side, times the side."""
        return max(side * self.x[v] + self.sizes[v][0] / 2 for v in self.rows[rank])

    def outermost(self, vertex: int, side: int) -> bool:
        """Whether nothing stands beside a vertex on a side."""
        own = side * self.x[vertex] + self.sizes[vertex][0] / 2
        return own >= self.edge(self.rank[vertex], side)


def _free(start: float, taken: Sequence[float]) -> float:
    """First position from start outward that keeps its distance from those taken."""
    for position in sorted(taken):
        if position >= start + _LANE:
            break
        if position > start - _LANE:
            start = position + _LANE
    return start


def _lanes(
    plan: _Plan, arrows: Sequence[tuple[int, int]], joints: frozenset[int]
) -> dict[int, Lane]:
    """A lane for every arrow over more than one rank, short arrows innermost."""
    spans = {
        at: plan.rank[head] - plan.rank[tail] for at, (tail, head) in enumerate(arrows)
    }
    taken: dict[int, list[tuple[float, float, float]]] = {1: [], -1: []}
    used: set[tuple[int, int]] = set()
    lanes: dict[int, Lane] = {}
    for at in sorted((at for at in spans if spans[at] > 1), key=spans.__getitem__):
        tail, head = arrows[at]
        options = []
        for side in (1, -1):
            sideways = (
                head in joints
                and (head, side) not in used
                and plan.outermost(head, side)
            )
            first, last = plan.rank[tail] + 1, plan.rank[head] - (not sideways)
            edge = max(plan.edge(rank, side) for rank in range(first, last + 1))
            begin, end = first - 0.5, plan.rank[head] - (0.0 if sideways else 0.5)
            rivals = [x for low, high, x in taken[side] if low < end and begin < high]
            x = side * _free(edge + _LANE_GAP, rivals)
            cost = round(abs(x - plan.x[tail]) + abs(x - plan.x[head]))
            options.append((cost, -side, x, sideways, begin, end))
        _, side, x, sideways, begin, end = min(options)
        taken[-side].append((begin, end, -side * x))
        used |= {(head, -side)} if sideways else set()
        lanes[at] = Lane(x, sideways)
    return lanes


def _ports(
    plan: _Plan, arrows: Sequence[tuple[int, int]], lanes: dict[int, Lane]
) -> dict[int, float]:
    """Where on the upper edge of its head each arrow ends; sideways ones not."""
    entries: dict[int, list[tuple[float, int]]] = {}
    for at, (tail, head) in enumerate(arrows):
        lane = lanes.get(at)
        if lane is None or not lane.sideways:
            entries.setdefault(head, []).append((lane.x if lane else plan.x[tail], at))
    ports = {}
    for head, found in entries.items():
        found.sort()
        room = max(0.0, plan.sizes[head][0] - 24)
        step = min(_PORT, room / len(found))
        for place, (_, at) in enumerate(found):
            ports[at] = plan.x[head] + (place - (len(found) - 1) / 2) * step
    return ports


def _gaps(
    plan: _Plan,
    arrows: Sequence[tuple[int, int]],
    lanes: dict[int, Lane],
    ports: dict[int, float],
) -> list[float]:
    """Height of the gap below each rank: more where lines run far sideways."""
    reach = [0.0] * len(plan.rows)
    for at, (tail, head) in enumerate(arrows):
        first, last = plan.rank[tail], plan.rank[head] - 1
        lane = lanes.get(at)
        middle = lane.x if lane else ports[at]
        reach[first] = max(reach[first], abs(middle - plan.x[tail]))
        if lane and not lane.sideways:
            reach[last] = max(reach[last], abs(ports[at] - middle))
    return [_GAP_Y + min(_MORE_GAP_Y, x / 10) for x in reach]


def _bend(x0: float, y0: float, x1: float, y1: float) -> str:
    """From one end of a gap to the other; the curve stays inside the gap."""
    if abs(x0 - x1) < 0.05:
        return f"V{y1:.1f}"
    middle = (y0 + y1) / 2
    return f"C{x0:.1f} {middle:.1f} {x1:.1f} {middle:.1f} {x1:.1f} {y1:.1f}"


def _down(y0: float, y1: float) -> str:
    """Straight down; nothing if that is no way, for an arrow's head has a direction."""
    return f"V{y1:.1f}" if y1 - y0 > 0.05 else ""


def _route(
    tail: Box,
    head: Box,
    lane: Lane | None,
    port: float | None,
    rows: Sequence[tuple[float, float]],
) -> Route:
    """The path of one arrow; rows holds top and bottom of each rank."""
    x, y = tail.x + tail.width / 2, tail.y + tail.height
    parts = [f"M{x:.1f} {y:.1f}", _down(y, rows[tail.rank][1])]
    from_y, from_x = rows[tail.rank][1], x
    if lane:
        parts.append(_bend(x, from_y, lane.x, rows[tail.rank + 1][0]))
        from_x, from_y = lane.x, rows[head.rank - 1][1]
        parts.append(_down(rows[tail.rank + 1][0], from_y))
    if lane and lane.sideways:
        right = lane.x > head.x
        end = (head.x + head.width * right, head.y + head.height / 2)
        turn = min(_BEND, abs(lane.x - end[0]))
        turned = lane.x - turn if right else lane.x + turn
        parts += [f"V{end[1] - turn:.1f}", f"Q{lane.x:.1f} {end[1]:.1f}"]
        parts[-1] += f" {turned:.1f} {end[1]:.1f}"
        parts.append(f"H{end[0]:.1f}")
    else:
        port = from_x if port is None else port
        end = (port, head.y)
        parts.append(_bend(from_x, from_y, port, rows[head.rank][0]))
        parts.append(_down(rows[head.rank][0], head.y))
    return Route((x, y), end, lane.x if lane else None, "".join(parts))


def draw(
    sizes: Sequence[tuple[float, float]],
    arrows: Sequence[tuple[int, int]],
    joints: frozenset[int] = frozenset(),
) -> Drawing:
    """Lays out a graph without cycles.

    Args:
        sizes: Width and height of each vertex.
        arrows: Pairs (tail, head).
        joints: Vertices that a line may also enter from the side.

    Returns:
        Boxes that do not overlap, and routes that touch no box but their own two.
    """
    if not sizes:
        return Drawing((), (), 0.0, 0.0)
    rank = ranks(len(sizes), arrows)
    rows: list[list[int]] = [[] for _ in range(max(rank) + 1)]
    for vertex, own in enumerate(rank):
        rows[own].append(vertex)
    x = centres(rows, [width for width, _ in sizes], arrows, rank)
    plan = _Plan(rank, rows, x, sizes)
    lanes = _lanes(plan, arrows, joints)
    edges = [centre - width / 2 for centre, (width, _) in zip(x, sizes, strict=True)]
    left = min([*edges, *(lane.x for lane in lanes.values())])
    shift = MARGIN - left
    plan = _Plan(rank, rows, [centre + shift for centre in x], sizes)
    lanes = {at: Lane(lane.x + shift, lane.sideways) for at, lane in lanes.items()}
    ports = _ports(plan, arrows, lanes)
    gaps = _gaps(plan, arrows, lanes, ports)
    return _drawn(plan, arrows, lanes, ports, gaps)


def _drawn(
    plan: _Plan,
    arrows: Sequence[tuple[int, int]],
    lanes: dict[int, Lane],
    ports: dict[int, float],
    gaps: Sequence[float],
) -> Drawing:
    bands, top = [], MARGIN
    for row, gap in zip(plan.rows, gaps, strict=True):
        height = max(plan.sizes[v][1] for v in row)
        bands.append((top, top + height))
        top += height + gap
    boxes = []
    for vertex, (width, height) in enumerate(plan.sizes):
        low, high = bands[plan.rank[vertex]]
        corner = plan.x[vertex] - width / 2, (low + high - height) / 2
        boxes.append(Box(plan.rank[vertex], *corner, width, height))
    routes = tuple(
        _route(boxes[tail], boxes[head], lanes.get(at), ports.get(at), bands)
        for at, (tail, head) in enumerate(arrows)
    )
    edges = [box.x + box.width for box in boxes]
    right = max([*edges, *(lane.x for lane in lanes.values())])
    return Drawing(tuple(boxes), routes, right + MARGIN, bands[-1][1] + MARGIN)
