"""Where the parameters of a group lie: parameters of one size share one tensor.

An optimiser's step is memory traffic and launches. With parameters of equal size
stacked as (number, members, size) it takes a few launches for the whole network, with
one coefficient a member broadcast along it, while each parameter is a (members, *shape)
view.

Every member's piece starts on a multiple of 64 bytes: a matrix product may take another
path, and round otherwise, for a matrix that does not, and then a member's bits would
depend on its place in the group. Where the size is no multiple of ``ALIGNED`` entries
there is a gap that nobody reads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

Buckets = list[Tensor]

# 16 networks of width 64 and depth 20 in float32 with their gradients and momentum: of
# 4, 8, 16 and 32 the fastest group, or nearly, at batches of 32 and of 128.
GROUP_BYTES = 16 * 2**20

# Entries, so that float32 ones span 64 bytes.
ALIGNED = 16


def aligned(size: int) -> int:
    """The next multiple of ``ALIGNED``.

    Args:
        size: A number of entries.

    Returns:
        At least ``size``.
    """
    return -(-size // ALIGNED) * ALIGNED


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
            One tensor (number, members, aligned size) a bucket.
        """
        return [
            like.new_zeros(len(names), num_members, aligned(self._size(names)))
            for names in self.buckets
        ]

    def filled(self, buckets: Sequence[Tensor]) -> Buckets:
        """The buckets without their gaps.

        Args:
            buckets: Storage that ``zeros`` made.

        Returns:
            Views (number, members, size).
        """
        return [
            bucket[:, :, : self._size(names)]
            for names, bucket in zip(self.buckets, buckets, strict=True)
        ]

    def views(self, buckets: Sequence[Tensor]) -> dict[str, Tensor]:
        """Each parameter as a view, contiguous in each member.

        Args:
            buckets: Storage that ``zeros`` made.

        Returns:
            Name to (members, *shape), in the order of ``shapes``.
        """
        found = {
            name: bucket[k].view(bucket.shape[1], *self.shapes[name])
            for names, bucket in zip(self.buckets, self.filled(buckets), strict=True)
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
            view.copy_(parameters[name].index_select(0, rows))
        return buckets

    def _size(self, names: Sequence[str]) -> int:
        return math.prod(self.shapes[names[0]])


def default_group_size(parameters: Mapping[str, Tensor], slots: int) -> int:
    """Members whose parameters, gradients and state stay in a usual cache.

    Args:
        parameters: Name to (M, *shape).
        slots: State tensors of the optimiser.

    Returns:
        All members on an accelerator, else 1 to 64.
    """
    first = next(iter(parameters.values()))
    if first.device.type != "cpu":
        return len(first)
    num_bytes = sum(p[0].numel() * p.element_size() for p in parameters.values())
    return max(1, min(64, GROUP_BYTES // (num_bytes * (2 + slots))))
