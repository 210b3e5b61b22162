r"""How far a centroid forecast can be trusted: the data's own pull at its minimum.

At the minimum of the centroid objective the gradient of the objective of all the data,

    share_l = || grad_{W_l} f(data) || / (weight_decay ||W_l||),

is zero for collapsed data (inputs equal within cells) and grows with the variation
within cells and as weight_decay falls: it is what the decay would have to hold back.
It speaks of the minimum near the forecast one; whether training ends in that basin is
seen from how far the minima of several starts differ (``spread``).

The limits were fixed on Gaussian mixtures (K = 4 and 10 in 20 dimensions, centres of
norm 2, noise 0.02 to 1, tanh networks of three weights, cross-entropy and MSE, weight
decay 1e-3 to 3e-2), before any other data were tried. There, from a share of 0.002 to
0.3, the relative error of a layer's singular values in one basin was 0.1 of the share
in the median and below 0.3 of it in nine layers of ten. For training from the same
initialisation the rank at 1e-2 was right in all 68 layers that both limits passed
(K = 10: 12 of 12, and 30 of 44 without the limit on the spread).

Judged on digits, which were not seen before (three and ten classes, decay 1e-3 to 0.1,
14 settings, 42 layers): the forecast rank was wrong in 17 layers, none of them trusted,
and right in 25, of which one was trusted: the limits are safe and strict there, as
their inputs vary within classes as much as mixtures of noise 0.5. ``error`` was above
the true error in all 36 layers that were not zero, by a factor 1.08 to 90.
Source (derived): tests/collapse/forecasting/test_collapse_trust.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, final

import torch
from torch import Tensor

from spectrank.collapse.forecasting.centroids import data_batches
from spectrank.collapse.forecasting.minimise import Minimum
from spectrank.collapse.forecasting.objective import known_loss
from spectrank.model.capture.objective import LossLike

SHARE_LIMIT = 0.3
"""Largest share at which the forecast of a layer is trusted."""

SPREAD_LIMIT = 0.02
"""Largest relative difference between starts, in any layer, at which it is."""

ERROR_PER_SHARE = 0.3
"""Relative error of the singular values per unit of share, beside the spread."""


@final
@dataclass(frozen=True)
class Trust:
    """Whether the forecast of one layer can be trusted.

    Attributes:
        share: As in the module's formula; NaN where it has no meaning.
        error: Estimate of the relative error of the layer's singular values,
            ``ERROR_PER_SHARE * share + spread``; no bound.
        verdict: ``holds`` within both limits, ``not_applicable`` else.
        reason: In words.
    """

    share: float
    error: float
    verdict: Literal["holds", "not_applicable"]
    reason: str


def trust(
    share: float | None, spread: float, *, worst_spread: float, num_starts: int
) -> Trust:
    """Judge one layer by its share and by how much the starts differ.

    Args:
        share: Of the layer; NaN where it is zero, None where it is no parameter.
        spread: Largest relative difference of its singular values between starts.
        worst_spread: The largest spread of all layers: a basin is one of the network.
        num_starts: How many starts there were.

    Returns:
        The verdict with its numbers.
    """
    faults = []
    if share is None:
        share = math.nan
        faults.append(
            "the weight is no parameter of its own (parametrised, or fixed), so its "
            "decay is that of other numbers"
        )
    elif math.isnan(share):
        faults.append("the forecast layer is zero, so there is no share to judge it by")
    elif share > SHARE_LIMIT:
        faults.append(
            f"at the forecast weight the data pull {share:.2g} times as hard as the "
            f"decay, more than {SHARE_LIMIT:g}: "
            "variation within classes adds singular values that centroids do not "
            "show; a larger weight decay or less noisy inputs would help"
        )
    if num_starts < 2:
        faults.append("one start says nothing of other minima; ask for seeds=3")
    elif not worst_spread <= SPREAD_LIMIT:
        faults.append(
            f"minima of {num_starts} starts differ by {worst_spread:.2g}, more than "
            f"{SPREAD_LIMIT:g}: training may end in another basin"
        )
    error = ERROR_PER_SHARE * share + spread
    if faults:
        return Trust(share, error, "not_applicable", "; ".join(faults))
    reason = (
        f"the data pull {share:.2g} times as hard as the decay (limit "
        f"{SHARE_LIMIT:g}) and "
        f"{num_starts} starts agree to {worst_spread:.2g} (limit {SPREAD_LIMIT:g}); "
        "limits fixed on Gaussian mixtures, no bound"
    )
    return Trust(share, error, "holds", reason)


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
