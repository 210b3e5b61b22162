"""Whether a model is piecewise linear, read from its graph, and what its steps are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from torch import Tensor, nn

from spectrank.errors import DomainError
from spectrank.model.capture.undisturbed import undisturbed
from spectrank.model.graph import Graph, Node, graph
from spectrank.model.graph.catalogue import LINEAR_POOLS
from spectrank.propagation.pieces.steps import RUN_AS

_MOVES = frozenset(["input", "constant", "output", "scale", "shift", "reshape", "sum"])
_AFFINE = frozenset(["neg", "mul", "div", "add", "detach"])


@final
@dataclass(frozen=True)
class Step:
    """One bend of the network.

    Attributes:
        subject: Name of the weight whose outputs it reads, where that is one weight;
            else the step's own name or node id.
        ops: ATen operators that may run it.
    """

    subject: str
    ops: frozenset[str]


@final
@dataclass(frozen=True)
class Plan:
    """What happens to a point on its way through the network.

    Attributes:
        steps: The bends, in the order in which they run.
        output: Name of the weight that the output reads, or of the output.
    """

    steps: tuple[Step, ...]
    output: str


def make_plan(model: nn.Module, example: Tensor) -> Plan:
    """Read the bends of a network, and refuse what is not piecewise linear.

    Args:
        model: In any mode; it is read in evaluation mode and left as it was.
        example: At least two inputs.

    Returns:
        The plan.

    Raises:
        DomainError: A node is not piecewise linear, or the model gives no graph.
    """
    try:
        with undisturbed(model, "eval"):
            found = graph(model, (example,))
    except DomainError as error:
        if error.__cause__ is None:
            raise
        # Not its own way out: the links cannot be stated here.
        told = str(error.__cause__).strip().splitlines() or [""]
        raise DomainError(
            "pieces are counted along the graph of the model, which torch.export did "
            f"not trace for {type(model).__name__} at vertices of shape "
            f"{tuple(example.shape[1:])}: {told[0][:200]}; pass vertices of the shape "
            "of a sample, or a part of the model without data-dependent control flow"
        ) from error
    nodes = {node.id: node for node in found.nodes}
    moving = _depends_on_input(found)
    steps = []
    for node in found.nodes:
        if node.id not in moving:
            continue
        # A second input is a bound or slope that is a tensor of its own.
        bend = node.op in RUN_AS and node.kind in {"elementwise", "pool"}
        if bend and len(node.inputs) == 1:
            steps.append(Step(_subject(nodes, node), RUN_AS[node.op]))
        elif not _affine(node, moving):
            raise DomainError(_refusal(node))
    last = next(node for node in found.nodes if node.kind == "output")
    return Plan(tuple(steps), _subject(nodes, last))


def _depends_on_input(found: Graph) -> set[str]:
    moving: set[str] = set()
    for node in found.nodes:
        if node.kind == "input" or any(source in moving for source in node.inputs):
            moving.add(node.id)
    return moving


def _affine(node: Node, moving: set[str]) -> bool:
    """Whether the node is affine in what depends on the input."""
    num = sum(source in moving for source in node.inputs)
    if node.kind in _MOVES:
        return True
    if node.kind == "layer":
        return num == 1 and (node.op == "linear" or node.op.startswith("conv"))
    if node.kind == "pool":
        return node.op in LINEAR_POOLS
    if node.kind == "norm":
        return node.op == "batch_norm" and node.attributes.get("training") is False
    if node.kind == "elementwise":
        return node.op in _AFFINE
    if node.kind in {"product", "matmul"}:
        # A quotient is linear in what stands above the line only.
        above = node.op != "div" or node.inputs[0] in moving
        return num == 1 and node.op in {"product", "div", "matmul"} and above
    return False


def _subject(nodes: Mapping[str, Node], node: Node) -> str:
    """The weight whose outputs arrive, if one weight's do and nothing bends them."""
    weights, waiting, seen = set(), list(node.inputs), set()
    while waiting:
        source = nodes[waiting.pop()]
        if source.id in seen:
            continue
        seen.add(source.id)
        if source.kind == "layer":
            weights.add(source.parameters.get("weight", source.name or source.id))
        elif source.kind == "input" or source.op in RUN_AS:
            weights.add("")
        else:
            waiting.extend(source.inputs)
    own = weights.pop() if len(weights) == 1 else ""
    return own or node.name or node.id


def _refusal(node: Node) -> str:
    where = f"{node.name} ({node.id})" if node.name else node.id
    why = f", {node.note}" if node.note else ""
    known = ", ".join(sorted(RUN_AS))
    return (
        "pieces are counted in networks of linear layers, convolutions, BatchNorm in "
        f"evaluation mode, sums, reshapes and {known}; node {where} is {node.kind} "
        f"{node.op!r}{why}; count the pieces of the part of the model before it"
    )
