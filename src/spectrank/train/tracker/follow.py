"""Followers: how the norms of one matrix are known from tick to tick."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from spectrank.linalg.gram import gram_error
from spectrank.linalg.operand import UNIT_ROUNDOFF
from spectrank.linalg.spectrum import Spectrum, without_values
from spectrank.linalg.value import Value
from spectrank.train.tracker.enclose import Enclosed, enclose
from spectrank.train.tracker.warm import Tick, WarmStart

# A full enclosure is due when the energy outside the carried direction has grown by
# this share of sigma_1^2: a direction that was not there before may be about to take
# the lead. In the first 30 steps of an MLP on MNIST one did, and the carried vector's
# stable rank was off by 60 % before power iteration had caught up.
_GROWTH = 0.5
# Up to this shorter side the Gram matrix is cheaper than to keep a vector warm.
SMALL = 32
_RANGE = (2.0**-900, 2.0**900)
# Entries from 2^-1000 to 2^1000 are brought to one; beyond, their own range remains.
_REACH = 1000


@dataclass(frozen=True)
class Pace:
    """How full enclosures are made, and how often.

    Attributes:
        rtol: Their relative width.
        failure_probability: Of the upper end of each.
        refresh: Optimizer steps between two of one matrix.
        num_products: Half steps of power iteration at a tick.
        seed: From which the seeds of all random vectors are made.
    """

    rtol: float
    failure_probability: float
    refresh: int
    num_products: int
    seed: int


@dataclass(frozen=True, eq=False)
class Reading:
    """The norms of a matrix at one tick.

    Attributes:
        norms: With both ends.
        lag: By which share the carried vector's value fell short of that of the full
            enclosure made at the same tick; None where none was made.
    """

    norms: Spectrum
    lag: float | None = None


class Follower(ABC):
    """Knows the norms of one moving matrix."""

    @abstractmethod
    def tick(self, k: int, W: Tensor, step: int) -> None:
        """Look at the matrix.

        Args:
            k: Number of the tick since the last ``read``.
            W: (m, n) matrix as it is now; not changed, not kept.
            step: Optimizer steps finished.
        """

    @abstractmethod
    def read(self, num_ticks: int) -> list[Reading]:
        """Return the norms at the ticks since the last call.

        Args:
            num_ticks: How many there were.
        """


@final
class WarmFollower(Follower):
    """Carries a vector, and encloses afresh now and then.

    Args:
        shape: (m, n).
        pace: How full enclosures are made.
        place: Position among the matrices and their number: enclosures take turns.
        num_ticks: Ticks between two readings, at most.
        scratch: Where differences from the anchor are formed; None without anchors.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        pace: Pace,
        *,
        place: tuple[int, int],
        num_ticks: int,
        scratch: dict[tuple[int, int], Tensor] | None,
    ) -> None:
        self._pace = pace
        self._place = place
        self._warm = WarmStart(shape, num_ticks=num_ticks, scratch=scratch)
        self._full: list[Spectrum | None] = [None] * num_ticks
        self._carried = [False] * num_ticks
        self._due: int | None = None
        self._num_drawn = 0
        self._least_outside = math.inf
        self._outside = [math.inf] * num_ticks
        self._asked = True

    def tick(self, k: int, W: Tensor, step: int) -> None:
        """Move the vector on; enclose in full where that is due or there is none."""
        ready = self._warm.ready
        if ready:
            self._warm.tick(k, W, self._pace.num_products)
        self._carried[k] = ready
        self._full[k] = None
        asked = self._asks_at_once(W)
        grown = ready and asked and self._grown(self._warm.look(k))
        if ready and self._due is not None and step < self._due and not grown:
            return
        enclosed = enclose(
            W,
            rtol=self._pace.rtol,
            failure_probability=self._pace.failure_probability,
            seed=self._draw(),
        )
        self._full[k] = enclosed.spectrum
        self._warm.restart(W, enclosed, self._draw())
        wait = self._first() if self._due is None else self._pace.refresh
        self._due = step + wait
        self._outside[k] = _outside(enclosed)
        if asked:
            self._least_outside = self._outside[k]

    def read(self, num_ticks: int) -> list[Reading]:
        """Return what the full enclosures and, between them, the vector tell."""
        ticks = self._warm.read(num_ticks)
        if not self._asked and self._has_grown(ticks):
            self._due = -1
        readings = []
        for k, tick in enumerate(ticks):
            norms = None
            if self._carried[k]:
                norms = self._warm.norms(k, tick, rtol=self._pace.rtol)
            full = self._full[k]
            if full is not None:
                readings.append(Reading(full, _lag(norms, full)))
            elif norms is not None:
                readings.append(Reading(norms))
            else:
                readings.append(Reading(self._lost(tick.frobenius)))
        return readings

    def _asks_at_once(self, W: Tensor) -> bool:
        # Asking a device would wait for it: there the question comes with read().
        self._asked = W.device.type == "cpu"
        return self._asked

    def _has_grown(self, ticks: list[Tick]) -> bool:
        """Go through the ticks in order, as they would have been asked."""
        grown = False
        for k, tick in enumerate(ticks):
            if self._full[k] is not None:
                grown, self._least_outside = False, self._outside[k]
            elif self._carried[k]:
                grown = self._grown(tick) or grown
        return grown

    def _grown(self, tick: Tick) -> bool:
        """Whether a direction outside the carried one came up, or all was lost."""
        if not tick.trusted:
            return True
        top = tick.length**2
        outside = tick.frobenius**2 - top
        self._least_outside = min(self._least_outside, outside)
        return outside - self._least_outside > _GROWTH * top

    def _lost(self, frobenius: float) -> Spectrum:
        """Say why a tick on a device has no norms; the next tick starts anew."""
        shape = self._warm.shape
        if math.isfinite(frobenius):
            reason = (
                "the norms left the range of the products since the last full "
                "enclosure; the next one scales anew"
            )
            return without_values(shape, math.nan, "not_converged", reason)
        reason = "the matrix has NaN or infinite entries, or its norms overflow"
        return without_values(shape, math.nan, "nonfinite", reason)

    def _first(self) -> int:
        place, count = self._place
        return max(self._pace.refresh * (place + 1) // count, 1)

    def _draw(self) -> int:
        """Return the next seed; no two vectors of a run share one."""
        self._num_drawn += 1
        return (self._pace.seed << 64) + (self._place[0] << 40) + self._num_drawn


def _outside(enclosed: Enclosed) -> float:
    """Return the energy outside the top direction, of the scaled matrix."""
    norms = enclosed.spectrum
    frobenius, top = (
        math.ldexp(x.value, -enclosed.exponent)
        for x in (norms.frobenius, norms.sigma_max)
    )
    return frobenius**2 - top**2


def _lag(carried: Spectrum | None, full: Spectrum) -> float | None:
    if carried is None or full.status != "ok":
        return None
    return max(0.0, 1.0 - carried.sigma_max.value / full.sigma_max.value)


@final
class SmallFollower(Follower):
    """Takes the Gram matrix of the shorter side at every tick: both ends, no luck.

    Args:
        shape: (m, n) with a short side.
        num_ticks: Ticks between two readings, at most.
    """

    def __init__(self, shape: tuple[int, int], *, num_ticks: int) -> None:
        self._shape = shape
        self._num_ticks = num_ticks
        self._grams: Tensor | None = None
        self._exponents: Tensor | None = None

    def tick(self, k: int, W: Tensor, step: int) -> None:
        """Record the float64 Gram matrix of W scaled to entries near one."""
        a = W.to(torch.float64)
        a = a if a.shape[0] >= a.shape[1] else a.T
        order = a.shape[1]
        if self._grams is None:
            self._grams = torch.empty(
                (self._num_ticks, order, order), dtype=torch.float64, device=W.device
            )
            self._exponents = torch.zeros(
                self._num_ticks, dtype=torch.int32, device=W.device
            )
        assert self._exponents is not None
        # Squares of 1e-170 are zero. 2^-e itself must be a float64, hence the limit.
        e = torch.frexp(a.abs().amax()).exponent.clamp(-_REACH, _REACH)
        self._exponents[k] = e
        a = torch.ldexp(a, -e)
        torch.mm(a.T, a, out=self._grams[k])

    def read(self, num_ticks: int) -> list[Reading]:
        """Return norms from the eigenvalues of the Gram matrices."""
        assert self._grams is not None
        assert self._exponents is not None
        exponents = self._exponents[:num_ticks].tolist()
        grams = self._grams[:num_ticks].cpu()
        finite = grams.isfinite().all(dim=2).all(dim=1)
        # All at once: a call costs as much as the work for an order of ten.
        values = torch.linalg.eigvalsh(torch.where(finite[:, None, None], grams, 0.0))
        tops, totals = values[:, -1], grams.diagonal(dim1=1, dim2=2).sum(dim=1)
        return [
            Reading(self._norms(top, total, e))
            for top, total, e in zip(
                tops.tolist(), totals.tolist(), exponents, strict=True
            )
        ]

    def _norms(self, top: float, total: float, exponent: int) -> Spectrum:
        if total == 0.0:
            return without_values(self._shape, 0.0, "degenerate", "the matrix is zero")
        if not _RANGE[0] < total < _RANGE[1]:
            reason = "the matrix has NaN, infinite or extremely scaled entries"
            return without_values(self._shape, math.nan, "nonfinite", reason)
        rows, cols = max(self._shape), min(self._shape)
        error = gram_error(rows, cols)
        unit = 2.0**exponent
        frobenius = unit * math.sqrt(total)
        return Spectrum(
            shape=self._shape,
            frobenius=Value.around(
                frobenius, frobenius * UNIT_ROUNDOFF * (rows + cols + 4), "certified"
            ),
            sigma_max=Value(
                unit * math.sqrt(top),
                unit * math.sqrt(top * (1.0 - error)),
                unit * math.sqrt(top * (1.0 + error)),
            ),
            schatten4=None,
            sigma=None,
            sigma_error=None,
            route="gram",
        )
