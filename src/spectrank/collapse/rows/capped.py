"""Rows of what decay caps in a whole model: squared norms, and the rank of a window."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn
from torch.optim import Optimizer

from spectrank.collapse.certificates import norm_cap_rows, window_rank
from spectrank.collapse.rows.request import Row
from spectrank.collapse.statistics import EffectiveDecay, Statistics
from spectrank.model.capture.objective import LossLike


def capped_rows(
    model: nn.Module,
    statistics: Statistics,
    decays: Sequence[EffectiveDecay],
    *,
    loss: LossLike | None,
    optimizer: Optimizer | None,
) -> list[Row]:
    """Rows of the caps that need no certificate of a layer.

    Args:
        model: That was measured.
        statistics: Of the pass.
        decays: Of its layers, in their order.
        loss: As trained.
        optimizer: That trains it; None where only a coefficient is known.

    Returns:
        ``norm_cap`` of subject ``model``, where one decay acts on all layers and the
        loss of the zero network is known; ``window_rank`` of the weights, their
        minibatches taken to be as large as the first one of the pass.
    """
    rows = _norm_caps(statistics, decays, loss)
    return rows if optimizer is None else rows + _windows(model, statistics, optimizer)


def _norm_caps(
    statistics: Statistics, decays: Sequence[EffectiveDecay], loss: LossLike | None
) -> list[Row]:
    coefficients = {decay.coefficient for decay in decays}
    coupled = all(decay.kind in {"coupled", "penalty"} for decay in decays)
    zero = _loss_at_zero(statistics, loss)
    if zero is None or len(coefficients) != 1 or not coupled:
        return []
    # Weights of other modules decay too: with them the sum is larger still, and what
    # is judged here follows from the part that is known.
    found = norm_cap_rows(
        {layer.weight_name: layer.weight for layer in statistics.layers},
        weight_decay=coefficients.pop(),
        loss=statistics.loss,
        loss_at_zero=zero,
    )
    return [{"subject": "model", "of": "model"} | row for row in found]


def _loss_at_zero(statistics: Statistics, loss: LossLike | None) -> float | None:
    """Loss of the network whose outputs are zero; None where that is not known."""
    outputs, name = statistics.outputs, statistics.reading.loss
    if name in {"cross_entropy", "CrossEntropyLoss"} and outputs.logits is not None:
        if getattr(loss, "weight", None) is not None:
            return None
        num_outputs = len(outputs.logits.origin)
        return outputs.num_labelled * math.log(num_outputs) / statistics.divisor
    if name in {"mse", "MSELoss"} and outputs.targets is not None:
        targets = outputs.targets
        return (
            float(targets.second_moment().trace())
            * targets.count
            / (statistics.divisor)
        )
    return None


def _windows(
    model: nn.Module, statistics: Statistics, optimizer: Optimizer
) -> list[Row]:
    num_rows = {
        f"{use}.weight" if use else "weight": layer.minibatch.num_rows
        for layer in statistics.layers
        if layer.minibatch is not None
        for use in layer.uses
    }
    if not num_rows:
        return []
    found = window_rank(optimizer, model, batch_size=1, positions=num_rows)
    return [{"of": "weight"} | r for r in found if r["subject"] in num_rows]
