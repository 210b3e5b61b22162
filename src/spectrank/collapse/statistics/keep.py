"""Rows that are kept: all of them while they fit, else a uniform sample.

Each row gets a random key as it passes and the rows with the smallest keys stay, so the
sample is uniform without replacement, does not depend on the batches, and the samples
of two shards make one of both: keep the smallest keys of the union.
Source (derived): tests/collapse/statistics/test_collapse_keep.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from spectrank.linalg.shapes import Shaped


@final
@dataclass(frozen=True, eq=False)
class KeptRows:
    """Rows of one layer's input, in the dtype in which they came.

    Attributes:
        rows: (R, n) rows, in the order of the pass.
        labels: (R,) class of each; all 0 where there are no classes.
        predictions: (R,) class that the model chose; None where that is not known.
        targets: (R, t) regression targets; None where there are classes.
        gradients: (R, m) output gradients of the same rows; None if not kept.
        num_seen: Number of rows that passed.
    """

    rows: Shaped[Tensor, "R n"]
    labels: Shaped[Tensor, " R"]
    predictions: Shaped[Tensor, " R"] | None
    targets: Shaped[Tensor, "R t"] | None
    gradients: Shaped[Tensor, "R m"] | None
    num_seen: int

    @property
    def exact(self) -> bool:
        """Whether every row was kept."""
        return len(self.rows) == self.num_seen


Parts = dict[str, Tensor]


@final
class RowKeeper:
    """Keeps at most ``capacity`` rows.

    Args:
        capacity: Largest number of rows, 0 to keep none.
        seed: Of the keys.
    """

    def __init__(self, capacity: int, *, seed: int) -> None:
        self.capacity = capacity
        self._generator = torch.Generator().manual_seed(seed)
        self._chunks: list[Parts] = []
        self._num_held = 0
        self.num_seen = 0

    def update(self, parts: Parts) -> None:
        """Take in the rows of a batch.

        Args:
            parts: Name to (N, ...) tensor, the same names every time: ``rows``,
                ``labels`` and what belongs to them.
        """
        size = len(parts["rows"])
        order = torch.arange(self.num_seen, self.num_seen + size)
        self.num_seen += size
        if not self.capacity or not size:
            return
        if (
            self._chunks
            and parts["rows"].shape[1:] != self._chunks[0]["rows"].shape[1:]
        ):
            # Images of several sizes have no common mean: nothing can be kept.
            self._chunks, self._num_held, self.capacity = [], 0, 0
            return
        keys = torch.rand(size, generator=self._generator, dtype=torch.float64)
        held = {name: part.detach() for name, part in parts.items()}
        self._hold({**held, "keys": keys, "order": order})
        if self._num_held > 2 * self.capacity:
            self._thin()

    def state(self) -> Parts:
        """Return the kept rows with their keys; empty without rows."""
        self._thin()
        return self._chunks[0] if self._chunks else {}

    def absorb(self, state: Parts, num_seen: int) -> None:
        """Take in what another keeper of the same capacity kept.

        Args:
            state: Of the other; its rows come after the own ones.
            num_seen: Number of rows that passed there.
        """
        if state:
            self._hold({**state, "order": state["order"] + self.num_seen})
        self.num_seen += num_seen
        self._thin()

    def compute(self) -> KeptRows | None:
        """Return the rows kept so far; None where there are none."""
        held = self.state()
        if not held:
            return None
        place = held["order"].argsort()
        found = {
            name: part[place.to(part.device)]
            for name, part in held.items()
            if name not in {"keys", "order"}
        }
        return KeptRows(
            rows=found["rows"],
            labels=found["labels"],
            predictions=found.get("predictions"),
            targets=found.get("targets"),
            gradients=found.get("gradients"),
            num_seen=self.num_seen,
        )

    def _hold(self, parts: Parts) -> None:
        self._chunks.append(parts)
        self._num_held += len(parts["rows"])

    def _thin(self) -> None:
        if not self._chunks:
            return
        names = self._chunks[0]
        whole = {name: torch.cat([c[name] for c in self._chunks]) for name in names}
        if self._num_held > self.capacity:
            chosen = whole["keys"].topk(self.capacity, largest=False).indices
            whole = {n: part[chosen.to(part.device)] for n, part in whole.items()}
        self._chunks = [whole]
        self._num_held = len(whole["rows"])
