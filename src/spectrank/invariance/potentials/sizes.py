"""Sizes of parameters and of values that were not traced, from the layers."""

from __future__ import annotations

import math

from spectrank.model.graph import Graph

Shape = tuple[int, ...]


def parameter_shapes(graph: Graph) -> dict[str, Shape]:
    """Shapes of parameters as far as the nodes tell them.

    Args:
        graph: Any.

    Returns:
        Name to shape, rows that are nowhere used left out.
    """
    found: dict[str, Shape] = {}
    for node in graph.nodes:
        for matrix in node.matrices:
            m, n = matrix.shape
            rows = m if matrix.rows is None else matrix.rows[1]
            before = found.get(matrix.parameter, (0, 0))
            if matrix.view == "linear-transposed":
                found[matrix.parameter] = (n, max(rows, before[1]))
            elif matrix.view == "conv-unfolded":
                kernel = tuple(node.attributes.get("kernel_size", ()))
                inner = (n // math.prod(kernel),) if kernel else (n,)
                found[matrix.parameter] = (m, *inner, *kernel)
            else:
                found[matrix.parameter] = (max(rows, before[0]), n)
        if node.kind == "constant" and node.parameters and not node.attributes:
            found.setdefault(node.parameters["value"], node.shape or ())
        if node.op.startswith("conv_transpose") and node.shape is not None:
            kernel = tuple(node.attributes["kernel_size"])
            groups = int(node.attributes.get("groups", 1))
            axis = -1 - len(kernel)
            source = graph[node.inputs[0]].shape
            if source is not None:
                own = (source[axis], node.shape[axis] // groups, *kernel)
                found[node.parameters["weight"]] = own
    return found


def fan_ins(graph: Graph) -> dict[str, int]:
    """Of each flatten without traced sizes how many entries its reader takes.

    Args:
        graph: Any.

    Returns:
        Id of the flatten to the fan-in of the next linear layer.
    """
    found: dict[str, int] = {}
    reader = {source: node for node in graph.nodes for source in node.inputs}
    for node in graph.nodes:
        if node.op != "flatten" or node.shape is not None:
            continue
        after = reader.get(node.id)
        while after is not None and after.op != "linear" and after.op != "flatten":
            after = reader.get(after.id)
        if after is not None and after.matrices:
            found[node.id] = after.matrices[0].shape[1]
    return found
