"""Axes that steps average over, and what that does to slots."""

from __future__ import annotations

import numpy as np

from spectrank.invariance.potentials.potential import Potential
from spectrank.model.graph import Node


def pool_axes(node: Node) -> list[int]:
    """Axes that a pooling pools over, counted from the end.

    Args:
        node: Of kind ``pool``.

    Returns:
        The axes; empty where all are pooled.
    """
    spatial = node.op.removeprefix("adaptive_")
    if spatial.startswith(("max_pool", "avg_pool", "upsample")):
        return list(range(-int(node.op[-2]), 0))
    dims = node.attributes.get("dim", [])
    return [dims] if isinstance(dims, int) else list(dims)


def averaged(slots: np.ndarray, axes: list[int]) -> np.ndarray:
    """Number of each set of slots that are averaged.

    Args:
        slots: Numbers of what entries are moved by.
        axes: Averaged over, counted from the end.

    Returns:
        Equal numbers for equal sets; these axes of length one.
    """
    last = np.moveaxis(slots, axes, range(-len(axes), 0))
    kept = last.shape[: last.ndim - len(axes)]
    rows = last.reshape(int(np.prod(kept)), -1)
    _, number = np.unique(rows, axis=0, return_inverse=True)
    shaped = number.reshape(*kept, *(1 for _ in axes))
    found: np.ndarray = np.moveaxis(shaped, range(-len(axes), 0), axes)
    return found


def split(value: Potential, shape: tuple[int, ...], groups: int) -> Potential:
    """Split axis 1, that of channels, into groups.

    Args:
        value: Of a tensor.
        shape: Its full shape.
        groups: Number of groups.

    Returns:
        With one axis more: samples, groups, channels of a group, positions.
    """
    sizes = list(value.shape)
    sizes[1] = shape[1]
    made = [sizes[0], groups, shape[1] // groups, *sizes[2:]]
    return value.spread(sizes).map(lambda a: a.reshape(made))
