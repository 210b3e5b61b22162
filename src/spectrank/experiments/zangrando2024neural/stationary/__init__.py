"""Small networks brought to stationary points, where the theory speaks exactly."""

from __future__ import annotations

from spectrank.experiments.papers import Mode, Part


def parts(mode: Mode) -> tuple[Part, ...]:
    """Return the experiments of a mode.

    Args:
        mode: ``quick`` or ``full``.

    Returns:
        The parts.
    """
    del mode
    return ()
