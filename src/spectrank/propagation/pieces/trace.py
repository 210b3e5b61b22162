"""All breakpoints of one network along one curve, step by step, and what they give.

Between neighbouring points every step so far is affine. The next step's inputs are
therefore affine there too: its crossings are found by interpolation, none between them
can be missed, and they become points before the step after it is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from spectrank.errors import DomainError
from spectrank.propagation.pieces.curves import Curve
from spectrank.propagation.pieces.forward import Network
from spectrank.propagation.pieces.points import Crossings, Pins, Points
from spectrank.propagation.pieces.signs import sign_changes
from spectrank.propagation.pieces.steps import BENDS, POOL, pool_windows, winner_changes

# Points beside a block that its own signs and slopes are compared with.
_HALO = 2
_BLOCK_ENTRIES = 2**21
_ROUNDING = 64.0 * torch.finfo(torch.float64).eps


@final
@dataclass
class StepCount:
    """Totals of one step along the curve.

    Attributes:
        num_units: Pre-activations (windows of a pool) per point.
        new_kinks: Strict changes of sign (of the winner, in a pool).
        pattern_changes: Changes of z > threshold.
        num_snapped: Values within rounding of a threshold, taken for it.
        length_pre: Length of the image of the curve before the step.
        length_post: And after it.
    """

    num_units: int = 0
    new_kinks: int = 0
    pattern_changes: int = 0
    num_snapped: int = 0
    length_pre: float = 0.0
    length_post: float = 0.0


@final
@dataclass
class CurveCount:
    """What one network makes of one curve.

    Attributes:
        steps: One for each bend, in order.
        num_segments: Of the polyline.
        num_intervals: Between neighbouring points, all of them affine.
        num_pieces: Affine pieces of the output, told apart beyond rounding.
        output_length: Length of the image under the whole network.
        defect: Largest distance of the output at a middle of an interval from the
            mean of its ends, relative to the largest output.
    """

    steps: list[StepCount]
    num_segments: int
    num_intervals: int = 0
    num_pieces: int = 0
    output_length: float = 0.0
    defect: float = 0.0


class _Block(NamedTuple):
    """Intervals first to last - 1, on the points low to high - 1."""

    first: int
    last: int
    low: int
    high: int

    def own(self, index: Tensor) -> Tensor:
        """Which of the block's indices from ``low`` on are its own."""
        return (index + self.low >= self.first) & (index + self.low < self.last)


def count_curve(network: Network, curve: Curve, *, max_points: int) -> CurveCount:
    """Cut the curve at every bend of the network.

    Args:
        network: In float64.
        curve: The polyline.
        max_points: Where to stop with an error.

    Returns:
        The counts.

    Raises:
        DomainError: There are more points than ``max_points``.
    """  # noqa: DOC502 - raised by the function called
    with network.opened():
        return _counted(network, curve, max_points)


def _counted(network: Network, curve: Curve, max_points: int) -> CurveCount:
    vertices = curve.vertices
    points = Points.of_vertices(len(vertices), vertices.device)
    size, counts = _sizes(network, vertices[:2])
    for step, count in enumerate(counts):
        found = _crossings(network, curve, points, step, count, size)
        if len(points) + len(found.t) > max_points:
            raise DomainError(
                f"a curve may have {max_points} points, step {step + 1} of "
                f"{len(counts)} makes them up to {len(points) + len(found.t)}; take a "
                "shorter curve or a larger max_points="
            )
        if len(found.t):
            points = points.with_crossings(step, found)
    result = CurveCount(counts, len(vertices) - 1, len(points) - 1)
    _measure(network, curve, points, result, size)
    return result


