r"""The columns of WeightWatcher 0.7.7 for dense layers, as that tool names them.

Its ``norm`` and ``spectral_norm`` are sums and largest of the *eigenvalues*
:math:`\lambda_i = \sigma_i^2`, its ``entropy`` is divided by the logarithm of the rank,
N is the longer side, and thresholds are absolute. Convolutions it cuts into slices and
rescales: their rows would be of other matrices, so they say so and have no value.
docs/names.md tells its names from ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import polars as pl
from torch import Tensor

from spectrank.errors import TableError
from spectrank.linalg import Need, Spectrum
from spectrank.linalg.power_law import PowerLawFit, fit_power_law
from spectrank.table import Table

VARIANT: Final = "weightwatcher"
# Smallest singular values and ranks to machine precision.
WEIGHTWATCHER_NEEDS: tuple[Need, ...] = ("small_end",)

COLUMNS: Final[Mapping[str, str]] = {
    "N": "max(m, n)",
    "M": "min(m, n)",
    "Q": "N / M",
    "num_evals": "number of eigenvalues",
    "lambda_max": "s_1^2",
    "sv_max": "s_1",
    "sv_min": "s_M",
    "norm": "sum s_i^2, the squared Frobenius norm",
    "log_norm": "log10 norm",
    "spectral_norm": "s_1^2, the squared spectral norm",
    "log_spectral_norm": "log10 spectral_norm",
    "stable_rank": "norm / spectral_norm",
    "matrix_rank": "#{i : s_i > s_1 N 2^-52}",
    "rank_loss": "num_evals - matrix_rank",
    "weak_rank_loss": "#{i : s_i^2 < 1e-6}",
    "entropy": "-sum p_i log p_i / log matrix_rank, p_i = s_i^2 / norm + 1e-10",
    "alpha": "power-law exponent of the s_i^2 above 1e-5",
    "alpha_weighted": "alpha log10 spectral_norm",
    "log_alpha_norm": "log10 sum s_i^(2 alpha)",
    "D": "Kolmogorov-Smirnov distance of the fit",
    "sigma": "(alpha - 1) / n^(1/2), the standard error of alpha",
    "xmin": "smallest eigenvalue of the fitted tail",
    "xmax": "largest eigenvalue",
    "num_pl_spikes": "number n of eigenvalues of the fitted tail",
}
"""Name and formula of each numeric column, in the order of the rows."""

# Its thresholds: eigenvalues that are fitted, eigenvalues that count as weak, the
# number below which it corrects the exponent for its bias, and the fewest values of a
# tail it then takes.
_FITTED, _WEAK, _FEW, _FEW_TAIL = 1e-5, 1e-6, 20, 8
_EPSILON = 1e-10
# Below, eigenvalues a millionth of a millionth of it lose digits to underflow.
_LEAST = 1e-290
_EPS = 2.0**-52
# alpha below and above which it warns.
_OVER, _UNDER = 2.0, 6.0


def weightwatcher_rows(key: Mapping[str, Any], s: Spectrum) -> list[dict[str, Any]]:
    """Return one row for each numeric column of that tool.

    Where its power-law fit fails it reports -1; here the value is NaN with a status.
    Source (stated): the code of WeightWatcher 0.7.7; values equal to 1e-6 by
    tests/scanning/test_weightwatcher.py.

    Args:
        key: Columns that name the matrix, as by `matrix_key`.
        s: Its spectrum, with all values and the small end.

    Returns:
        Rows for `Table.from_rows`, variant ``weightwatcher``.
    """
    shared = {**key, "kind": "measurement", "variant": VARIANT, "route": s.route}
    status, reason = _undefined(key, s)
    if status is not None:
        return [
            {
                **shared,
                "metric": name,
                "value": math.nan,
                "status": status,
                "reason": reason,
            }
            for name in COLUMNS
        ]
    assert s.sigma is not None
    values = _values(s.sigma, s.shape)
    failed = "fewer than 2 eigenvalues above 1e-5 spread: no power law to fit"
    return [
        {
            **shared,
            "metric": name,
            "value": values[name],
            "status": "degenerate" if math.isnan(values[name]) else "ok",
            "reason": failed if math.isnan(values[name]) else None,
        }
        for name in COLUMNS
    ]


def weightwatcher_frame(table: Table) -> pl.DataFrame:
    """Return its wide frame: a row per layer, with ``status`` and ``warning``.

    Args:
        table: Scan with ``compat="weightwatcher"``.

    Returns:
        Frame with ``layer_id`` (from 0), ``name``, ``layer_type``, the columns of
        `COLUMNS`, ``status`` (``success`` or ``failed``) and ``warning``
        (``over-trained`` for alpha below 2, ``under-trained`` above 6, else empty).

    Raises:
        TableError: If the scan was without it.
    """
    rows = table.where(kind="measurement", variant=VARIANT).frame
    if rows.is_empty():
        raise TableError(
            "the columns of WeightWatcher are rows of variant 'weightwatcher', the "
            "table has none; scan with compat='weightwatcher'"
        )
    keys = ["subject", "view", "layer_type"]
    wide = rows.select(*keys, "metric", "value").pivot(
        "metric", index=keys, values="value", maintain_order=True
    )
    alpha = pl.col("alpha")
    warning = (
        pl.when(alpha < _OVER)
        .then(pl.lit("over-trained"))
        .when(alpha.is_not_nan() & (alpha > _UNDER))
        .then(pl.lit("under-trained"))
        .otherwise(pl.lit(""))
    )
    return (
        wide.with_columns(
            pl.when(alpha.is_nan())
            .then(pl.lit("failed"))
            .otherwise(pl.lit("success"))
            .alias("status"),
            warning.alias("warning"),
        )
        .drop("view")
        .rename({"subject": "name"})
        .with_row_index("layer_id")
    )


def _undefined(key: Mapping[str, Any], s: Spectrum) -> tuple[str | None, str | None]:
    if s.status != "ok":
        return s.status, s.reason
    view = str(key.get("view"))
    if view.startswith("conv"):
        reason = (
            f"WeightWatcher pools rescaled slices of a convolution, not its view {view}"
        )
        return "skipped", reason
    if s.sigma is None:
        return "skipped", f"its columns need all values, the route {s.route} has norms"
    evals = s.sigma.square()
    if float(evals[0]) < _LEAST or math.isinf(float(evals.sum())):
        return "nonfinite", "its squares leave the range of float64; rescale the matrix"
    return None, None


def _values(sigma: Tensor, shape: tuple[int, int]) -> dict[str, float]:
    N, M = max(shape), min(shape)
    evals = sigma.square()
    top, low = float(sigma[0]), float(sigma[-1])
    norm, largest = float(evals.sum()), float(evals[0])
    rank = int((sigma > top * N * _EPS).sum())
    fit = _fit(evals)
    nan = math.nan
    alpha = fit.alpha if fit else nan
    return {
        "N": float(N),
        "M": float(M),
        "Q": N / M,
        "num_evals": float(M),
        "lambda_max": largest,
        "sv_max": top,
        "sv_min": low,
        "norm": norm,
        "log_norm": _log10(norm),
        "spectral_norm": largest,
        "log_spectral_norm": _log10(largest),
        "stable_rank": norm / largest if largest else nan,
        "matrix_rank": float(rank),
        "rank_loss": float(M - rank),
        "weak_rank_loss": float((evals < _WEAK).sum()),
        "entropy": _entropy(evals, rank),
        "alpha": alpha,
        "alpha_weighted": alpha * _log10(largest),
        "log_alpha_norm": _log_norm(evals, alpha) if fit else nan,
        "D": fit.distance if fit else nan,
        "sigma": fit.stderr if fit else nan,
        "xmin": fit.xmin if fit else nan,
        "xmax": largest if fit else nan,
        "num_pl_spikes": float(fit.num_tail) if fit else nan,
    }


def _fit(evals: Tensor) -> PowerLawFit | None:
    known = evals[evals > _FITTED]
    if len(known) >= _FEW:
        return fit_power_law(known, min_tail=2)
    if len(known) < 2:
        return None
    # Few values: it frees alpha from its bias and takes tails of eight, if there are.
    return fit_power_law(known, min_tail=min(_FEW_TAIL, len(known)), unbiased=True)


def _entropy(evals: Tensor, rank: int) -> float:
    # NumPy: logarithms of torch wake all threads, for a few hundred values.
    p = (evals / evals.sum()).numpy() + _EPSILON
    return -float((p * np.log(p)).sum()) / math.log(rank + _EPSILON)


def _log_norm(evals: Tensor, power: float) -> float:
    # Over the largest: 1e100 to the fourth leaves float64.
    x = evals.numpy()
    return power * math.log10(x[0]) + math.log10(float(((x / x[0]) ** power).sum()))


def _log10(x: float) -> float:
    return math.log10(x) if x > 0.0 else -math.inf
