"""Margins as constraints: what each loss weights them by, in logarithms.

Every weight and loss is formed as a logarithm, for both underflow at margins of 745.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from spectrank.errors import DomainError


def constraints(
    value: Tensor, targets: Any, loss: str
) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
    """Margins of a batch, with what the gradient of the loss weights them by.

    Args:
        value: (N, C) outputs, or (N,) of a single one, float64.
        targets: -1 or 1, or class numbers.
        loss: ``logistic``, ``exponential`` or ``cross_entropy``.

    Returns:
        Margins q (N, K), K = 1 or C - 1; logs of their weights -d loss / d q; and the
        map from weights to the cotangent sum_k weight_k d q_k / d outputs.

    Raises:
        DomainError: Outputs or targets do not fit the loss.
    """
    if loss != "cross_entropy":
        flat = value.reshape(len(value), -1)
        y = torch.as_tensor(targets, device=value.device).double().reshape(-1)
        if flat.shape[1] != 1 or len(y) != len(flat) or bool((y.abs() != 1).any()):
            raise DomainError(
                f"the {loss} loss takes one output and a target of -1 or 1 a sample, "
                f"got outputs {tuple(value.shape)} and {len(y)} targets; use "
                "cross_entropy for classes"
            )
        q = y[:, None] * flat
        log_weight = -q if loss == "exponential" else nn.functional.logsigmoid(-q)
        return q, log_weight, lambda weight: y[:, None] * weight
    classes = torch.as_tensor(targets, device=value.device).reshape(-1).long()
    if value.ndim != 2 or len(classes) != len(value) or value.shape[1] < 2:
        raise DomainError(
            "cross_entropy takes (N, C) outputs and N class numbers, got "
            f"{tuple(value.shape)} and {len(classes)}; flatten positions first"
        )
    own = nn.functional.one_hot(classes, value.shape[1]).bool()
    q = value.gather(1, classes[:, None]) - value[~own].view(len(value), -1)
    log_weight = value.log_softmax(1)[~own].view(len(value), -1)

    def pull(weight: Tensor) -> Tensor:
        found = torch.zeros_like(value)
        found[~own] = -weight.reshape(-1)
        return found.scatter(1, classes[:, None], weight.sum(1, keepdim=True))

    return q, log_weight, pull


def log_losses(q: Tensor, loss: str) -> Tensor:
    """Log of the loss of each sample, also where the loss underflows.

    Args:
        q: (N, K) margins.
        loss: As for `constraints`.

    Returns:
        (N,).
    """
    if loss == "exponential":
        return -q.reshape(-1)
    # log(1 + e^s) with s = log sum_j exp(-q_j).
    s = torch.logsumexp(-q, 1)
    # Below -30 log(1 + e^s) = e^s (1 - e^s / 2), and e^s is less than 1e-13.
    return torch.where(s < -30.0, s, nn.functional.softplus(s).clamp(min=1e-300).log())


def inverse_logistic(log_sum: float) -> float:
    """-log(e^S - 1) from log S; log(1 / S) for small S.

    Args:
        log_sum: log S.

    Returns:
        The margin at which one sample alone has logistic loss S.
    """
    if log_sum < -30.0:
        return -log_sum
    total = math.exp(log_sum)
    return -math.log(math.expm1(total)) if total < 700.0 else -total
