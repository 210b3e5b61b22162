"""The model graph of a provenance, read with suspicion.

A table may come from a file that anybody wrote, so nothing is taken on trust: what does
not fit is left out and said in ``faults``, and what is left is a graph without cycles.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MAX_FAULTS = 12


@dataclass(frozen=True)
class Node:
    """A layer, an input, an output, a constant or what was not understood.

    Attributes:
        id: Its id in the graph.
        kind: One of the five; any other word of the graph stands for itself.
        name: Where it stands in the model.
        op: Name of the operation.
        parameters: Names of its parameters, the weight first.
        shape: (m, n) of its matrix, None where it has none.
        note: What else there is to know; of an unknown the reason.
    """

    id: str
    kind: str
    name: str
    op: str
    parameters: tuple[str, ...]
    shape: tuple[int, int] | None
    note: str | None


@dataclass(frozen=True)
class Link:
    """What one node gives to another, and through which steps.

    Attributes:
        source: Id of a node.
        target: Id of a node.
        through: Names of the steps on the way, first to last.
        path: Identities of these steps, one for each; empty where they are not known.
        reason: Why the link is not fully known; None where it is.
    """

    source: str
    target: str
    through: tuple[str, ...]
    path: tuple[str, ...]
    reason: str | None


@dataclass(frozen=True)
class Graph:
    """Nodes and links that fit together, and what did not.

    Attributes:
        nodes: In the order given.
        links: Links between them, without cycles.
        faults: One sentence for each thing left out.
    """

    nodes: tuple[Node, ...]
    links: tuple[Link, ...]
    faults: tuple[str, ...]


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _size(value: object) -> tuple[int, int] | None:
    whole = isinstance(value, list | tuple) and len(value) == 2
    if whole and all(type(x) is int and x > 0 for x in value):  # type: ignore[attr-defined]
        return value[0], value[1]  # type: ignore[index]
    return None


def _shape(entry: Mapping[str, Any]) -> tuple[int, int] | None:
    """(m, n) of the node's matrix: of its first whole matrix where these are listed."""
    matrices = entry.get("matrices")
    if not isinstance(matrices, list):
        return _size(entry.get("shape"))
    found = [item for item in matrices if isinstance(item, Mapping)]
    found.sort(key=lambda item: item.get("part") is not None)
    return _size(found[0].get("shape")) if found else None


def _parameters(value: object) -> tuple[str, ...]:
    if not isinstance(value, Mapping):
        return ()
    # Stable: the weight first, then in the order given.
    roles = sorted(value, key=lambda role: "weight" not in str(role))
    return tuple(dict.fromkeys(_text(value[role]) for role in roles))


def _nodes(entries: Sequence[object], faults: list[str]) -> dict[str, Node]:
    nodes: dict[str, Node] = {}
    for at, entry in enumerate(entries):
        if not isinstance(entry, Mapping) or entry.get("id") is None:
            faults.append(f"node {at} is left out: it has no id")
            continue
        key = _text(entry["id"])
        if key in nodes:
            faults.append(f"node {at} is left out: the id {key!r} is taken")
            continue
        kind = _text(entry.get("kind")) or "unknown"
        note = entry.get("note")
        if "kind" not in entry:
            faults.append(f"node {key!r} names no kind and is drawn as unknown")
            note = note or "its kind is not stated"
        nodes[key] = Node(
            id=key,
            kind=kind,
            # Several unknowns of one operation are told apart by their ids.
            name=_text(entry.get("name")) or f"{_text(entry.get('op'))} {key}".strip(),
            op=_text(entry.get("op")),
            parameters=_parameters(entry.get("parameters")),
            shape=_shape(entry) if kind not in {"input", "output"} else None,
            note=None if note is None else _text(note),
        )
    return nodes


def _texts(value: object) -> tuple[str, ...]:
    return tuple(map(_text, value)) if isinstance(value, list | tuple) else ()


