"""Rows that hold a matrix against random twins of itself.

Variant names the null: ``permuted`` or ``gaussian`` (see `spectrank.linalg.null`). The
draws depend on the seed and the matrix alone, not on its name or on what was measured
before. Ends of a mean over several draws are one standard error away.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import torch
from torch import Tensor

from spectrank.linalg import Need, Spectrum, Value
from spectrank.linalg.null import Null, null_spectrum, wasserstein
from spectrank.metrics import num_spikes
from spectrank.scanning.rows import value_columns

# What a spectrum must know to be compared.
NULL_NEEDS: tuple[Need, ...] = ("sigma",)

NULL_METRICS: Final[Mapping[str, str]] = {
    "null_sigma_max": "mean of s_1 of the twins",
    "null_sigma_max_highest": "largest s_1 of the twins: quantile N / (N + 1) of N",
    "null_excess": "(s_1 - mean of s_1 of the twins) / their standard deviation",
    "null_softrank": "mean of s_1^2 of the twins over s_1^2",
    "null_p": "(1 + #{twins whose s_1 is not surely below s_1}) / (1 + #{twins})",
    "num_above_null": "#{i : s_i surely above s_1 of every twin}",
    "null_distance": "mean of sum_i |s_i - t_i| / (k ||W||_F / k^(1/2)), t of a twin",
    "null_num_spikes": "mean of num_spikes of the twins",
}
"""Formula of each metric, s of the matrix and t of a twin, descending."""

# Relative spread of largest values below which it is that of their rounding.
_SPREAD = 1e-12
# One twin has no spread.
_OF_SEVERAL = frozenset(["null_sigma_max_highest", "null_excess"])


class NullSettings(Protocol):
    """What is read of the settings of a scan."""

    @property
    def null(self) -> Null | None:
        """Kind of twins; None for none."""

    @property
    def num_null(self) -> int:
        """Number of twins."""

    @property
    def seed(self) -> int:
        """Of the draws."""


def null_rows(
    key: Mapping[str, Any], operand: Any, s: Spectrum, settings: NullSettings
) -> list[dict[str, Any]]:
    """Return the rows of a matrix beside its twins: one a metric, one spectrum.

    ``null_p`` of ``permuted`` is the p-value of a permutation test of the largest
    singular value, valid at any size; that of ``gaussian``, whose mean and variance are
    fitted, is approximate. It cannot fall below 1 / (1 + num_null), and what is equal
    up to rounding counts as equal. ``null_softrank`` is near
    `mp_softrank` where the entries are light-tailed. ``null_distance`` is
    dimensionless, 0 for a spectrum like its twins'. ``null_excess`` says how far out
    s_1 lies, in standard deviations of that of the twins, with the large-sample
    standard error (1/N + x^2 / (2 (N - 1)))^(1/2); it and ``null_sigma_max_highest``
    come with two twins or more. ``null_num_spikes`` above 0 says
    that single large entries alone make spikes. The spectrum row holds the mean of the
    twins' values.
    Source (derived): tests/scanning/test_null_rows.py.

    Args:
        key: Columns that name the matrix, as by `matrix_key`.
        operand: The matrix, a tensor (m, n); others have no entries to permute.
        s: Its spectrum, with all values.
        settings: Kind and number of twins, and the seed.

    Returns:
        Rows for `Table.from_rows`; none where no null is asked for.
    """
    if settings.null is None:
        return []
    shared = {**key, "variant": settings.null}
    undefined = _undefined(operand, s)
    if undefined is not None:
        names = [
            x for x in NULL_METRICS if settings.num_null > 1 or x not in _OF_SEVERAL
        ]
        return [_row(shared, name, undefined, None) for name in names]
    generator = torch.Generator().manual_seed(settings.seed)
    twins = [
        null_spectrum(operand, settings.null, generator=generator)
        for _ in range(settings.num_null)
    ]
    values = _values(s, twins)
    route = twins[0].route
    rows = [_row(shared, name, value, route) for name, value in values.items()]
    mean = torch.stack([_sigma(twin) for twin in twins]).mean(0)
    spectrum_row = {
        **shared,
        "kind": "spectrum",
        "metric": "null_singular_values",
        "values": mean.tolist(),
        "error_kind": "rounding",
        "status": "ok",
        "route": route,
    }
    return [*rows, spectrum_row]


def _undefined(operand: Any, s: Spectrum) -> Value | None:
    if not isinstance(operand, Tensor):
        reason = (
            f"a {type(operand).__name__} has no entries to permute; scan a dense view, "
            "e.g. views='linear' or 'conv-unfolded'"
        )
        return Value.undefined("skipped", reason)
    if s.status != "ok":
        return Value.undefined(s.status, s.reason or s.status)
    if s.sigma is None:
        reason = f"twins are compared by all values, the route {s.route} has norms only"
        return Value.undefined("skipped", reason)
    return None


_NO_NOISE = Value.undefined("degenerate", "a twin has no noise to count spikes above")


def _values(s: Spectrum, twins: Sequence[Spectrum]) -> dict[str, Value]:
    sigma = _sigma(s)
    top, tops = float(sigma[0]), [float(_sigma(twin)[0]) for twin in twins]
    # Divide first: the square of 1e200 leaves float64.
    size = math.sqrt(float((sigma / top).square().mean()))
    distances = [wasserstein(sigma / top, _sigma(t) / top) / size for t in twins]
    # By the ends of their errors: every permutation of one row has the same norm, and
    # the last bit of a sum is no evidence.
    at_least = sum(t.sigma_max.upper >= s.sigma_max.lower for t in twins)
    highest = max(t.sigma_max.upper for t in twins)
    spikes = [num_spikes(twin).value for twin in twins]
    several: dict[str, Value] = {}
    if len(tops) > 1:
        several["null_sigma_max_highest"] = _drawn(max(tops))
        several["null_excess"] = _excess(top, tops)
    return {
        "null_sigma_max": _mean(tops),
        **several,
        "null_softrank": _mean([(x / top) ** 2 for x in tops]),
        "null_p": Value.exact((1 + at_least) / (1 + len(twins))),
        "num_above_null": Value.exact(float((sigma - _error(s) > highest).sum())),
        "null_distance": _mean(distances),
        "null_num_spikes": _NO_NOISE if any(map(math.isnan, spikes)) else _mean(spikes),
    }


def _mean(draws: Sequence[float]) -> Value:
    """Mean over draws with its standard error; one draw has none."""
    x = torch.tensor(draws, dtype=torch.float64)
    # Divide first, as above.
    size = float(x.abs().max()) or 1.0
    value = size * float((x / size).mean())
    if len(draws) == 1:
        return _drawn(value)
    error = size * float((x / size).std()) / math.sqrt(len(draws))
    return Value(value, max(value - error, 0.0), value + error, "stderr")


def _drawn(value: float) -> Value:
    """A number of the draws whose spread is not known."""
    return Value(value, math.nan, math.nan, "stderr")


def _excess(top: float, tops: Sequence[float]) -> Value:
    """Place of a value among draws, in their standard deviations."""
    draws = torch.tensor(tops, dtype=torch.float64) / top
    spread = float(draws.std())
    if spread <= _SPREAD:
        reason = "the largest values of the twins differ by rounding alone"
        return Value.undefined("degenerate", reason)
    x = (1.0 - float(draws.mean())) / spread
    error = math.sqrt(1.0 / len(tops) + x * x / (2.0 * (len(tops) - 1)))
    return Value(x, x - error, x + error, "stderr")


def _sigma(s: Spectrum) -> Tensor:
    assert s.sigma is not None
    return s.sigma


def _error(s: Spectrum) -> Tensor:
    assert s.sigma_error is not None
    return s.sigma_error


def _row(
    shared: Mapping[str, Any], name: str, value: Value, route: str | None
) -> dict[str, Any]:
    columns = value_columns(value)
    for end in ("lower", "upper"):
        if math.isnan(columns[end]):
            columns[end] = None
    return {
        **shared,
        "kind": "measurement",
        "metric": name,
        "route": route,
        **columns,
    }
