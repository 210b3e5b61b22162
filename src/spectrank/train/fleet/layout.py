"""Where the parameters of a group lie: parameters of one size share one tensor.

An optimiser's step is memory traffic and launches. With parameters of equal size
stacked as (number, members, size) it takes a few launches for the whole network, with
one coefficient a member broadcast along it, while each parameter stays a contiguous
(members, *shape) view, which batched products need for their output.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Buckets = list[Tensor]


@dataclass(frozen=True)
class Layout:
    """Parameters of one member, bucketed by their number of entries.

    Attributes:
        shapes: Name to shape in one member.
        buckets: Names that share a tensor, in its order.
    """

    shapes: Mapping[str, tuple[int, ...]]
    buckets: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, shapes: Mapping[str, Sequence[int]]) -> Layout:
        """Bucket parameters by size.

        Args:
            shapes: Name to shape in one member.

        Returns:
            The layout.
        """
        sizes: dict[int, list[str]] = {}
        for name, shape in shapes.items():
            sizes.setdefault(math.prod(shape), []).append(name)
        return cls(
            {name: tuple(shape) for name, shape in shapes.items()},
            tuple(tuple(names) for names in sizes.values()),
        )

    def zeros(self, num_members: int, like: Tensor) -> Buckets:
        """New storage for a group.

        Args:
            num_members: Of the group.
            like: Gives dtype and device.

        Returns:
            One tensor (number, members, size) a bucket.
        """
        return [
            like.new_zeros(len(names), num_members, math.prod(self.shapes[names[0]]))
            for names in self.buckets
        ]

    def views(self, buckets: Sequence[Tensor]) -> dict[str, Tensor]:
        """Each parameter as a contiguous view.

        Args:
            buckets: Storage that ``zeros`` made.

        Returns:
            Name to (members, *shape), in the order of ``shapes``.
        """
        found = {
            name: bucket[k].view(bucket.shape[1], *self.shapes[name])
            for names, bucket in zip(self.buckets, buckets, strict=True)
            for k, name in enumerate(names)
        }
        return {name: found[name] for name in self.shapes}

    def pack(self, parameters: Mapping[str, Tensor], rows: Tensor) -> Buckets:
        """Copy some members into storage of their own.

        Args:
            parameters: Name to (members, *shape).
            rows: Which members.

        Returns:
            Storage as of ``zeros``.
        """
        first = next(iter(parameters.values()))
        buckets = self.zeros(len(rows), first)
        for name, view in self.views(buckets).items():
            torch.index_select(parameters[name], 0, rows, out=view)
        return buckets
