"""A tail at two moments, with the bounds of all its levels, and its rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import final

from torch import Tensor

from spectrank.invariance.certificates.checks import Row, check_row
from spectrank.invariance.certificates.levels import Level, largest_entry, scaled
from spectrank.invariance.certificates.measured import Context, checks, spread
from spectrank.invariance.certificates.recursion import TailBound, tail_bounds
from spectrank.invariance.certificates.tail import Tail

Tensors = Mapping[str, Tensor]


@final
@dataclass(frozen=True, eq=False)
class Chain:
    """A tail at the start and now.

    Attributes:
        tail: The tail.
        start: Its levels at the start, in the unit of the computation.
        now: Its levels now, in the same unit.
        bounds: One a level; without drift where it is not to be added.
        unit: What lengths are multiplied by for the unit of the weights.
        drift: Whether drift is added.
    """

    tail: Tail
    start: tuple[Level, ...]
    now: tuple[Level, ...]
    bounds: tuple[TailBound, ...]
    unit: float
    drift: bool

    @property
    def size(self) -> float:
        """Largest squared Frobenius norm, for rounding."""
        levels = (*self.start, *self.now)
        return max(float(v.augmented.square().sum()) for v in levels)


def read_chain(
    tail: Tail, before: Tensors, after: Tensors, *, drift: bool, softmax: bool
) -> Chain | None:
    """Read a tail from the weights of two moments and bound it.

    Args:
        tail: The tail.
        before: Name of each parameter to its values at the start.
        after: The same now.
        drift: Whether to add what the gaps changed.
        softmax: Whether the loss depends on differences of the outputs only.

    Returns:
        The chain; None of a tail without a stage.
    """
    if not tail.stages:
        return None
    start = [stage.level(before) for stage in tail.stages]
    now = [stage.level(after) for stage in tail.stages]
    # Squares of weights of 1e-200 or 1e200 do not exist; ratios do.
    unit = max(largest_entry(start), largest_entry(now)) or 1.0
    first, last = scaled(start, 1.0 / unit), scaled(now, 1.0 / unit)
    bounds = tail_bounds(first, last, softmax=softmax and tail.shifts)
    if not drift:
        bounds = tuple(replace(b, drift=0.0, weyl_drift=0.0) for b in bounds)
    return Chain(tail, first, last, bounds, unit, drift)


def not_finite(
    tail: Tail, before: Tensors, after: Tensors
) -> tuple[tuple[str, str], ...]:
    """Stages with weights that are no finite numbers, and where.

    Args:
        tail: The tail.
        before: Name of each parameter to its values at the start.
        after: The same now.

    Returns:
        Name of the stage and reason, one per stage and moment.
    """
    return tuple(
        (stage.name, f"{name} is not finite {moment}; nothing of the tail is bounded")
        for stage in tail.stages
        for moment, tensors in (("at the start", before), ("now", after))
        for name in stage.parameters
        if name in tensors and not bool(tensors[name].isfinite().all())
    )


def tail_rows(chain: Chain, blocked: str | None) -> list[Row]:
    """Checks of every level of a tail.

    Args:
        chain: The tail with its bounds.
        blocked: Why bounds of the start do not apply; None where they do.

    Returns:
        The rows, level by level, the lowest first.
    """
    rows = []
    size = chain.size
    for j, stage in enumerate(chain.tail.stages):
        bound = chain.bounds[j]
        above = None if j + 1 == len(chain.now) else chain.now[j + 1]
        context = Context(
            chain.now[j], above, bound, _spread(chain, j), chain.unit, size
        )
        kinds = [s.kind for s in chain.tail.stages[j + 1 :]]
        blocks = sum("block" in kind for kind in kinds)
        stated = "conv block" not in kinds
        for check in checks(context):
            row = check_row(stage.name, check, _words(bound, blocks), blocked=blocked)
            if stage.main.skip and row["view"] is None:
                row["view"] = "I + W"
            parts = _parts(bound, chain.unit, blocks, check.metric)
            if stated and check.metric == "stable_rank":
                parts["paper_limit"] = bound.kappa * 4**blocks
            rows.append(row | parts)
    return rows


def _spread(chain: Chain, j: int) -> float | None:
    """Spread of the gap above level j; None where alignment is not certified."""
    start, bound = chain.start, chain.bounds[j]
    if j + 1 == len(start) or not bound.tails:
        return None
    if start[j + 1].inner is not None or start[j + 1].factor != 1:
        return None
    now = chain.now if chain.drift else start
    r = bound.kappa
    if r >= len(start[j].entering):
        # All directions: nothing to be aligned.
        return None
    return spread(start[j], start[j + 1], now[j], now[j + 1], r)


def _words(bound: TailBound, blocks: int) -> str:
    words = []
    if bound.drift > abs(bound.start):
        words.append("most of the bound is drift, which gradient flow would not have")
    if bound.biases > abs(bound.start) + abs(bound.drift):
        words.append("most of the bound is biases of the moment")
    if blocks:
        words.append(f"{blocks} linear blocks above")
    return "; ".join(words)


def _parts(bound: TailBound, unit: float, blocks: int, metric: str) -> Row:
    square = unit**2
    if metric == "next_singular_value":
        weyl = bound.weyl or 0.0
        return {"bound_at_start": weyl * square, "drift": bound.weyl_drift * square}
    parts: Row = {
        "bound_at_start": bound.start * square,
        "drift": bound.drift * square,
        "bias_term": bound.biases * square,
    }
    if metric == "stable_rank":
        parts["limit"] = bound.kappa
        parts["num_blocks"] = blocks
    return parts
