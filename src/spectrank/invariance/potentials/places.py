"""Places of free numbers: what kind of law each is, and where no law passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from spectrank.invariance.laws import NoLaw
from spectrank.invariance.potentials.solution import Potentials
from spectrank.model.graph import Node


def touched(potentials: Potentials) -> dict[str, np.ndarray]:
    """Where each free number stands.

    Args:
        potentials: Of a network.

    Returns:
        ``normalised``, ``rounded`` (normalised with eps > 0), ``added`` (in a sum of
        two values), ``scores`` (query or key of an attention), ``values``: each a mask
        over the solutions.
    """
    count = potentials.num_solutions
    names = ("normalised", "rounded", "added", "scores", "values")
    found = {name: np.zeros(count, dtype=bool) for name in names}
    for name, node, position in _marks(potentials):
        own = potentials.matrix(potentials.nodes[node.inputs[position]])
        found[name][np.unique(own.indices)] = True
    return found


def _marks(potentials: Potentials) -> Iterator[tuple[str, Node, int]]:
    for node in potentials.graph.nodes:
        if node.id in potentials.eps:
            yield "normalised", node, 0
            if potentials.eps[node.id] > 0:
                yield "rounded", node, 0
        if node.kind == "sum":
            yield from (("added", node, i) for i in range(len(node.inputs)))
        if node.kind == "attention":
            yield from (("scores", node, i) for i in (0, 1))
            yield "values", node, 2
        if node.kind == "matmul" and len(node.inputs) == 2:
            zero = _is_zero(potentials)
            left, right = [zero(source) for source in node.inputs]
            if zero(node.id) and not left and not right:
                yield from (("scores", node, i) for i in (0, 1))
            if left != right:
                yield "values", node, 1 if left else 0


def _is_zero(potentials: Potentials) -> Callable[[str], bool]:
    def check(id_: str) -> bool:
        return int(potentials.matrix(potentials.nodes[id_]).nnz) == 0

    return check


def places_without(potentials: Potentials) -> tuple[NoLaw, ...]:
    """Layers after which no diagonal law passes, with the reason.

    Args:
        potentials: Of a network.

    Returns:
        One per layer whose outputs all have potential zero and are no outputs of the
        network, and per step that is not understood.
    """
    graph = potentials.graph
    zero = _is_zero(potentials)
    readers: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for source in dict.fromkeys(node.inputs):
            readers.setdefault(source, []).append(node)
    found = {}
    for node in graph.nodes:
        learned = any(name not in graph.frozen for name in node.parameters.values())
        if node.kind in {"layer", "unknown"} and node.id in potentials.reasons:
            name = node.name or node.id
            found[name] = NoLaw(name, potentials.reasons[node.id])
        elif node.kind in {"layer", "scale", "norm"} and learned and zero(node.id):
            reason = _reason(potentials, readers, node)
            if reason is not None:
                found.setdefault(node.name, NoLaw(node.name, reason, "vertex"))
    return tuple(found.values())


def _reason(
    potentials: Potentials, readers: dict[str, list[Node]], node: Node
) -> str | None:
    """What comes after a layer first that stops laws; None where it ends the net."""
    graph, zero = potentials.graph, _is_zero(potentials)
    if node.parameters.get("bias") in graph.frozen:
        return "its bias is not learned"
    reached, seen = [node], {node.id}
    for current in reached:
        for after in readers.get(current.id, []):
            if after.id in potentials.reasons:
                return potentials.reasons[after.id]
            found = _stopped(after, current, node, zero)
            if found is not None:
                return found
            if after.id not in seen and after.kind not in {"layer", "output"}:
                seen.add(after.id)
                reached.append(after)
    ends = [n for item in reached for n in readers.get(item.id, [])]
    if all(item.kind == "output" or item.id in seen for item in ends):
        return None
    if set(node.parameters.values()) & set(potentials.blocked):
        return "its parameter is used where no law is known"
    return "what is fixed or used twice leaves no freedom here"


def _stopped(
    after: Node, current: Node, layer: Node, zero: Callable[[str], bool]
) -> str | None:
    """Why a step that is linear leaves no law to what it reads."""
    if after.op in {"batch_norm", "instance_norm"} and not after.attributes.get(
        "training"
    ):
        return "stored statistics of a normalisation shift its outputs"
    if after.kind == "attention" and current.id in after.inputs[3:]:
        return "added to scores before a softmax"
    others = [source for source in after.inputs if source != current.id]
    if after.kind == "sum" and any(zero(source) for source in others):
        if current is layer and list(layer.inputs) == others:
            return (
                "added to its own input, a fixed map in parallel: what is balanced, "
                "where nothing but linear maps follows, is I + W"
            )
        return "added to a value without a law, such as an input"
    return None
