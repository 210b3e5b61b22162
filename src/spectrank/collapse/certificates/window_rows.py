"""The window rank of every weight of a live optimizer, as rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from spectrank.collapse.certificates.window import (
    buffer_ratio,
    step_matrix,
    window_length,
)
from spectrank.errors import DomainError
from spectrank.model.optimizer import ParameterSettings, read_optimizer

Row = dict[str, Any]

_SOURCE = "derived: tests/collapse/certificates/test_collapse_window.py"


def window_rank(
    optimizer: Optimizer,
    model: nn.Module,
    *,
    batch_size: int,
    positions: int | Mapping[str, int] = 1,
    tolerance: float = 0.01,
    norm_ratio: float = 2.0,
    as_type: type[Optimizer] | None = None,
) -> list[Row]:
    """Rank m B that the last m minibatches can have given each weight, for SGD.

    m is the number of steps after which what was there before has decayed to
    ``tolerance`` of the weight, provided that the weight and its momentum buffer were
    at most ``norm_ratio`` times as large then as they are now and that the settings
    were the present ones. Needs neither the loss nor convergence; says nothing once
    m B reaches min(m, n), which is the usual case.
    Source (derived): tests/collapse/certificates/test_collapse_window.py.

    Args:
        optimizer: Live; only read.
        model: Whose parameters it holds.
        batch_size: Samples of a minibatch.
        positions: Rows that a sample gives to a weight (output positions of a
            convolution, tokens, uses), for all or by parameter name.
        tolerance: Share of the weight that is left from before, in (0, 1).
        norm_ratio: At least 1.
        as_type: Optimizer class that an unknown one follows.

    Returns:
        One check ``window_rank`` a matrix: ``value`` is m B, ``index`` m, ``bound``
        min(m, n); ``holds``, ``vacuous`` or ``not_applicable``.

    Raises:
        DomainError: A number out of its range.
    """
    if batch_size < 1 or not 0.0 < tolerance < 1.0 or not norm_ratio >= 1.0:
        raise DomainError(
            "batch_size >= 1, tolerance in (0, 1) and norm_ratio >= 1 are needed, got "
            f"{batch_size}, {tolerance} and {norm_ratio}; leave out the last two"
        )
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    settings = read_optimizer(optimizer, model, as_type=as_type)
    rows = []
    for parameter, own in zip(parameters, settings, strict=True):
        if parameter.ndim < 2:
            continue
        count = positions if isinstance(positions, int) else positions.get(own.name, 1)
        buffer = optimizer.state.get(parameter, {}).get("momentum_buffer")
        length = _length(own, parameter, buffer, tolerance / norm_ratio)
        m, n = parameter.shape[0], math.prod(parameter.shape[1:])
        rows.append(_row(own.name, length, batch_size * count, (m, n), tolerance))
    return rows


def _length(
    own: ParameterSettings, weight: Tensor, buffer: Tensor | None, tolerance: float
) -> int | str:
    """Return the number of steps of the window, or why there is none."""
    if not own.known:
        return own.reason or "the optimizer is unknown"
    if own.algorithm != "SGD":
        return (
            f"the step of {own.algorithm} is no sum of gradients: its rank is not that "
            "of the minibatches"
        )
    if own.decay_kind != "coupled" or not own.learning_rate:
        return "without weight decay and learning rate nothing is forgotten"
    step = step_matrix(
        own.learning_rate,
        own.weight_decay or 0.0,
        own.momentum or 0.0,
        dampening=own.dampening or 0.0,
        nesterov=bool(own.nesterov),
    )
    found = window_length(step, tolerance, buffer_ratio(weight, buffer))
    return "the step does not shrink the weight" if found is None else found


def _row(
    name: str,
    length: int | str,
    batch_rank: int,
    shape: tuple[int, int],
    tolerance: float,
) -> Row:
    size = min(shape)
    row: Row = {
        "kind": "check",
        "subject": name,
        "metric": "window_rank",
        "bound": float(size),
        "status": "ok",
        "source": _SOURCE,
    }
    if isinstance(length, str):
        return {**row, "verdict": "not_applicable", "reason": length}
    rank = length * batch_rank
    words = f"{length} steps of rank at most {batch_rank} reach {tolerance:.0%}"
    if rank >= size:
        words += f", more than the {size} singular values there are"
    return {
        **row,
        "index": length,
        "value": float(rank),
        "slack": float(size - rank),
        "verdict": "vacuous" if rank >= size else "holds",
        "reason": words,
    }
