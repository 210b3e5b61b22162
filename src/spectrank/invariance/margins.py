r"""Margins and KKT residuals of a classifier that is homogeneous in its parameters.

For f of degree L in w, f(cw) = c^L f(w), and margins q (of a sample and, with several
classes, of each wrong class), gradient descent on exponential-type losses drives w
towards KKT points of min ||w||^2 / 2 s.t. q >= 1. Everything is formed from log losses
and from gradients that are rescaled by the largest weight of a constraint, so losses
of 1e-300 and below are no different from others.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, final

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp

from spectrank.errors import DomainError, UnknownNameError
from spectrank.invariance.growth import growth_exponent as growth_exponent
from spectrank.invariance.growth import predicted_norm_squared as predicted_norm_squared
from spectrank.invariance.margin_constraints import (
    constraints,
    inverse_logistic,
    log_losses,
)
from spectrank.model.capture.tensors import logits
from spectrank.model.capture.unpack import unpack_batch
from spectrank.model.differentiation import differentiable, twice_backward
from spectrank.table import Table

MarginLoss = Literal["logistic", "exponential", "cross_entropy"]
_LOSSES = ("logistic", "exponential", "cross_entropy")
_SOURCE = "derived: tests/invariance/certificates/test_margins.py"
_EULER = "derived: <w, grad f> = L f, tests/invariance/certificates/test_margins.py"


@final
@dataclass
class _Sums:
    """What one pass over the data gathers; the caller's batches may differ in size."""

    log_losses: list[Tensor] = field(default_factory=list)
    smallest: float = math.inf
    euler: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    gradient: dict[str, Tensor] = field(default_factory=dict)
    log_unit: float = -math.inf
    weighted_margin: float = 0.0
    weight: float = 0.0


def margins(
    model: nn.Module,
    data: Iterable[Any],
    *,
    loss: MarginLoss = "logistic",
    svm_margin: float | None = None,
) -> Table:
    r"""Margins, KKT residuals and homogeneity of a classifier on its training data.

    Rows of kind ``measurement`` about the model, all dimensionless but the norm:

    * ``homogeneity``: L with <w, grad f(x)> = L f(x), fitted over samples and outputs;
      ``variant`` ``residual`` is the largest deviation relative to max |f|. Above the
      root of the dtype's precision all that needs homogeneity is ``degenerate``.
    * ``margin``: smallest q, in units of the outputs; negative where a sample is wrong.
    * ``normalised_margin`` q_min / ||w||^L, and ``smoothed_margin``
      ell^{-1}(S) / ||w||^L with S the sum of losses: log(1 / S) / ||w||^L of the
      exponential loss, -log(e^S - 1) / ||w||^L of the logistic one and cross entropy.
    * ``log_loss``: log of the mean loss.
    * ``kkt_cosine``: cos(w, -grad R), in [-1, 1].
    * ``kkt_stationarity``: ||w' - sum_i lambda_i grad q_i(w')|| = |w'| sqrt(2 - 2 cos)
      at w' = w / q_min^{1/L}; ``kkt_complementarity``: sum_i lambda_i (q_i(w') - 1).
    * ``norm_squared``: ||w||^2 of all trained parameters; with ``svm_margin``
      ``variant`` ``predicted`` is L (log(1/R) / gamma)^{2/L}, that of deep linear nets
      in their max-margin direction, and ``normalised_margin`` ``attainable`` is
      gamma L^{-L/2}, the largest of such a net.

    Source (derived): tests/invariance/certificates/test_margins.py.

    Args:
        model: Any module; run in the mode it is in, in its own dtype.
        data: Batches (inputs, targets). Targets are -1 or 1 for one output, class
            numbers for several. One pass.
        loss: ``logistic`` or ``exponential`` of y f for one output,
            ``cross_entropy`` for several.
        svm_margin: gamma of the data, max over unit u of min y <u, x>.

    Returns:
        The rows.

    Raises:
        UnknownNameError: Another loss.
        DomainError: No data, no trained parameter, or targets that do not fit.
    """
    if loss not in _LOSSES:
        raise UnknownNameError(
            f"margins are those of one of {', '.join(_LOSSES)}, got {loss!r}; another "
            "loss has no known limit direction"
        )
    parameters = {k: p.detach() for k, p in model.named_parameters() if p.requires_grad}
    if not parameters:
        raise DomainError(
            "margins are taken over the trained parameters, got a model without one; "
            "set requires_grad on those that are trained"
        )
    sums = _Sums()
    with differentiable(model), torch.enable_grad():
        for batch in data:
            _add(sums, model, parameters, batch, loss)
    if not sums.log_losses:
        raise DomainError(
            "margins need one or more batches, got none; a loader that was used up "
            "before gives nothing"
        )
    return Table.from_rows(_rows(sums, parameters, loss, svm_margin))


