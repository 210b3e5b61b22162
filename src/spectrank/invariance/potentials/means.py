r"""Laws of the mean over features of a stream that is read through mean subtraction.

A LayerNorm does not see x -> (1 + t 11^T) x, which moves the mean over the features
only. Where all other steps from the writes W of a stream x to its reads H are linear
and act alike on all features, W -> (1 + t 11^T) W and H -> H (1 - t 11^T) change
nothing, and the squared feature sums ||1^T W||^2 - ||H 1||^2 of all of them are
conserved. Without a read that sees the mean, each 1^T W is a linear law by itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from spectrank.invariance.laws import GramTerm, Law
from spectrank.invariance.potentials.edges import Edge
from spectrank.invariance.potentials.potential import Potential, nothing
from spectrank.invariance.potentials.reduction import reduce
from spectrank.invariance.potentials.solution import Potentials
from spectrank.invariance.potentials.system import System
from spectrank.model.graph import Node

# Steps by one number.
_ALIKE = frozenset(["mul", "div", "neg", "cast"])
# What tells a view of a parameter from the whole.
_PARTS = frozenset(["rows", "strides", "offset"])
_Values = Mapping[str, Potential]


def mean_laws(potentials: Potentials) -> tuple[Law, ...]:
    r"""Find the conserved sums of squared feature sums, :math:`\sum c \|1^T W\|^2`.

    Exact for any eps of the normalisations; in the squared unit of the parameters, of
    any sign. One number per value is solved for: by how much its mean is moved.
    Source (derived): tests/invariance/potentials/test_means.py, brute force.

    Args:
        potentials: Of the graph, as ``solve`` finds them.

    Returns:
        Laws of kind ``scale`` and shape (1, 1), in the order of the dataflow; those
        that follow from matrix laws or from linear laws are left out.
    """
    system = System(potentials.graph.frozen, potentials.shapes, {}, {})
    written = _written(potentials)
    values: dict[str, Potential] = {}
    for node in potentials.graph.nodes:
        values[node.id] = _step(system, potentials, node, values, written)
    uses = [
        (edge, _ends(system, potentials, edge, values, written))
        for edge in potentials.edges
    ]
    _tie(system, uses)
    basis = reduce(system.num_classes, system.pairs, system.rows).toarray()
    found = []
    for column in basis.T:
        law = _law(potentials, values, uses, column)
        found += [] if law is None else [law]
    return tuple(found)


def _step(
    system: System,
    potentials: Potentials,
    node: Node,
    values: _Values,
    written: frozenset[str],
) -> Potential:
    """By how much the mean of a value is moved; zero on both sides of other steps."""
    given = [values[source] for source in node.inputs]
    if _passes(potentials, node):
        for other in given[1:]:
            system.equal(given[0], other)
        return given[0]
    if _subtracts(potentials, node):
        return nothing(0)
    if node.id in written:
        return system.fresh(())
    for potential in given:
        system.vanish(potential)
    return nothing(0)


def _size(potentials: Potentials, node: str) -> int:
    shape = potentials.graph[node].shape
    return shape[-1] if shape else 0


def _subtracts(potentials: Potentials, node: Node) -> bool:
    size = [_size(potentials, node.id)]
    return node.op == "layer_norm" and node.attributes["normalized_shape"] == size


def _written(potentials: Potentials) -> frozenset[str]:
    """Values whose features a whole learned matrix, table or parameter makes."""
    used: dict[str, list[Edge]] = {}
    for edge in potentials.edges:
        used.setdefault(edge.node, []).append(edge)
    return frozenset(
        node.id
        for node in potentials.graph.nodes
        if node.id in used and _makes(potentials, node, used[node.id])
    )


def _makes(potentials: Potentials, node: Node, own: Sequence[Edge]) -> bool:
    names = set(node.parameters.values())
    fixed = names & ({*potentials.graph.frozen} | potentials.blocked.keys())
    parts = any(e.entries is not None or e.size != _total(potentials, e) for e in own)
    if node.shape is None or fixed or parts:
        return False
    if node.kind == "constant":
        full = potentials.shapes.get(node.parameters.get("value", ""))
        return bool(node.shape) and full == tuple(node.shape)
    axis = int(node.attributes.get("axis", -1))
    return node.op == "embedding" or (node.op == "linear" and axis == -1)


def _total(potentials: Potentials, edge: Edge) -> int:
    return math.prod(potentials.shapes.get(edge.parameter, edge.view))


def _passes(potentials: Potentials, node: Node) -> bool:
    """Whether a step is linear and treats all features alike, which stay in place."""
    size = _size(potentials, node.id)
    same = size > 0 and all(_size(potentials, source) == size for source in node.inputs)
    if not same or not node.inputs:
        return False
    facts, rank = node.attributes, len(node.shape or ())
    before = len(potentials.graph[node.inputs[0]].shape or ())
    if node.kind == "elementwise":
        return node.op in _ALIKE and len(node.inputs) == 1
    if node.kind == "pool":
        given = facts.get("dim")
        dims = [given] if isinstance(given, int) else list(given or ())
        last = any(axis % before == before - 1 for axis in dims)
        return node.op in {"mean", "sum"} and bool(dims) and not last
    if node.kind == "shift":
        fixed = {*potentials.graph.frozen} | potentials.blocked.keys()
        plain = not fixed & set(node.parameters.values())
        return plain and list(facts["axes"])[-1:] == [-1] and not _PARTS & facts.keys()
    if node.kind != "reshape":
        return node.kind == "sum"
    if node.op == "permute":
        return bool(facts["dims"][-1] % rank == rank - 1)
    if node.op in {"slice", "select", "cat", "stack"}:
        axes = before + (node.op == "stack")
        return bool(int(facts.get("dim", 0)) % axes != axes - 1)
    return node.op in {"reshape", "flatten", "expand"}


_Ends = dict[int, Potential]


def _ends(
    system: System,
    potentials: Potentials,
    edge: Edge,
    values: _Values,
    written: frozenset[str],
) -> _Ends:
    """Axis of the features to the coefficient of the squared sums along it."""
    node = potentials.graph[edge.node]
    made = values[node.id]
    if edge.role in {"bias", "shift", "value"}:
        return {len(edge.view) - 1: made}
    if edge.role != "weight" or node.op not in {"linear", "embedding"}:
        return {}
    out = {edge.parts[0].axes[0]: made}
    if node.op == "embedding" or node.id not in written:
        # Through a matrix of which a part is read, no mean is moved.
        for source in node.inputs:
            system.vanish(values[source])
        return out
    return {**out, edge.parts[1].axes[0]: values[node.inputs[0]].times(-1)}


def _tie(system: System, uses: list[tuple[Edge, _Ends]]) -> None:
    """All uses of a parameter move it alike."""
    first: dict[str, tuple[Edge, _Ends]] = {}
    for edge, ends in uses:
        before, other = first.setdefault(edge.parameter, (edge, ends))
        alike = (before.view, before.start) == (edge.view, edge.start)
        for axis in {*ends, *other} if before is not edge else ():
            one, two = (e.get(axis, nothing(0)) for e in (ends, other))
            if alike:
                system.equal(one, two)
            else:
                system.vanish(one)
                system.vanish(two)


def _law(
    potentials: Potentials,
    values: _Values,
    uses: list[tuple[Edge, _Ends]],
    column: np.ndarray,
) -> Law | None:
    def of(potential: Potential) -> float:
        return float((potential.coefficients * column[potential.classes]).sum())

    normed = any(
        of(values[node.inputs[0]])
        for node in potentials.graph.nodes
        if _subtracts(potentials, node)
    )
    terms: dict[tuple[str, int], GramTerm] = {}
    names = []
    for edge, ends in uses:
        for axis, potential in ends.items():
            key, coefficient = (edge.parameter, axis), of(potential)
            if coefficient and key not in terms:
                terms[key] = GramTerm(
                    edge.parameter, edge.view, (axis,), None, coefficient, summed=True
                )
                names.append(potentials.graph[edge.node].name or edge.parameter)
    signs = {term.coefficient > 0 for term in terms.values()}
    if not normed or len(signs) < 2:
        return None
    return Law(
        name=f"scale of the mean {names[0]}",
        kind="scale",
        form="gram",
        terms=tuple(terms.values()),
        shape=(1, 1),
        count=1,
        condition="what does not read it by a linear map subtracts the mean over "
        "features",
        source="derived: a mean that is subtracted may be scaled by itself",
    )
