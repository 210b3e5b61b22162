r"""Power-law tails: the exponent by maximum likelihood, its start by the best fit.

Above ``xmin`` the density is proportional to :math:`x^{-\alpha}`. For each candidate
start the exponent has a closed form; the start is the candidate whose fit has the
least Kolmogorov-Smirnov distance D. All candidates are looked at, as by the package
``powerlaw`` with ``parameter_ranges={'alpha': [1, 50]}`` (its default stops at 3).

The empirical distribution is taken just below each value, (j - i)/n: D can fall short
of the two-sided distance by up to 1/n, as in ``powerlaw`` 2.0.0 and WeightWatcher.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from spectrank.errors import DomainError, ShapeError

Floats = NDArray[np.float64]

# Points of a tail at which D is bounded from below before it is computed.
_PROBES = 17
# Candidates whose distance is computed at once.
_BLOCK = 8


@final
@dataclass(frozen=True)
class PowerLawFit:
    r"""A fitted tail.

    Attributes:
        alpha: Exponent of the density, above 1.
        xmin: Start of the tail, the smallest value in it.
        distance: Kolmogorov-Smirnov distance D between tail and fit, in [0, 1].
        num_tail: Number of values from ``xmin`` on.
    """

    alpha: float
    xmin: float
    distance: float
    num_tail: int

    @property
    def stderr(self) -> float:
        r"""Standard error :math:`(\alpha - 1)/\sqrt n` of the exponent, xmin given.

        Source (stated): Clauset, Shalizi & Newman (2009), arXiv:0706.1062.
        """
        return (self.alpha - 1.0) / math.sqrt(self.num_tail)


def fit_power_law(
    values: Tensor, *, min_tail: int = 3, unbiased: bool = False
) -> PowerLawFit | None:
    r"""Fit a power law to the upper tail of positive values.

    :math:`\hat\alpha = 1 + n/\sum_j \log(x_j/x_{min})` over the n values from
    ``xmin`` on. Exact: candidates are skipped only where a lower bound of their
    distance lies above the least distance found. Time of order n log n as a rule,
    memory of order n.
    Source (stated): Clauset, Shalizi & Newman (2009), arXiv:0706.1062.

    Args:
        values: (n,) positive finite values, any order.
        min_tail: Fewest values in a tail, at least 2.
        unbiased: Whether n - 1 stands for n, which frees the exponent from its bias of
            order 1/n.

    Returns:
        The fit; None when no candidate has ``min_tail`` values that are not all equal.

    Raises:
        ShapeError: If ``values`` is not one-dimensional.
        DomainError: If a value is not positive and finite, or ``min_tail`` below 2.
    """
    if values.ndim != 1:
        raise ShapeError(
            f"a power law is fitted to a vector, got shape {tuple(values.shape)}; "
            "pass the eigenvalues, e.g. spectrum(W).sigma.square()"
        )
    if min_tail < 2:
        raise DomainError(
            f"a tail has at least 2 values, got min_tail={min_tail}; 3 is the default"
        )
    x = np.sort(values.detach().cpu().double().numpy())
    if len(x) and not (x[0] > 0.0 and math.isfinite(x[-1])):
        raise DomainError(
            f"a power law needs positive finite values, got {x[0]} to {x[-1]}; "
            "leave out what cannot be told from zero"
        )
    if len(x) < min_tail:
        return None
    y = np.log(x)
    rates = _rates(y, min_tail, unbiased)
    best, distance = _least_distance(y, rates)
    if best < 0:
        return None
    return PowerLawFit(
        1.0 + float(rates[best]), float(x[best]), distance, len(x) - best
    )


def against_exponential(
    values: Tensor, fit: PowerLawFit, *, error: float = 0.0
) -> tuple[float, float]:
    r"""Likelihood-ratio test of a fitted power law against an exponential tail.

    :math:`R = \sum_j d_j/(\sqrt n\,\mathrm{std}(d))` with
    :math:`d_j = \log p_{power}(x_j) - \log p_{exp}(x_j)` over the n values of the tail,
    both with their maximum likelihood above the same ``xmin``. Positive where the power
    law fits better; about standard normal where both fit alike, so that
    :math:`p = \mathrm{erfc}(|R|/\sqrt 2)`.
    Source (stated): Vuong (1989); Clauset, Shalizi & Newman (2009), arXiv:0706.1062,
    section 5. (derived): tests against ``distribution_compare`` of powerlaw 2.0.0.

    Args:
        values: What the law was fitted to, any order.
        fit: The fit.
        error: Relative error of the values of the tail.

    Returns:
        R, dimensionless, and what the errors make of it, to first order; 0 where the
        two likelihoods are one.
    """
    x = np.sort(values.detach().cpu().double().numpy())[-fit.num_tail :] / fit.xmin
    excess = x - 1.0
    mean = float(excess.mean())
    if not mean > 0.0:
        return 0.0, 0.0
    # log p of x/xmin: (alpha - 1) x^-alpha, and exp(-(x - 1)/mean)/mean.
    power = math.log(fit.alpha - 1.0) - fit.alpha * np.log1p(excess)
    difference = power + math.log(mean) + excess / mean
    spread = float(difference.std())
    # Rounding of a tail without spread is no evidence.
    if spread <= 1e-12 * (1.0 + float(np.abs(power).max())):
        return 0.0, 0.0
    ratio = float(difference.mean()) / spread * math.sqrt(fit.num_tail)
    # Of each difference: alpha, the mean and the value itself move by the error.
    moved = (2.0 * fit.alpha + 4.0 * float(x[-1]) / mean) * error
    return ratio, moved / spread * (math.sqrt(fit.num_tail) + abs(ratio))


def _rates(y: Floats, min_tail: int, unbiased: bool) -> Floats:
    """Return alpha - 1 of all starts with ``min_tail`` values from them on."""
    num = len(y) - np.arange(len(y))
    # sum_{j>=i} (y_j - y_i) from the gaps: only non-negative terms, no cancellation.
    spread = np.zeros(len(y))
    spread[:-1] = np.cumsum((num[1:] * np.diff(y))[::-1])[::-1]
    candidates = slice(len(y) - min_tail + 1)
    with np.errstate(divide="ignore"):
        rates: Floats = (num[candidates] - unbiased) / spread[candidates]
    # A tail holds all values from its start on: of equal ones the first starts it.
    rates[1:][np.diff(y)[: max(len(rates) - 1, 0)] == 0.0] = math.inf
    return rates


def _least_distance(y: Floats, rates: Floats) -> tuple[int, float]:
    """Return index and D of the best candidate, the first among equals; -1 for none.

    D is a largest gap, so gaps at a few values bound it from below. Neighbours have
    theirs at nearly the same value: where the gap of a candidate is largest, the bounds
    of all are raised. A handful of rounds leaves no candidate that could win.

    Args:
        y: Logarithms of the values, ascending.
        rates: alpha - 1 of the candidates.

    Returns:
        Index and distance.
    """
    every = np.arange(len(rates))
    probes = np.linspace(0.0, 1.0, _PROBES) * (len(y) - 1 - every)[:, None]
    at = every[:, None] + np.round(probes).astype(np.intp)
    bounds = _gaps(y, rates, every, at).max(axis=1, initial=0.0)
    bounds[~np.isfinite(rates)] = math.inf
    best, least = -1, math.inf
    while True:
        chosen = np.argsort(bounds, kind="stable")[:_BLOCK]
        chosen = chosen[np.isfinite(bounds[chosen]) & (bounds[chosen] <= least)]
        if not len(chosen):
            return best, least
        first = int(chosen.min())
        gaps = _gaps(y, rates, chosen, np.arange(first, len(y))[None, :])
        for i, distance in zip(chosen, gaps.max(axis=1), strict=True):
            if (distance, i) < (least, best):
                best, least = int(i), float(distance)
        bounds[chosen] = math.inf
        widest = np.unique(first + gaps.argmax(axis=1))
        np.maximum(bounds, _gaps(y, rates, every, widest[None, :]).max(1), out=bounds)


def _gaps(
    y: Floats, rates: Floats, chosen: NDArray[np.intp], at: NDArray[np.intp]
) -> Floats:
    """|F(x_j) - (j - i)/n| for each candidate i, a row, and each value j >= i of it."""
    start = chosen[:, None]
    num = len(y) - start
    with np.errstate(invalid="ignore", over="ignore"):
        fitted = -np.expm1(-rates[start] * (y[at] - y[start]))
    gaps = np.abs(fitted - (at - start) / num)
    return np.where((at >= start) & np.isfinite(gaps), gaps, 0.0)
