"""Steps that have no infinite-width limit here, named before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from spectrank.errors import DomainError
from spectrank.model.graph import Graph, Node
from spectrank.model.graph.catalogue import LINEAR_POOLS

_KINDS = frozenset(
    """
    input layer elementwise reshape pool norm sum output
    """.split()  # noqa: SIM905
)
_LAYERS = frozenset(["linear", "conv1d", "conv2d", "conv3d"])
# Kind to what to do instead.
_INSTEAD: Mapping[str, str] = {
    "constant": "leave it out",
    "scale": "leave learned scales out",
    "shift": "leave learned shifts out",
    "product": "leave gates out",
}
_GENERAL = "use spectrank.ntk.empirical, which takes any module"


def where(node: Node) -> str:
    """Where a step stands, for a message.

    Args:
        node: The step.

    Returns:
        Such as `` at layer1.0``.
    """
    return f" at {node.name}" if node.name else f" at {node.id}"


def refusal(node: Node, why: str, instead: str) -> str:
    """Message for a step without a limit.

    Args:
        node: The step.
        why: What is the matter.
        instead: The way out.

    Returns:
        The message.
    """
    return (
        "an infinite-width kernel is known for linear layers, convolutions, "
        "elementwise maps, sums, flattening, average pooling and layer norms, got "
        f"{node.op}{where(node)}: {why}; {instead}, or {_GENERAL}"
    )


def check_graph(found: Graph) -> None:
    """Refuse what has no limit, by name.

    Args:
        found: Graph of the model.

    Raises:
        DomainError: A step is not known here, a layer is used twice, or the model has
            several inputs or outputs.
    """
    for node in found.nodes:
        _check(node)
    for kind in ("input", "output"):
        num = sum(node.kind == kind for node in found.nodes)
        if num != 1:
            raise DomainError(
                f"an infinite-width kernel is of one input and one output, got {num} "
                f"{kind}s; wrap the model"
            )
    if found.reused:
        name, users = next(iter(found.reused.items()))
        raise DomainError(
            "layers of an infinite-width kernel are independent, got "
            f"{name} in {len(users)} steps; give each step its own, or {_GENERAL}"
        )


def _check(node: Node) -> None:
    if node.kind == "unknown":
        raise DomainError(refusal(node, node.note or "not understood", "leave it out"))
    if node.kind not in _KINDS:
        raise DomainError(
            refusal(node, f"a {node.kind}", _INSTEAD.get(node.kind, "leave it out"))
        )
    if node.kind == "layer" and node.op not in _LAYERS:
        raise DomainError(refusal(node, "another layer", "use Linear or Conv"))
    if node.kind == "layer" and node.note and "computed from" in node.note:
        raise DomainError(refusal(node, node.note, "remove the parametrization"))
    if node.kind == "layer" and not node.matrices:
        raise DomainError(
            refusal(node, node.note or "no whole matrix", "use Linear or Conv")
        )
    if node.kind == "pool" and node.op not in LINEAR_POOLS:
        raise DomainError(refusal(node, "it is not linear", "use average pooling"))
    if node.kind == "norm" and node.op != "layer_norm":
        raise DomainError(refusal(node, "no limit of its own", "use LayerNorm"))
    if node.kind == "elementwise" and "dropout" in node.op:
        raise DomainError(refusal(node, "it is random", "call model.eval()"))


def needs_pairs(nodes: Sequence[Node]) -> frozenset[str]:
    """Steps after which covariances of different positions are needed.

    Args:
        nodes: Of a graph, inputs first.

    Returns:
        Ids: the inputs of pools, and what leads to them.
    """
    found: set[str] = set()
    for node in reversed(nodes):
        if node.kind == "pool" or node.id in found:
            found.update(node.inputs)
    return frozenset(found)