def _add(
    sums: _Sums, model: nn.Module, parameters: dict[str, Tensor], batch: Any, loss: str
) -> None:
    call = unpack_batch(batch, model, keep_targets=False)

    def outputs(values: dict[str, Tensor]) -> Tensor:
        found = logits(functional_call(model, values, call.args, dict(call.kwargs)))
        if found is None:
            raise DomainError(
                "margins are those of a tensor of outputs, the model returns none; "
                "wrap it so that it returns logits"
            )
        return found

    value, euler = twice_backward(outputs, parameters, parameters)
    sums.euler.append((value.detach().double(), euler.detach().double()))
    q, log_weight, pull = constraints(value.detach().double(), call.targets, loss)
    sums.log_losses.append(log_losses(q, loss))
    sums.smallest = min(sums.smallest, float(q.min()))
    unit = max(sums.log_unit, float(log_weight.max()))
    old = math.exp(sums.log_unit - unit) if sums.log_unit > -math.inf else 0.0
    weight = (log_weight - unit).exp()
    cotangent = pull(weight).reshape(value.shape).to(value.dtype)
    gradient = vjp(outputs, parameters)[1](cotangent)[0]
    for name, part in gradient.items():
        before = sums.gradient.get(name, 0.0)
        sums.gradient[name] = before * old + part.detach().double()
    sums.log_unit = unit
    sums.weight = sums.weight * old + float(weight.sum())
    sums.weighted_margin = sums.weighted_margin * old + float((weight * q).sum())


def _rows(
    sums: _Sums, parameters: dict[str, Tensor], loss: str, svm_margin: float | None
) -> list[dict[str, Any]]:
    degree, residual = _degree(sums.euler)
    log_losses = torch.cat(sums.log_losses)
    log_sum = float(torch.logsumexp(log_losses, 0))
    log_risk = log_sum - math.log(len(log_losses))
    squares = sum(float(p.double().square().sum()) for p in parameters.values())
    rows = [
        _row("homogeneity", degree, source=_EULER),
        _row("homogeneity", residual, variant="residual", source=_EULER),
        _row("margin", sums.smallest),
        _row("log_loss", log_risk),
        _row("norm_squared", squares),
    ]
    if svm_margin is not None:
        rows.append(
            _row(
                "norm_squared",
                predicted_norm_squared(log_risk, svm_margin, degree),
                variant="predicted",
            )
        )
        # Equal layers of rank one in the best direction: s^L gamma / (L s^2)^{L/2}.
        best = svm_margin * degree ** (-degree / 2.0) if degree > 0.0 else math.nan
        rows.append(_row("normalised_margin", best, variant="attainable"))
    why = None
    if not residual <= _tolerance(parameters) or not degree > 0.0:
        why = (
            f"the outputs are not homogeneous in the trained parameters: <w, grad f> "
            f"is off {degree:.3g} f by {residual:.2g}; biases beyond the first layer "
            "and normalisation have no part in this theory"
        )
    inverse = -log_sum if loss == "exponential" else inverse_logistic(log_sum)
    power = 0.5 * degree * math.log(squares) if squares > 0.0 else math.nan
    rows.append(_row("normalised_margin", sums.smallest * math.exp(-power), why))
    rows.append(_row("smoothed_margin", inverse * math.exp(-power), why))
    if why is None and sums.smallest <= 0.0:
        why = "a sample has no positive margin, so no constraint can be met"
    return rows + _kkt(sums, parameters, degree, math.sqrt(squares), why)


def _kkt(
    sums: _Sums,
    parameters: dict[str, Tensor],
    degree: float,
    norm: float,
    why: str | None,
) -> list[dict[str, Any]]:
    g = math.sqrt(sum(float(p.square().sum()) for p in sums.gradient.values()))
    names = ("kkt_cosine", "kkt_stationarity", "kkt_complementarity")
    if why is not None or g == 0.0 or norm == 0.0:
        return [_row(name, math.nan, why or "the gradient vanishes") for name in names]
    # From the difference of unit vectors: 2 - 2 cos would cancel.
    distance = math.sqrt(
        sum(
            float((parameters[k].double() / norm - part / g).square().sum())
            for k, part in sums.gradient.items()
        )
    )
    scale = norm * sums.smallest ** (-1.0 / degree)
    # lambda_i = |w'| c_i / |sum_j c_j grad q_j(w')|, and grad q is of degree L - 1.
    multiplier = scale / (g * sums.smallest ** (-(degree - 1.0) / degree))
    excess = sums.weighted_margin / sums.smallest - sums.weight
    return [
        _row("kkt_cosine", 1.0 - 0.5 * distance**2),
        _row("kkt_stationarity", scale * distance),
        _row("kkt_complementarity", multiplier * excess),
    ]


def _degree(pairs: list[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """Least-squares L of <w, grad f> = L f, and the largest relative deviation."""
    value = torch.cat([f.reshape(-1) for f, _ in pairs])
    euler = torch.cat([e.reshape(-1) for _, e in pairs])
    top = float(value.abs().max())
    if not 0.0 < top < math.inf or not bool(euler.isfinite().all()):
        return math.nan, math.nan
    value, euler = value / top, euler / top
    degree = float((value @ euler) / (value @ value))
    residual = float((euler - degree * value).abs().max())
    # The degree of a network is an integer; rounding would enter every power of it.
    whole = float(round(degree))
    return (whole if abs(whole - degree) <= residual else degree), residual


def _tolerance(parameters: dict[str, Tensor]) -> float:
    """Of the Euler identity: rounding is far below, a second bias is of order one."""
    return max(math.sqrt(torch.finfo(p.dtype).eps) for p in parameters.values())


def _row(
    metric: str,
    value: float,
    why: str | None = None,
    *,
    variant: str | None = None,
    source: str = _SOURCE,
) -> dict[str, Any]:
    return {
        "kind": "measurement",
        "subject": "model",
        "metric": metric,
        "variant": variant,
        "value": math.nan if why is not None else value,
        "status": "ok" if why is None and math.isfinite(value) else "degenerate",
        "reason": why,
        "source": source,
    }
