"""What the three accumulators share: tiles, merging, state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Self

import torch
from torch import Tensor

from spectrank.errors import ArgumentTypeError, DomainError, ShapeError
from spectrank.linalg.moments._centres import Centres
from spectrank.linalg.moments._rows import plain_arithmetic, tile_rows
from spectrank.linalg.moments._sums import Products, Sum

# First entry of a state; a later layout gets another number.
_STATE_VERSION = 1
_CENTRES = ("counts", "num_nonfinite", "largest", "pivots", "offsets")


class Accumulator(ABC):
    """Counts, means and scatters of rows that pass by in batches.

    Two accumulators of the same settings merge; a state is a dict of tensors. Rows
    wait in a tile of fixed size before they are worked on, so that neither time nor
    result depends on the size of the batches they come in.
    """

    _KIND: ClassVar[int]

    def __init__(
        self,
        num_classes: int,
        widths: tuple[int, ...],
        sums: Mapping[str, Sum],
        device: torch.device,
    ) -> None:
        """Start with no rows.

        Args:
            num_classes: K, at least 1.
            widths: Number of columns of each block of a row.
            sums: What is summed over the rows of the increments.
            device: Where all of it lives.
        """
        self._sums = dict(sums)
        products = any(isinstance(total, Products) for total in sums.values())
        dim = sum(widths)
        size = tile_rows(dim, device, products=products)
        self._centres = Centres(num_classes, widths, size, device)
        self._rows = torch.empty(size, dim, dtype=torch.float64, device=device)
        self._labels = torch.empty(size, dtype=torch.int64, device=device)
        self._num_waiting = 0

    @property
    def device(self) -> torch.device:
        """Where the sums live; rows are moved there."""
        return self._rows.device

    @property
    def counts(self) -> Tensor:
        """(K,) int64 number of rows taken in, by class (a copy)."""
        return self._settled().counts.clone()

    @property
    def num_nonfinite(self) -> Tensor:
        """(K,) int64 number of rows left out as not finite, by class (a copy)."""
        return self._settled().num_nonfinite.clone()

    @abstractmethod
    def _settings(self) -> tuple[int, ...]:
        """Everything that two accumulators must share to merge, as integers."""

    @classmethod
    @abstractmethod
    def _from_settings(
        cls, settings: tuple[int, ...], device: torch.device | str
    ) -> Self:
        """Return an empty accumulator with these settings."""

    def merge(self, other: Self) -> None:
        """Take in all that another accumulator has taken in, in place.

        In exact arithmetic the order of merging does not matter; here it changes a
        scatter by rounding only.

        Args:
            other: Of the same type and settings, on any device; unchanged.

        Raises:
            ArgumentTypeError: ``other`` is of another type.
            DomainError: It has other settings.
        """
        if type(other) is not type(self):
            raise ArgumentTypeError(
                f"a {type(self).__name__} merges with its own type, "
                f"got {type(other).__name__}; keep one accumulator for each"
            )
        if other._settings() != self._settings():
            raise DomainError(
                f"only accumulators with equal settings merge, got {other!r} and "
                f"{self!r}; construct both alike"
            )
        if other.device != self.device:
            other = type(self).from_state_dict(other.state_dict(), device=self.device)
        mine, theirs = self._settled(), other._settled()
        with plain_arithmetic(self.device):
            for name, total in self._sums.items():
                total.merge(other._sums[name])
            for increment in mine.merge(theirs):
                for total in self._sums.values():
                    total.add(increment)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the whole state as plain tensors (copies).

        Returns:
            Name to tensor: ``settings`` (int64), ``counts``, ``num_nonfinite``,
            ``largest``, ``pivots``, ``offsets`` and ``sum.*``.
        """
        settings = (_STATE_VERSION, self._KIND, *self._settings())
        state = {"settings": torch.tensor(settings, dtype=torch.int64)}
        centres = self._settled()
        with plain_arithmetic(self.device):
            for name in _CENTRES:
                state[name] = getattr(centres, name).clone()
            for name, total in self._sums.items():
                state[f"sum.{name}"] = total.value().clone()
        return state

    @classmethod
    def from_state_dict(
        cls, state: Mapping[str, Tensor], *, device: torch.device | str | None = None
    ) -> Self:
        """Return the accumulator that gave this state.

        Args:
            state: What ``state_dict`` returned, perhaps saved and loaded.
            device: Where the sums shall live; that of the state by default.

        Returns:
            An accumulator that goes on where the other stood.

        Raises:
            DomainError: The state is of another type, version or set of names.
            ShapeError: A tensor does not have the shape that the settings ask for.
        """
        version, kind, *settings = _read_settings(state)
        if version != _STATE_VERSION or kind != cls._KIND:
            raise DomainError(
                f"a {cls.__name__} is restored from its own state of version "
                f"{_STATE_VERSION}, got type {kind} of version {version}; "
                "call from_state_dict of the type that wrote it"
            )
        where = state["counts"].device if device is None else torch.device(device)
        restored = cls._from_settings(tuple(settings), where)
        targets = {name: getattr(restored._centres, name) for name in _CENTRES}
        targets |= {f"sum.{name}": s.value() for name, s in restored._sums.items()}
        if set(state) != {"settings", *targets}:
            raise DomainError(
                f"a state has the names {sorted(targets)} and settings, got "
                f"{sorted(state)}; pass what state_dict returned, unchanged"
            )
        with plain_arithmetic(where):
            for name, target in targets.items():
                if state[name].shape != target.shape:
                    raise ShapeError(
                        f"{name} must have shape {tuple(target.shape)}, "
                        f"got {tuple(state[name].shape)}; pass the state unchanged"
                    )
                target.copy_(state[name])
        return restored

    def _take(self, parts: tuple[Tensor, ...], labels: Tensor) -> None:
        """Let rows wait, given by blocks of columns, and work on every full tile."""
        start = 0
        while start < len(labels):
            first = self._num_waiting
            num = min(len(labels) - start, len(self._rows) - first)
            taken = slice(start, start + num)
            self._labels[first : first + num].copy_(labels[taken])
            left = 0
            for part in parts:
                right = left + part.shape[1]
                self._rows[first : first + num, left:right].copy_(part[taken])
                left = right
            start, self._num_waiting = start + num, first + num
            if self._num_waiting == len(self._rows):
                self._settled()

    def _settled(self) -> Centres:
        """Return the centres, and leave no row waiting."""
        if self._num_waiting:
            waiting = slice(0, self._num_waiting)
            self._num_waiting = 0
            with plain_arithmetic(self.device):
                for increment in self._centres.absorb(
                    self._rows[waiting], self._labels[waiting]
                ):
                    for total in self._sums.values():
                        total.add(increment)
        return self._centres

    def _sum(self, name: str) -> Tensor:
        """Return a copy of a sum with all rows in it."""
        self._settled()
        with plain_arithmetic(self.device):
            return self._sums[name].value().clone()


def _read_settings(state: Mapping[str, Tensor]) -> list[int]:
    settings = state.get("settings")
    if not isinstance(settings, Tensor) or "counts" not in state or len(settings) < 2:
        raise DomainError(
            "a state must hold settings and counts, got the names "
            f"{sorted(state)}; pass what state_dict returned, unchanged"
        )
    return [int(x) for x in settings.tolist()]