def _links(
    entries: Sequence[object], nodes: Mapping[str, Node], faults: list[str]
) -> list[Link]:
    links = []
    for at, entry in enumerate(entries):
        if not isinstance(entry, Mapping):
            faults.append(f"link {at} is left out: it is no mapping")
            continue
        source, target = _text(entry.get("source")), _text(entry.get("target"))
        missing = [end for end in (source, target) if end not in nodes]
        if missing:
            what = ", ".join(map(repr, dict.fromkeys(missing)))
            faults.append(f"link {at} is left out: there is no node {what}")
            continue
        through, path = _texts(entry.get("through")), _texts(entry.get("path"))
        reason = entry.get("reason")
        links.append(
            Link(
                source=source,
                target=target,
                through=through,
                path=path if len(path) == len(through) else (),
                reason=None if reason is None else _text(reason),
            )
        )
    return links


def without_cycles(
    keys: Sequence[Hashable], arrows: Sequence[tuple[Hashable, Hashable]]
) -> tuple[list[int], list[int]]:
    """Parts the arrows of a graph into those without cycles and those that close one.

    Args:
        keys: Vertices, each once.
        arrows: Pairs (tail, head) of vertices.

    Returns:
        Positions of the arrows kept and of those that run back against a depth-first
        search in the order of ``keys``; the kept ones have no cycle.
    """
    out: dict[Hashable, list[int]] = {key: [] for key in keys}
    for at, (tail, _) in enumerate(arrows):
        out[tail].append(at)
    state: dict[Hashable, int] = dict.fromkeys(keys, 0)
    back = set()
    for root in keys:
        stack = [(root, iter(out[root]))] if not state[root] else []
        state[root] = state[root] or 1
        while stack:
            key, rest = stack[-1]
            at = next(rest, -1)
            if at < 0:
                state[key] = 2
                stack.pop()
                continue
            head = arrows[at][1]
            if state[head] == 1:
                back.add(at)
            elif not state[head]:
                state[head] = 1
                stack.append((head, iter(out[head])))
    return [at for at in range(len(arrows)) if at not in back], sorted(back)


def read_graph(value: object) -> Graph:
    """The graph of a provenance, whatever stands there.

    Args:
        value: ``provenance["graph"]``.

    Returns:
        A graph without cycles; empty, with a fault, where nothing can be read.
    """
    if not isinstance(value, Mapping):
        return Graph((), (), (f"the graph is no mapping but {type(value).__name__}",))
    faults: list[str] = []
    if (version := value.get("version")) != 1:
        faults.append(f"the graph has version {version!r}, this page reads version 1")
    lists: dict[str, Sequence[object]] = {}
    for name in ("nodes", "links"):
        found = value.get(name)
        if not isinstance(found, list | tuple):
            faults.append(f"the graph has no list of {name}")
        lists[name] = found if isinstance(found, list | tuple) else []
    nodes = _nodes(lists["nodes"], faults)
    links = _links(lists["links"], nodes, faults)
    kept, back = without_cycles(
        list(nodes), [(link.source, link.target) for link in links]
    )
    faults += [
        f"the link from {nodes[links[at].source].name} back to "
        f"{nodes[links[at].target].name} closes a cycle and is not drawn"
        for at in back
    ]
    if len(faults) > MAX_FAULTS:
        faults[MAX_FAULTS:] = [f"and {len(faults) - MAX_FAULTS} faults more"]
    return Graph(tuple(nodes.values()), tuple(links[at] for at in kept), tuple(faults))


def find_graph(provenance: Mapping[str, Any]) -> tuple[object, int]:
    """The graph that a page draws.

    Args:
        provenance: Provenance of a table; of a concatenated one, ``sources`` may hold
            several graphs.

    Returns:
        The first graph, None if there is none, and how many there are.
    """
    if "graph" in provenance:
        return provenance["graph"], 1
    sources = provenance.get("sources")
    found = [
        source["graph"]
        for source in (sources if isinstance(sources, list) else ())
        if isinstance(source, Mapping) and "graph" in source
    ]
    return (found[0], len(found)) if found else (None, 0)
