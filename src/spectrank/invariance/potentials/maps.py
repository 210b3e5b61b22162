"""Steps without parameters on entries: elementwise maps, sums, pools."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from spectrank.invariance.potentials.potential import Potential, nothing
from spectrank.invariance.potentials.system import System
from spectrank.model.graph import Graph
from spectrank.model.graph.catalogue import POOLS
from spectrank.model.graph.nodes import Node

Shape = tuple[int, ...]
# sigma(a z) = a^k sigma(z) for a > 0; a factor per call, such as a mask, changes none.
_DEGREES = {
    "relu": 1.0,
    "leaky_relu": 1.0,
    "prelu": 1.0,
    "rrelu": 1.0,
    "abs": 1.0,
    "neg": 1.0,
    "mul": 1.0,
    "div": 1.0,
    "cast": 1.0,
    "tril": 1.0,
    "triu": 1.0,
    "dropout": 1.0,
    "feature_dropout": 1.0,
    "square": 2.0,
    "sqrt": 0.5,
    "rsqrt": -0.5,
    "reciprocal": -1.0,
}
# The derivative is zero wherever there is one, or is taken to be: nothing flows back.
_FLAT = frozenset(
    """
    detach sign sgn floor ceil round trunc ge gt le lt eq ne isnan isinf isfinite
    logical_not logical_and logical_or logical_xor bitwise_not bitwise_and bitwise_or
    bitwise_xor bernoulli heaviside div_rounded floor_divide
    """.split()  # noqa: SIM905
)
_FLAT_POOLS = frozenset(["any", "all", "argmax", "argmin", "count_nonzero"])
_POOL_DEGREES = {"var": 2.0, "std": 1.0, "linalg_vector_norm": 1.0, "norm": 1.0}
_STOPPED_POOLS = frozenset(["prod", "logsumexp"])


def rank_of(node: Node, potential: Potential) -> int:
    """Number of axes of a node's output.

    Args:
        node: The node.
        potential: Of its input, which stands in where nothing was traced.

    Returns:
        The number.
    """
    return potential.ndim if node.shape is None else len(node.shape)


def degree(node: Node) -> float | None:
    """Degree k of a map with sigma(a z) = a^k sigma(z) for all a > 0.

    Args:
        node: Of kind ``elementwise``, with one input.

    Returns:
        The degree; None where there is none.
    """
    facts = node.attributes
    if node.op == "pow":
        return float(facts["exponent"]) if "exponent" in facts else None
    if node.op in {"clamp", "clamp_min", "clamp_max"}:
        bounds = [
            facts.get(key) for key in ("min", "max") if facts.get(key) is not None
        ]
        return 1.0 if bounds and all(value == 0 for value in bounds) else None
    if node.op == "threshold":
        # Zero defaults are left out.
        edges = facts.get("threshold", 0), facts.get("value", 0)
        return 1.0 if edges == (0, 0) else None
    if node.op == "masked_fill":
        return 1.0 if facts.get("value", 0) in {0, "-inf"} else None
    return _DEGREES.get(node.op)


def floor_of_norm(graph: Graph, node: Node) -> bool:
    """Whether a map is max(norm, eps), as in a division by a norm.

    Above eps it changes nothing: a positive eps is that of a normalisation.

    Args:
        graph: Of a model.
        node: Of kind ``elementwise``.

    Returns:
        The answer.
    """
    least = node.attributes.get("min", 0)
    return (
        node.op in {"clamp_min", "clamp"}
        and isinstance(least, int | float)
        and least > 0
        and node.attributes.get("max") is None
        and graph[node.inputs[0]].op in {"linalg_vector_norm", "norm"}
    )


def elementwise(system: System, node: Node, inputs: Sequence[Potential]) -> Potential:
    """Potential after a map of entries.

    Args:
        system: The equations.
        node: Of kind ``elementwise``.
        inputs: Potentials of what it reads.

    Returns:
        Multiplied by the degree of homogeneity; zero on both sides without one.
    """
    rank = rank_of(node, inputs[0])
    if node.op in _FLAT:
        return nothing(rank)
    if node.op in {"maximum", "minimum", "fmax", "fmin", "max_other", "min_other"}:
        return together(system, inputs, rank)
    if node.op == "where" and len(inputs) > 1:
        return _where(system, node, inputs, rank)
    if node.op == "masked_fill" and len(inputs) == 2 and degree(node) is not None:
        return inputs[0].ranked(rank)
    k = degree(node) if len(inputs) == 1 else None
    if k is None:
        reason = f"{node.op} is not homogeneous"
        return system.stop(node.id, reason, *inputs, rank=rank)
    return inputs[0].times(k)


def _where(
    system: System, node: Node, inputs: Sequence[Potential], rank: int
) -> Potential:
    """where(mask, a, b): each entry is one of a or b; the mask passes no gradient."""
    numbers = [node.attributes.get(key) for key in ("first", "other")]
    if len(inputs) == 2 and not any(n in {0, "-inf"} for n in numbers if n is not None):
        return together(system, [*inputs[1:], nothing(rank)], rank)
    return together(system, inputs[1:], rank)


def together(system: System, inputs: Sequence[Potential], rank: int) -> Potential:
    """Require equal potentials entry by entry: of a sum, of a maximum.

    Args:
        system: The equations.
        inputs: Broadcastable to one another.
        rank: Number of axes of the result.

    Returns:
        The common potential.
    """
    ranked = [item.ranked(rank) for item in inputs]
    kept = ranked[0]
    for other in ranked[1:]:
        system.equal(kept, other)
        # Where one of two equal potentials does not change, neither does the other.
        axes = [axis for axis in range(rank) if other.shape[axis] == 1]
        kept = kept.first(axes)
    return kept


def pool(
    system: System, node: Node, first: Potential, before: Shape | None
) -> Potential:
    """Potential after a pooling: all that is pooled together is equal.

    Args:
        system: The equations.
        node: Of kind ``pool``.
        first: Potential of what it reads.
        before: Its full shape.

    Returns:
        The common potential.
    """
    assert node.op in POOLS or node.op.startswith("linalg")
    first = first if before is None else first.ranked(len(before))
    rank = rank_of(node, first)
    if node.op in _FLAT_POOLS:
        return nothing(rank)
    if node.op in _STOPPED_POOLS:
        reason = f"{node.op} is not homogeneous"
        return system.stop(node.id, reason, first, rank=rank)
    axes = _pooled_axes(node, first.ndim)
    merged = system.merge(first, axes)
    if first.ndim != rank:
        keep = tuple(axis for axis in axes if merged.shape[axis] == 1)
        merged = merged.map(lambda a: np.squeeze(a, axis=keep))
    return merged.times(_POOL_DEGREES.get(node.op, 1.0))


def _pooled_axes(node: Node, rank: int) -> list[int]:
    spatial = node.op.removeprefix("adaptive_")
    if spatial.startswith(("max_pool", "avg_pool", "upsample")):
        return list(range(-int(node.op[-2]), 0))
    given: Any = node.attributes.get("dim")
    dims = [given] if isinstance(given, int) else given
    return list(dims) if dims else list(range(-rank, 0))
