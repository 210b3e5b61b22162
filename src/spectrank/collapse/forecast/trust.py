r"""How far a centroid forecast can be trusted: the data's own pull at its minimum.

At the minimum of the centroid objective the gradient of the objective of all the data,

    share_l = || grad_{W_l} f(data) || / (weight_decay ||W_l||),

is zero for collapsed data (inputs equal within cells) and grows with the variation
within cells and as weight_decay falls: it is what the decay would have to hold back.

The two constants were fixed on Gaussian mixtures before any other data were tried:
{CALIBRATION}
Source (derived): tests/collapse/forecast/test_collapse_trust.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, final

import torch
from torch import Tensor

from spectrank.collapse.forecast.centroids import data_batches
from spectrank.collapse.forecast.minimise import Minimum
from spectrank.collapse.forecast.objective import LossLike, known_loss

SHARE_LIMIT = 0.3
"""Largest share at which the forecast rank of a layer is trusted."""

ERROR_PER_SHARE = 0.15
"""Relative error of the singular values per unit of share, beside the spread."""


@final
@dataclass(frozen=True)
class Trust:
    """Whether the forecast of one layer can be trusted.

    Attributes:
        share: As in the module's formula; NaN where it has no meaning.
        error: Estimate of the relative error of the layer's singular values,
            ``ERROR_PER_SHARE * share + spread``.
        verdict: ``holds`` where the share is within ``SHARE_LIMIT``,
            ``not_applicable`` else.
        reason: In words.
    """

    share: float
    error: float
    verdict: Literal["holds", "not_applicable"]
    reason: str


def trust(share: float, spread: float) -> Trust:
    """Judge one layer by its share and by how much the starts differ.

    Args:
        share: Of the layer; NaN where the layer or its decay is zero.
        spread: Largest relative difference of the singular values between starts.

    Returns:
        The verdict with its numbers.
    """
    if math.isnan(share):
        reason = "the forecast layer or the weight decay is zero: no share to judge by"
        return Trust(share, math.nan, "not_applicable", reason)
    error = ERROR_PER_SHARE * share + spread
    if share <= SHARE_LIMIT:
        reason = (
            f"the data pull with {share:.2g} of the decay, at most {SHARE_LIMIT:g}; "
            "rank and values as forecast on Gaussian mixtures"
        )
        return Trust(share, error, "holds", reason)
    reason = (
        f"the data pull with {share:.2g} of the decay, more than {SHARE_LIMIT:g}: "
        "variation within classes adds singular values that centroids do not show; "
        "raise the weight decay or train on less noisy inputs"
    )
    return Trust(share, error, "not_applicable", reason)


def data_shares(
    minimum: Minimum,
    loader: Iterable[Any],
    *,
    loss: LossLike,
    weight_decay: float,
) -> dict[str, float]:
    """Share of every decayed parameter, in one pass over the data.

    Args:
        minimum: Of the centroid objective.
        loader: Of batches, as for the centroids.
        loss: As for the minimum.
        weight_decay: As for the minimum, positive.

    Returns:
        Parameter name to share; NaN where the parameter is zero.
    """
    described = known_loss(loss)
    named = {n: p for n, p in minimum.model.named_parameters() if p.requires_grad}
    sums = [torch.zeros_like(p) for p in named.values()]
    divisor = 0.0
    for inputs, targets in data_batches(minimum.model, loader):
        x = inputs.to(sums[0].device, torch.float64)
        t = targets.to(sums[0].device)
        t = t.to(torch.float64) if t.is_floating_point() else t
        outputs = minimum.model(x)
        parts = torch.autograd.grad(
            described.sum_loss(outputs, t), list(named.values()), materialize_grads=True
        )
        for total, part in zip(sums, parts, strict=True):
            total += part
        divisor += described.mean_factor(outputs, t)
    divisor = 1.0 if described.reduction == "sum" else divisor
    gradients = dict(zip(named, (s / divisor for s in sums), strict=True))
    return _shares(named, gradients, weight_decay)


def _shares(
    named: Mapping[str, Tensor], gradients: Mapping[str, Tensor], weight_decay: float
) -> dict[str, float]:
    shares = {}
    for name, p in named.items():
        size = weight_decay * float(torch.linalg.vector_norm(p.detach()))
        pull = gradients[name] + weight_decay * p.detach()
        norm = float(torch.linalg.vector_norm(pull))
        shares[name] = norm / size if size > 0.0 else math.nan
    return shares
