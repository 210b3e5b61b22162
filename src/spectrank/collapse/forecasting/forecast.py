"""`forecast`: singular values and ranks that training will end in, before training.

The samples are replaced by the K centroids of their cells, weighted by their counts,
and the same architecture with the same weight decay is brought to a minimum from
several starts. Exact for inputs that are equal within cells; how far it reaches beyond
is judged layer by layer (``trust``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, final

from torch import nn
from torch.optim import Optimizer

from spectrank.collapse.forecasting.centroids import Centroids, centroids
from spectrank.collapse.forecasting.decay import forecast_decay
from spectrank.collapse.forecasting.minimise import Minimum, minimise
from spectrank.collapse.forecasting.objective import known_loss
from spectrank.collapse.forecasting.rows import COLUMNS, forecast_rows
from spectrank.collapse.forecasting.starts import Initialise, Start, starts
from spectrank.collapse.forecasting.trust import data_shares
from spectrank.collapse.statistics.unmeasured import stacked_skips
from spectrank.errors import DomainError
from spectrank.model.capture.objective import LossLike
from spectrank.scanning.rows import skip_row
from spectrank.table import Table

RTOL = 1e-2
"""Relative threshold of the forecast rank, that of the theory's tables."""


@final
@dataclass(frozen=True, eq=False)
class CentroidMinimum:
    """A minimum of the centroid objective.

    Attributes:
        start: Where it came from.
        minimum: Where it ended.
    """

    start: Start
    minimum: Minimum


def centroid_minima(
    model: nn.Module,
    cells: Centroids,
    *,
    loss: LossLike = "cross_entropy",
    weight_decay: float,
    seeds: int | Sequence[int] = 3,
    decay_biases: bool = False,
    initialise: Initialise | None = None,
    tolerance: float = 1e-9,
    max_iterations: int = 2000,
) -> list[CentroidMinimum]:
    """Train the architecture on the centroids from the model and from redraws of it.

    A centroid weighs as many samples as its cell has.

    Args:
        model: Left as it was; the first start.
        cells: Of ``centroids``.
        loss: Name or ``nn`` loss, with its reduction.
        weight_decay: Coefficient of half the square.
        seeds: Number of starts, or the seeds of the redraws.
        decay_biases: Decay every parameter, as ``SGD`` does by default.
        initialise: Fills a model in place from a seed, where ``reset_parameters`` is
            not how it is initialised.
        tolerance: On the gradient norm.
        max_iterations: Of L-BFGS.

    Returns:
        One minimum for each start, the model's own first.
    """
    device = next(model.parameters()).device
    inputs, targets, counts = (
        t.to(device) for t in (cells.inputs, cells.targets, cells.counts)
    )
    return [
        CentroidMinimum(
            start,
            minimise(
                start.model,
                inputs,
                targets,
                loss=loss,
                weight_decay=weight_decay,
                decay_biases=decay_biases,
                sample_weights=counts.double(),
                tolerance=tolerance,
                max_iterations=max_iterations,
            ),
        )
        for start in starts(model, seeds, initialise=initialise)
    ]


