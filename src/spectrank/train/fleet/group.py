"""A group: some members whose tensors lie together, and one step of theirs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import final

import numpy as np
import torch
from torch import Tensor

from spectrank.train.fleet.batches import Batches
from spectrank.train.fleet.coefficients import Coefficients
from spectrank.train.fleet.layout import Buckets, Layout
from spectrank.train.fleet.optimizers import clip_
from spectrank.train.fleet.progress import NONFINITE, RUNNING, Progress
from spectrank.train.fleet.route import Route
from spectrank.train.fleet.settings import Settings

Freeze = Callable[[int, Mapping[str, Tensor], int], None]
"""Takes member, its group's parameters, and its row there, when it stops."""


def compacts(route: Route, device: torch.device) -> bool:
    """Whether members that stopped are left out.

    Args:
        route: Computes the group.
        device: Where it is.

    Returns:
        False where a smaller group might round otherwise.
    """
    return route.placeless and device.type == "cpu"


def companioned(live: np.ndarray) -> np.ndarray:
    """Rows that a group keeps: those that go on, but two where there are two.

    A product of a batch of one, where a layer has one unit, is a product with a vector,
    which is rounded otherwise.

    Args:
        live: (G,) which members go on.

    Returns:
        Row numbers, ascending.
    """
    rows = np.flatnonzero(live)
    if len(rows) == 1 and len(live) > 1:
        rows = np.union1d(rows, np.flatnonzero(~live)[:1])
    return rows


@final
class Group:
    """Members that take their steps together.

    Attributes:
        members: (G,) indices into the fleet, ascending.
        live: (G,) which of them go on. Those that stopped are left out at once, or
            computed on to nobody's use where leaving them out might change the bits of
            the others.
        values: Their parameters.
        slots: Their optimiser's state, by name.
    """

    def __init__(
        self,
        members: np.ndarray,
        live: np.ndarray,
        values: Buckets,
        slots: dict[str, Buckets],
        *,
        layout: Layout,
        route: Route,
        settings: Settings,
    ) -> None:
        self.members = members
        self.live = live
        self.values = values
        self.slots = slots
        self._layout = layout
        self._route = route
        self._settings = settings
        self._compacts = compacts(route, values[0].device)
        self._bind()

    def advance(
        self,
        start: int,
        stop: int,
        batches: Batches,
        progress: Progress,
        freeze: Freeze,
    ) -> None:
        """Take the steps start ... stop - 1, or fewer if every member stops.

        Args:
            start: Number of updates before.
            stop: Number of updates after.
            batches: Data of the fleet.
            progress: Of the fleet.
            freeze: Called with each member that stops.
        """
        with torch.no_grad():
            for step in range(start, stop):
                if not self.live.any():
                    return
                self._step(step, batches, progress, freeze)

    def parameters(self) -> dict[str, Tensor]:
        """Parameters of the members.

        Returns:
            Name to (G, *shape) views.
        """
        return self._layout.views(self.values)

    def _step(
        self, step: int, batches: Batches, progress: Progress, freeze: Freeze
    ) -> None:
        inputs, targets = batches.take(self._index, step)
        losses = self._pass(inputs, targets).to("cpu", torch.float64).numpy()
        status = np.full(len(self.members), RUNNING)
        status[self.live] = progress.observe(
            self.members[self.live], step + 1, losses[self.live]
        )
        self._freeze(status == NONFINITE, freeze)
        if self._clip is not None:
            clip_(self._layout.filled(self._gradients), self._clip)
        self._coefficients.step = step
        self._coefficients.factor = float(self._settings.factors[step])
        self._settings.optimizer.update(
            self.values, self._gradients, self.slots, self._coefficients
        )
        self._freeze((status != RUNNING) & (status != NONFINITE), freeze)
        if (status != RUNNING).any():
            self.live = self.live & (status == RUNNING)
            if self._compacts and self.live.any():
                self._keep(companioned(self.live))

    def _freeze(self, stopped: np.ndarray, freeze: Freeze) -> None:
        if stopped.any():
            views = self.parameters()
            for row in np.flatnonzero(stopped):
                freeze(int(self.members[row]), views, int(row))

    def _keep(self, rows: np.ndarray) -> None:
        if len(rows) == len(self.members):
            return
        self.members, self.live = self.members[rows], self.live[rows]
        index = torch.from_numpy(rows).to(self.values[0].device)
        self.values = [bucket.index_select(1, index) for bucket in self.values]
        self.slots = {
            name: [bucket.index_select(1, index) for bucket in buckets]
            for name, buckets in self.slots.items()
        }
        self._bind()

    def _bind(self) -> None:
        like, settings = self.values[0], self._settings
        self._index = torch.from_numpy(self.members).to(like.device)
        self._gradients = self._layout.zeros(len(self.members), like)
        self._pass = self._route.bind(
            self.parameters(),
            self._layout.views(self._gradients),
            settings.batch_size,
        )
        numbers = {n: v[self.members] for n, v in settings.coefficients.items()}
        self._coefficients = Coefficients(numbers, settings.used, like)
        clip = settings.clip_norm
        self._clip = None if clip is None else clip[self.members]
