"""Rows of the variances of every layer, and of what keeps the limit random.

The kernel of a random net scatters around its limit. Its relative variance goes to zero
with the width only if the participation ratios of the layers do not stay bounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from spectrank.ntk.infinite.scales import Scale
from spectrank.random_nets.rows import NETWORK
from spectrank.table import Table

COLUMNS = {"m": pl.Int64, "n": pl.Int64}
"""Producer columns."""


def rows(
    scales: Sequence[Scale], parametrisation: str, relative_variance: float | None
) -> Table:
    """Make the rows.

    Args:
        scales: Of every layer, in order.
        parametrisation: Of the kernel.
        relative_variance: Of K(x, x) at the widths of a law of random nets; None where
            there is no law, or no exact value.

    Returns:
        A Table of kind ``measurement``.
    """
    found: list[dict[str, Any]] = []
    for s in scales:
        common = {
            "kind": "measurement",
            "subject": s.name,
            "m": s.m,
            "n": s.n,
            "status": "ok",
        }
        common["variant"] = parametrisation
        weight = {"metric": "weight_variance", "value": s.weight_variance}
        found.append({**common, **weight, "route": s.route})
        found.append({**common, "metric": "bias_variance", "value": s.bias_variance})
        if s.participation_ratio is not None:
            rho = {"metric": "participation_ratio", "value": s.participation_ratio}
            found.append({**common, **rho})
    if any(s.participation_ratio is not None for s in scales):
        found.append(_scatter(relative_variance))
    return Table.from_rows(found, columns=COLUMNS)


def _scatter(relative_variance: float | None) -> dict[str, Any]:
    row = {"kind": "measurement", "subject": NETWORK}
    row["metric"] = "kernel_relative_variance"
    if relative_variance is None:
        return row | {
            "kind": "skip",
            "status": "skipped",
            "reason": "exact for relu, leaky_relu and linear only; measure it by "
            "empirical kernels of sampled nets",
        }
    return row | {
        "value": relative_variance,
        "status": "ok",
        "route": "exact",
        "reason": "of K(x, x) at these widths, around the limit; where the "
        "participation ratio stays bounded it does not vanish with the width, and the "
        "kernel stays random",
    }
