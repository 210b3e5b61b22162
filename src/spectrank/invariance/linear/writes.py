"""Where shifts start: the families of entries of each parameter that is used."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

import numpy as np

from spectrank.invariance.linear.entries import Entries
from spectrank.invariance.linear.shifts import CONSTANT, Family, Shift, Shifts
from spectrank.invariance.potentials import Edge, Potentials
from spectrank.invariance.potentials.potential import Potential
from spectrank.invariance.potentials.system import System
from spectrank.model.graph import Node


class Writes:
    """Makes the families of the parameters of a graph, each once.

    Attributes:
        families: All families so far.
        reread: Of a table that is also a linear map, how far all outputs of the map
            move together when the columns of the table move; its unknowns.
    """

    def __init__(self, potentials: Potentials, system: System) -> None:
        self.families: dict[tuple[object, ...], Family] = {}
        self.reread: dict[str, list[int]] = {}
        self._potentials, self._system = potentials, system
        self._edges: dict[str, dict[str, Edge]] = {}
        uses: dict[str, list[Edge]] = {}
        for edge in potentials.edges:
            self._edges.setdefault(edge.node, {})[edge.role] = edge
            uses.setdefault(edge.parameter, []).append(edge)
        self._tables = {
            name
            for name, own in uses.items()
            if any(potentials.graph[edge.node].op == "embedding" for edge in own)
        }
        self._mixed = {name for name, own in uses.items() if _mixed(own)}

    def at(self, node: Node) -> Shifts:
        """Shifts of a node's output by the parameters that it holds.

        Args:
            node: A layer, a normalisation, a learned shift or a learned constant.

        Returns:
            By source.
        """
        found: Shifts = {}
        for role, edge in self._edges.get(node.id, {}).items():
            if edge.parameter in self._potentials.blocked:
                continue
            if edge.parameter in self._mixed and edge.parameter not in self._tables:
                continue
            if role == "weight" and node.kind == "layer":
                if edge.parameter != node.parameters["weight"]:
                    # A factor of a weight that is computed: not linear in it.
                    continue
                found |= self._weight(node, edge)
            elif role in {"bias", "shift", "value"} and len(edge.parts) == 1:
                shift = self._constant(node, edge)
                if shift is not None:
                    found[CONSTANT] = shift
        return found

    def _family(self, edge: Edge, form: str, rows: Entries, together: bool) -> Family:
        key = (edge.parameter, edge.start, edge.size, form)
        if key not in self.families:
            unknowns = self._system.fresh((rows.num_features,)).classes
            known = self._potentials.shapes.get(edge.parameter, edge.view)
            self.families[key] = Family(
                edge.parameter, math.prod(known), unknowns, rows, together
            )
        return self.families[key]

    def _weight(self, node: Node, edge: Edge) -> Shifts:
        if node.op == "embedding":
            return self._table(node, edge)
        if node.shape is None or not (
            node.op == "linear" or node.op.startswith("conv")
        ):
            return {}
        kernel = node.attributes.get("kernel_size", ())
        axis = -1 - len(kernel) if kernel else int(node.attributes.get("axis", -1))
        source = f"{node.inputs[0]} {node.op} {_facts(node.attributes)}"
        if edge.parameter in self._tables:
            # The columns of a table move: all outputs move by the same number.
            own = self._system.fresh((1,) * len(node.shape))
            self.reread.setdefault(edge.parameter, []).append(int(own.classes.flat[0]))
            return {source: Shift(own, _slots(node.shape, axis, 1))}
        out = edge.parts[1 if "transpose" in node.op and kernel else 0].axes
        rows = Entries(edge, out)
        if rows.num_features != node.shape[axis]:
            return {}
        family = self._family(edge, "rows", rows, together=False)
        groups = int(node.attributes.get("groups", 1))
        value = _placed(family.unknowns, len(node.shape), [axis])
        return {source: Shift(value, _slots(node.shape, axis, groups))}

    def _table(self, node: Node, edge: Edge) -> Shifts:
        if node.shape is None or len(edge.view) != 2:
            return {}
        rows, rank = Entries(edge, (1,)), len(node.shape)
        found: Shifts = {}
        if "padding_idx" not in node.attributes:
            # The row of a padding stays where it is.
            family = self._family(edge, "columns together", rows, together=True)
            found[CONSTANT] = Shift(_placed(family.unknowns, rank, [-1]))
        if edge.parameter not in self._mixed:
            family = self._family(edge, "columns", rows, together=False)
            slots = _slots(node.shape, -1, 1)
            found[f"{node.inputs[-1]} table"] = Shift(
                _placed(family.unknowns, rank, [-1]), slots
            )
        return found

    def _constant(self, node: Node, edge: Edge) -> Shift | None:
        rank = len(node.shape or ())
        rows = Entries(edge, tuple(range(len(edge.view))))
        family = self._family(edge, "entries", rows, together=True)
        if node.kind == "constant":
            # Where an entry of the parameter stands in the value, its unknown tells.
            shown = self._potentials.nodes[node.id].ranked(rank).classes
            own = edge.parts[0].potential.classes.reshape(-1)
            order = np.argsort(own)
            place = order[np.searchsorted(own, shown, sorter=order)]
            classes = family.unknowns[place]
            return Shift(Potential(np.ones(classes.shape), classes))
        if node.kind == "layer":
            kernel = node.attributes.get("kernel_size", ())
            axes = [
                -1 - len(kernel) if kernel else int(node.attributes.get("axis", -1))
            ]
        elif node.kind == "norm":
            axes = _norm_axes(node)
        else:
            axes = list(node.attributes["axes"])
        if node.shape is None:
            return None
        sizes = [node.shape[axis] for axis in axes]
        if math.prod(sizes) != len(family.unknowns):
            return None
        factor = float(node.attributes.get("coefficient", 1.0))
        value = _placed(family.unknowns.reshape(sizes), rank, axes)
        return Shift(value.times(factor))


def _norm_axes(node: Node) -> list[int]:
    if "normalized_shape" in node.attributes:
        return list(range(-len(node.attributes["normalized_shape"]), 0))
    return [1 - len(node.shape or (0, 0))]


def _placed(unknowns: np.ndarray, rank: int, axes: list[int]) -> Potential:
    """Unknowns along some axes, counted from the end; the others of length one."""
    shape = [1] * rank
    for axis, size in zip(axes, unknowns.shape, strict=True):
        shape[axis] = size
    classes = unknowns.reshape(shape)
    return Potential(np.ones(classes.shape), classes)


def _slots(shape: tuple[int, ...], axis: int, groups: int) -> np.ndarray:
    """A number for every position, and for every group of features."""
    sizes = list(shape)
    sizes[axis] = groups
    slots = np.arange(math.prod(sizes)).reshape(sizes)
    return np.repeat(slots, shape[axis] // groups, axis=axis) if groups > 1 else slots


def _mixed(uses: list[Edge]) -> bool:
    """Whether two uses of the same entries are of different form."""
    for i, first in enumerate(uses):
        for second in uses[:i]:
            same = first.view == second.view and _same_entries(first, second)
            if same and [p.axes for p in first.parts] == [p.axes for p in second.parts]:
                continue
            if first.overlaps(second):
                return True
    return False


def _same_entries(first: Edge, second: Edge) -> bool:
    if first.entries is None and second.entries is None:
        return first.start == second.start
    return np.array_equal(first.numbers(), second.numbers())


def _facts(attributes: Mapping[str, object]) -> str:
    kept = {k: v for k, v in attributes.items() if k not in {"parts", "part"}}
    return json.dumps(kept, sort_keys=True, default=str)
