"""The wiring section: the model graph as boxes and lines, and the same as a list.

Everything here is text and numbers for the template, which escapes them.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from spectrank.report._boxes import KINDS, Ranks, box_texts, columns, shared
from spectrank.report._data import Row
from spectrank.report._flow import QUIET, Arrow, Vertex, flow
from spectrank.report._graph import Graph, Link, find_graph, read_graph
from spectrank.report._layout import Route, ranks
from spectrank.report._names import MAX_LABEL, shorten
from spectrank.report._routes import draw

MAX_BOXES = 500
"""Nodes drawn; what is left out is said, and stands in the list of links."""

MAX_LINES = 3000
"""Lines drawn, the shortest first."""

MAX_LISTED = 1000
"""Links listed as text."""

_MOST_STEPS = 10
_SKIPS = frozenset(
    ["identity", "scaled", "diagonal", "reshaped", "elementwise", "learned"]
)


def _steps_text(steps: Sequence[str]) -> str:
    """As many steps as a pill has room for, and how many more there are."""
    shown = [step for step in steps if step not in QUIET] or list(steps)
    names = [shorten(step.replace("_", " ")) for step in shown]
    num = len(names)
    while num > 1 and len(" · ".join(names[:num])) > MAX_LABEL:
        num -= 1
    more = [f"{len(names) - num} more"] if num < len(names) else []
    return " · ".join([*names[:num], *more])


def _pill(vertex: Vertex) -> dict[str, Any]:
    title = " · ".join(vertex.steps)
    if vertex.sign:
        return {"sign": vertex.sign, "width": 20.0, "height": 20.0, "title": title}
    text = _steps_text(vertex.steps)
    width = 6.6 * columns(text) + 20
    return {"sign": None, "text": text, "width": width, "height": 20.0, "title": title}


def _line(
    arrow: Arrow, route: Route, *, into_sum: bool, into_pill: bool
) -> dict[str, Any]:
    notes = arrow.notes
    skip = bool(_SKIPS & set(notes.roles)) or (route.lane is not None and into_sum)
    roles = [f"{role} skip" if role in _SKIPS else role for role in notes.roles]
    title = [", ".join(roles), f"through {', '.join(notes.steps)}" * bool(notes.steps)]
    return {
        "path": route.path,
        "headless": into_pill,
        "tone": "odd" if notes.reasons else "skip" if skip else "plain",
        "title": "\n".join(filter(None, [*title, *notes.reasons])),
    }


def _drawing(graph: Graph, measured: Ranks) -> dict[str, Any]:
    """Boxes, joints, pills and lines with their places."""
    kept = {node.id for node in graph.nodes[:MAX_BOXES]}
    part = Graph(
        graph.nodes[:MAX_BOXES],
        tuple(x for x in graph.links if x.source in kept and x.target in kept),
        (),
    )
    net = flow(part)
    boxes = box_texts(part, measured)
    shown = [*boxes, *map(_pill, net.vertices[len(boxes) :])]
    pairs = [(arrow.tail, arrow.head) for arrow in net.arrows]
    rank = ranks(len(shown), pairs)
    order = sorted(
        range(len(pairs)), key=lambda k: rank[pairs[k][1]] - rank[pairs[k][0]]
    )
    arrows = [net.arrows[k] for k in sorted(order[:MAX_LINES])]
    joints = frozenset(at for at, v in enumerate(net.vertices) if v.sign)
    places = draw(
        [(entry["width"], entry["height"]) for entry in shown],
        [(arrow.tail, arrow.head) for arrow in arrows],
        joints,
    )
    for entry, place in zip(shown, places.boxes, strict=True):
        entry |= {"x": place.x, "y": place.y, "at": (place.rank, place.x)}
    lines = [
        _line(
            arrow,
            route,
            into_sum=arrow.head in joints,
            into_pill=arrow.head >= len(boxes) and arrow.head not in joints,
        )
        for arrow, route in zip(arrows, places.routes, strict=True)
    ]
    return {
        # In reading order, which is the order of the tabulator too.
        "boxes": sorted(boxes, key=lambda box: box["at"]),
        "pills": [entry for entry in shown[len(boxes) :] if not entry["sign"]],
        "joints": [entry for entry in shown[len(boxes) :] if entry["sign"]],
        "lines": lines,
        "width": places.width,
        "height": places.height,
        "has_steps": net.has_steps,
        "has_skips": any(line["tone"] == "skip" for line in lines),
        "num_lines_left_out": len(net.arrows) - len(arrows),
    }


def _listed(link: Link, names: Mapping[str, str]) -> dict[str, str]:
    steps = list(link.through)
    if len(steps) > _MOST_STEPS:
        half = _MOST_STEPS // 2
        left_out = len(steps) - 2 * half
        steps[half:-half] = [f"… {left_out} more …"]
    return {
        "source": names[link.source],
        "target": names[link.target],
        "through": ", ".join(steps),
        "reason": link.reason or "",
    }


def _counts(graph: Graph) -> str:
    tally = Counter(node.kind for node in graph.nodes)
    parts = []
    for kind in [*KINDS, *sorted(tally.keys() - set(KINDS))]:
        if count := tally[kind]:
            plural = "s" if count > 1 and kind != "unknown" else ""
            parts.append(f"{count} {kind}{plural}")
    links = len(graph.links)
    return ", ".join([*parts, f"{links} link{'s' if links != 1 else ''}"])


def without_unknowns(frame: pl.DataFrame) -> pl.DataFrame:
    """Rows of a table but those of unknown nodes, which the wiring shows.

    Args:
        frame: The frame of a table whose graph is drawn.

    Returns:
        The frame without rows of kind ``skip`` and metric ``graph``.
    """
    return frame.filter(~((pl.col("kind") == "skip") & (pl.col("metric") == "graph")))


def wiring(
    frame: pl.DataFrame, rows: Sequence[Row], provenance: Mapping[str, Any]
) -> dict[str, Any] | None:
    """What the template needs to draw the model graph.

    Args:
        frame: The frame of the table.
        rows: Its measurement and spectrum rows.
        provenance: Its provenance.

    Returns:
        Places and texts; None where the provenance holds no graph.
    """
    value, num_graphs = find_graph(provenance)
    if not num_graphs:
        return None
    graph, measured = read_graph(value), Ranks(frame, rows)
    names = {node.id: node.name for node in graph.nodes}
    return {
        "faults": graph.faults,
        "num_graphs": num_graphs,
        "counts": _counts(graph),
        "num_nodes": len(graph.nodes),
        "num_drawn": min(len(graph.nodes), MAX_BOXES),
        "drawing": _drawing(graph, measured) if graph.nodes else None,
        "unknowns": [
            {"name": node.name, "op": node.op, "note": node.note or "no reason given"}
            for node in graph.nodes
            if node.kind == "unknown"
        ],
        "shared": shared(graph.nodes, measured)[1],
        "links": [_listed(link, names) for link in graph.links[:MAX_LISTED]],
        "num_links": len(graph.links),
    }
