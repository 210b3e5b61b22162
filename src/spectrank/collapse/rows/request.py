"""What is asked for, the columns of the answer, and a row of one measured number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import polars as pl

from spectrank.collapse.certificates import COLUMNS as CERTIFICATE_COLUMNS
from spectrank.collapse.certificates import Norm
from spectrank.linalg import Value
from spectrank.scanning.rows import value_columns

Row = dict[str, Any]

COLUMNS: Mapping[str, Any] = {
    "m": pl.Int64,
    "n": pl.Int64,
    "dtype": pl.String,
    "layer_type": pl.String,
    "tied_to": pl.String,
    "of": pl.String,
    "cells": pl.String,
    "num_samples": pl.Int64,
    "num_classes": pl.Int64,
    "weight_decay": pl.Float64,
    "decay": pl.String,
    **CERTIFICATE_COLUMNS,
}
"""Producer columns; ``of`` says what a row is about: ``features`` (the layer's input),
``gradients`` (of the loss for its output), ``weight`` or ``model``; ``cells`` which
cells a certificate rests on."""


@final
@dataclass(frozen=True)
class Request:
    """What of the statistics becomes rows.

    Attributes:
        norms: Of the certificates.
        ranks: Of their profile; None for their own choice.
        clusters: Whether k-means is run on the kept rows.
        alignments: Whether the six alignments are taken.
        rank_rtol: Threshold of the gradient's numerical rank.
        seed: Of k-means.
    """

    norms: Sequence[Norm]
    ranks: Sequence[int] | None
    clusters: bool
    alignments: bool
    rank_rtol: float
    seed: int


def measured(metric: str, variant: str | None, value: Value) -> Row:
    """Return the row of one number, without the columns that name its subject.

    Args:
        metric: Its name.
        variant: Which convention.
        value: The number.

    Returns:
        The row.
    """
    return {
        "kind": "measurement",
        "metric": metric,
        "variant": variant,
        **value_columns(value),
    }
