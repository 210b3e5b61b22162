r"""``balance_``: the same function with every conserved imbalance brought to zero.

A law sum_e c_e w_e^2 is conserved because w_e -> exp(c_e t) w_e leaves the function
as it is. Along that line the sum of squares has slope 2 h(w), so its minimum is the
point where the law is zero. For incoming (c = a > 0) and outgoing (c = -b) parts of
squared norms P and N it lies at exp(2 (a + b) t) = b N / (a P): a neuron of a ReLU
layer has its incoming weights multiplied by sqrt(||out|| / ||in||), its outgoing ones
by the inverse. Full balance of matrices, which forces ranks, is only done on request.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from spectrank.errors import ArgumentTypeError, DomainError, UnknownNameError
from spectrank.invariance.buffers import Buffers, buffers_of, rescale_buffers_
from spectrank.invariance.laws import Law
from spectrank.invariance.pairing import matrix_imbalance, pair_, refusal
from spectrank.invariance.pieces import pieces
from spectrank.invariance.rescaling import imbalance, rescale_
from spectrank.invariance.same_function import compared, largest_eps, outputs_of
from spectrank.table import Table

# Kinds whose symmetry multiplies weights, whatever the weights and the data are.
_KINDS = frozenset(
    ["vertex", "channel", "stream", "affine", "matrix", "attention", "tied"]
)
_NOT_BALANCED = {
    "scale": "it is a norm of weights that a normalisation divides by: nothing opposes",
    "cut": "it is a sum of laws of other families, which are balanced themselves",
    "pair": "it holds for one activation pattern, the function has no such rescaling",
}
_COLUMNS: Mapping[str, Any] = {"sweeps": pl.Int64, "num_laws": pl.Int64}
_SOURCE = "derived: tests/invariance/certificates/test_balance.py"


def balance_(
    model: nn.Module,
    laws: Iterable[Law],
    *,
    matrices: bool = False,
    example_input: Any = None,
    kwargs: Mapping[str, Any] | None = None,
    tolerance: float | None = None,
    max_sweeps: int = 200,
    optimizer: Optimizer | None = None,
) -> Table:
    r"""Bring conserved imbalances to zero in place, without changing the function.

    Each unit is rescaled between what enters and what leaves it, family by family
    until all are balanced together: the sum of squares falls at every step and has one
    minimum. With ``matrices`` a matrix law is balanced as a whole, A A^T = C C^T, from
    the SVD of C^T A; the function stays, but ranks do not: in a chain of matrices no
    one keeps a rank above the smallest.

    Buffers of an ``optimizer`` become those that the same past gradients would have
    left at the balanced weights: momentum and means of gradients are divided by the
    factor of each weight, means of squares by its square. Learning rates are what they
    were, so the next steps are others.
    Source (derived): tests/invariance/certificates/test_balance.py.

    Args:
        model: Changed in place; gradients, modes and buffers are not.
        laws: What ``find`` returned, or some of it.
        matrices: Whether to balance matrix laws as a whole; otherwise their diagonals.
        example_input: A tensor, a tuple of arguments or a mapping of keyword
            arguments, as for ``find``. With it the outputs are compared, in eval mode,
            and the weights put back if they changed.
        kwargs: Further keyword arguments of the model.
        tolerance: Largest |h| / sum |c| w^2 to stop at; None for 1e-10, or what the
            coarsest dtype can hold.
        max_sweeps: Most passes over all families.
        optimizer: Whose buffers are to go with the weights; None to leave all of them.

    Returns:
        Rows ``imbalance``, ``before`` and ``after``, of every family, a row of kind
        ``skip`` for each that is left as it is with the reason, and ``norm_squared``
        and ``output_change`` of the model.

    Raises:
        ArgumentTypeError: The model is no module, the optimizer none, or there is
            something else than laws among the laws.
        UnknownNameError: A law has a parameter that the model lacks.
        DomainError: A number out of its range, weights that are not finite, outputs
            that changed, or buffers that go with no rescaling or with matrices.
    """  # noqa: DOC502 - raised by the functions called
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(
            f"a model is balanced in place, got {type(model).__name__}; pass the "
            "torch.nn.Module that holds the weights"
        )
    if not ((tolerance is None or tolerance >= 0.0) and max_sweeps >= 0):
        raise DomainError(
            f"tolerance and max_sweeps are not negative, got {tolerance} and "
            f"{max_sweeps}; leave them out"
        )
    buffers = _buffers(model, optimizer, matrices)
    tensors = {name: p.data for name, p in model.named_parameters()}
    every = _listed(laws)
    skipped = {law.name: why for law in every if (why := _left_out(law, matrices))}
    chosen = [law for law in every if law.name not in skipped]
    _check(chosen, tensors)
    backup = {n: tensors[n].clone() for law in chosen for n in law.parameters}
    if tolerance is None:
        tolerance = max(1e-10, 64.0 * largest_eps(backup))
    example = (example_input, kwargs)
    outputs = outputs_of(model, *example)
    before = {law.name: _imbalance(law, tensors, matrices) for law in chosen}
    norm = _norm(tensors)
    logs: dict[str, Tensor] = {}
    with torch.no_grad():
        sweeps = _sweep(chosen, tensors, matrices, (tolerance, max_sweeps), logs)
    change = compared(outputs, outputs_of(model, *example), tensors, backup)
    rescale_buffers_(buffers, logs)
    rows = []
    for law in every:
        if law.name in skipped:
            rows.append(_skip_row(law, skipped[law.name]))
        else:
            after = _imbalance(law, tensors, matrices)
            rows += _rows(law, before[law.name], after, sweeps, tolerance)
    rows += _model_rows(norm, _norm(tensors), change)
    return Table.from_rows(rows, columns=_COLUMNS)


def _listed(laws: Iterable[Law]) -> list[Law]:
    every = list(laws)
    others = {type(law).__name__ for law in every if not isinstance(law, Law)}
    if others:
        raise ArgumentTypeError(
            f"laws are a Laws or several of its Law, got {', '.join(sorted(others))} "
            f"in a {type(laws).__name__}; find them with invariance.find(model), or "
            "read Laws.from_table(table)"
        )
    return every


def _buffers(model: nn.Module, optimizer: Optimizer | None, matrices: bool) -> Buffers:
    if optimizer is None:
        return {}
    if matrices:
        raise DomainError(
            "buffers go with single weights that are rescaled, got matrices=True and "
            "an optimizer; balance diagonals, or before the optimizer is made"
        )
    return buffers_of(optimizer, model)


def _left_out(law: Law, matrices: bool) -> str | None:
    if law.form == "linear":
        return "a linear law has no rescaling"
    if law.kind not in _KINDS:
        return _NOT_BALANCED.get(law.kind, f"{law.kind} laws have no rescaling")
    if not law.exact:
        return "it holds up to eps of a normalisation only: the function would change"
    if law.offsets:
        return "it is one of shifted weights, whose rescaling moves more than factors"
    if law.form == "gram" and matrices:
        return refusal(law)
    signs = {bool(c > 0) for p in pieces(law) for c in p.coefficients.tolist()}
    return None if len(signs) == 2 else "all its terms have one sign"


def _check(laws: Iterable[Law], tensors: Mapping[str, Tensor]) -> None:
    for law in laws:
        for name in law.parameters:
            if name not in tensors:
                raise UnknownNameError(
                    f"laws name parameters of the model, got {name!r} in {law.name!r}; "
                    "find the laws of this model"
                )
            if not bool(tensors[name].isfinite().all()):
                raise DomainError(
                    f"only finite weights can be balanced, got others in {name!r}; "
                    "start from an earlier checkpoint"
                )


def _sweep(
    laws: list[Law],
    tensors: Mapping[str, Tensor],
    matrices: bool,
    until: tuple[float, int],
    logs: dict[str, Tensor],
) -> int:
    tolerance, max_sweeps = until
    for sweep in range(max_sweeps):
        worst = [_imbalance(law, tensors, matrices)[0] for law in laws]
        if max(worst, default=0.0) <= tolerance:
            return sweep
        for law in laws:
            if matrices and law.form == "gram":
                pair_(law, tensors)
            else:
                rescale_(pieces(law), tensors, law.shape[0], logs)
    return max_sweeps


def _imbalance(
    law: Law, tensors: Mapping[str, Tensor], matrices: bool
) -> tuple[float, int]:
    """Largest relative imbalance, and the number of units with one side only."""
    if matrices and law.form == "gram":
        found = matrix_imbalance(law, tensors)
        return (0.0, 1) if math.isnan(found) else (found, 0)
    values = imbalance(pieces(law), tensors, law.shape[0])
    usable = values[~values.isnan()]
    return float(usable.abs().max()) if len(usable) else 0.0, int(values.isnan().sum())


def _norm(tensors: Mapping[str, Tensor]) -> float:
    return sum(float(t.double().square().sum()) for t in tensors.values())


def _rows(
    law: Law,
    before: tuple[float, int],
    after: tuple[float, int],
    sweeps: int,
    tolerance: float,
) -> list[dict[str, Any]]:
    reason = None
    if after[1]:
        reason = f"{after[1]} units have weights on one side only and stay as they are"
    rows = []
    for variant, (value, one_sided) in (("before", before), ("after", after)):
        status = "not_converged" if variant == "after" and value > tolerance else "ok"
        rows.append(
            {
                "kind": "measurement",
                "subject": law.name,
                "metric": "imbalance",
                "variant": variant,
                "value": value,
                "status": "degenerate" if one_sided and status == "ok" else status,
                "reason": reason,
                "source": _SOURCE,
                "num_laws": law.shape[0],
                "sweeps": sweeps,
            }
        )
    return rows


def _skip_row(law: Law, reason: str) -> dict[str, Any]:
    return {
        "kind": "skip",
        "subject": law.name,
        "metric": "imbalance",
        "status": "skipped",
        "reason": reason,
    }


def _model_rows(
    before: float, after: float, change: float | None
) -> list[dict[str, Any]]:
    base = {"kind": "measurement", "subject": "model", "status": "ok"}
    rows = [
        {**base, "metric": "norm_squared", "variant": "before", "value": before},
        {**base, "metric": "norm_squared", "variant": "after", "value": after},
    ]
    if change is not None:
        rows.append({**base, "metric": "output_change", "value": change})
    return [{**row, "source": _SOURCE} for row in rows]
