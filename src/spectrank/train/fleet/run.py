"""The run of a fleet: groups side by side, steps between two looks at the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import Tensor

from spectrank.train.fleet.batches import Batches
from spectrank.train.fleet.checkpoint import read_checkpoint, write_checkpoint
from spectrank.train.fleet.group import Group, compacts, companioned
from spectrank.train.fleet.layout import Buckets, Layout
from spectrank.train.fleet.progress import RUNNING, Progress
from spectrank.train.fleet.route import Route
from spectrank.train.fleet.settings import Settings
from spectrank.train.fleet.threads import single_threaded

# Groups take this many steps in turn, so that a group's tensors stay in the cache.
STRIDE = 64


@final
@dataclass(frozen=True)
class FleetView:
    """What an observer sees between two steps.

    Attributes:
        step: Updates done by the members that go on.
        losses: (M,) loss of each member's last batch, before its update.
        active: Members that go on.
    """

    step: int
    losses: np.ndarray
    active: tuple[int, ...]
    _parameters: Callable[[], dict[str, Tensor]]

    def parameters(self) -> dict[str, Tensor]:
        """Parameters of all members now, those that stopped included.

        Returns:
            Name to (M, *shape), copies.
        """
        return self._parameters()


@dataclass(frozen=True)
class Saving:
    """Where and how often the state is written.

    Attributes:
        path: The file.
        every: Steps between two writes.
        fingerprint: What the file belongs to.
    """

    path: Path
    every: int
    fingerprint: Mapping[str, str]


@final
class FleetRun:
    """State of a fleet in training.

    Attributes:
        progress: Losses, steps and ends.
        step: Updates done by the members that go on.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        *,
        route: Route,
        settings: Settings,
        batches: Batches,
        group_size: int,
        num_threads: int,
    ) -> None:
        self._rest = {name: value.clone() for name, value in parameters.items()}
        self._like = next(iter(self._rest.values()))
        self._layout = Layout.of({n: v.shape[1:] for n, v in self._rest.items()})
        self._route = route
        self._settings = settings
        self._batches = batches
        self._group_size = group_size
        self._num_threads = num_threads if self._like.device.type == "cpu" else 1
        self._groups: list[Group] = []
        self.progress = Progress(settings.stopping, len(self._like))
        self.step = 0

    def run(
        self,
        saving: Saving | None,
        on_step: Callable[[int, FleetView], None] | None,
        observe_every: int,
    ) -> None:
        """Train until every member has stopped.

        Args:
            saving: Where the state goes; a state that is there is gone on with.
            on_step: Called every ``observe_every`` steps.
            observe_every: Steps between two calls.
        """
        if saving is None or not self._restore(saving):
            self._group_anew(self._rest, {})
        end = int(self._settings.stopping.max_steps.max(initial=0))
        periods = [STRIDE]
        periods += [observe_every] if on_step is not None else []
        periods += [saving.every] if saving is not None else []
        with single_threaded(self._like.device), self._pool() as pool:
            while len(self.progress.active()):
                upto = min(end, *((self.step // p + 1) * p for p in periods))
                self._advance(upto, pool)
                # All may have stopped before.
                done = int(self.progress.num_steps.max(initial=0)) >= upto
                if on_step is not None and done and upto % observe_every == 0:
                    on_step(upto, self._view())
                if saving is not None:
                    self._save_if_due(saving)

    def parameters(self) -> dict[str, Tensor]:
        """Parameters of all members.

        Returns:
            Name to (M, *shape), copies.
        """
        return self._assembled([(g, g.parameters()) for g in self._groups])

    def _advance(self, upto: int, pool: ThreadPoolExecutor | None) -> None:
        def work(group: Group) -> None:
            group.advance(self.step, upto, self._batches, self.progress, self._freeze)

        if pool is None:
            for group in self._groups:
                work(group)
        else:
            # list: an exception of a thread is raised here.
            list(pool.map(work, self._groups))
        self.step = upto
        self._groups = [group for group in self._groups if group.live.any()]
        if len(self._parts()) < len(self._groups):
            self._regroup()

    def _freeze(self, member: int, views: Mapping[str, Tensor], row: int) -> None:
        for name, value in views.items():
            self._rest[name][member] = value[row]

    def _view(self) -> FleetView:
        active = tuple(self.progress.active().tolist())
        losses = self.progress.last.copy()
        return FleetView(self.step, losses, active, self.parameters)

    def _assembled(
        self, parts: list[tuple[Group, dict[str, Tensor]]]
    ) -> dict[str, Tensor]:
        whole = {name: value.clone() for name, value in self._rest.items()}
        for group, views in parts:
            members = torch.from_numpy(group.members[group.live])
            rows = torch.from_numpy(np.flatnonzero(group.live))
            for name, view in views.items():
                whole[name][members.to(view.device)] = view[rows.to(view.device)]
        return whole

    def _parts(self) -> list[np.ndarray]:
        """Who goes together: sizes as equal as can be, a multiple of the threads."""
        live = self.progress.status == RUNNING
        together = np.arange(len(live))
        if compacts(self._route, self._like.device):
            together = companioned(live)
        count = -(-len(together) // self._group_size)
        count = -(-count // self._num_threads) * self._num_threads
        if self._group_size > 1:
            # None alone (see ``companioned``).
            count = min(count, len(together) // 2)
        parts = np.array_split(together, max(1, count))
        return [part for part in parts if live[part].any()]

    def _regroup(self) -> None:
        self._group_anew(self.parameters(), self._slots())

    def _slots(self) -> dict[str, dict[str, Tensor]]:
        """State of the optimiser for all members; of those that stopped, anything."""
        return {
            slot: self._assembled(
                [(g, self._layout.views(g.slots[slot])) for g in self._groups]
            )
            for slot in self._settings.optimizer.slots
        }

    def _group_anew(
        self,
        values: Mapping[str, Tensor],
        slots: Mapping[str, Mapping[str, Tensor]],
    ) -> None:
        def packed(slot: str, rows: Tensor) -> Buckets:
            if slot in slots:
                return self._layout.pack(slots[slot], rows)
            return self._layout.zeros(len(rows), self._like)

        self._groups = []
        for members in self._parts():
            rows = torch.from_numpy(members).to(self._like.device)
            group = Group(
                members,
                self.progress.status[members] == RUNNING,
                self._layout.pack(values, rows),
                {slot: packed(slot, rows) for slot in self._settings.optimizer.slots},
                layout=self._layout,
                route=self._route,
                settings=self._settings,
            )
            self._groups.append(group)

    def _save_if_due(self, saving: Saving) -> None:
        running = len(self.progress.active()) > 0
        if self.step % saving.every and running:
            return
        slots = self._slots()
        tensors = {f"value/{n}": v for n, v in self.parameters().items()}
        for slot, views in slots.items():
            tensors |= {f"{slot}/{name}": view for name, view in views.items()}
        for name, array in self.progress.arrays().items():
            tensors[f"progress/{name}"] = torch.from_numpy(array)
        tensors["generators"] = self._batches.states(self.step)
        write_checkpoint(saving.path, tensors, saving.fingerprint, self.step)
        # As a resumed run groups them: the same products in the same order.
        if running:
            self._regroup()

    def _restore(self, saving: Saving) -> bool:
        found = read_checkpoint(saving.path, saving.fingerprint)
        if found is None:
            return False
        tensors, self.step = found
        device = self._like.device

        def named(prefix: str) -> dict[str, Tensor]:
            names = self._layout.shapes
            return {name: tensors[f"{prefix}/{name}"].to(device) for name in names}

        self._rest = named("value")
        arrays = self.progress.arrays()
        self.progress.restore({n: tensors[f"progress/{n}"].numpy() for n in arrays})
        active = self.progress.active().tolist()
        self._batches.restore(tensors["generators"], active, self.step)
        slots = {slot: named(slot) for slot in self._settings.optimizer.slots}
        self._group_anew(self._rest, slots)
        return True

    @contextmanager
    def _pool(self) -> Iterator[ThreadPoolExecutor | None]:
        if self._num_threads == 1 or len(self._groups) < 2:
            yield None
            return
        with ThreadPoolExecutor(self._num_threads) as pool:
            yield pool
