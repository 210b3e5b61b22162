"""One pair of blocks: backward passes, and the kernel of every group from them.

Gradients that are contracted by positions are kept for all logits, as one product over
all of them is faster. Those that become gradients of samples are used logit by logit
where the kernel is a trace.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, final

from torch import Tensor, nn

from spectrank.ntk.layerwise.contract import (
    add_by_gradients,
    add_by_positions,
    by_positions,
)
from spectrank.ntk.layerwise.passes import Part, Side
from spectrank.ntk.layerwise.rules import Group
from spectrank.ntk.layerwise.support import Support

Outputs = Literal["full", "trace", "sum_logits"]


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

    def side(self, x: Tensor) -> Side:
        """Run a block of samples.

        Args:
            x: Inputs.

        Returns:
            The run.
        """
        return Side(self.model, self.groups, self.support.axes, x)

    def logits(self, side: Side) -> list[int | None]:
        """What backward passes are made of.

        Args:
            side: A run of the model.

        Returns:
            Every logit, or None for their sum.
        """
        if self.outputs == "sum_logits":
            return [None]
        return list(range(side.num_outputs))


def kept_groups(job: Job, one: Side) -> frozenset[int]:
    """Groups whose gradients are kept for all logits.

    Args:
        job: What is computed.
        one: A run of the model.

    Returns:
        Their indices.
    """
    every = range(len(job.groups))
    return frozenset(every if not job.trace else _by_positions(job, one))


def add_pair(
    job: Job, tiles: Sequence[Tensor], parts: tuple[Part, Part], memory: int
) -> None:
    """Add the kernel of a pair of blocks to one tile per group.

    Args:
        job: What is computed.
        tiles: (k, n1, k, n2), one per group; they may be the same.
        parts: The two blocks; the same object where they are one.
        memory: Bytes of temporaries.
    """
    one, two = parts
    sides = list({id(part.side): part.side for part in parts}.values())
    positions, kept = _by_positions(job, one.side), kept_groups(job, one.side)
    streamed = [i for i in range(len(job.groups)) if i not in kept]
    logits = job.logits(one.side)

    def add(index: int, gradients: Mapping[int, Tensor]) -> None:
        left = one.factors(index, gradients[id(one.side)])
        same = two is one
        right = left if same else two.factors(index, gradients[id(two.side)])
        rule = add_by_positions if index in positions else add_by_gradients
        options = {"trace": job.trace, "symmetric": same}
        rule(tiles[index], left, right, **options, memory=memory)

    for place, logit in enumerate(logits):
        found = {
            id(side): _backward(side, logit, (place, len(logits)), kept, streamed)
            for side in sides
        }
        for index in streamed:
            add(index, {key: g[index][None] for key, g in found.items()})
    if not streamed:
        for side in sides:
            side.let_go()
    for index in sorted(kept):
        add(index, {id(side): side.stacked[index] for side in sides})


def _backward(
    side: Side,
    logit: int | None,
    place: tuple[int, int],
    kept: frozenset[int],
    streamed: Sequence[int],
) -> dict[int, Tensor]:
    """Gradient factors of one logit; those that are kept go to the stacks."""
    at, total = place
    missing = [i for i in kept if i not in side.complete]
    if not missing and not streamed:
        return {}
    found = side.gradients(logit, [*missing, *streamed])
    for index in missing:
        g = found.pop(index)
        if at == 0:
            side.stacked[index] = g.new_empty(total, *g.shape)
        side.stacked[index][at] = g
    if at + 1 == total:
        side.complete |= kept
    return found


def _by_positions(job: Job, one: Side) -> frozenset[int]:
    """Groups that are contracted by Grams over positions."""
    logits = len(job.logits(one))
    return frozenset(
        index
        for index in range(len(job.groups))
        if by_positions(
            one.inputs[index],
            one.shapes[index],
            num_rows=one.num_rows[index],
            num_logits=logits,
            num_pairs=logits if job.trace else logits**2,
        )
    )
