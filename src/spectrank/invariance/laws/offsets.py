"""Offsets: fixed numbers that a law takes off a parameter before it is squared.

A stored mean m of a normalisation is such a number: what the normalisation sees of a
bias b is b - m, and the law holds for the square of that. A fixed identity beside a
learned map W is another: what is balanced is W + I, so -1 is taken off the diagonal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from spectrank.errors import DomainError, ShapeError


@final
@dataclass(frozen=True, eq=False)
class Offset:
    """Numbers that are taken off some entries of a parameter.

    Attributes:
        parameter: Dotted name; of a tied parameter its first name.
        indices: (k,) flat numbers of the entries, distinct.
        values: (k,) what is taken off, finite.
    """

    parameter: str
    indices: np.ndarray
    values: np.ndarray

    def __post_init__(self) -> None:
        indices = np.array(self.indices, dtype=np.int64)
        values = np.array(self.values, dtype=np.float64)
        if indices.ndim != 1 or indices.shape != values.shape:
            raise ShapeError(
                "an offset has one value per entry, got shapes "
                f"{indices.shape} and {values.shape} for {self.parameter!r}; "
                "flatten both"
            )
        repeated = len(np.unique(indices)) != len(indices)
        if repeated or (len(indices) and int(indices.min()) < 0):
            raise DomainError(
                "entries of an offset are distinct and numbered from 0, got "
                f"{indices.tolist()[:8]} for {self.parameter!r}; add up what belongs "
                "to one entry"
            )
        if not np.isfinite(values).all():
            raise DomainError(
                f"an offset is finite, got {values.tolist()[:8]} for "
                f"{self.parameter!r}; leave the law out"
            )
        for name, array in (("indices", indices), ("values", values)):
            array.setflags(write=False)
            object.__setattr__(self, name, array)


def centred(
    offsets: Sequence[Offset], tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Take offsets off tensors, in float64.

    Args:
        offsets: Of a law; of parameters that are not given they are left out.
        tensors: Name of each parameter to its values.

    Returns:
        The tensors, those with an offset as new ones.

    Raises:
        ShapeError: A parameter has fewer entries than its offset.
    """
    found = dict(tensors)
    for offset in offsets:
        if offset.parameter not in found:
            continue
        moved = found[offset.parameter].detach().double().clone().reshape(-1)
        if int(offset.indices.max(initial=-1)) >= len(moved):
            raise ShapeError(
                f"the offset of {offset.parameter!r} has entry "
                f"{int(offset.indices.max())}, got a tensor of {len(moved)} entries; "
                "find the laws of this model again"
            )
        index = torch.tensor(offset.indices, device=moved.device)
        moved[index] -= torch.tensor(offset.values, device=moved.device)
        shape = found[offset.parameter].shape
        found[offset.parameter] = moved.reshape(shape)
    return found
