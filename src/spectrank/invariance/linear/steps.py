"""What each step of a graph does to shifts: passes them, takes them away, sees them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from spectrank.invariance.linear.axes import averaged, pool_axes, split
from spectrank.invariance.linear.losses import class_axis
from spectrank.invariance.linear.shifts import (
    CONSTANT,
    Shift,
    Shifts,
    Sinks,
    as_potential,
    ranked,
    still,
)
from spectrank.invariance.linear.writes import Writes
from spectrank.invariance.potentials import Potentials
from spectrank.invariance.potentials.moves import move
from spectrank.invariance.potentials.potential import Potential
from spectrank.invariance.potentials.system import System
from spectrank.model.graph import Graph, Node
from spectrank.model.graph.roles import attention_roles

_REGULAR = frozenset(
    "reshape flatten permute slice select expand cat stack getitem".split()  # noqa: SIM905
)
_AVERAGES = frozenset(["mean", "adaptive_avg_pool1d", "adaptive_avg_pool2d"])
_POOLS = _AVERAGES | frozenset(
    """
    avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool3d max_pool1d max_pool2d
    max_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d amax amin
    upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d
    upsample_bilinear2d upsample_trilinear3d upsample_bicubic2d
    """.split()  # noqa: SIM905
)
# Between scores and softmax: what commutes with adding a number to all scores of a row.
_SCORES = frozenset(["mul", "div", "masked_fill", "where", "cast"])


class Reading:
    """Follows shifts through a graph.

    Attributes:
        system: The equations on the unknown shifts.
        sinks: Where they are taken away.
        writes: Where they start.
    """

    def __init__(self, potentials: Potentials, *, differences: bool) -> None:
        self.graph: Graph = potentials.graph
        self.system = System(self.graph.frozen, potentials.shapes, {}, {})
        self.sinks = Sinks(self.system)
        self.writes = Writes(potentials, self.system)
        self._differences = differences
        # Slots are moved like values; what that asks of them is asked of no one.
        self._scratch = System((), {}, {}, {})
        self._roles = attention_roles(self.graph.nodes)
        self._nodes: dict[str, Shifts] = {}

    def run(self) -> None:
        """Read every node."""
        for node in self.graph.nodes:
            inputs = [self._nodes[source] for source in node.inputs]
            shifts = self._step(node, inputs)
            self._nodes[node.id] = {
                source: shift
                for source, shift in shifts.items()
                if shift.value.classes.any()
            }

    def _step(self, node: Node, inputs: Sequence[Shifts]) -> Shifts:
        kind = node.kind
        if node.shape is None and inputs:
            return self._stopped(inputs)
        if kind in {"sum", "shift"}:
            return self._sum(node, inputs)
        if kind == "reshape" and inputs:
            return self._moved(node, inputs)
        if kind in {"scale", "product"}:
            return self._scaled(node, inputs)
        if kind == "norm":
            self._normalised(node, inputs[0])
            return self.writes.at(node)
        if kind in {"layer", "constant"}:
            self._stopped(inputs)
            return self.writes.at(node)
        if kind == "elementwise" and len(inputs) == 1:
            return self._elementwise(node, inputs[0])
        if kind == "pool" and len(inputs) == 1:
            return self._pooled(node, inputs[0])
        if kind == "softmax":
            self.sinks.take(inputs[0], [int(node.attributes["dim"])], "softmax")
            return {}
        if kind in {"attention", "matmul"}:
            return self._attended(node, inputs)
        if kind == "output" and self._differences:
            axis = class_axis(node.shape, inputs[0])
            if axis is not None:
                self.sinks.take(inputs[0], [axis], "softmax")
                return {}
        return self._stopped(inputs)

    def _stopped(self, inputs: Sequence[Shifts]) -> Shifts:
        for shifts in inputs:
            self.sinks.stop(shifts)
        return {}

    def _sum(self, node: Node, inputs: Sequence[Shifts]) -> Shifts:
        factors = node.attributes.get("coefficients", [1] * len(inputs))
        if not all(isinstance(item, int | float) for item in factors):
            return self._stopped(inputs)
        terms = [
            {source: shift.times(float(factor)) for source, shift in own.items()}
            for own, factor in zip(inputs, factors, strict=True)
        ]
        if node.kind == "shift":
            terms.append(self.writes.at(node))
        return self.sinks.added(terms, len(node.shape or ()))

    def _elementwise(self, node: Node, shifts: Shifts) -> Shifts:
        facts = node.attributes
        factor: object = None
        if node.op == "mul":
            factor = facts.get("factor")
        elif node.op == "div" and isinstance(facts.get("divisor"), int | float):
            factor = 1.0 / facts["divisor"]
        elif node.op == "neg":
            factor = -1.0
        elif node.op == "cast":
            factor = 1.0
        elif node.op == "add":
            factor = facts.get("factor", 1.0)
        if not isinstance(factor, int | float):
            return self._stopped([shifts])
        return {source: shift.times(float(factor)) for source, shift in shifts.items()}

    def _scaled(self, node: Node, inputs: Sequence[Shifts]) -> Shifts:
        """Times a factor that stays where it is: shifts in units of another source."""
        # One number for each place of the factor: what moves alike goes on doing so.
        name, shape = node.parameters.get("scale", ""), node.shape or ()
        factors = [tuple(self.graph[item].shape or ()) for item in node.inputs]
        if node.kind == "scale" and node.attributes.get("size") == 1:
            factors, inputs = [*factors, ()], [*inputs, {}]
        elif node.op != "product":
            return self._stopped(inputs)
        names = [*node.inputs, name]
        moving = [i for i, shifts in enumerate(inputs) if shifts]
        if len(inputs) != 2 or len(moving) != 1:
            return self._stopped(inputs)
        own = moving[0]
        sizes = (1,) * (len(shape) - len(factors[1 - own])) + factors[1 - own]
        places = np.arange(math.prod(sizes)).reshape(sizes)
        found: Shifts = {}
        for source, given in inputs[own].items():
            shift = ranked(given, len(shape))
            slots = places if shift.slots is None else _paired(shift.slots, places)
            found[f"{source} * {names[1 - own]}"] = Shift(shift.value, slots)
        return found

    def _moved(self, node: Node, inputs: Sequence[Shifts]) -> Shifts:
        if node.op not in _REGULAR or (
            node.op == "getitem" and self.graph[node.inputs[0]].kind == "layer"
        ):
            return self._stopped(inputs)
        shapes = [self.graph[source].shape for source in node.inputs]
        found: Shifts = {}
        for source in dict.fromkeys(key for own in inputs for key in own):
            own = [
                ranked(shifts.get(source, still(0)), len(shape or ()))
                for shifts, shape in zip(inputs, shapes, strict=True)
            ]
            value = move(self.system, node, [item.value for item in own], shapes)
            slots = None
            if source != CONSTANT:
                given = [
                    as_potential(
                        np.zeros((1,) * item.value.ndim, dtype=np.int64)
                        if item.slots is None
                        else item.slots
                    )
                    for item in own
                ]
                slots = move(self._scratch, node, given, shapes).classes
            found[source] = Shift(value, slots)
        return found

    def _pooled(self, node: Node, shifts: Shifts) -> Shifts:
        axes = pool_axes(node)
        if node.op not in _POOLS or not axes or node.attributes.get("padding"):
            return self._stopped([shifts])
        found: Shifts = {}
        before = self.graph[node.inputs[0]].shape or ()
        gone = len(before) - len(node.shape or ())
        for source, given in shifts.items():
            shift = ranked(given, len(before))
            # Axes are those of the input: they are no axes of an output without them.
            whole = gone or all(node.shape and node.shape[a] == 1 for a in axes)
            if shift.slots is not None and (node.op not in _AVERAGES or not whole):
                self.system.vanish(shift.value)
                continue
            value = self.system.merge(shift.value, axes)
            slots = None if shift.slots is None else averaged(shift.slots, axes)
            if gone:
                drop = tuple(axes)
                value = Potential(
                    np.squeeze(value.coefficients, axis=drop),
                    np.squeeze(value.classes, axis=drop),
                )
                slots = None if slots is None else np.squeeze(slots, axis=drop)
            found[source] = Shift(value, slots)
        return found

    def _normalised(self, node: Node, given: Shifts) -> None:
        rank = len(node.shape or ())
        shifts = {source: ranked(shift, rank) for source, shift in given.items()}
        training = bool(node.attributes.get("training"))
        constant = {k: v for k, v in shifts.items() if k == CONSTANT}
        others = {k: v for k, v in shifts.items() if k != CONSTANT}
        if node.op == "layer_norm":
            axes = range(-len(node.attributes["normalized_shape"]), 0)
            self.sinks.take(shifts, list(axes), "sum")
        elif node.op == "group_norm":
            self._grouped(node, shifts)
        elif node.op in {"batch_norm", "instance_norm"} and training:
            # Over a batch only what is one constant for all samples is subtracted.
            self.sinks.take(
                constant, [a for a in range(rank) if a != min(1, rank - 1)], "sum"
            )
            self.sinks.stop(others)
        else:
            self.sinks.stop(shifts)

    def _grouped(self, node: Node, shifts: Shifts) -> None:
        groups, shape = int(node.attributes["num_groups"]), node.shape or ()
        for source, shift in shifts.items():
            value = split(shift.value, shape, groups)
            slots = None
            if shift.slots is not None:
                slots = split(as_potential(shift.slots), shape, groups).classes
            axes = [axis for axis in range(value.ndim) if axis not in {0, 1}]
            self.sinks.take({source: Shift(value, slots)}, axes, "sum")

    def _attended(self, node: Node, inputs: Sequence[Shifts]) -> Shifts:
        roles = [self._roles.get((node.id, i)) for i in range(len(inputs))]
        found: Shifts = {}
        for role, given, source in zip(roles, inputs, node.inputs, strict=True):
            rank = len(self.graph[source].shape or ())
            shifts = {key: ranked(shift, rank) for key, shift in given.items()}
            if role == "value":
                found |= self._averages(node, shifts)
                continue
            if role == "key" and (node.kind == "attention" or self._plain(node)):
                axis = -2 if node.kind == "attention" else -1
                constant = {k: v for k, v in shifts.items() if k == CONSTANT}
                self.sinks.take(constant, [axis], "score")
                shifts.pop(CONSTANT, None)
            self.sinks.stop(shifts)
        return found

    def _averages(self, node: Node, shifts: Shifts) -> Shifts:
        """Weighted means over positions: of what moves alike, one number per query."""
        shape, convex = node.shape or (), self._convex(node)
        found: Shifts = {}
        for source, shift in shifts.items():
            value = self._heads(shape, self.system.merge(shift.value, [-2]))
            if source == CONSTANT and convex:
                found[source] = Shift(value)
                continue
            # Weights are those of this attention: a source of its own.
            slots = np.zeros((1,) * value.ndim, dtype=np.int64)
            if shift.slots is not None:
                slots = averaged(shift.slots, [-2])
                times = 1 if slots.ndim < 3 else shape[-3] // slots.shape[-3]
                if times > 1 and slots.shape[-3] > 1:
                    slots = np.repeat(slots, times, axis=-3)
            lead = np.arange(int(np.prod(shape[:-1]))).reshape(*shape[:-1], 1)
            slots = slots * (int(lead.max()) + 1) + lead
            found[f"{source} {node.id}"] = Shift(value, slots)
        return found

    def _heads(self, shape: tuple[int, ...], value: Potential) -> Potential:
        """Values of grouped heads, repeated for the queries that read them."""
        if value.ndim < 3 or value.shape[-3] in {1, shape[-3]}:
            return value
        times = shape[-3] // value.shape[-3]
        return value.map(lambda a: np.repeat(a, times, axis=-3))

    def _plain(self, node: Node) -> bool:
        """Whether scores reach their softmax through scales and masks alone."""
        readers = {s: n for n in self.graph.nodes for s in n.inputs}
        after = readers.get(node.id)
        while after is not None and after.kind != "softmax":
            masks = after.kind == "sum"
            if not masks and not (after.kind == "elementwise" and after.op in _SCORES):
                return False
            after = readers.get(after.id)
        return after is not None

    def _convex(self, node: Node) -> bool:
        """Whether every output is a mean of values: no dropout of the weights."""
        if node.kind == "attention":
            return not node.attributes.get("dropout_p")
        before = self.graph[node.inputs[0]]
        while before.kind == "reshape" or before.op == "cast":
            before = self.graph[before.inputs[0]]
        return before.kind == "softmax"


def _paired(slots: np.ndarray, places: np.ndarray) -> np.ndarray:
    """A number for each slot at each place of a factor."""
    paired: np.ndarray = slots * (int(places.max(initial=0)) + 1) + places
    return paired
