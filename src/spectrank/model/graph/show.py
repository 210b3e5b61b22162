"""The layers of a graph as text, one after the other, with what feeds each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text

from spectrank.model.graph.nodes import Link, Node

# Sources that a layer is shown with; a late layer of a residual net has hundreds.
_SHOWN = 6


def layer_list(
    label: str, nodes: Sequence[Node], links: Sequence[Link], unused: Sequence[str]
) -> Iterator[RenderableType]:
    """One block per layer, output and unknown.

    Args:
        label: Of the model.
        nodes: Every node.
        links: Every link.
        unused: Names of parameters without a part in the outputs.

    Yields:
        Renderables, for wide and narrow consoles.
    """
    by_id = {node.id: node for node in nodes}
    arriving: dict[str, list[Link]] = {}
    for link in links:
        arriving.setdefault(link.target, []).append(link)
    ends = [node for node in nodes if node.kind in {"layer", "output", "unknown"}]
    count = sum(node.kind == "layer" for node in ends)
    # Two names of one module are one layer: its parameters tell.
    uses = Counter(_weights(node) for node in ends)
    seen: Counter[tuple[str, ...]] = Counter()
    yield Text(f"{label}: {count} layers, {len(links)} links", style="bold")
    for node in ends:
        weights = _weights(node)
        seen[weights] += 1
        yield _headline(node, seen[weights], uses[weights])
        given = arriving.get(node.id, [])
        # The nearest sources are the ones a reader looks for.
        for link in given[::-1][:_SHOWN]:
            yield Padding(_source(by_id[link.source], link), (0, 0, 0, 2), expand=False)
        if len(given) > _SHOWN:
            rest = Text(f"and {len(given) - _SHOWN} more", style="dim")
            yield Padding(rest, (0, 0, 0, 5), expand=False)
        if node.note:
            yield Padding(Text(node.note, style="yellow"), (0, 0, 0, 2), expand=False)
    if unused:
        yield Text(f"no output depends on: {', '.join(unused)}", style="yellow")


def _weights(node: Node) -> tuple[str, ...]:
    return tuple(sorted(node.parameters.values())) if node.kind == "layer" else ()


def _headline(node: Node, use: int, uses: int) -> Text:
    style = {"unknown": "bold red", "output": "bold green"}.get(node.kind, "bold cyan")
    line = Text(_title(node), style=style)
    if node.kind != "output":
        line.append(f"  {node.op}", style="none")
    if node.matrix_shape is not None:
        m, n = node.matrix_shape
        line.append(f"  {m} x {n}", style="none")
    if uses > 1 and node.kind == "layer":
        line.append(f"  use {use} of {uses}", style="dim")
    if node.kind == "unknown":
        line.append("  unknown", style="red")
    return line


def _source(node: Node, link: Link) -> Text:
    line = Text("<- ", style="dim").append(_title(node), style="none")
    if link.through:
        line.append(f" via {', '.join(_counted(link.through))}", style="dim")
    return line


def _counted(steps: Sequence[str]) -> list[str]:
    """Steps with runs of the same step written once, with their number."""
    found: list[tuple[str, int]] = []
    for step in steps:
        if found and found[-1][0] == step:
            found[-1] = (step, found[-1][1] + 1)
        else:
            found.append((step, 1))
    return [step if times == 1 else f"{step} x{times}" for step, times in found]


def _title(node: Node) -> str:
    return node.name or node.id
