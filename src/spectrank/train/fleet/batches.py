"""Which samples a member sees at which step: its seed decides, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import final

import torch
from torch import Tensor

from spectrank.train.fleet.data import Data
from spectrank.train.fleet.settings import Settings, positive


def batch_order(
    seed: int, num_samples: int, batch_size: int | None = None
) -> Iterator[Tensor]:
    """The batches that a member of this seed sees, without end.

    Each epoch is ``torch.randperm(num_samples, generator=g)`` of one CPU generator
    seeded with ``seed``, cut into whole batches; the remainder is left out. A batch
    of all samples is in their own order, and nothing is drawn.

    Args:
        seed: Of the member.
        num_samples: Size of the data set.
        batch_size: Samples a batch; None for all of them.

    Yields:
        (batch_size,) indices.

    Raises:
        DomainError: ``batch_size`` is below 1.

    Example:
        >>> order = batch_order(seed=0, num_samples=10, batch_size=4)
        >>> [len(next(order)) for _ in range(3)]
        [4, 4, 4]
    """  # noqa: DOC502
    if batch_size is not None:
        positive("batch_size", batch_size)
    if batch_size is None or batch_size >= num_samples:
        while True:
            yield torch.arange(num_samples)
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(num_samples, generator=generator)
        for start in range(0, num_samples - batch_size + 1, batch_size):
            yield order[start : start + batch_size]


@final
class Batches:
    """Batches of all members from data on the device.

    The order takes 8 bytes a sample and member.

    Attributes:
        batch_size: Samples a batch.
    """

    def __init__(self, data: Data, settings: Settings, num_members: int) -> None:
        inputs, targets = data.inputs, data.targets
        self.num_samples = data.num_samples
        self.batch_size = settings.batch_size
        self._whole = self.batch_size == self.num_samples
        self._batches = self.num_samples // self.batch_size
        self._sets = (inputs, targets) if data.sets else None
        self._flat = (inputs, targets)
        if data.sets:
            self._flat = (inputs.flatten(0, 1), targets.flatten(0, 1))
        device = inputs.device
        which = settings.dataset or (0,) * num_members
        self._which = torch.tensor(which, device=device)
        self._generators = [torch.Generator() for _ in range(num_members)]
        self._drawn_from = [g.get_state() for g in self._generators]
        self._order = torch.empty(0, dtype=torch.int64, device=device)
        if not self._whole:
            assert settings.seeds is not None
            for generator, seed in zip(self._generators, settings.seeds, strict=True):
                generator.manual_seed(seed)
            # Zeros: valid for members that are computed on after they have stopped.
            self._order = self._order.new_zeros(num_members, self.num_samples)

    def take(self, members: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """One batch for each member of a group.

        Args:
            members: (G,) indices into the fleet, ascending.
            step: Number of updates before; each member takes its steps in order.

        Returns:
            (G, B, *shape) inputs and (G, B, ...) targets.
        """
        if self._whole:
            return self._take_all(members)
        number = step % self._batches
        if number == 0:
            for member in members.tolist():
                self._draw(member)
        start = number * self.batch_size
        index = self._order[:, start : start + self.batch_size]
        index = index.index_select(0, members)
        shape, index = index.shape, index.flatten()
        inputs, targets = (
            data.index_select(0, index).view(*shape, *data.shape[1:])
            for data in self._flat
        )
        return inputs, targets

    def states(self, step: int) -> Tensor:
        """Generator states from which the running, or the next, epoch is drawn.

        Args:
            step: Number of updates done.

        Returns:
            (M, size) bytes.
        """
        if self._whole or step % self._batches:
            return torch.stack(self._drawn_from)
        # Between two epochs: the next is not drawn yet.
        return torch.stack([g.get_state() for g in self._generators])

    def restore(self, states: Tensor, members: Sequence[int], step: int) -> None:
        """Continue from states, in the midst of an epoch.

        Args:
            states: As ``states`` gave them.
            members: Those that go on.
            step: Number of updates done.
        """
        for member in members:
            self._generators[member].set_state(states[member].clone())
            self._drawn_from[member] = states[member].clone()
            if not self._whole and step % self._batches:
                self._draw(member)

    def _draw(self, member: int) -> None:
        generator = self._generators[member]
        self._drawn_from[member] = generator.get_state()
        order = torch.randperm(self.num_samples, generator=generator)
        # Indices into all sets laid end to end.
        offset = self._which[member] * self.num_samples
        self._order[member] = order.to(self._order.device) + offset

    def _take_all(self, members: Tensor) -> tuple[Tensor, Tensor]:
        if self._sets is not None:
            which = self._which.index_select(0, members)
            inputs, targets = (data.index_select(0, which) for data in self._sets)
            return inputs, targets
        inputs, targets = (
            data.expand(len(members), *data.shape) for data in self._flat
        )
        return inputs, targets
