"""Small networks brought to stationary points, where the theory speaks exactly."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from spectrank.experiments.papers import Mode, Part
from spectrank.experiments.zangrando2024neural.stationary import toy_questions
from spectrank.experiments.zangrando2024neural.stationary.toy import ToySize

_TOY: Mapping[Mode, ToySize] = MappingProxyType(
    {"quick": ToySize(5, 3), "full": ToySize(20, 5)}
)


def parts(mode: Mode) -> tuple[Part, ...]:
    """Return the experiments of a mode.

    Args:
        mode: ``quick`` or ``full``.

    Returns:
        The parts.
    """
    return (toy_questions.part(_TOY[mode]),)
