"""Products of values: gates, matrix products, einsum, attention, softmax."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from spectrank.invariance.potentials.potential import Potential, nothing
from spectrank.invariance.potentials.system import System
from spectrank.model.graph.nodes import Node

Shape = tuple[int, ...]


def product(
    system: System,
    node: Node,
    inputs: Sequence[Potential],
    shapes: Sequence[Shape | None],
) -> Potential:
    """Potential after a product, quotient or gate: the sum or difference.

    Args:
        system: The equations.
        node: Of kind ``product``.
        inputs: Potentials of what it reads.
        shapes: Full shapes of what it reads.

    Returns:
        The potential of the output.
    """
    if node.op == "glu":
        return _glu(system, node, inputs[0], shapes[0])
    rank = max(item.ndim for item in inputs)
    first, second = [item.ranked(rank) for item in inputs]
    return added(system, first, second, -1.0 if node.op == "div" else 1.0)


def _glu(
    system: System, node: Node, first: Potential, before: Shape | None
) -> Potential:
    axis = int(node.attributes.get("dim", -1))
    length = first.shape[axis] if before is None else before[axis]
    if first.shape[axis] == 1:
        system.vanish(first)
        return nothing(first.ndim)
    half = length // 2
    value = first.map(lambda a: np.take(a, np.arange(half), axis=axis))
    gate = first.map(lambda a: np.take(a, np.arange(half, length), axis=axis))
    # The gate passes a sigmoid.
    system.vanish(gate)
    return value


def added(
    system: System, first: Potential, second: Potential, sign: float = 1.0
) -> Potential:
    """Potential s = first + sign * second, a new unknown where both may be nonzero.

    Args:
        system: The equations.
        first: One.
        second: The other, of as many axes.
        sign: 1 or -1.

    Returns:
        The sum.
    """
    if second.zero:
        return first
    if first.zero:
        return second.times(sign)
    made = system.fresh(np.broadcast_shapes(first.shape, second.shape))
    system.vanish(made, first.times(-1), second.times(-sign))
    return made


def matmul(
    system: System,
    node: Node,
    inputs: Sequence[Potential],
    shapes: Sequence[Shape | None],
) -> Potential:
    """Potential after a product of two values with a sum over a shared index.

    The sum needs s_a + s_b constant along the shared index.

    Args:
        system: The equations.
        node: Of kind ``matmul``.
        inputs: Potentials of what it reads.
        shapes: Full shapes of what it reads.

    Returns:
        The potential of the output.
    """
    rank = 0 if node.shape is None else len(node.shape)
    if len(inputs) != 2 or None in shapes or node.shape is None:
        reason = f"{node.op} of {len(inputs)} values"
        return system.stop(node.id, reason, *inputs, rank=rank)
    ranks = [len(shape or ()) for shape in shapes]
    if node.op == "einsum":
        labels = einsum_labels(str(node.attributes["equation"]), ranks)
    elif node.op == "matmul":
        labels = matmul_labels(ranks)
    else:
        labels = None
    if node.op == "linear" and ranks[1] == 2:
        lead = _letters(ranks[0] - 1)
        labels = [f"{lead}Y", "ZY"], f"{lead}Z"
    if labels is None:
        reason = f"{node.op} of activations"
        return system.stop(node.id, reason, *inputs, rank=rank)
    terms, result = labels
    given = [p.ranked(r) for p, r in zip(inputs, ranks, strict=True)]
    return contracted(system, given, terms, result)


def _letters(count: int) -> str:
    return "abcdefghijklmnopqrstuvw"[:count]


def matmul_labels(ranks: Sequence[int]) -> tuple[list[str], str]:
    """Axes of a @ b: batch axes align at the end, X and Z stay, Y is summed over.

    Args:
        ranks: Number of axes of both.

    Returns:
        A letter per axis of each, and those of the product.
    """
    batch = _letters(max(0, *(rank - 2 for rank in ranks)))
    left = "Y" if ranks[0] == 1 else batch[len(batch) - (ranks[0] - 2) :] + "XY"
    right = "Y" if ranks[1] == 1 else batch[len(batch) - (ranks[1] - 2) :] + "YZ"
    kept = ("X" if ranks[0] > 1 else "") + ("Z" if ranks[1] > 1 else "")
    return [left, right], batch + kept


def einsum_labels(equation: str, ranks: Sequence[int]) -> tuple[list[str], str] | None:
    """Axes of a sum of products, as its equation names them.

    Args:
        equation: As `torch.einsum` takes it.
        ranks: Number of axes of each factor.

    Returns:
        A letter per axis of each, and those of the result; None where the equation has
        no arrow, dots, another number of factors, or repeats a letter in one.
    """
    terms, arrow, result = equation.replace(" ", "").partition("->")
    parts = terms.split(",")
    if not arrow or "." in equation or len(parts) != len(ranks):
        return None
    repeated = any(len(set(part)) != len(part) for part in parts)
    return None if repeated else (parts, result)


def contracted(
    system: System, given: Sequence[Potential], terms: Sequence[str], result: str
) -> Potential:
    """Potential of sum over labels not in ``result`` of a product of two values.

    Args:
        system: The equations.
        given: Potentials of the two.
        terms: A letter per axis of each.
        result: A letter per axis of the output.

    Returns:
        The potential of the output.
    """
    letters = result + "".join(sorted(set("".join(terms)) - set(result)))
    placed = [_placed(p, t, letters) for p, t in zip(given, terms, strict=True)]
    total = added(system, placed[0], placed[1])
    summed = range(len(result), len(letters))
    kept = system.merge(total, summed)
    return kept.map(lambda a: a.reshape(a.shape[: len(result)]))


def _placed(potential: Potential, own: str, letters: str) -> Potential:
    order = sorted(range(len(own)), key=lambda i: letters.index(own[i]))
    sizes = {own[i]: potential.shape[i] for i in range(len(own))}
    shape = tuple(sizes.get(letter, 1) for letter in letters)
    return potential.map(lambda a: a.transpose(order).reshape(shape))


def softmax(system: System, node: Node, first: Potential) -> Potential:
    """Potential after a softmax: zero before and after.

    Args:
        system: The equations.
        node: Of kind ``softmax``.
        first: Potential of what it reads.

    Returns:
        Zero.
    """
    return system.stop(node.id, f"{node.op} is not homogeneous", first, rank=first.ndim)


def attention(
    system: System,
    node: Node,
    inputs: Sequence[Potential],
    shapes: Sequence[Shape | None],
) -> Potential:
    """Potential after softmax(q k^T + mask) v, per head.

    Scores have potential zero, so s_q + s_k = 0 feature by feature; outputs have that
    of the values.

    Args:
        system: The equations.
        node: Of kind ``attention``.
        inputs: Potentials of query, key, value and mask.
        shapes: Full shapes of what it reads.

    Returns:
        The potential of the output.
    """
    rank = len(node.shape or shapes[0] or ())
    query, key, value = [item.ranked(rank) for item in inputs[:3]]
    for mask in inputs[3:]:
        system.vanish(mask)
    query, key, value = [system.merge(item, [-2]) for item in (query, key, value)]
    sizes: Mapping[str, Shape | None] = dict(zip("qkv", shapes, strict=False))
    q, k = sizes["q"], sizes["k"]
    if q is not None and k is not None and rank > 2 and q[-3] != k[-3]:
        # Grouped queries: each key and value serves q[-3] / k[-3] heads in a row.
        key, value = [_repeated(item, q[-3] // k[-3]) for item in (key, value)]
    system.vanish(query, key)
    return value


def _repeated(potential: Potential, times: int) -> Potential:
    if potential.shape[-3] == 1:
        return potential
    return potential.map(lambda a: np.repeat(a, times, axis=-3))
