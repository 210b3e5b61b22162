"""Rows of a collection of laws: what is conserved, where, on what condition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from spectrank.invariance.laws.law import Law, NoLaw
from spectrank.invariance.laws.terms import GramTerm, Term

COLUMNS: Mapping[str, Any] = {
    "num_laws": pl.Int64,
    "num_independent": pl.Int64,
    "params_in": pl.List(pl.String),
    "params_out": pl.List(pl.String),
    "axis_in": pl.List(pl.String),
    "axis_out": pl.List(pl.String),
    "exact": pl.Boolean,
}


def law_row(law: Law) -> dict[str, Any]:
    """Row of one family of laws.

    Args:
        law: The family.

    Returns:
        Row for ``Table.from_rows``. A parameter that stands with both signs is in
        both ``params_in`` (positive) and ``params_out`` (negative); ``axis_in`` and
        ``axis_out`` give for each of them the view and the axes of the features, as
        in ``8x4:0``.
    """
    n = law.shape[0]
    row: dict[str, Any] = {
        "kind": "law",
        "subject": law.name,
        "metric": law.kind,
        "variant": law.form,
        "status": "ok",
        "reason": law.condition or None,
        "source": law.source,
        "num_laws": n * (n + 1) // 2 if law.form == "gram" else n,
        "num_independent": law.count,
        "exact": law.exact,
    }
    for side, sign in (("in", 1.0), ("out", -1.0)):
        terms = [term for term in law.terms if _has_sign(term, sign)]
        row[f"params_{side}"] = [term.parameter for term in terms]
        row[f"axis_{side}"] = [_axis(term) for term in terms]
    return row


def no_law_row(item: NoLaw) -> dict[str, Any]:
    """Row of a place without a law.

    Args:
        item: The place.

    Returns:
        Row for ``Table.from_rows``.
    """
    return {
        "kind": "skip",
        "subject": item.name,
        "metric": item.kind or "law",
        "status": "skipped",
        "reason": item.reason,
    }


def _has_sign(term: Term, sign: float) -> bool:
    if isinstance(term, GramTerm):
        return term.coefficient * sign > 0
    return bool((term.coefficients * sign > 0).any())


def _axis(term: Term) -> str:
    view = "x".join(str(size) for size in term.view)
    return f"{view}:{','.join(str(axis) for axis in term.axes)}"
