"""What random matrix theory says of a spectrum: noise, its edge, and what sticks out.

The noise is independent entries of one variance: the Marchenko-Pastur law. Its scale is
fitted to the bulk, which is what is left without the values above it; variant
``median`` takes the median singular value, variant ``entries`` the root mean square of
all entries. All of it is asymptotic: below a few dozen values it says little.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from spectrank.errors import DomainError, UnknownNameError
from spectrank.linalg import Spectrum, Value
from spectrank.linalg.marchenko_pastur import MarchenkoPastur
from spectrank.linalg.noise import NoiseFit, noise_threshold
from spectrank.linalg.tracy_widom import largest_eigenvalue_law, tracy_widom_sf
from spectrank.metrics.noise import noise_of
from spectrank.metrics.norms import sigma_of
from spectrank.metrics.registry import register

_ALL = ("scale", "transpose", "orthogonal")
_NO_SCALE = ("transpose", "orthogonal")
_FITS: Mapping[str | None, NoiseFit] = {
    None: "bulk",
    "median": "median",
    "entries": "entries",
}


def _check_variant(options: Mapping[str, Any]) -> None:
    if options["variant"] not in _FITS:
        raise UnknownNameError(
            "the noise is fitted by variant None (the bulk), 'median' or 'entries', "
            f"got {options['variant']!r}; leave it out for the bulk"
        )


def _check_edge(options: Mapping[str, Any]) -> None:
    _check_variant(options)
    if options["end"] not in {None, "lower"}:
        raise UnknownNameError(
            f"end is None for the upper edge or 'lower', got {options['end']!r}; "
            "leave it out for the upper one"
        )


def _check_level(options: Mapping[str, Any]) -> None:
    _check_variant(options)
    x = options["level"]
    if not isinstance(x, int | float) or not 1e-12 <= x < 1.0:
        raise DomainError(
            f"level must lie in [1e-12, 1), got {x!r}; "
            "e.g. level=0.01: one false spike in a hundred matrices of noise"
        )


@register(
    needs=["sigma"],
    formula=(
        "(sum_{i>r} s_i^2 / ((m - r)(n - r)))^(1/2), r = number of values above the "
        "noise of an (m - r) x (n - r) matrix of that scale"
    ),
    source="derived: tests/linalg/test_noise.py; median: arXiv:1305.5870",
    range=lambda k: (0.0, math.inf),
    invariances=_NO_SCALE,
    check=_check_variant,
)
def mp_sigma(s: Spectrum, variant: str | None = None) -> Value:
    r"""Standard deviation of the entries of the noise, by a Marchenko-Pastur fit.

    In units of the weight, in [0, inf). Fitted to the bulk: the root mean square of
    what the values above the noise leave. Status ``degenerate`` for a single row or
    column, when the median singular value cannot be told from zero, or when more than
    half of the values lie above. Not the root mean square of all entries, which is
    variant ``entries`` and grows with every spike.
    Source (derived): tests/linalg/test_noise.py; variant ``median`` (stated): Gavish &
    Donoho (2014), arXiv:1305.5870.

    Args:
        s: Spectrum with all values.
        variant: None for the bulk, ``median`` or ``entries``.

    Returns:
        Value with the enclosure of the values it is made of.
    """
    return noise_of(s, _FITS[variant])


@register(
    needs=["sigma"],
    formula="mp_sigma * (m^(1/2) + n^(1/2)); lower: mp_sigma * |m^(1/2) - n^(1/2)|",
    source="Marchenko & Pastur (1967), in terms of singular values",
    range=lambda k: (0.0, math.inf),
    invariances=_NO_SCALE,
    check=_check_edge,
)
def mp_edge(s: Spectrum, variant: str | None = None, end: str | None = None) -> Value:
    r"""Edge of the noise among the singular values, :math:`c(\sqrt m + \sqrt n)`.

    In units of the weight (a singular value, not an eigenvalue), in [0, inf); c is
    ``mp_sigma``. Option ``end=lower`` gives the lower edge :math:`c|\sqrt m-\sqrt n|`.
    Source (stated): Marchenko & Pastur (1967), Math. USSR-Sbornik 1.

    Args:
        s: Spectrum with all values.
        variant: How the noise is fitted, as for `mp_sigma`.
        end: None for the upper edge or ``lower``.

    Returns:
        Value with the relative enclosure of ``mp_sigma``.
    """
    m, n = map(math.sqrt, s.shape)
    return mp_sigma.function(s, variant) * (abs(m - n) if end else m + n)


@register(
    needs=["sigma"],
    formula="mp_edge^2 / s_1^2",
    source="Martin & Mahoney (2018), arXiv:1810.01075",
    range=lambda k: (0.0, math.inf),
    invariances=_ALL,
    check=_check_variant,
)
def mp_softrank(s: Spectrum, variant: str | None = None) -> Value:
    r"""Marchenko-Pastur soft rank :math:`\lambda_+/\lambda_{max}`.

    Dimensionless, in [0, inf): near 1 for noise (slightly above it is possible), small
    when the largest eigenvalue sticks far out. A ratio, not a count, and not a rank.
    Source (stated): Martin & Mahoney (2018), arXiv:1810.01075.

    Args:
        s: Spectrum with all values.
        variant: How the noise is fitted, as for `mp_sigma`.

    Returns:
        Value with the enclosure of the quotient.
    """
    edge: Value = mp_edge.function(s, variant)
    return (edge / s.sigma_max) ** 2


@register(
    needs=["sigma"],
    formula="sup_x |F_k(x) - F(x)|, F_k of the s_i^2, F the fitted law",
    source="Kolmogorov's distance; derived: tests/metrics/test_random_matrix.py",
    range=lambda k: (0.0, 1.0),
    invariances=_ALL,
    check=_check_variant,
)
def mp_distance(s: Spectrum, variant: str | None = None) -> Value:
    """Kolmogorov-Smirnov distance between the eigenvalues and the fitted noise.

    Dimensionless, in [0, 1]: about 1/k for noise, because its eigenvalues repel each
    other; far more for any learnt spectrum. Not a p-value, for the same reason.
    Source (derived): tests/metrics/test_random_matrix.py.

    Args:
        s: Spectrum with all values.
        variant: How the noise is fitted, as for `mp_sigma`.

    Returns:
        Value with the enclosure that those of values and fit allow.
    """
    scale: Value = mp_sigma.function(s, variant)
    if scale.status != "ok":
        return scale
    sigma, error = sigma_of(s)
    k, N = min(s.shape), max(s.shape)
    law = MarchenkoPastur(k / N)
    steps = torch.arange(k, 0, -1, dtype=torch.float64) / k
    at, low, high = (
        law.cdf((x / (y * math.sqrt(N))).square())
        for x, y in (
            (sigma, scale.value),
            ((sigma - error).clamp_min(0.0), scale.upper),
            (sigma + error, scale.lower),
        )
    )
    value = torch.maximum((steps - at).max(), (at - steps).max() + 1.0 / k)
    upper = torch.maximum((steps - low).max(), (high - steps).max() + 1.0 / k)
    lower = torch.maximum((steps - high).max(), (low - steps).max() + 1.0 / k)
    rounding = 1e-13
    return Value(
        float(value), max(float(lower) - rounding, 0.0), float(upper) + rounding
    )


@register(
    needs=["sigma"],
    formula="#{i : s_i^2 > mp_sigma^2 (mu + t w)}, t the Tracy-Widom level quantile",
    source="Ma (2012), arXiv:1203.0839 (mu, w); Ferrari & Spohn (2005) (the law)",
    range=lambda k: (0.0, float(k)),
    invariances=_ALL,
    check=_check_level,
)
def num_spikes(s: Spectrum, level: float = 0.01, variant: str | None = None) -> Value:
    r"""Number of singular values above the noise.

    A count in [0, k]. The threshold is the value that the largest of pure noise exceeds
    with probability ``level``; one noise matrix in six or so exceeds the edge itself.
    Counts what sticks out of *this* fit of the noise: a heavy tail has many. The fit
    leaves a large value out, so small noise has false alarms beyond the level: at 0.01
    about 1.5 % of 200 x 100 matrices, 5 % of 10 x 10.
    Source (stated): Ma (2012), arXiv:1203.0839, for the law of the largest value;
    (derived) for its rate of false alarms: tests/metrics/test_random_matrix.py.

    Args:
        s: Spectrum with all values.
        level: Probability that pure noise shows a spike, in [1e-12, 1).
        variant: How the noise is fitted, as for `mp_sigma`.

    Returns:
        The count; ends differ when values sit within their error of the threshold.
    """
    scale: Value = mp_sigma.function(s, variant)
    if scale.status != "ok":
        return scale
    sigma, error = sigma_of(s)
    factor = noise_threshold(s.shape, level)
    value = int((sigma > scale.value * factor).sum())
    lower = int((sigma - error > scale.upper * factor).sum())
    upper = int((sigma + error > scale.lower * factor).sum())
    return Value(float(value), float(min(lower, value)), float(max(upper, value)))


@register(
    needs=["sigma"],
    formula="1 - F_1((s_1^2 / mp_sigma^2 - mu) / w), F_1 the Tracy-Widom law",
    source="Johnstone (2001), Ann. Statist. 29, abstract; Ma (2012), arXiv:1203.0839",
    range=lambda k: (0.0, 1.0),
    invariances=_ALL,
    check=_check_variant,
)
def tracy_widom_p(s: Spectrum, variant: str | None = None) -> Value:
    r"""Probability that noise of the fitted scale has as large a top value.

    In [0, 1]; small when the largest singular value is no noise. The fit of the scale
    is taken for exact, and entries are taken for Gaussian or nearly so: a p-value of
    the spike, not of the layer. Zero below about 1e-300.
    Source (stated): Johnstone (2001), Ann. Statist. 29, abstract, for the law, with the
    constants of Ma (2012), arXiv:1203.0839.

    Args:
        s: Spectrum with all values.
        variant: How the noise is fitted, as for `mp_sigma`.

    Returns:
        Value with the enclosure that those of the value and of the fit allow.
    """
    scale: Value = mp_sigma.function(s, variant)
    if scale.status != "ok":
        return scale
    ratio = (s.sigma_max / scale) ** 2
    centre, width = largest_eigenvalue_law(*s.shape)
    value, upper, lower = (
        tracy_widom_sf((x - centre) / width)
        for x in (ratio.value, ratio.lower, ratio.upper)
    )
    rounding = 1e-10
    lower, upper = lower * (1.0 - rounding), min(upper * (1.0 + rounding), 1.0)
    return Value(value, lower, upper, ratio.error_kind, ratio.failure_probability)
