"""What stands in the boxes of the wiring: names, shapes, stable ranks, ties.

Widths of texts are estimated, names being set in a monospaced face; each box clips its
own text.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import polars as pl

from spectrank.report._data import Row, finite_or_none, whole
from spectrank.report._graph import Graph, Node
from spectrank.report._names import labels, shorten
from spectrank.report._numbers import number_text

KINDS = ("input", "constant", "layer", "output", "unknown")
"""Kinds of nodes that have a look of their own."""

_TIMES = "\N{MULTIPLICATION SIGN}"
_NAME_CHARACTER, _TEXT_CHARACTER = 7.3, 6.3
_LEAST_WIDTH, _MOST_WIDTH, _MOST_NOTE = 150.0, 300.0, 240.0
_PADDING, _TIED_ROOM = 12.0, 52.0
_TWO_LINES, _THREE_LINES = 46.0, 63.0
_MOST_RANKS = 3


def columns(text: str) -> int:
    """Number of columns of a text in a monospaced face.

    Args:
        text: Any text.

    Returns:
        Its length, wide characters counted twice.
    """
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _fit(text: str, width: float, character: float) -> str:
    """Cuts the middle out of a text until it has room."""
    room = int(width / character)
    limit = max(3, room)
    while columns(text) > room and limit >= 3:
        text, limit = shorten(text, limit), limit - 1
    return text


def _begin(text: str, width: float) -> str:
    """A sentence up to where its room ends."""
    room = int(width / _TEXT_CHARACTER)
    return text if columns(text) <= room else f"{text[: room - 1].rstrip()}…"


class Ranks:
    """Measured matrices of a table: by weight its views and their stable ranks."""

    def __init__(self, frame: pl.DataFrame, rows: Sequence[Row]) -> None:
        self.views: dict[str, dict[Any, tuple[float, int | None] | None]] = {}
        for row in rows:
            views = self.views.setdefault(row["subject"], {})
            views.setdefault(row.get("view"), None)
            value = finite_or_none(row.get("value"))
            plain = row["metric"] == "stable_rank" and row.get("variant") is None
            if plain and value is not None and views[row.get("view")] is None:
                side = min(whole(row.get("m")) or 0, whole(row.get("n")) or 0)
                views[row.get("view")] = (value, side or None)
        self.tied: dict[str, str] = {}
        if "tied_to" in frame.columns:
            for row in frame.filter(pl.col("kind") == "skip").iter_rows(named=True):
                if isinstance(row["tied_to"], str):
                    self.tied[row["subject"]] = row["tied_to"]

    def owner(self, parameter: str) -> str:
        """The name under which a parameter is measured.

        Args:
            parameter: Name of a parameter.

        Returns:
            The name itself, or that of what it is tied to.
        """
        return self.tied.get(parameter, parameter)

    def of(self, node: Node) -> dict[str, Any]:
        """Address, stable ranks and, of a single matrix, their share of its size.

        Args:
            node: A node of the graph.

        Returns:
            ``href`` and ``share``, None where there is none, and ``rank`` as text.
        """
        names = [
            name for name in map(self.owner, node.parameters) if name in self.views
        ]
        if not names:
            return {"href": None, "rank": "", "share": None}
        known = [
            x for name in names for x in self.views[name].values() if x is not None
        ]
        texts = [number_text(value) for value, _ in known[:_MOST_RANKS]]
        more = ["…"] if len(known) > _MOST_RANKS else []
        share = known[0][0] / known[0][1] if len(known) == 1 and known[0][1] else None
        first = {"layer": names[0], "view": next(iter(self.views[names[0]])) or ""}
        return {
            "href": f"#{urlencode(first)}",
            "rank": " · ".join([*texts, *more]),
            "share": None if share is None else min(1.0, max(0.0, share)),
        }


def shared(
    nodes: Sequence[Node], measured: Ranks
) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """Finds the nodes that use one parameter.

    Args:
        nodes: Nodes of a graph.
        measured: Measured matrices, which tell tied parameters too.

    Returns:
        The number of its group for each node that has one, and the groups.
    """
    users: dict[str, list[Node]] = {}
    for node in nodes:
        for name in dict.fromkeys(map(measured.owner, node.parameters)):
            users.setdefault(name, []).append(node)
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, members in users.items():
        if len(members) > 1:
            groups.setdefault(tuple(node.id for node in members), []).append(name)
    names = {node.id: node.name for node in nodes}
    marks: dict[str, int] = {}
    for number, ids in enumerate(groups, start=1):
        for key in ids:
            marks.setdefault(key, number)
    return marks, [
        {"number": number, "names": [names[key] for key in ids], "parameters": found}
        for number, (ids, found) in enumerate(groups.items(), start=1)
    ]


def _detail(node: Node) -> str:
    kind = node.kind.replace("_", " ")
    parts = [node.op or kind] if node.kind == "layer" else [kind]
    if node.kind not in {"layer", node.op, "input", "output"} and node.op:
        parts.append(node.op)
    if node.shape:
        parts.append(f"{node.shape[0]} {_TIMES} {node.shape[1]}")
    return " · ".join(parts)


def _width(
    nodes: Sequence[Node], short: Sequence[str], marks: Mapping[str, int]
) -> float:
    """Width that all boxes have: that of the longest line, within limits."""
    needs = [_LEAST_WIDTH - 2 * _PADDING]
    for node, label in zip(nodes, short, strict=True):
        tied = _TIED_ROOM * (node.id in marks)
        needs += [
            _NAME_CHARACTER * columns(label) + tied,
            _TEXT_CHARACTER * columns(_detail(node)),
            min(_MOST_NOTE, _TEXT_CHARACTER * columns(_note(node))),
        ]
    return min(_MOST_WIDTH, max(needs) + 2 * _PADDING + 1)


def _note(node: Node) -> str:
    return (node.note or "no reason given") if node.kind == "unknown" else ""


def box_texts(graph: Graph, measured: Ranks) -> list[dict[str, Any]]:
    """Texts and sizes of the boxes; all have one width.

    Args:
        graph: A graph with nodes.
        measured: Measured matrices.

    Returns:
        One entry for each node, in their order.
    """
    short = labels([node.name for node in graph.nodes])[0]
    marks, _ = shared(graph.nodes, measured)
    width = _width(graph.nodes, short, marks)
    room = width - 2 * _PADDING
    boxes = []
    for node, label in zip(graph.nodes, short, strict=True):
        facts, mark, note = measured.of(node), marks.get(node.id), _note(node)
        detail = _detail(node)
        title = [node.name, detail, *node.parameters]
        title += [f"stable rank {facts['rank']}"] if facts["rank"] else []
        title += [text] if (text := note or node.note) else []
        boxes.append(
            facts
            | {
                "kind": node.kind if node.kind in KINDS else "other",
                "label": _fit(label, room - _TIED_ROOM * bool(mark), _NAME_CHARACTER),
                "detail": _fit(detail, room, _TEXT_CHARACTER),
                "note": _begin(note, room),
                "mark": mark,
                "title": "\n".join(title),
                "width": width,
                "height": _THREE_LINES if note or facts["rank"] else _TWO_LINES,
            }
        )
    return boxes
