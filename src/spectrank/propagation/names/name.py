"""What one metric of propagation says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

SIGNAL = ("post", "pre")
"""Variants of what is told of h_l and of z_l."""
UNBOUNDED = float("inf")
DERIVED = "Source (derived): "
NORMS = "tests/propagation/theory/test_theory_monte_carlo.py"


@final
@dataclass(frozen=True)
class Name:
    """What one metric means.

    Attributes:
        name: As in the column ``metric``.
        variants: As in the column ``variant``; empty where there is none.
        formula: Definition; for theory also the exact law where there is one.
        unit: Of the value; ``1`` for a ratio.
        range: Of the value.
        source: Who states it, or the test that proves it.
        scope: ``layer`` (one row a layer), ``network``, or ``both``.
    """

    name: str
    variants: tuple[str | None, ...]
    formula: str
    unit: str
    range: tuple[float, float]
    source: str
    scope: str = "layer"
