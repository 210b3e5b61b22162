r"""When a spectral update is predicted to beat a Euclidean one, for one layer.

    G   (m, n)     gradient of the layer's weight W
    A   (rows, n)  what the layer took, one row a sample and position; Z = A W^T
    nr  ||G||_*^2 / ||G||_F^2    nuclear rank of the gradient, in its squared form
    st  ||A||_F^2 / ||A||_2^2    stable rank of the activations

Condition: nr >= st. Source (stated): Davis & Drusvyatskiy (2025), arXiv:2512.04299,
abstract. Why, for a loss that is beta-smooth in Z: the step G / (beta ||A||_2^2) is
sure to lower it by ||G||_F^2 / (2 beta ||A||_2^2), and the step
(||G||_* / (beta ||A||_F^2)) polar(G) by ||G||_*^2 / (2 beta ||A||_F^2), because
||A D^T||_F^2 is at most ||A||_2^2 ||D||_F^2 and at most ||A||_F^2 ||D||_2^2. Their
ratio is nr / st. Source (derived):
test_control_condition.py::test_both_guarantees_hold_on_random_least_squares.

These are decreases that are *guaranteed*, not those that happen: of the layer alone,
with the others held, and a loss through later layers is beta-smooth only near by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import polars as pl
import torch
from torch import Tensor

from spectrank.errors import DomainError, ShapeError
from spectrank.init.control.requests import check_positive
from spectrank.linalg import Spectrum, Value, spectrum
from spectrank.linalg.shapes import Matrix
from spectrank.metrics import get_metric

# Of an enclosure by standard errors, to either side.
_STANDARD_ERRORS = 4.0

COLUMNS: Mapping[str, Any] = {
    "m": pl.Int64,
    "n": pl.Int64,
    "layer_type": pl.String,
    "num_rows": pl.Int64,
    "num_samples": pl.Int64,
    "standard_error": pl.Float64,
    "favoured": pl.String,
    "share_favoured": pl.Float64,
    "loss": pl.Float64,
}
"""Producer columns: ``num_rows`` of A, the mean over minibatches; ``num_samples``, the
number of minibatches; ``favoured`` (spectral, euclidean, undecided) and
``share_favoured``, the share of minibatches with nr >= st, on the rows of the ratio."""

_PAPER = "Davis & Drusvyatskiy (2025), arXiv:2512.04299, abstract"
_OURS = "Source (derived): tests/init/control/test_control_condition.py"

DEFINITIONS: Mapping[str, Mapping[str, str]] = {
    "gradient_nuclear_rank_squared": {
        "formula": "||G||_*^2 / ||G||_F^2, in [1, rank G]",
        "source": _PAPER,
    },
    "activation_stable_rank": {
        "formula": "||A||_F^2 / ||A||_2^2, in [1, rank A]",
        "source": _PAPER,
    },
    "spectral_update_ratio": {
        "formula": "gradient_nuclear_rank_squared / activation_stable_rank; the "
        "condition is that it is at least 1",
        "source": _PAPER,
    },
    "guaranteed_decrease": {
        "formula": "of the loss as trained, in its units, for a sum over samples that "
        "is beta-smooth in Z: euclidean ||G||_F^2 / (2 beta ||A||_2^2), spectral "
        "||G||_*^2 / (2 beta ||A||_F^2), G of the sum, divided by sum / loss",
        "source": _OURS,
    },
}


@final
@dataclass(frozen=True)
class Condition:
    """Both sides of the condition for one layer on one batch.

    Attributes:
        nuclear_rank: nr, of the gradient.
        stable_rank: st, of the activations.
        ratio: nr / st.
        euclidean: Guaranteed decrease by the Euclidean step, at beta = 1.
        spectral: Guaranteed decrease by the spectral step, at beta = 1.
        num_rows: Of A.
    """

    nuclear_rank: Value
    stable_rank: Value
    ratio: Value
    euclidean: Value
    spectral: Value
    num_rows: int


def spectral_update_condition(gradient: Matrix, activations: Matrix) -> Condition:
    """Both sides of Davis & Drusvyatskiy's condition from a gradient and activations.

    A zero gradient has no nuclear rank, zero activations no stable rank: status
    ``degenerate``.

    Args:
        gradient: G (m, n), of a sum over samples for the decreases to be of that sum;
            the ranks do not depend on its scale.
        activations: A (rows, n), what the layer took.

    Returns:
        The numbers, with error.

    Raises:
        ShapeError: The two do not have the same number of columns.

    Example:
        >>> G, A = torch.eye(4), torch.ones(10, 4)
        >>> condition = spectral_update_condition(G, A)
        >>> round(condition.nuclear_rank.value, 3), round(condition.ratio.value, 3)
        (4.0, 4.0)
    """
    if (
        gradient.ndim != 2
        or activations.ndim != 2
        or (gradient.shape[1] != activations.shape[1])
    ):
        raise ShapeError(
            "a gradient (m, n) and activations (rows, n) share n, got shapes "
            f"{tuple(gradient.shape)} and {tuple(activations.shape)}; unfold the "
            "inputs of a convolution"
        )
    g = spectrum(gradient, ["sigma"])
    a = spectrum(activations, ["frobenius", "sigma_max"])
    nuclear = get_metric("nuclear_rank")(g, variant="squared")
    stable = get_metric("stable_rank")(a)
    return Condition(
        nuclear_rank=nuclear,
        stable_rank=stable,
        ratio=nuclear / stable,
        euclidean=_half_squared(get_metric("frobenius_norm")(g), a, "spectral_norm"),
        spectral=_half_squared(get_metric("nuclear_norm")(g), a, "frobenius_norm"),
        num_rows=activations.shape[0],
    )


def _half_squared(above: Value, a: Spectrum, below: str) -> Value:
    # Divide first: the square of a small gradient underflows.
    return (above / get_metric(below)(a)) ** 2 * 0.5


def condition_rows(
    key: Mapping[str, Any],
    conditions: Sequence[Condition],
    *,
    scales: Sequence[float] | None,
) -> list[dict[str, Any]]:
    """Rows of one layer, over the minibatches that were read.

    Args:
        key: Subject, shape and what else is the same in all rows.
        conditions: One a minibatch, at least one.
        scales: What the decreases of each are multiplied by; None leaves them out.

    Returns:
        Rows for `Table.from_rows` with `COLUMNS`.
    """
    num_rows = round(float(np.mean([c.num_rows for c in conditions])))
    common = {**key, "kind": "measurement", "num_rows": num_rows}
    ratios = [c.ratio for c in conditions]
    told = {
        "gradient_nuclear_rank_squared": [c.nuclear_rank for c in conditions],
        "activation_stable_rank": [c.stable_rank for c in conditions],
        "spectral_update_ratio": ratios,
    }
    rows = [
        {**common, "metric": metric, **_summary(values), "source": _PAPER}
        for metric, values in told.items()
    ]
    rows[-1] |= _favoured(rows[-1], ratios)
    if scales is None:
        return rows
    for variant in ("euclidean", "spectral"):
        values = [
            getattr(c, variant) * x for c, x in zip(conditions, scales, strict=True)
        ]
        row = {**common, "metric": "guaranteed_decrease", "variant": variant}
        rows.append({**row, **_summary(values), "source": _OURS})
    return rows


def _summary(values: Sequence[Value]) -> dict[str, Any]:
    """One value with its enclosure, or the mean of several with standard errors."""
    fine = [v.value for v in values if v.status == "ok"]
    rest = [v for v in values if v.status != "ok"]
    status = rest[0].status if rest else "ok"
    reason = None
    if rest:
        reason = f"{len(rest)} of {len(values)} minibatches: {rest[0].reason}"
    told = {"num_samples": len(fine), "status": status, "reason": reason}
    if len(values) == 1:
        only = values[0]
        return {
            **told,
            "value": only.value,
            "lower": only.lower,
            "upper": only.upper,
            "error_kind": only.error_kind,
            "failure_probability": only.failure_probability or None,
        }
    if len(fine) < 2:
        return {**told, "value": fine[0] if fine else float("nan")}
    mean = float(np.mean(fine))
    error = float(np.std(fine, ddof=1)) / len(fine) ** 0.5
    return {
        **told,
        "value": mean,
        "lower": mean - _STANDARD_ERRORS * error,
        "upper": mean + _STANDARD_ERRORS * error,
        "error_kind": "stderr",
        "standard_error": error,
    }


def _favoured(row: Mapping[str, Any], ratios: Sequence[Value]) -> dict[str, Any]:
    fine = [r.value for r in ratios if r.status == "ok"]
    share = float(np.mean([r >= 1.0 for r in fine])) if fine else None
    lower, upper = row.get("lower"), row.get("upper")
    word = "undecided"
    if fine and lower is not None and upper is not None:
        word = "spectral" if lower >= 1.0 else word
        word = "euclidean" if upper < 1.0 else word
    return {"favoured": word, "share_favoured": share}


def check_smoothness(smoothness: float) -> float:
    """Refuse what is no positive number.

    Args:
        smoothness: beta.

    Returns:
        The same as a float.
    """
    hint = "1 is that of half the squared error in the last layer"
    return check_positive("smoothness", smoothness, hint)


def gradient_of(deltas: Tensor, inputs: Tensor) -> Tensor:
    """Gradient (m, n) of a weight from output gradients and inputs, in float64.

    Args:
        deltas: (rows, m).
        inputs: (rows, n).

    Returns:
        ``deltas.T @ inputs``.

    Raises:
        DomainError: They have different numbers of rows.
    """
    if len(deltas) != len(inputs):
        raise DomainError(
            f"a layer takes and gives as many rows, got {len(inputs)} and "
            f"{len(deltas)}; its outputs are no linear function of its inputs"
        )
    return deltas.to(torch.float64).T @ inputs.to(torch.float64)
