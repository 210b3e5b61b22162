"""Known activations that a model writes out, recognised by their values.

``0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3)))`` is seven steps and three
ways from x to the result; as a map it is gelu. A region of elementwise steps between
one value and another is compared on a grid with the functions below.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from spectrank.model.graph.nodes import Node

# Largest difference on the grid. Models round their constants to 8 digits or more;
# the two nearest functions here, gelu by erf and by tanh, differ by 5e-4.
_TOLERANCE = 1e-7
_LONGEST = 12
_KNOWN: tuple[tuple[str, dict[str, Any], Callable[[Tensor], Tensor]], ...] = (
    ("gelu", {}, functional.gelu),
    (
        "gelu",
        {"approximate": "tanh"},
        lambda x: functional.gelu(x, approximate="tanh"),
    ),
    ("silu", {}, functional.silu),
    ("quick_gelu", {}, lambda x: x * torch.sigmoid(1.702 * x)),
    ("mish", {}, functional.mish),
    ("hardswish", {}, functional.hardswish),
    ("softsign", {}, functional.softsign),
    ("tanhshrink", {}, functional.tanhshrink),
)
_UNARY: Mapping[str, Callable[[Tensor], Tensor]] = {
    name: getattr(torch, name)
    for name in (
        "tanh",
        "sigmoid",
        "erf",
        "exp",
        "neg",
        "relu",
        "square",
        "abs",
        "sqrt",
        "log",
        "log1p",
        "expm1",
        "reciprocal",
    )
} | {"softplus": functional.softplus, "relu6": functional.relu6}


def name_activations(nodes: dict[str, Node]) -> dict[str, Node]:
    """Replace regions that compute a known activation by one elementwise node.

    Args:
        nodes: Id to node, inputs first.

    Returns:
        The nodes; the inside of a region is left without readers.
    """
    found = dict(nodes)
    order = {id_: i for i, id_ in enumerate(nodes)}
    uses: dict[str, set[str]] = {id_: set() for id_ in nodes}
    for id_, node in nodes.items():
        for source in node.inputs:
            uses[source].add(id_)
    for id_, node in nodes.items():
        if node.kind in {"product", "sum"}:
            named = _named(found, order, uses, node)
            if named is not None:
                found[id_] = named
    return found


def _named(
    nodes: Mapping[str, Node],
    order: Mapping[str, int],
    uses: Mapping[str, set[str]],
    end: Node,
) -> Node | None:
    region, frontier = {end.id}, set(end.inputs)
    while len(region) <= _LONGEST and frontier:
        if len(frontier) == 1 and len(region) > 1:
            root = next(iter(frontier))
            inside = sorted(region, key=order.__getitem__)
            match = _match([nodes[item] for item in inside], root)
            if match is not None:
                op, attributes = match
                return replace(
                    end,
                    kind="elementwise",
                    op=op,
                    inputs=(root,),
                    attributes=attributes,
                )
        last = max(frontier, key=order.__getitem__)
        node = nodes[last]
        # All of the value must end in the region, and the region be computable.
        if not uses[last] <= region or not _computable(node):
            return None
        frontier.remove(last)
        region.add(last)
        frontier.update(node.inputs)
    return None


def _computable(node: Node) -> bool:
    if node.parameters or not node.inputs:
        return False
    if node.kind in {"product", "sum"}:
        return node.op in {"product", "div", "sum"}
    plain = node.op in _UNARY and not node.attributes
    return node.kind == "elementwise" and (
        plain or node.op in {"mul", "div", "add", "pow"}
    )


def _match(region: list[Node], root: str) -> tuple[str, dict[str, Any]] | None:
    grid = torch.linspace(-8.0, 8.0, 801, dtype=torch.float64)
    values = {root: grid}
    for node in region:
        if not _computable(node):
            return None
        values[node.id] = _compute(node, [values[item] for item in node.inputs])
    result = values[region[-1].id]
    for op, attributes, function in _KNOWN:
        difference = float((result - function(grid)).abs().max())
        if math.isfinite(difference) and difference < _TOLERANCE:
            return op, dict(attributes)
    return None


def _compute(node: Node, inputs: list[Tensor]) -> Any:
    facts: dict[str, Any] = dict(node.attributes)
    x = inputs[0]
    if node.kind == "sum":
        first, second = facts.get("coefficients", (1, 1))
        return first * x + second * inputs[1]
    if node.kind == "product":
        return x / inputs[1] if node.op == "div" else x * inputs[1]
    if node.op == "mul":
        return x * facts["factor"]
    if node.op == "div":
        return x / facts["divisor"]
    if node.op == "add":
        return facts.get("factor", 1) * x + facts["amount"]
    if node.op == "pow":
        if "first" in facts:
            return torch.pow(facts["first"], x)
        return torch.pow(x, facts["exponent"])
    return _UNARY[node.op](x)
