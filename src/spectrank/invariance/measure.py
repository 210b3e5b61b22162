"""``measure``: values of laws now, how unbalanced they are, how aligned layers are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from spectrank.errors import ArgumentTypeError
from spectrank.invariance.laws import (
    GramTerm,
    Law,
    Laws,
    SquareTerm,
    Term,
    evaluate,
    evaluate_all,
)
from spectrank.linalg import Value
from spectrank.scanning.provenance import environment
from spectrank.scanning.rows import value_columns
from spectrank.table import Table

COLUMNS: Mapping[str, Any] = {"law_kind": pl.String, "num_laws": pl.Int64}
# Two largest eigenvalues of a Gram matrix this close have no first vector of their own.
_SEPARATION = 1e-10
# Of sums in float64, relative to their terms.
_ROUNDING = 64 * 2.0**-53


def measure(model: nn.Module | Mapping[str, Tensor], laws: Laws) -> Table:
    r"""Values of laws now, their relative imbalance, and alignment across junctions.

    Of each family, with P the sum of its terms that enter and N of those that leave:

    - ``law_value``: the entry of h = P - N that is largest in size, at ``index``; in
      ``values`` all of them for sums and linear laws;
    - ``relative_imbalance`` :math:`\|P - N\|_F / (\|P\|_F + \|N\|_F)`, in [0, 1]: 0
      where what enters balances what leaves, 1 where one of them is zero. Not of
      linear laws, nor of laws without a leaving side;
    - ``alignment`` :math:`|u \cdot v|` in [0, 1], u the first left singular vector of
      all matrices that enter side by side, v the first right one of all that leave,
      stacked; biases are left out. ``degenerate`` where a first singular value is not
      separated from the second. Only of families whose units are the features.

    Source (derived): tests/invariance/test_invariance_measure.py, by hand and by SVD.

    Args:
        model: A module, or its parameters by name.
        laws: Of it.

    Returns:
        Rows of kind ``measurement``; ``law_kind`` and ``num_laws`` tell the family.

    Raises:
        ArgumentTypeError: ``laws`` are no Laws.
        UnknownNameError: The model lacks a parameter of the laws.
        ShapeError: A parameter has another size than the law expects.

    Example:
        >>> import torch
        >>> from spectrank.invariance.laws import GramTerm, Law, Laws
        >>> terms = (
        ...     GramTerm("0.weight", (2, 2), (0,), None, 1.0),
        ...     GramTerm("1.weight", (2, 2), (1,), None, -1.0),
        ... )
        >>> law = Law("matrix 0", "matrix", "gram", terms, (2, 2), 3, "", "derived")
        >>> weights = {"0.weight": torch.eye(2) * 3, "1.weight": torch.eye(2)}
        >>> table = measure(weights, Laws((law,)))
        >>> table.where(metric="relative_imbalance").frame["value"].to_list()
        [0.8]
    """  # noqa: DOC502 - raised by the functions called
    if not isinstance(laws, Laws):
        raise ArgumentTypeError(
            f"laws are a Laws, got {type(laws).__name__}; "
            "find them with invariance.find(model)"
        )
    named = dict(model.named_parameters()) if isinstance(model, nn.Module) else model
    tensors = {name: tensor.detach() for name, tensor in named.items()}
    rows = []
    for law, value in zip(laws, evaluate_all(laws, tensors).values(), strict=True):
        found = [_value_row(value), *_balance_rows(law, tensors)]
        about = {
            "kind": "measurement",
            "subject": law.name,
            "law_kind": law.kind,
            "num_laws": value.numel(),
            "source": law.source,
        }
        rows += [about | row for row in found]
    return Table.from_rows(rows, columns=COLUMNS, provenance=environment())


def _value_row(value: Tensor) -> dict[str, Any]:
    flat = value.flatten()
    index = int(flat.abs().argmax())
    row = {"metric": "law_value", "index": index, "value": float(flat[index])}
    row["status"] = "ok" if bool(torch.isfinite(flat).all()) else "nonfinite"
    return row if value.ndim == 2 else row | {"values": flat.tolist()}


def _balance_rows(law: Law, tensors: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    entering, leaving = _side(law, 1.0), _side(law, -1.0)
    if law.form == "linear" or entering is None or leaving is None:
        return []
    plus, minus = evaluate(entering, tensors), evaluate(leaving, tensors)
    whole = float(plus.norm() + minus.norm())
    if whole > 0.0:
        imbalance = Value.around(float((plus + minus).norm()) / whole, _ROUNDING)
    else:
        imbalance = Value.undefined("degenerate", "all its parameters are zero")
    rows = [{"metric": "relative_imbalance", **value_columns(imbalance)}]
    grams = [_features(side, tensors) for side in (entering, leaving)]
    if grams[0] is not None and grams[1] is not None:
        found = _alignment(grams[0], grams[1])
        rows.append({"metric": "alignment", **value_columns(found)})
    return rows


def _side(law: Law, sign: float) -> Law | None:
    """The part of a law with coefficients of one sign; None where there is none."""
    terms: list[Term] = []
    for term in law.terms:
        if isinstance(term, GramTerm):
            if term.coefficient * sign > 0:
                terms.append(term)
            continue
        kept = term.coefficients * sign > 0
        if kept.any():
            chosen = {
                name: getattr(term, name)[kept]
                for name in ("laws", "indices", "coefficients")
            }
            terms.append(replace(term, **chosen))
    return replace(law, terms=tuple(terms)) if terms else None


def _features(side: Law, tensors: Mapping[str, Tensor]) -> Tensor | None:
    """Gram matrix over the units of all matrices of a side, without its biases."""
    terms = []
    for term in side.terms:
        gram = _gram_term(term, side.shape[0])
        if gram is None:
            return None
        # A layer of one output has as many numbers as a bias, and is none.
        mixes = tensors[gram.parameter].ndim > 1 and len(gram.view) > len(gram.axes)
        if mixes:
            terms.append(replace(gram, coefficient=1.0))
    if not terms or side.shape[0] < 2:
        return None
    n = side.shape[0]
    return evaluate(
        replace(side, form="gram", terms=tuple(terms), shape=(n, n)), tensors
    )


def _gram_term(term: Term, num_units: int) -> GramTerm | None:
    """The matrix whose squared rows a term adds; None where rows are mixed."""
    if isinstance(term, GramTerm):
        return term
    whole = np.array_equal(term.laws, np.arange(num_units))
    if not isinstance(term, SquareTerm) or not whole:
        return None
    return GramTerm(term.parameter, term.view, term.axes, term.indices, 1.0)


def _alignment(entering: Tensor, leaving: Tensor) -> Value:
    vectors, separation = [], 1.0
    for gram in (entering, leaving):
        scale = float(gram.abs().max())
        if not np.isfinite(scale) or scale == 0.0:
            return Value.undefined("degenerate", "a side is zero or not finite")
        values, basis = torch.linalg.eigh(gram / scale)
        separation = min(separation, 1.0 - float(values[-2] / values[-1]))
        if separation <= _SEPARATION:
            return Value.undefined(
                "degenerate", "the two largest singular values of a side agree"
            )
        vectors.append(basis[:, -1])
    cosine = min(float((vectors[0] @ vectors[1]).abs()), 1.0)
    # A first vector turns by rounding over the separation of its eigenvalue.
    return Value.around(cosine, _ROUNDING * len(entering) / separation)
