r"""Rows of the variances of every layer, and of what keeps the limit random.

At width n and participation ratio rho the kernel of a random net scatters around its
limit with a relative variance of about sum_l (4 / (3 rho_l) + 1 / n_l) over its layers
but the last (relu; shallow nets). It goes to zero with the width only if rho does not
stay bounded.
Source (derived): the exact moments of ``spectrank.ntk.moments``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from spectrank.ntk.infinite.scales import Scale
from spectrank.table import Table

COLUMNS = {"m": pl.Int64, "n": pl.Int64}
"""Producer columns."""


def relative_variance(scales: Sequence[Scale]) -> float:
    r"""Leading order of the relative variance of the kernel around its limit.

    :math:`\sum_l 4/(3\rho_l) + 1/n_l` over the layers but the last. Dimensionless; not
    the exact value, which grows faster with depth.
    Source (derived): tests/ntk/infinite/test_infinite_random_mlp.py.

    Args:
        scales: Of a law with participation ratios.

    Returns:
        The sum.
    """
    return sum(
        4.0 / (3.0 * s.participation_ratio) + 1.0 / s.m
        for s in scales[:-1]
        if s.participation_ratio is not None
    )


def rows(scales: Sequence[Scale], parametrisation: str) -> Table:
    """Make the rows.

    Args:
        scales: Of every layer, in order.
        parametrisation: Of the kernel.

    Returns:
        A Table of kind ``law``.
    """
    found: list[dict[str, Any]] = []
    for s in scales:
        common = {"kind": "law", "subject": s.name, "m": s.m, "n": s.n, "status": "ok"}
        common["variant"] = parametrisation
        weight = {"metric": "weight_variance", "value": s.weight_variance}
        found.append({**common, **weight, "route": s.route})
        found.append({**common, "metric": "bias_variance", "value": s.bias_variance})
        if s.participation_ratio is not None:
            rho = {"metric": "participation_ratio", "value": s.participation_ratio}
            found.append({**common, **rho})
    if any(s.participation_ratio is not None for s in scales):
        found.append(
            {
                "kind": "law",
                "subject": "network",
                "metric": "ntk_relative_variance",
                "variant": parametrisation,
                "value": relative_variance(scales),
                "status": "ok",
                "reason": "leading order; does not vanish with the width where the "
                "participation ratio stays bounded: the kernel stays random then",
            }
        )
    return Table.from_rows(found, columns=COLUMNS)
