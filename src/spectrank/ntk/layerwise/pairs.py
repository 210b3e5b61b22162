"""What is computed: logits at a time, the way of every group, and pairs of blocks.

    n  samples of both sets        c  logits        k  logits at a time

A full kernel needs all logits at once. A trace is a sum over logits: it takes as many
at a time as leave room for all samples, so that none is run again for another block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

from torch import Tensor, nn

from spectrank.ntk.layerwise.contract import (
    add_by_gradients,
    add_by_positions,
    by_positions,
)
from spectrank.ntk.layerwise.passes import Logits, Pass
from spectrank.ntk.layerwise.rules import Group
from spectrank.ntk.layerwise.sides import Recipe, Side
from spectrank.ntk.layerwise.support import Support

Outputs = Literal["full", "trace", "sum_logits"]

# Of a pass on a CPU: what stays in its cache. A GPU wants work, not locality.
_PASS_BYTES = 16 << 20


@final
@dataclass(frozen=True)
class Job:
    """What is computed.

    Attributes:
        model: The user's model.
        groups: Of parameters.
        support: Of the model.
        outputs: Which kernel.
    """

    model: nn.Module
    groups: tuple[Group, ...]
    support: Support
    outputs: Outputs

    @property
    def trace(self) -> bool:
        """Whether logits are summed."""
        return self.outputs == "trace"

    def first(self, x: Tensor) -> Pass:
        """Run some samples.

        Args:
            x: Inputs.

        Returns:
            The run.
        """
        return Pass(self.model, self.groups, self.support.axes, x)


@final
@dataclass(frozen=True, eq=False)
class Schedule:
    """How it is computed.

    Attributes:
        recipe: How factors come about.
        chunks: Logits at a time.
        positions: Groups that are contracted by Grams over positions.
        sample_bytes: What is kept of a sample.
    """

    recipe: Recipe
    chunks: tuple[Logits, ...]
    positions: frozenset[int]
    sample_bytes: int

    @classmethod
    def of(
        cls, job: Job, one: Pass, *, num_samples: int, block: int | None, memory: int
    ) -> Schedule:
        """Choose, by the sizes that one sample tells.

        Args:
            job: What is computed.
            one: A run of one sample.
            num_samples: n.
            block: Samples of a block, where they are stated.
            memory: Bytes to work with.

        Returns:
            The schedule.
        """
        sizes = tuple(one.size(index) for index in range(len(job.groups)))
        c = 1 if job.outputs == "sum_logits" else one.num_outputs
        num_pairs = c if job.trace else c * c
        every = range(len(sizes))
        positions = frozenset(
            index
            for index in every
            if by_positions(
                sizes[index], num_samples=num_samples, num_logits=c, num_pairs=num_pairs
            )
        )
        # Where gradients of samples are made anyway, and take no more memory.
        formed = frozenset(
            index
            for index in every
            if index not in positions
            and c * sizes[index].formed_numel
            <= c * sizes[index].gradient_numel + sizes[index].input_numel
        )
        item = one.like.element_size()
        numels = [
            s.formed_numel if i in formed else s.gradient_numel
            for i, s in enumerate(sizes)
        ]
        fixed = sum(s.input_numel for i, s in enumerate(sizes) if i not in formed)
        held = num_samples if block is None else 2 * max(1, block)
        k = c
        if job.trace:
            room = memory / (2 * item * held) - fixed
            k = max(1, min(c, int(room // max(1, sum(numels)))))
        logits = (None,) if job.outputs == "sum_logits" else tuple(range(c))
        chunks = tuple(logits[i : i + k] for i in range(0, c, k))
        budget = memory // 4
        if one.like.device.type == "cpu":
            budget = min(budget, _PASS_BYTES)
        step = max(1, budget // one.sample_bytes(k))
        recipe = Recipe(job.model, job.groups, job.support.axes, sizes, formed, step)
        return cls(recipe, chunks, positions | formed, (fixed + k * sum(numels)) * item)


def add_pair(
    schedule: Schedule,
    tiles: Sequence[Tensor],
    parts: tuple[tuple[Side, slice], tuple[Side, slice]],
    *,
    trace: bool,
    memory: int,
) -> None:
    """Add the kernel of a pair of blocks to one tile per group.

    Args:
        schedule: How it is computed.
        tiles: (k, n1, k, n2), one per group; they may be the same.
        parts: Samples of the two blocks; equal where they are one.
        trace: Sum over logits.
        memory: Bytes of temporaries.
    """
    (one, rows), (two, columns) = parts
    same = one is two and rows == columns
    for chunk in schedule.chunks:
        one.fill(chunk)
        two.fill(chunk)
        for index, tile in enumerate(tiles):
            left = one.factors(index, rows)
            right = left if same else two.factors(index, columns)
            positions = index in schedule.positions
            rule = add_by_positions if positions else add_by_gradients
            rule(tile, left, right, trace=trace, symmetric=same, memory=memory)
