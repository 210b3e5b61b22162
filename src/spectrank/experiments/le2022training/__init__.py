"""Le & Jegelka (2022), arXiv:2201.11968.

The paper proves and has no experiments: what it states is put to the test on networks
and data of ours, beside what we add to it (discrete steps, bounds with constants, more
than one output) and where it says that its laws fail.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import MappingProxyType

import torch

from spectrank.experiments.le2022training import conservation, images, limits
from spectrank.experiments.papers import Mode, Paper, Part, PartResult, Tick
from spectrank.train.fleet.threads import single_threaded


def _parts(mode: Mode) -> tuple[Part, ...]:
    found = (*conservation.parts(mode), *limits.parts(mode), *images.parts(mode))
    return tuple(replace(part, run=_on_one_thread(part)) for part in found)


def _on_one_thread(part: Part) -> Callable[[int, Tick], PartResult]:
    # The matrices are too small for a second thread to be of use.
    def run(seed: int, tick: Tick) -> PartResult:
        with single_threaded(torch.device("cpu")):
            return part.run(seed, tick)

    return run


PAPER = Paper(
    key="le2022training",
    title="Training invariances and the low-rank phenomenon: beyond linear networks",
    authors="Le & Jegelka",
    identifier="arXiv:2201.11968",
    parts=_parts,
    cost=MappingProxyType(
        {
            "quick": "small networks and bundled digits, under four minutes on two "
            "cores",
            "full": "more seeds, MNIST, up to three hours on two cores",
        }
    ),
)
