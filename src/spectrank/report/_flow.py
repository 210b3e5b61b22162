"""From links to what is drawn: boxes, joints where values meet, pills for the steps.

Links say of each source by which steps it reaches a target. In a residual net the
tenth layer is reached by all nine before it, each through its own chain of sums; drawn
link by link that is a thicket, and it hides that the sums are the same ones. Here every
step is one vertex, so a sum is one joint and a skip is one line.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from spectrank.report._graph import Graph, Link, without_cycles
from spectrank.report._steps import base, identify, role

MAX_STEPS = 600_000
"""Steps of all links together beyond which links are drawn without their steps."""

QUIET = frozenset(
    [
        *("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze"),
        *("permute", "transpose", "t", "contiguous", "clone", "expand", "expand_as"),
        *("select", "slice", "narrow", "chunk", "split", "split_with_sizes", "unbind"),
        *(
            "getitem",
            "swapaxes",
            "movedim",
            "alias",
            "to",
            "detach",
            "dropout",
            "identity",
        ),
    ]
)
"""Steps that move entries, not change them: listed with the links, not drawn."""

_TIMES = "\N{MULTIPLICATION SIGN}"
_SIGNS = {"sum": "+", "add": "+", "product": _TIMES, "mul": _TIMES}


@dataclass(frozen=True)
class Vertex:
    """Something that takes room in the drawing.

    Attributes:
        node: Position of a node of the graph, None for a joint or a pill.
        sign: Sign of a joint, such as ``+``; None for a box or a pill.
        steps: Names of the steps of a joint or pill.
    """

    node: int | None
    sign: str | None = None
    steps: tuple[str, ...] = ()


@dataclass(frozen=True)
class Notes:
    """What is known of a line besides its ends.

    Attributes:
        roles: How it enters its head: ``identity`` of a skip, ``query``, ...
        steps: Steps on the way that are not drawn.
        reasons: Why what it stands for is not fully known.
    """

    roles: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()

    def __or__(self, other: "Notes") -> "Notes":
        return Notes(
            roles=tuple(dict.fromkeys(self.roles + other.roles)),
            steps=tuple(dict.fromkeys(self.steps + other.steps)),
            reasons=tuple(dict.fromkeys(self.reasons + other.reasons)),
        )


_NONE = Notes()


@dataclass(frozen=True)
class Arrow:
    """A line of the drawing.

    Attributes:
        tail: Position of a vertex.
        head: Position of a vertex.
        notes: What else is known of it.
    """

    tail: int
    head: int
    notes: Notes


@dataclass(frozen=True)
class Flow:
    """Vertices and arrows without cycles.

    Attributes:
        vertices: One for each node of the graph, then the joints and pills.
        arrows: Lines between them, at most one for each pair.
        has_steps: False where there were too many steps to draw any.
    """

    vertices: tuple[Vertex, ...]
    arrows: tuple[Arrow, ...]
    has_steps: bool


class _Net:
    """Nodes and steps as vertices of one graph, while pills are being made of steps."""

    def __init__(self) -> None:
        self.steps: dict[Hashable, tuple[str, ...]] = {}
        self.out: dict[Hashable, dict[Hashable, Notes]] = {}
        self.into: dict[Hashable, set[Hashable]] = {}

    def add(self, key: Hashable, steps: tuple[str, ...] = ()) -> None:
        """A vertex; a node has no steps."""
        if key not in self.out:
            self.out[key], self.into[key], self.steps[key] = {}, set(), steps

    def join(self, tail: Hashable, head: Hashable, notes: Notes) -> None:
        """An arrow; of two between one pair the notes are joined."""
        old = self.out[tail].get(head)
        if old != notes:
            self.out[tail][head] = old | notes if old else notes
            self.into[head].add(tail)

    def follow(self, link: Link, ids: Sequence[Hashable]) -> None:
        """All vertices and arrows of one link."""
        tail: Hashable = ("node", link.source)
        for key, step in zip(ids, link.through, strict=True):
            head: Hashable = ("step", key)
            self.add(head, (base(step),))
            self.join(tail, head, Notes(roles=(role(step),)) if role(step) else _NONE)
            tail = head
        reasons = () if link.reason is None else (link.reason,)
        self.join(tail, ("node", link.target), Notes(reasons=reasons))

    def pass_by(self, key: Hashable, notes: Notes) -> None:
        """Takes out a vertex with one arrow into it; its tail takes over the others."""
        (tail,) = self.into.pop(key)
        del self.out[tail][key]
        for head, old in self.out.pop(key).items():
            self.into[head].discard(key)
            self.join(tail, head, notes | old)

    def merge_chains(self) -> None:
        """One pill for steps in a row; none for steps that only move entries."""
        # What has several arrows into it is a joint, also after some were merged.
        pills = {
            key: None
            for key, into in self.into.items()
            if self.steps[key] and len(into) == 1
        }
        for key in pills:
            (tail,) = self.into[key]
            notes = self.out[tail][key]
            if self.steps[key][0] in QUIET:
                hidden = Notes(steps=self.steps[key])
                self.pass_by(key, notes | hidden)
            elif tail in pills and len(self.out[tail]) == 1:
                self.steps[tail] += notes.steps + self.steps[key]
                self.pass_by(key, Notes(reasons=notes.reasons))

    def arrows(self) -> list[tuple[Hashable, Hashable]]:
        """All pairs that are joined."""
        return [(tail, head) for tail, heads in self.out.items() for head in heads]


def _build(graph: Graph, ids: Sequence[Sequence[Hashable]] | None) -> _Net:
    net = _Net()
    for node in graph.nodes:
        net.add(("node", node.id))
    for at, link in enumerate(graph.links):
        if ids is None:
            net.join(("node", link.source), ("node", link.target), Notes())
        else:
            net.follow(link, ids[at])
    return net


def flow(graph: Graph) -> Flow:
    """What of a graph is drawn.

    Args:
        graph: A graph without cycles.

    Returns:
        Vertices and arrows without cycles.
    """
    has_steps = sum(len(link.through) for link in graph.links) <= MAX_STEPS
    net = _build(graph, identify(graph.links) if has_steps else None)
    if without_cycles(list(net.out), net.arrows())[1]:
        # Ids of steps that contradict the links are worth nothing.
        net = _build(graph, identify(graph.links, use_paths=False))
    # Counted before the merging, which may leave one line of two into a sum.
    signs = {
        key: _SIGNS.get(net.steps[key][0])
        for key, into in net.into.items()
        if len(into) > 1 and net.steps[key]
    }
    net.merge_chains()
    keys = {key: at for at, key in enumerate(net.out)}
    vertices = [Vertex(at) for at in range(len(graph.nodes))] + [
        Vertex(None, signs.get(key), net.steps[key])
        for key in list(keys)[len(graph.nodes) :]
    ]
    arrows = [
        Arrow(keys[tail], keys[head], notes)
        for tail, heads in net.out.items()
        for head, notes in heads.items()
    ]
    return Flow(tuple(vertices), tuple(arrows), has_steps)
