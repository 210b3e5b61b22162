"""Initialisation alone and the speed of convergence: the parts of that claim."""

from __future__ import annotations

from spectrank.experiments.georgiev2021stable.convergence.design import cells
from spectrank.experiments.georgiev2021stable.convergence.study import part
from spectrank.experiments.papers import Mode, Part


def parts(mode: Mode) -> tuple[Part, ...]:
    """Return the parts, one for each data set, network and optimiser.

    A run that was cut loses one of them at most.

    Args:
        mode: ``quick`` or ``full``.

    Returns:
        In the order in which they run.
    """
    return tuple(part(cell) for cell in cells(mode))