def _sizes(network: Network, example: Tensor) -> tuple[int, list[StepCount]]:
    """Points to a block, and the number of pre-activations of every step."""
    counts: list[StepCount] = []

    def visit(step: int, op: str, x: Tensor, y: Tensor, *more: Any) -> None:
        seen = y if op == POOL else x
        counts.append(StepCount(num_units=seen[0].numel()))

    output = network.run(example, {}, visit)
    assert output is not None
    largest = max([count.num_units for count in counts] + [example[0].numel()])
    return max(16, _BLOCK_ENTRIES // largest), counts


def _blocks(num_points: int, size: int) -> Iterator[_Block]:
    last = num_points - 1
    for first in range(0, last, size):
        stop = min(first + size, last)
        yield _Block(
            first, stop, max(0, first - _HALO), min(num_points, stop + 1 + _HALO)
        )


def _inputs(curve: Curve, points: Points, block: _Block) -> Tensor:
    part = slice(block.low, block.high)
    return curve.at(points.segments[part], points.t[part])


def _pins(points: Points, block: _Block) -> dict[int, Pins]:
    found = {}
    for step, pins in points.pins.items():
        ends = torch.tensor([block.low, block.high], device=pins.point.device)
        a, b = torch.searchsorted(pins.point, ends).tolist()
        found[step] = Pins(pins.point[a:b] - block.low, pins.unit[a:b], pins.level[a:b])
    return found


def _crossings(
    network: Network,
    curve: Curve,
    points: Points,
    step: int,
    count: StepCount,
    size: int,
) -> Crossings:
    """The crossings of a step, its counts added to ``count``."""
    found: list[Crossings] = []
    for block in _blocks(len(points), size):

        def visit(
            number: int,
            op: str,
            x: Tensor,
            y: Tensor,
            more: tuple[Any, ...],
            options: dict[str, Any],
            block: _Block = block,
        ) -> None:
            if number != step:
                return
            if op == POOL:
                windows = pool_windows(_batched(x), *more, **options)
                found.append(_winners(windows, points, block, count))
                return
            flat = x.reshape(len(x), -1)
            found.extend(
                _signs(flat, level, points, block, count)
                for level in BENDS[op](x, *more, **options)
            )

        network.run(
            _inputs(curve, points, block), _pins(points, block), visit, until=step
        )
    return Crossings(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def _batched(x: Tensor) -> Tensor:
    return x if x.ndim == 4 else x[:, None]


def _signs(
    flat: Tensor, level: float, points: Points, block: _Block, count: StepCount
) -> Crossings:
    seen = sign_changes(flat, level)
    inner = torch.arange(1, len(flat) - 1, device=flat.device)
    own = block.own(inner)
    every = block.own(torch.arange(len(flat), device=flat.device))
    mine = block.own(seen.interval)
    num = int(mine.sum())
    count.new_kinks += num + int(seen.kinks_at[own].sum())
    count.pattern_changes += num + int(seen.changes_at[own].sum())
    count.num_snapped += int(seen.num_snapped[every].sum())
    interval = seen.interval[mine] + block.low
    t = _place(points, interval, seen.fraction[mine])
    return Crossings(interval, t, seen.unit[mine], torch.full_like(t, level))


def _winners(
    windows: Tensor, points: Points, block: _Block, count: StepCount
) -> Crossings:
    interval, window, fraction = winner_changes(windows)
    mine = block.own(interval)
    count.new_kinks += int(mine.sum())
    count.pattern_changes += int(mine.sum())
    interval = interval[mine] + block.low
    t = _place(points, interval, fraction[mine])
    return Crossings(interval, t, window[mine], torch.full_like(t, torch.nan))


def _place(points: Points, interval: Tensor, fraction: Tensor) -> Tensor:
    start, end = points.t[interval], points.ends()[interval]
    return start + fraction * (end - start)


def _measure(
    network: Network, curve: Curve, points: Points, result: CurveCount, size: int
) -> None:
    """Lengths of the images, pieces of the output, and a check at the middles."""
    largest, defect = 0.0, 0.0
    result.num_pieces = result.num_segments
    for block in _blocks(len(points), size):
        own = block.own(torch.arange(block.high - block.low - 1))
        own = own.to(points.t.device)

        def visit(
            number: int, op: str, x: Tensor, y: Tensor, *more: Any, own: Tensor = own
        ) -> None:
            count = result.steps[number]
            count.length_pre += _length(x, own)
            count.length_post += _length(y, own)

        output = network.run(_inputs(curve, points, block), _pins(points, block), visit)
        assert output is not None
        result.output_length += _length(output, own)
        result.num_pieces += _bends(output, points, block)
        largest = max(largest, float(output.abs().max()))
        defect = max(defect, _defect(network, curve, points, block, output))
    result.defect = defect / largest if largest else defect


def _length(x: Tensor, own: Tensor) -> float:
    return float(x.reshape(len(x), -1).diff(dim=0).norm(dim=1)[own].sum())


def _bends(output: Tensor, points: Points, block: _Block) -> int:
    """Points inside a segment at which the output's slope changes beyond rounding."""
    part = slice(block.low, block.high)
    width = (points.ends()[block.low : block.high - 1] - points.t[part][:-1])[:, None]
    slope = output.diff(dim=0) / width
    noise = _ROUNDING * output.abs().max() * (1.0 / width[1:] + 1.0 / width[:-1])
    bent = ((slope[1:] - slope[:-1]).abs() > noise).any(1)
    inner = torch.arange(1, len(output) - 1, device=output.device)
    return int((bent & block.own(inner) & (points.t[part][1:-1] > 0)).sum())


def _defect(
    network: Network, curve: Curve, points: Points, block: _Block, output: Tensor
) -> float:
    """Distance of the output from affine, at the middles of the block's intervals."""
    part = slice(block.low, block.high - 1)
    middle = 0.5 * (points.t[part] + points.ends()[part])
    inputs = curve.at(points.segments[part], middle)
    means = 0.5 * (output[1:] + output[:-1])
    worst = 0.0
    # Every other one by itself: a model that lets the samples of a batch meet gives
    # itself away in other company.
    for start in range(min(2, len(middle))):
        there = network.run(inputs[start::2], {}, lambda *shown: None)
        assert there is not None
        worst = max(worst, float((there - means[start::2]).abs().max()))
    return worst
