"""From what was traced to what was meant: biases, norms, activations by hand.

Each rewrite holds for certain: it checks sizes, axes and that no other node reads the
values that it takes away.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from spectrank.model.graph.activations import name_activations
from spectrank.model.graph.edits import Nodes, collapsed, pruned, readers, redirect
from spectrank.model.graph.nodes import Node


def rewritten(nodes: Mapping[str, Node]) -> Nodes:
    """Apply every rewrite and drop what no output depends on.

    Args:
        nodes: Id to node, inputs first.

    Returns:
        The same graph with fewer nodes.
    """
    found = pruned(collapsed(dict(nodes)))
    for rewrite in (name_rms_norms, name_activations, fold_batches, add_biases):
        found = pruned(rewrite(found))
    return found


# ---- RMS normalisation written by hand: x * rsqrt(mean(x^2) + eps) ----------------


def name_rms_norms(nodes: Nodes) -> Nodes:
    """Replace x / sqrt(mean(x^2) + eps) and its variants by a norm.

    Args:
        nodes: Id to node, inputs first.

    Returns:
        The nodes, with ``rms_norm`` where that was computed by hand.
    """
    found = dict(nodes)
    uses = readers(found)
    for id_, node in nodes.items():
        if node.kind != "product" or len(node.inputs) != 2:
            continue
        orders = [node.inputs]
        if node.op == "product":
            orders.append((node.inputs[1], node.inputs[0]))
        for source, factor in orders:
            norm = _rms(found, uses, node, source, factor)
            if norm is not None:
                found[id_] = norm
                _absorb_scale(found, uses, norm)
                break
    return found


def _rms(
    nodes: Nodes, uses: Mapping[str, list[str]], end: Node, source: str, factor: str
) -> Node | None:
    root = nodes[factor]
    exponent = root.attributes.get("exponent") if root.op == "pow" else None
    inverse = root.op == "rsqrt" or exponent == -0.5
    plain = root.op == "sqrt" or exponent == 0.5
    if not (inverse if end.op == "product" else plain):
        return None
    chain = [root]
    total = nodes[root.inputs[0]]
    eps = 0.0
    if total.op == "add" and set(total.attributes) == {"amount"}:
        eps = total.attributes["amount"]
        chain.append(total)
        total = nodes[total.inputs[0]]
    shape = nodes[source].shape
    if total.op != "mean" or not total.attributes.get("keepdim") or shape is None:
        return None
    axes = total.attributes.get("dim", [])
    square = nodes[total.inputs[0]]
    chain += [total, square]
    alone = all(len(set(uses[item.id])) == 1 for item in chain)
    if axes != list(range(-len(axes), 0)) or not axes or not alone:
        return None
    if not _is_square(square, source):
        return None
    attributes = {"normalized_shape": list(shape[-len(axes) :]), "eps": eps}
    return replace(
        end, kind="norm", op="rms_norm", inputs=(source,), attributes=attributes
    )


def _is_square(node: Node, source: str) -> bool:
    if node.op == "product":
        return node.inputs == (source, source)
    power = node.op == "square" or (
        node.op == "pow" and node.attributes.get("exponent") == 2
    )
    return power and node.inputs == (source,)


def _absorb_scale(nodes: Nodes, uses: Mapping[str, list[str]], norm: Node) -> None:
    """Take the learned scale that follows a norm into it; in place."""
    after = uses[norm.id]
    scale = nodes[after[0]] if len(after) == 1 else None
    if scale is None or scale.kind != "scale":
        return
    axes = list(range(-len(norm.attributes["normalized_shape"]), 0))
    if scale.attributes["axes"] != axes:
        return
    name = scale.parameters["scale"]
    nodes[scale.id] = replace(
        norm,
        id=scale.id,
        name=name.rpartition(".")[0] or scale.name,
        parameters={"weight": name},
        shape=scale.shape,
    )


# ---- a bias added after the product -----------------------------------------------


def add_biases(nodes: Nodes) -> Nodes:
    """Make a learned shift right after a layer without a bias its bias.

    Args:
        nodes: Id to node, inputs first.

    Returns:
        The nodes, with fewer shifts.
    """
    found = dict(nodes)
    uses = readers(found)
    for id_, node in nodes.items():
        if node.kind != "shift" or "coefficient" in node.attributes:
            continue
        layer = found[node.inputs[0]]
        axis = _output_axis(layer)
        if axis is None or "bias" in layer.parameters or uses[layer.id] != [id_]:
            continue
        m = (layer.shape or (0,))[axis]
        fits = node.attributes["axes"] == [axis] or (
            m == node.attributes["size"] == 1 and node.attributes["axes"] == []
        )
        if fits and node.attributes["size"] == m:
            parameters = {**layer.parameters, "bias": node.parameters["shift"]}
            rows = {k: v for k, v in node.attributes.items() if k in _PARTS}
            attributes = dict(layer.attributes)
            if rows:
                attributes["parts"] = {"bias": rows}
            found[id_] = replace(
                layer, id=id_, parameters=parameters, attributes=attributes
            )
    return found


_PARTS = frozenset(["rows", "strides", "offset"])


def _output_axis(layer: Node) -> int | None:
    """Axis of the outputs of a layer, from the end; None where it has no such axis."""
    if layer.kind != "layer":
        return None
    if layer.op == "linear" and layer.matrices:
        return int(layer.attributes.get("axis", -1))
    if layer.op.startswith("conv"):
        return -1 - len(layer.attributes["kernel_size"])
    return None


# ---- a linear layer between two changes of the leading axes -----------------------


def fold_batches(nodes: Nodes) -> Nodes:
    """Drop ``view(-1, n)`` before a linear layer that ``view(..., m)`` undoes after it.

    Args:
        nodes: Id to node, inputs first.

    Returns:
        The nodes; a linear layer acts on the last axis, whatever the others are.
    """
    found = dict(nodes)
    uses = readers(found)
    for id_, node in nodes.items():
        if node.kind != "layer" or node.op != "linear" or "axis" in node.attributes:
            continue
        before = found[found[id_].inputs[0]]
        if before.kind != "reshape" or before.op not in {"reshape", "flatten"}:
            continue
        source = found[before.inputs[0]]
        if source.shape is None or before.shape is None or node.shape is None:
            continue
        chain = _chain(found, uses, id_)
        undone = (*source.shape[:-1], node.shape[-1])
        ends = [found[item] for item in uses[chain[-1]]]
        if source.shape[-1:] != before.shape[-1:] or not ends:
            continue
        if all(end.op == "reshape" and end.shape == undone for end in ends):
            found[id_] = replace(found[id_], inputs=(source.id,))
            for item in chain:
                found[item] = replace(found[item], shape=undone)
            for end in ends:
                redirect(found, end.id, chain[-1])
            uses = readers(found)
    return found


def _chain(nodes: Nodes, uses: Mapping[str, list[str]], start: str) -> list[str]:
    """A layer and the shift that follows it, if one does."""
    after = uses[start]
    follower = nodes[after[0]] if len(after) == 1 else None
    if follower is None or follower.kind != "shift":
        return [start]
    return [start, follower.id] if follower.attributes["axes"] == [-1] else [start]


def renumbered(nodes: Iterable[Node]) -> tuple[Node, ...]:
    """Give the nodes the ids n0, n1, ... in order.

    Args:
        nodes: Inputs first.

    Returns:
        The same nodes under new ids.
    """
    kept = list(nodes)
    ids = {node.id: f"n{i}" for i, node in enumerate(kept)}
    return tuple(
        replace(node, id=ids[node.id], inputs=tuple(ids[i] for i in node.inputs))
        for node in kept
    )