def forecast(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    loss: LossLike = "cross_entropy",
    weight_decay: float | Optimizer,
    seeds: int | Sequence[int] = 3,
    decay_biases: bool = False,
    initialise: Initialise | None = None,
    rtol: float = RTOL,
    tolerance: float = 1e-9,
    max_iterations: int = 2000,
) -> Table:
    r"""Singular values of every layer at the end of training with weight decay.

    Values are those of the minimum that the model's own parameters lead to on the
    centroids; the range over all starts is their error as far as basins differ, and the
    check ``forecast_trust`` says whether variation within classes can change them.
    What is forecast is a minimum of loss plus (weight_decay/2) ||W||^2: a run that
    stops early, decays otherwise (AdamW) or has no decay ends elsewhere. Biases can
    change ranks: with MSE K without them, K - 1 with them.
    Source (derived): tests/collapse/forecasting/test_collapse_forecast.py.

    Args:
        model: Any architecture of one input; left as it was.
        loader: Of batches ``(inputs, targets)``; read three times, never trained on.
        loss: Name or ``nn`` loss that ``describe_loss`` knows, with its reduction.
        weight_decay: Coefficient of (weight_decay/2) ||W||^2, positive; or the
            optimizer that will train the model, which tells ``decay_biases`` too.
        seeds: Number of starts, or the seeds of the redraws beside the model's own.
        decay_biases: Decay every parameter, as ``SGD`` does by default.
        initialise: Fills a model in place from a seed, where ``reset_parameters`` is
            not how it is initialised.
        rtol: Relative threshold of ``numerical_rank``, in (0, 1).
        tolerance: On the gradient norm.
        max_iterations: Of L-BFGS, for each start.

    Returns:
        For every weight matrix: ``singular_values`` with their range in
        ``lower_values`` and ``upper_values`` (and one row for each start),
        ``numerical_rank`` with its range, ``forecast_spread``, ``forecast_error`` and
        the check ``forecast_trust``; for the model: ``objective`` of each start and
        ``rtcv`` of the inputs. What is not one matrix (packed query, key and value,
        gates) is a ``skip`` row with the reason.

    Raises:
        DomainError: A number out of range, data without centroids, or an optimizer
            whose decay is not one coefficient of the loss (AdamW).
        ArgumentTypeError: ``weight_decay`` is neither, or data that are no tensors.

    Example:
        >>> import torch
        >>> points = 2.0 * torch.eye(3).repeat(4, 1)
        >>> data = [(points, torch.arange(3).repeat(4))]
        >>> net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3))
        >>> table = forecast(net, data, weight_decay=1e-2)
        >>> [table.value(name, "numerical_rank") for name in ("0.weight", "2.weight")]
        [2.0, 2.0]
    """  # noqa: DOC502 - raised by the functions called
    coefficient, decay_biases = forecast_decay(
        weight_decay, model, decay_biases=decay_biases
    )
    return rank_curve(
        model,
        loader,
        weight_decays=(coefficient,),
        loss=loss,
        seeds=seeds,
        decay_biases=decay_biases,
        initialise=initialise,
        rtol=rtol,
        tolerance=tolerance,
        max_iterations=max_iterations,
    )


def rank_curve(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    weight_decays: Sequence[float],
    loss: LossLike = "cross_entropy",
    seeds: int | Sequence[int] = 3,
    decay_biases: bool = False,
    initialise: Initialise | None = None,
    rtol: float = RTOL,
    tolerance: float = 1e-9,
    max_iterations: int = 2000,
) -> Table:
    """Forecasts over weight decays: the predicted rank of every layer against decay.

    Args:
        model: As for ``forecast``.
        loader: As for ``forecast``; the centroids are formed once, and each weight
            decay reads it once more.
        weight_decays: Coefficients, each positive.
        loss: As for ``forecast``.
        seeds: As for ``forecast``.
        decay_biases: As for ``forecast``.
        initialise: As for ``forecast``.
        rtol: As for ``forecast``.
        tolerance: As for ``forecast``.
        max_iterations: As for ``forecast``.

    Returns:
        The rows of ``forecast`` for each weight decay, told apart by ``weight_decay``.

    Raises:
        DomainError: A number out of range, or data without centroids.
    """  # noqa: DOC502 - raised by the functions called
    _check(weight_decays, rtol)
    cells = centroids(model, loader, ignore_index=known_loss(loss).ignore_index)
    rows: list[dict[str, Any]] = []
    for weight_decay in weight_decays:
        minima = centroid_minima(
            model,
            cells,
            loss=loss,
            weight_decay=weight_decay,
            seeds=seeds,
            decay_biases=decay_biases,
            initialise=initialise,
            tolerance=tolerance,
            max_iterations=max_iterations,
        )
        shares = data_shares(
            minima[0].minimum, loader, loss=loss, weight_decay=weight_decay
        )
        rows += forecast_rows(
            [(m.start.seed, m.start.how, m.minimum) for m in minima],
            cells.rtcv,
            shares,
            weight_decay=weight_decay,
            rtol=rtol,
            zero=10.0 * tolerance / weight_decay,
        )
    rows += [skip_row(s) | {"metric": "forecast"} for s in stacked_skips(model)]
    provenance = {
        "loss": known_loss(loss).name,
        "weight_decays": list(weight_decays),
        "decay_biases": decay_biases,
        "rtol": rtol,
        "tolerance": tolerance,
        "num_cells": len(cells.counts),
        "num_samples": cells.num_samples,
    }
    return Table.from_rows(rows, columns=COLUMNS, provenance=provenance)


def _check(weight_decays: Sequence[float], rtol: float) -> None:
    if not weight_decays:
        raise DomainError(
            "weight_decays must name at least one coefficient, got none; e.g. (1e-3,)"
        )
    for weight_decay in weight_decays:
        if not 0.0 < weight_decay < float("inf"):
            raise DomainError(
                "a forecast needs a positive finite weight decay, which alone selects "
                f"the minimum, got {weight_decay}; see interpolation_limit for decay 0"
            )
    if not 0.0 < rtol < 1.0:
        raise DomainError(f"rtol must lie in (0, 1), got {rtol}; e.g. 1e-2")
