"""Losses and accuracies of all members on a data set."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from spectrank.train.fleet.losses import Loss
from spectrank.train.fleet.route import Route

# Samples at a time.
CHUNK = 512


def evaluate(
    route: Route,
    loss: Loss,
    parameters: Mapping[str, Tensor],
    inputs: Tensor,
    targets: Tensor,
    *,
    group_size: int,
) -> dict[str, np.ndarray]:
    """Mean loss, and accuracy where the loss has one.

    Args:
        route: Computes the outputs.
        loss: What was trained.
        parameters: Name to (M, *shape).
        inputs: (N, *shape).
        targets: (N, ...).
        group_size: Members at a time.

    Returns:
        ``loss`` and perhaps ``accuracy`` to (M,) values.
    """
    num_members = len(next(iter(parameters.values())))
    parts = []
    with torch.no_grad():
        for start in range(0, num_members, group_size):
            stop = start + group_size
            group = {name: p[start:stop].contiguous() for name, p in parameters.items()}
            parts.append(_of_group(route, loss, group, inputs, targets))
    losses, correct = (torch.cat(column).numpy() for column in zip(*parts, strict=True))
    found = {"loss": losses / len(inputs)}
    if loss.classifies:
        accuracy = correct / len(inputs)
        found["accuracy"] = np.where(np.isfinite(losses), accuracy, np.nan)
    return found


def _of_group(
    route: Route,
    loss: Loss,
    values: Mapping[str, Tensor],
    inputs: Tensor,
    targets: Tensor,
) -> tuple[Tensor, Tensor]:
    num_members = len(next(iter(values.values())))
    total = torch.zeros(2, num_members, dtype=torch.float64)
    for start in range(0, len(inputs), CHUNK):
        x, y = inputs[start : start + CHUNK], targets[start : start + CHUNK]
        outputs = route.outputs(values, x.expand(num_members, *x.shape))
        y = y.expand(num_members, *y.shape)
        if loss.classifies:
            total[1] += loss.num_correct(outputs, y).cpu()
        losses, _ = loss.of_group(outputs, y)
        total[0] += losses.to("cpu", torch.float64) * len(x)
    return total[0], total[1]
