"""What every layer of a pass shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

Scatter = Literal["full", "trace"]


@final
@dataclass(frozen=True)
class Settings:
    """Options of a pass.

    Attributes:
        num_classes: K; None for regression.
        graded: Whether there are output gradients.
        scatter: Of the inputs.
        scatter_out: Of the output gradients.
        precision: Of the products.
        positions: Whether (class, position) cells are looked for.
        ignored: Label that means none.
        capacity: Number of rows to keep.
        keep_gradients: Whether output gradients are kept beside the rows.
        seed: Of the rows that are kept.
    """

    num_classes: int | None
    graded: bool
    scatter: Scatter
    scatter_out: Scatter
    precision: Literal["float64", "float32"]
    positions: bool
    ignored: int
    capacity: int
    keep_gradients: bool
    seed: int
