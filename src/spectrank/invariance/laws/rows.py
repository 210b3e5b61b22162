"""Rows of a collection of laws: what is conserved, where, on what condition."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
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
        in ``8x4:0``, and where not all of these take part those that do, as in
        ``8x4:0[2:4]``, or how many, as in ``8x4:0[3 of 8]``.
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
        row[f"axis_{side}"] = [_axis(term) + part_of(term, sign) for term in terms]
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


def part_of(term: Term, sign: float) -> str:
    """Which features take part, ``[start:stop]`` or ``[k of n]``; empty for all.

    Args:
        term: Of a law.
        sign: 1 or -1: of the features with such a coefficient.

    Returns:
        The text.
    """
    total = math.prod(term.view[axis] for axis in term.axes)
    if isinstance(term, GramTerm):
        chosen = np.arange(total) if term.rows is None else term.rows
    else:
        chosen = term.indices[term.coefficients * sign > 0]
    own = np.unique(chosen)
    if len(own) in {0, total}:
        return ""
    start, stop = int(own[0]), int(own[-1]) + 1
    whole = len(own) == stop - start
    return f"[{start}:{stop}]" if whole else f"[{len(own)} of {total}]"


def _axis(term: Term) -> str:
    view = "x".join(str(size) for size in term.view)
    return f"{view}:{','.join(str(axis) for axis in term.axes)}"
