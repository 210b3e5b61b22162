"""The matrices of a tracker, each with its follower, while the model may change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from torch import Tensor, nn

from spectrank.model import WeightMatrix
from spectrank.train.tracker.follow import (
    SMALL,
    Follower,
    Pace,
    SmallFollower,
    WarmFollower,
)
from spectrank.train.tracker.live import LiveWeight, relocate


@dataclass(frozen=True, eq=False)
class Slot:
    """A matrix and how it is followed."""

    live: LiveWeight
    follower: Follower


@final
class Slots:
    """All matrices, in the order of the model.

    Args:
        matrices: What to follow.
        model: Where they are.
        views: As given to the tracker.
        pace: How full enclosures are made.
        drift: Whether the matrices of full enclosures are kept as anchors.
        num_ticks: Ticks between two readings, at most.
    """

    def __init__(
        self,
        matrices: Sequence[WeightMatrix],
        model: nn.Module,
        views: Mapping[str, str] | None,
        pace: Pace,
        *,
        drift: bool,
        num_ticks: int,
    ) -> None:
        self._model, self._views, self._pace = model, views, pace
        self._num_ticks, self._num_places = num_ticks, len(matrices)
        # Shared by all matrices of a shape.
        self._scratch: dict[tuple[int, int], Tensor] | None = {} if drift else None
        self._slots = [
            self._slot(LiveWeight(weight, model), i)
            for i, weight in enumerate(matrices)
        ]

    def __iter__(self) -> Iterator[Slot]:
        return iter(self._slots)

    def __reversed__(self) -> Iterator[Slot]:
        return reversed(self._slots)

    @property
    def devices(self) -> set[str]:
        """Types of the devices where matrices are."""
        return {slot.live.device for slot in self._slots}

    @property
    def disturbed(self) -> bool:
        """Whether a parameter was replaced, moved, cast or taken away."""
        return any(slot.live.replaced for slot in self._slots)

    def settle(self) -> list[WeightMatrix]:
        """Follow what was replaced from where it is now, starting anew.

        Returns:
            Those that the model has no more.
        """
        gone, kept = [], []
        for i, slot in enumerate(self._slots):
            if not slot.live.replaced:
                kept.append(slot)
                continue
            live = relocate(slot.live.weight, self._model, self._views)
            if live is None:
                gone.append(slot.live.weight)
            else:
                kept.append(self._slot(live, i))
        self._slots = kept
        return gone

    def _slot(self, live: LiveWeight, place: int) -> Slot:
        shape = live.weight.shape
        if min(shape) <= SMALL:
            return Slot(live, SmallFollower(shape, num_ticks=self._num_ticks))
        follower = WarmFollower(
            shape,
            self._pace,
            place=(place, self._num_places),
            num_ticks=self._num_ticks,
            scratch=self._scratch,
        )
        return Slot(live, follower)
