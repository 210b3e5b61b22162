"""Which steps of different links are the same step.

A link names its steps, and often nothing more. Two of them are one and the same when
they do the same to the same values, so a step is known by what flows into it: a chain
by its source and the steps so far, a meeting (a sum, a product, an attention) by the
set of such chains among all links of one target. The sums of a residual net are
recovered so: the one before layer k holds all that flows into the one before it.
"""

from collections.abc import Hashable, Sequence

from spectrank.report._graph import Link

MEETINGS = frozenset(
    [
        *("sum", "add", "product", "mul", "cat", "concat", "stack"),
        *("matmul", "attention", "where", "maximum", "minimum"),
    ]
)


def base(step: str) -> str:
    """Name of a step without the role in which the link enters it.

    Args:
        step: Such as ``sum:identity``.

    Returns:
        What stands before the colon.
    """
    return step.partition(":")[0]


def role(step: str) -> str:
    """Role in which a link enters a step.

    Args:
        step: Such as ``sum:identity``.

    Returns:
        What stands behind the colon, or an empty text.
    """
    return step.partition(":")[2]


def _meets(step: str) -> bool:
    return ":" in step or step in MEETINGS


class _Identities:
    """Numbers for contents: equal contents, equal numbers."""

    def __init__(self) -> None:
        self._known: dict[Hashable, int] = {}

    def __call__(self, content: Hashable) -> int:
        return self._known.setdefault(content, len(self._known))

    def of_target(self, links: Sequence[Link]) -> list[list[Hashable]]:
        """Identity of every step of the links into one target."""
        ids: list[list[Hashable]] = [[None] * len(link.through) for link in links]
        chains: list[list[int]] = []
        for link in links:
            chain = [self(("from", link.source))]
            for step in link.through:
                chain.append(self((chain[-1], step)))
            chains.append(chain)
        # Steps up to a length, of links that flow into one value.
        groups = [{at: len(link.through) for at, link in enumerate(links)}]
        while groups:
            groups += self._last_meetings(groups.pop(), links, chains, ids)
        return ids

    def _last_meetings(
        self,
        sizes: dict[int, int],
        links: Sequence[Link],
        chains: Sequence[Sequence[int]],
        ids: Sequence[list[Hashable]],
    ) -> list[dict[int, int]]:
        """Names each link's steps from its last meeting on; returns what is before."""
        meetings: dict[tuple[str, tuple[str, ...]], dict[int, int]] = {}
        for at, size in sizes.items():
            through = links[at].through
            last = next((k for k in reversed(range(size)) if _meets(through[k])), None)
            if last is None:
                ids[at][:size] = chains[at][1 : size + 1]
            else:
                key = (base(through[last]), through[last + 1 : size])
                meetings.setdefault(key, {})[at] = last
        for (name, after), members in meetings.items():
            content = frozenset(chains[at][last + 1] for at, last in members.items())
            flow = [self((name, content))]
            for step in after:
                flow.append(self((flow[-1], step)))
            for at, last in members.items():
                ids[at][last : last + len(flow)] = flow
        return list(meetings.values())


def identify(links: Sequence[Link], *, use_paths: bool = True) -> list[list[Hashable]]:
    """Identity of every step of every link.

    Args:
        links: Links of a graph without cycles.
        use_paths: Take the ids that links give to their own steps, where they do.

    Returns:
        For each link one value per step; equal values mean one step. Links that join
        the identities so made have no cycle, unless given ids close one.
    """
    ids: list[list[Hashable]] = [[] for _ in links]
    targets: dict[str, list[int]] = {}
    for at, link in enumerate(links):
        if use_paths and link.path:
            ids[at] = [("path", key) for key in link.path]
        else:
            targets.setdefault(link.target, []).append(at)
    identities = _Identities()
    for members in targets.values():
        found = identities.of_target([links[at] for at in members])
        for at, steps in zip(members, found, strict=True):
            ids[at] = steps
    return ids
