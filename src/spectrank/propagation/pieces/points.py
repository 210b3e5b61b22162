"""The breakpoints known so far, in order along the curve, and what is exactly known."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, final

import torch
from torch import Tensor

# Crossings that differ by less, in parts of a segment, are one point: a crossing is
# a quotient of two differences and not known better than a few roundings.
SAME_POINT = 8.0 * torch.finfo(torch.float64).eps


class Crossings(NamedTuple):
    """Where one step's pre-activations meet a threshold inside an interval.

    Attributes:
        interval: (C,) index p: between the points p and p + 1.
        t: (C,) place within the segment.
        unit: (C,) index of the neuron among the step's flattened pre-activations.
        level: (C,) the threshold; NaN where nothing is known exactly, as in a pool.
    """

    interval: Tensor
    t: Tensor
    unit: Tensor
    level: Tensor


class Pins(NamedTuple):
    """Pre-activations that are known exactly: at a crossing they are the threshold.

    Attributes:
        point: (C,) ascending index of the point.
        unit: (C,) index of the neuron.
        level: (C,) its value there.
    """

    point: Tensor
    unit: Tensor
    level: Tensor


@final
@dataclass(frozen=True, eq=False)
class Points:
    """Points in order along the curve; between neighbours all steps done are affine.

    Attributes:
        segments: (P,) integers.
        t: (P,) in [0, 1).
        pins: Number of a step to what is known exactly of its pre-activations.
    """

    segments: Tensor
    t: Tensor
    pins: dict[int, Pins] = field(default_factory=dict)

    @classmethod
    def of_vertices(cls, num: int, device: torch.device) -> Points:
        """Start with the vertices.

        Args:
            num: V.
            device: Where the points live.

        Returns:
            V points.
        """
        return cls(
            torch.arange(num, device=device),
            torch.zeros(num, dtype=torch.float64, device=device),
        )

    def __len__(self) -> int:
        return len(self.t)

    def ends(self) -> Tensor:
        """(P - 1,) place where each interval ends, within its own segment."""
        same = self.segments[1:] == self.segments[:-1]
        return torch.where(same, self.t[1:], torch.ones_like(self.t[1:]))

    def with_crossings(self, step: int, found: Crossings) -> Points:
        """Insert the crossings of a step; those closer than rounding are one point.

        Args:
            step: Its number.
            found: Its crossings.

        Returns:
            The points with the new ones among them, pins renumbered and extended.
        """
        order = _by_place(found)
        interval, t = found.interval[order], found.t[order]
        home = self._home(interval, t)
        new, group = _grouped(interval, t, home)
        # Old point p moves up by the number of new points in intervals before it.
        shift = torch.bincount(interval[new], minlength=len(self)).cumsum(0)
        place = torch.arange(len(self), device=self.t.device)
        place[1:] += shift[:-1]
        into = interval[new] + 1 + torch.arange(int(new.sum()), device=self.t.device)
        total = len(self) + len(into)
        segments = self.segments.new_empty(total)
        values = self.t.new_empty(total)
        segments[place], values[place] = self.segments, self.t
        segments[into], values[into] = self.segments[interval[new]], t[new]
        pins = {
            number: old._replace(point=place[old.point])
            for number, old in self.pins.items()
        }
        at = torch.where(home >= 0, place[home.clamp(min=0)], _taken(into, group))
        known = ~found.level[order].isnan()
        if bool(known.any()):
            pins[step] = _sorted_pins(
                at[known], found.unit[order][known], found.level[order][known]
            )
        return Points(segments, values, pins)

    def _home(self, interval: Tensor, t: Tensor) -> Tensor:
        """(C,) index of the old point that a crossing falls on; -1 for none."""
        home = torch.full_like(interval, -1)
        home = torch.where(self.ends()[interval] - t <= SAME_POINT, interval + 1, home)
        return torch.where(t - self.t[interval] <= SAME_POINT, interval, home)


def _by_place(found: Crossings) -> Tensor:
    by_t = torch.argsort(found.t, stable=True)
    return by_t[torch.argsort(found.interval[by_t], stable=True)]


def _grouped(interval: Tensor, t: Tensor, home: Tensor) -> tuple[Tensor, Tensor]:
    """Which crossings open a new point, and the number of the point each belongs to."""
    new = home < 0
    if len(t) > 1:
        close = (interval[1:] == interval[:-1]) & (t[1:] - t[:-1] <= SAME_POINT)
        # A crossing that follows one on an old point still opens its own.
        new[1:] &= ~(close & (home[:-1] < 0))
    return new, new.cumsum(0) - 1


def _taken(into: Tensor, group: Tensor) -> Tensor:
    if not len(into):
        return torch.zeros_like(group)
    return into[group.clamp(min=0)]


def _sorted_pins(point: Tensor, unit: Tensor, level: Tensor) -> Pins:
    order = torch.argsort(point, stable=True)
    return Pins(point[order], unit[order], level[order])
