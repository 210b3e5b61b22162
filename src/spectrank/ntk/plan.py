"""The plan of an empirical kernel as a Table; nothing is computed but shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl
from torch import Tensor, nn

from spectrank.ntk.assign import Assignment, Choice, Method, assign
from spectrank.ntk.memory import DEFAULT_MEMORY, check_memory
from spectrank.ntk.request import Outputs, Request, make_request
from spectrank.table import Table

# Key columns of a plan beside the core schema.
COLUMNS = {
    "numel": pl.Int64,
    "positions": pl.Int64,
    "rule": pl.String,
    "memory_bytes": pl.Int64,
}
KERNEL = "kernel"


def plan(
    model: nn.Module,
    x1: Tensor,
    x2: Tensor | None = None,
    *,
    outputs: Outputs = "full",
    method: Method = "auto",
    params: str | Sequence[str] | None = None,
    block: int | None = None,
    memory: int | None = None,
) -> Table:
    """Which algorithm of ``empirical`` serves which parameter, why, and at what cost.

    Nothing is computed beyond forward passes of a few samples for shapes and rules.
    Costs are counts of operations (a multiply-add is two), which order the algorithms;
    they are no times.

    Args:
        model: As for ``empirical``.
        x1: (n1, ...).
        x2: (n2, ...); None for ``x1``.
        outputs: ``full``, ``trace`` or ``sum_logits``.
        method: ``auto`` or one algorithm for all.
        params: Glob pattern(s); None for all that require a gradient.
        block: Samples per block.
        memory: Ceiling in bytes.

    Returns:
        Table: a row ``ntk_operations`` for each parameter of the kernel, its algorithm
        in ``route`` and why in ``reason``; a row ``skip`` for each that is left out;
        of the whole ``kernel`` the operations of the shared passes by route, the bytes
        of the result and of its blocks.

    Raises:
        ArgumentTypeError: An argument is of another type.
        ShapeError: The outputs are not (batch, classes), or there is no sample.
        DomainError: The model or its inputs are refused by ``empirical``.
        UnknownNameError: A method, form or parameter of that name does not exist.

    Example:
        >>> import torch
        >>> table = plan(nn.Linear(3, 2), torch.ones(4, 3), method="jacobian")
        >>> table.where(metric="ntk_operations").frame["route"].to_list()
        ['jacobian', 'jacobian']
    """  # noqa: DOC502 - raised by the functions called
    request = make_request(model, x1, x2, outputs, params)
    check_memory(0, memory, block, None)
    # A result above the ceiling would go to a file and take nothing of it.
    ceiling = DEFAULT_MEMORY if memory is None else memory
    held = request.result_bytes if request.result_bytes < ceiling else 0
    assignment = assign(request, method, block, memory, held)
    rows = [_row(request, choice) for choice in assignment.choices]
    rows += _left_out(request)
    rows += _whole(request, assignment, ceiling)
    provenance = {"outputs": outputs, "method": method, "shape": list(request.shape)}
    return Table.from_rows(rows, columns=COLUMNS, provenance=provenance)


def _row(request: Request, choice: Choice) -> dict[str, Any]:
    return {
        "kind": "measurement",
        "subject": choice.name,
        "metric": "ntk_operations",
        "value": choice.cost,
        "status": "ok",
        "route": choice.algorithm,
        "reason": choice.reason,
        "numel": request.numel(choice.name),
        "positions": request.probe.positions[choice.name],
        "rule": choice.rule,
        "memory_bytes": choice.memory,
    }


def _left_out(request: Request) -> list[dict[str, Any]]:
    return [
        {
            "kind": "skip",
            "subject": name,
            "metric": "ntk_operations",
            "status": "skipped",
            "reason": "not matched by params="
            if parameter.requires_grad
            else "frozen: it requires no gradient",
            "numel": parameter.numel(),
        }
        for name, parameter in request.model.named_parameters()
        if name not in request.params
    ]


def _whole(
    request: Request, assignment: Assignment, ceiling: int
) -> list[dict[str, Any]]:
    key = {"kind": "measurement", "subject": KERNEL, "status": "ok"}
    rows = [
        {**key, "metric": "ntk_shared_operations", "route": route, "value": cost}
        for route, cost in assignment.shared_cost.items()
    ]
    above = request.result_bytes > ceiling
    reason = f"above the ceiling of {ceiling:,} bytes: give out=" if above else None
    size = {"metric": "ntk_result_bytes", "value": float(request.result_bytes)}
    rows.append({**key, **size, "reason": reason})
    working = float(assignment.working)
    return [*rows, {**key, "metric": "ntk_working_bytes", "value": working}]
