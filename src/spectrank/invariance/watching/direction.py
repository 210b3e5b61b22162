"""How far the direction of the weights has turned, and how many changed their sign."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from spectrank.errors import UnknownNameError
from spectrank.scanning.provenance import environment
from spectrank.table import Table


def direction_change(
    model: nn.Module | Mapping[str, Tensor],
    before: Mapping[str, Tensor],
    *,
    step: int | None = None,
) -> Table:
    r"""Angle between the weights now and before, and weights of opposite sign.

    ``direction_angle`` is the angle of :math:`w / \|w\|` and :math:`w' / \|w'\|`, in
    radians, in [0, pi], of each parameter and of the ``model`` as one vector; accurate
    for small angles, ``degenerate`` where a vector is zero. ``weight_sign_flips``
    counts entries of opposite sign; zeros do not count. Directional convergence needs
    the first to vanish, a stable sign regime the second to be zero from some time on.
    Source (derived): tests/invariance/watching/test_direction.py, by rotations.

    Args:
        model: A module, or its parameters by name.
        before: Parameters by name, such as a state dict of an earlier moment.
        step: Of training, for the rows.

    Returns:
        Rows of kind ``measurement``.

    Raises:
        UnknownNameError: ``before`` lacks a parameter.

    Example:
        >>> import torch
        >>> now, before = {"w": torch.tensor([0.0, 2.0])}, {"w": torch.tensor([1.0, 0])}
        >>> direction_change(now, before).where(subject="model").frame["value"][0]
        1.570796...
    """
    named = dict(model.named_parameters()) if isinstance(model, nn.Module) else model
    rows: list[dict[str, Any]] = []
    norms = [0.0, 0.0]
    pairs = []
    for name, parameter in named.items():
        if name not in before:
            raise UnknownNameError(
                f"a direction is compared parameter by parameter, {name!r} is not in "
                "before; keep a copy of all of them, as in state_dict()"
            )
        now, then = _flat(parameter), _flat(before[name])
        pairs.append((now, then))
        norms = [
            math.hypot(n, float(v.norm()))
            for n, v in zip(norms, pairs[-1], strict=True)
        ]
        own = [float(now.norm()), float(then.norm())]
        rows.append(_angle_row(name, [pairs[-1]], own))
        flips = int((torch.sign(now) * torch.sign(then) < 0).sum())
        rows.append(_row(name, "weight_sign_flips") | {"value": float(flips)})
    rows.append(_angle_row("model", pairs, norms))
    rows = [row | {"step": step} for row in rows]
    return Table.from_rows(rows, provenance=environment())


def _flat(tensor: Tensor) -> Tensor:
    return tensor.detach().flatten().double().cpu()


def _row(subject: str, metric: str) -> dict[str, Any]:
    return {
        "kind": "measurement",
        "subject": subject,
        "metric": metric,
        "status": "ok",
    }


def _angle_row(
    subject: str, pairs: list[tuple[Tensor, Tensor]], norms: list[float]
) -> dict[str, Any]:
    row = _row(subject, "direction_angle")
    if min(norms) == 0.0:
        return row | {"status": "degenerate", "reason": "a vector is zero"}
    if not all(map(math.isfinite, norms)):
        return row | {"status": "nonfinite", "reason": "a weight is not finite"}
    # An arc cosine has no digits below 1e-8; half angles have all of them.
    apart = together = 0.0
    for now, then in pairs:
        a, b = now / norms[0], then / norms[1]
        apart = math.hypot(apart, float((a - b).norm()))
        together = math.hypot(together, float((a + b).norm()))
    return row | {"value": 2.0 * math.atan2(apart, together)}
