"""`capacity`: spectral norms and stable ranks as margin bounds combine them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Tensor, nn

from spectrank.errors import ArgumentTypeError, DomainError
from spectrank.linalg.ensembles.requests import check_number
from spectrank.model import Skip, WeightMatrix, describe, iter_weights
from spectrank.propagation.names import COLUMNS, METRICS, NETWORK
from spectrank.propagation.theory.layer_norms import (
    LayerNorms,
    law_norms,
    measured_norms,
)
from spectrank.random_nets import RandomMLP
from spectrank.random_nets.rows import LARGEST_LOG, SMALLEST_LOG, Row
from spectrank.table import Table

_UNIT = 2.0**-53


def capacity(
    source: nn.Module | Mapping[str, Tensor] | str | Path | RandomMLP,
    *,
    margins: float | Sequence[float] | Tensor | None = None,
    margin_quantile: float = 0.1,
    select: str | Sequence[str] | None = None,
    views: Mapping[str, str] | None = None,
) -> Table:
    r"""Capacity of a network as spectral margin bounds read it; one row a number.

    ``log_spectral_norm_product`` :math:`\sum \log \|W_l\|_2^2`; ``stable_rank_sum``
    :math:`\sum \|W_l\|_F^2/\|W_l\|_2^2`; ``spectral_complexity`` in two variants at
    margin g: ``bartlett2017`` :math:`\prod \|W_l\|_2 (\sum (\|W_l^T\|_{2,1}/
    \|W_l\|_2)^{2/3})^{3/2}/g` and ``neyshabur2018``
    :math:`\prod \|W_l\|_2^2 \sum \mathrm{sr}_l/g^2`. These are the factors of the
    bounds that depend on weights and margin: no input norm, sample size, constants or
    logarithms, so not bounds themselves, and meant for plain chains of layers with
    1-Lipschitz activations; biases are left out. At fixed spectral norms a lower stable
    rank lowers them linearly.
    Source (stated): Bartlett et al. (2017), arXiv:1706.08498, equation (1.2) with
    reference matrices 0 and Theorem 1.1; Neyshabur et al. (2018), arXiv:1707.09564.

    Args:
        source: Module, state dict, weights file or folder; or a law, then the values
            are those of its spectra.
        margins: Margin f(x)_y - max f(x)_others: a number, or those of a sample, of
            which a low quantile is taken; 1 by default.
        margin_quantile: Of a sample of margins, in [0, 1]; our choice.
        select: Glob pattern or patterns on names; all matrices by default.
        views: Glob pattern to view, where the view is not to be inferred.

    Returns:
        Table of ``network`` rows with enclosures; a margin that is not positive or a
        zero matrix gives status ``degenerate``. Tensors that are no matrices are rows
        of kind ``skip``.

    Raises:
        ArgumentTypeError: If a margin or the quantile is of a type that is no number.
        CheckpointError: If a matrix cannot be read: a product needs them all.
        DomainError: If there is no matrix or a margin is not a number.

    Example:
        >>> import torch
        >>> table = capacity({"a": 2.0 * torch.eye(3), "b": torch.eye(3)}, margins=0.5)
        >>> round(table.value("network", "stable_rank_sum"), 9)
        6.0
    """  # noqa: DOC502 - some are raised by the functions called
    margin = _margin(margins, margin_quantile)
    skips: list[Row] = []
    if isinstance(source, RandomMLP):
        label, norms = repr(source), [law_norms(law) for law in source.layers]
        bad = None
    else:
        label = describe(source).label
        weights = list(iter_weights(source, select=select, views=views, split=False))
        skips = [_skip(w) for w in weights if isinstance(w, Skip)]
        matrices = [w for w in weights if isinstance(w, WeightMatrix)]
        norms, bad = measured_norms(matrices)
        if not matrices:
            raise DomainError(
                "capacity needs at least one weight matrix, got none; check the "
                "source and select"
            )
    rows = _rows(norms, margin) if bad is None else _undefined(*bad)
    columns = {**COLUMNS, "margin": pl.Float64}
    provenance = {
        "input": label,
        "margin": margin,
        "num_matrices": len(norms),
        "definitions": {
            name: {"formula": METRICS[name].formula, "source": METRICS[name].source}
            for name in dict.fromkeys(row["metric"] for row in rows)
        },
    }
    return Table.from_rows([*rows, *skips], provenance=provenance, columns=columns)


def _margin(margins: float | Sequence[float] | Tensor | None, quantile: float) -> float:
    check_number("margin_quantile", quantile, "0.5 is the median")
    if not 0.0 <= quantile <= 1.0:
        raise DomainError(
            f"margin_quantile is a fraction in [0, 1], got {quantile}; "
            "0.5 is the median"
        )
    if margins is None:
        return 1.0
    try:
        values = torch.as_tensor(margins, dtype=torch.float64, device="cpu").flatten()
    except (TypeError, ValueError) as error:
        raise ArgumentTypeError(
            f"margins are numbers, got {type(margins).__name__} that is none; pass "
            "f(x)_y - max others, one number or a sequence"
        ) from error
    if len(values) == 0 or not bool(values.isfinite().all()):
        raise DomainError(
            f"margins are finite numbers, at least one, got {len(values)} with "
            f"{int((~values.isfinite()).sum())} not finite; pass f(x)_y - max others"
        )
    return float(values.quantile(quantile))


def _rows(norms: Sequence[LayerNorms], margin: float) -> list[Row]:
    product = [sum(2.0 * math.log(x.sigma[i]) for x in norms) for i in range(3)]
    # A larger sigma means a smaller stable rank: its ends change places.
    ranks = [
        sum((x.frobenius[i] / x.sigma[j]) ** 2 for x in norms)
        for i, j in ((0, 0), (1, 2), (2, 1))
    ]
    # Both complexities rise with every norm: d log/d log sigma = 1 - a share of one.
    shares = [sum((x.rows[i] / x.sigma[i]) ** (2 / 3) for x in norms) for i in range(3)]
    energies = [
        sum((x.frobenius[i] / x.sigma[i]) ** 2 for x in norms) for i in range(3)
    ]
    common = _common(norms)
    gaussian = any(x.reason is not None and "gaussian" in x.reason for x in norms)
    rows = [
        _row("log_spectral_norm_product", None, product, common, asymptotic=gaussian),
        _row("stable_rank_sum", None, ranks, common, asymptotic=gaussian),
    ]
    for variant, logs, power in (
        (
            "bartlett2017",
            [0.5 * a + 1.5 * math.log(b) for a, b in _pairs(product, shares)],
            1,
        ),
        ("neyshabur2018", [a + math.log(b) for a, b in _pairs(product, energies)], 2),
    ):
        asymptotic = gaussian or variant == "bartlett2017"
        rows.append(_complexity(variant, logs, power, margin, common, asymptotic))
    return rows


def _pairs(a: Sequence[float], b: Sequence[float]) -> list[tuple[float, float]]:
    return list(zip(a, b, strict=True))


def _common(norms: Sequence[LayerNorms]) -> Row:
    kinds = {x.error_kind for x in norms}
    law = None in kinds
    return {
        "kind": "measurement",
        "subject": NETWORK,
        "route": "exact" if law else "spectrum",
        "status": "ok",
        "error_kind": None
        if law
        else ("probabilistic" if "probabilistic" in kinds else "rounding"),
        "failure_probability": sum(x.failure_probability for x in norms) or None,
        "reason": next((x.reason for x in norms if x.reason), None),
    }


def _row(
    metric: str,
    variant: str | None,
    ends: Sequence[float],
    common: Row,
    *,
    asymptotic: bool,
) -> Row:
    law = common["error_kind"] is None
    row = common | {
        "metric": metric,
        "variant": variant,
        "value": ends[0],
        "lower": None if law else math.nextafter(ends[1], -math.inf),
        "upper": None if law else math.nextafter(ends[2], math.inf),
        "source": METRICS[metric].source,
    }
    if law and asymptotic:
        return row | {"route": "leading-order"}
    return row | {"reason": None}


def _complexity(
    variant: str,
    logs: Sequence[float],
    power: int,
    margin: float,
    common: Row,
    asymptotic: bool,
) -> Row:
    metric = "spectral_complexity"
    if margin <= 0.0:
        row = _row(metric, variant, [math.nan] * 3, common, asymptotic=asymptotic)
        return row | {
            "margin": margin,
            "lower": None,
            "upper": None,
            "status": "degenerate",
            "reason": "the margin is not positive: no margin bound speaks of it",
        }
    logs = [x - power * math.log(margin) for x in logs]
    inside = all(SMALLEST_LOG < x < LARGEST_LOG for x in logs)
    # A few roundings of a logarithm of this size are relative errors of the value.
    slack = 1.0 + 64.0 * _UNIT * (1.0 + abs(logs[0]))
    values = [_exp(logs[0]), _exp(logs[1]) / slack, _exp(logs[2]) * slack]
    row = _row(metric, variant, values, common, asymptotic=asymptotic)
    row |= {"margin": margin, "log_value": logs[0]}
    if inside:
        return row
    return row | {
        "status": "nonfinite",
        "reason": "outside the range of float64; log_value has its logarithm",
    }


def _exp(x: float) -> float:
    return math.exp(x) if x < LARGEST_LOG else math.inf


def _undefined(status: str, reason: str) -> list[Row]:
    requests: list[tuple[str, str | None]] = [
        ("log_spectral_norm_product", None),
        ("stable_rank_sum", None),
        ("spectral_complexity", "bartlett2017"),
        ("spectral_complexity", "neyshabur2018"),
    ]
    common: dict[str, Any] = {
        "kind": "measurement",
        "subject": NETWORK,
        "value": math.nan,
        "status": status,
        "reason": reason,
        "route": "spectrum",
    }
    return [
        common
        | {"metric": metric, "variant": variant, "source": METRICS[metric].source}
        for metric, variant in requests
    ]


def _skip(skip: Skip) -> Row:
    return {
        "kind": "skip",
        "subject": skip.name,
        "metric": "capacity",
        "status": "skipped",
        "reason": skip.reason,
    }
