"""The sum of a loss in float64, whatever the dtype in which a model computes."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from spectrank.model import describe_loss
from spectrank.model.capture.objective import LossLike
from spectrank.model.losses import Loss

# Outputs that are cast at a time: 32 MB.
_TILE = 1 << 22


def in_float64(loss: LossLike | None) -> Loss | None:
    """Describe a loss with its class weights in float64.

    Args:
        loss: As trained.

    Returns:
        The description; None for no loss and for a callable of unknown sum.
    """
    if loss is None:
        return None
    if isinstance(loss, nn.Module):
        loss = copy.deepcopy(loss).to(torch.float64)
    described = describe_loss(loss)
    return described if isinstance(described, Loss) else None


def exact_sum(loss: Loss, outputs: Tensor, targets: Tensor) -> float:
    """Sum of a loss over the samples of a batch.

    A float32 sum of N terms errs by up to N roundings, so that batches would show in
    the seventh digit; this one by those of float64.

    Args:
        loss: Of `in_float64`.
        outputs: Of the model.
        targets: As the loss takes them.

    Returns:
        The sum.
    """
    size = len(outputs) if outputs.ndim >= 2 else 0
    if size < 2 or not outputs.numel() or len(targets) != size:
        return float(loss.sum_loss(outputs.to(torch.float64), targets))
    step = max(_TILE * size // outputs.numel(), 1)
    with torch.no_grad():
        parts = zip(torch.split(outputs, step), torch.split(targets, step), strict=True)
        return math.fsum(float(loss.sum_loss(o.to(torch.float64), t)) for o, t in parts)
