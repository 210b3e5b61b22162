"""Normalisations: one potential on all that is normalised together, zero after it."""

from __future__ import annotations

import math

import numpy as np

from spectrank.invariance.potentials.edges import Edge, part
from spectrank.invariance.potentials.maps import rank_of
from spectrank.invariance.potentials.potential import Potential, nothing
from spectrank.invariance.potentials.system import System
from spectrank.model.graph.nodes import Node

Shape = tuple[int, ...]


def norm(
    system: System, node: Node, given: Potential, before: Shape | None
) -> Potential:
    """Potential after a normalisation and its affine map.

    Args:
        system: The equations.
        node: Of kind ``norm``.
        given: Potential of what it reads.
        before: Its full shape.

    Returns:
        Unknowns of its own where a scale is learned, else zero.
    """
    x = given if before is None else given.ranked(len(before))
    if node.id in system.stored and before is not None:
        return _fixed(system, node, x)
    rank = rank_of(node, x)
    # Without traced sizes there is no axis of samples in front.
    channel = -max(x.ndim - 1, 1) if before is not None else -x.ndim
    if node.op in {"layer_norm", "rms_norm"}:
        axes = list(range(-len(node.attributes["normalized_shape"]), 0))
        if node.id in system.unseen and system.learned(node.parameters.get("weight")):
            system.eps[node.id] = float(node.attributes.get("eps", 0.0))
            return _undivided(system, node, x, axes)
        system.merge(x, axes)
    else:
        axes = [channel]
        _normalised(system, node, x, channel, before)
    if node.op != "batch_norm" or node.attributes.get("training"):
        system.eps[node.id] = float(node.attributes.get("eps", 0.0))
    return _affine(system, node, axes, rank)


def _normalised(
    system: System, node: Node, x: Potential, channel: int, before: Shape | None
) -> None:
    others = [axis for axis in range(-x.ndim, 0) if axis != channel]
    if node.op == "group_norm":
        samples = [-x.ndim] if before is not None else []
        groups = int(node.attributes["num_groups"])
        count = before[channel] if before is not None else x.shape[channel]
        sizes = list(x.shape)
        sizes[channel] = count
        split = list(x.shape)
        split[channel : channel + 1 or None] = [groups, count // groups]
        shaped = x.spread(sizes).map(lambda a: a.reshape(split))
        kept = [i for i in range(-len(split), 0) if i != channel - 1]
        free = [i for i in kept if i != -len(split) or not samples]
        system.merge(shaped, free)
        return
    if not node.attributes.get("training"):
        # Statistics that are stored are a fixed affine map, and its shift a constant.
        system.vanish(x)
        return
    alone = [-x.ndim] if node.op == "instance_norm" and before is not None else []
    system.merge(x, [axis for axis in others if axis not in alone])


def _undivided(
    system: System, node: Node, given: Potential, axes: list[int]
) -> Potential:
    """A norm whose division is not seen: its gain alone, from entry to entry."""
    sizes = _sizes(system, node, axes)
    others = [axis for axis in range(-given.ndim, 0) if axis not in axes]
    out = system.fresh((*given.shape[: given.ndim - len(axes)], *sizes))
    ends = out.first(others), given.first(others).times(-1)
    # The coefficient out - in is the same at all positions.
    system.vanish(out, given.times(-1), ends[0].times(-1), ends[1].times(-1))
    name, inner = node.parameters["weight"], len(sizes)
    parts = tuple(
        part(sizes, range(inner), end.map(lambda a: a.reshape(a.shape[-inner:])))
        for end in ends
    )
    system.edges.append(Edge(name, node.id, "weight", sizes, parts))
    return out


def _fixed(system: System, node: Node, given: Potential) -> Potential:
    """A linear map of x - m: gamma (x - m) / sigma + beta with fixed m and sigma."""
    channel = -max(given.ndim - 1, 1)
    others = [axis for axis in range(-given.ndim, 0) if axis != channel]
    gamma, beta = node.parameters.get("weight"), node.parameters.get("bias")
    x = system.merge(given, others).flat()
    sizes = _sizes(system, node, [channel])
    out = system.fresh(sizes) if system.learned(gamma) else x.spread(sizes)
    if system.learned(gamma):
        assert gamma is not None
        parts = (part(sizes, (0,), out), part(sizes, (0,), x.times(-1)))
        system.edges.append(Edge(gamma, node.id, "weight", sizes, parts))
    if system.learned(beta):
        assert beta is not None
        own = (part(sizes, (0,), out),)
        system.edges.append(Edge(beta, node.id, "bias", sizes, own))
    elif beta is not None:
        system.vanish(out)
    shape = [1] * given.ndim
    shape[channel] = sizes[0]
    return out.map(lambda a: a.reshape(shape))


def _affine(system: System, node: Node, axes: list[int], rank: int) -> Potential:
    gamma, beta = node.parameters.get("weight"), node.parameters.get("bias")
    sizes = _sizes(system, node, axes)
    free = system.learned(gamma) and beta not in system.frozen
    out = system.fresh(sizes) if free else nothing(len(sizes))
    for role, name in (("weight", gamma), ("bias", beta)):
        if system.learned(name):
            assert name is not None
            parts = (part(sizes, range(len(sizes)), out),)
            system.edges.append(Edge(name, node.id, role, sizes, parts))
    if not free:
        return nothing(rank)
    shape = np.ones(rank, dtype=int)
    for axis, size in zip(axes, sizes, strict=True):
        shape[axis] = size
    assert math.prod(shape.tolist()) == math.prod(sizes)
    return out.map(lambda a: a.reshape(tuple(shape.tolist())))


def _sizes(system: System, node: Node, axes: list[int]) -> Shape:
    if node.shape is not None:
        return tuple(node.shape[axis] for axis in axes)
    if "normalized_shape" in node.attributes:
        return tuple(node.attributes["normalized_shape"])
    name = next(iter(node.parameters.values()), None)
    return (1,) if name is None else system.shapes[name]
