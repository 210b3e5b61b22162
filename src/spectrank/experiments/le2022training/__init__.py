"""Le & Jegelka (2022), arXiv:2201.11968.

The paper proves and has no experiments: what it states is put to the test on networks
and data of ours, beside what we add to it (discrete steps, bounds with constants, more
than one output) and where it says that its laws fail.
"""

from __future__ import annotations

from types import MappingProxyType

from spectrank.experiments.le2022training import conservation, images, limits
from spectrank.experiments.papers import Mode, Paper, Part
from spectrank.experiments.threads import on_one_thread


def _parts(mode: Mode) -> tuple[Part, ...]:
    found = (*conservation.parts(mode), *limits.parts(mode), *images.parts(mode))
    return on_one_thread(found)


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
            "full": "more seeds, MNIST, about twenty minutes on one core",
        }
    ),
)
