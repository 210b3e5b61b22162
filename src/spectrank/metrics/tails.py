r"""Power-law tails of the eigenvalues :math:`\lambda_i = \sigma_i^2` of W^T W.

The exponent is that of the density of the eigenvalues; the singular values themselves
then have exponent 2 alpha - 1. Values that cannot be told from zero take no part. The
ends of an exponent are its standard error, xmin given: statistics, not rounding.
"""

from __future__ import annotations

import functools
import math
from dataclasses import replace

import numpy as np
from torch import Tensor

from spectrank.linalg import Spectrum, Value
from spectrank.linalg.power_law import (
    PowerLawFit,
    against_exponential,
    fit_power_law,
)
from spectrank.metrics.norms import sigma_of
from spectrank.metrics.registry import register

_ALL = ("scale", "transpose", "orthogonal")
_NO_SCALE = ("transpose", "orthogonal")
_SOURCE = "Clauset, Shalizi & Newman (2009), arXiv:0706.1062"
_NO_TAIL = Value.undefined(
    "degenerate", "fewer than 3 values differ by more than their error: no tail to fit"
)


def _known(s: Spectrum) -> tuple[Tensor, Tensor]:
    """Values that can be told from zero and their errors."""
    sigma, error = sigma_of(s)
    # Not always the first ones: among the blocks of a matrix one of small values may
    # know its own better than one of large values knows those that it cannot see.
    known = error < sigma
    return sigma[known], error[known]


# The six metrics of one matrix share its fit.
@functools.lru_cache(maxsize=2)
def _fit(s: Spectrum) -> PowerLawFit | None:
    """Fit of the eigenvalues over the largest; None where they do not spread."""
    sigma, error = _known(s)
    if not len(sigma):
        return None
    x, relative = sigma / sigma[0], error / sigma
    fit = fit_power_law(x.square())
    if fit is None:
        return None
    # The mean logarithm over xmin is 1 / (alpha - 1); rounding must not make it up.
    rounding = 2.0 * float(relative[: fit.num_tail].max())
    return None if rounding * (fit.alpha - 1.0) > 0.5 else fit


# Two-sided, 10 %, as Clauset et al. have it.
_TOLD = 1.6448536269514722
_WORSE = "an exponential tail fits better than a power law: see power_law_ratio"
_ALIKE = "a power law fits no better than an exponential tail: see power_law_ratio"


@functools.lru_cache(maxsize=2)
def _ratio(s: Spectrum, fit: PowerLawFit) -> tuple[float, float]:
    sigma, error = _known(s)
    x = (sigma / sigma[0]).square()
    relative = 2.0 * float((error / sigma)[: fit.num_tail].max()) + 1e-15
    return against_exponential(x, fit, error=relative)


def _exponent(
    s: Spectrum, fit: PowerLawFit, value: float, low: float, high: float
) -> Value:
    """A number of the exponent, with a word where the law is in doubt."""
    ratio, change = _ratio(s, fit)
    doubt: str | None = _WORSE if ratio + change < -_TOLD else _ALIKE
    if ratio - change > _TOLD:
        doubt = None
    return replace(Value(value, low, high, "stderr"), reason=doubt)


@register(
    needs=["sigma"],
    formula="1 + n / sum_{i<=n} log(s_i^2 / s_n^2), n minimising ks_distance",
    source=_SOURCE,
    range=lambda k: (1.0, math.inf),
    invariances=_ALL,
)
def alpha(s: Spectrum) -> Value:
    r"""Power-law exponent of the density of the largest eigenvalues.

    Dimensionless, above 1; the tail starts where the fit is best, at `xmin`. Status
    ``degenerate`` when no three values spread. A number also where no power law is: the
    reason then says what the test of `power_law_ratio` says. Equal to
    ``powerlaw.Fit(sigma**2, parameter_ranges={'alpha': [1, 50]})``, whose default stops
    at 3.
    Source (stated): Clauset, Shalizi & Newman (2009), arXiv:0706.1062.

    Args:
        s: Spectrum with all values.

    Returns:
        Value with ends one standard error (alpha - 1)/sqrt(n) away.
    """
    fit = _fit(s)
    if fit is None:
        return _NO_TAIL
    low, high = max(fit.alpha - fit.stderr, 1.0), fit.alpha + fit.stderr
    return _exponent(s, fit, fit.alpha, low, high)


@register(
    needs=["sigma"],
    formula="alpha * log10(s_1^2)",
    source="Martin, Peng & Mahoney (2021), arXiv:2002.06716",
    range=lambda k: (-math.inf, math.inf),
    invariances=_NO_SCALE,
)
def alpha_weighted(s: Spectrum) -> Value:
    r"""Weighted exponent :math:`\alpha \log_{10}\lambda_{max}`.

    In (-inf, inf); negative for spectral norms below 1, so not invariant to scale.

    Args:
        s: Spectrum with all values.

    Returns:
        Value with ends from the standard error of ``alpha``.
    """
    fit = _fit(s)
    if fit is None:
        return _NO_TAIL
    top = s.sigma_max
    weight = 2.0 * math.log10(top.value)
    # Near sigma_1 = 1 the logarithm is small and only as good as sigma_1 itself.
    rounding = fit.alpha * (top.upper - top.lower) / top.lower
    spread = abs(weight) * fit.stderr + rounding
    value = fit.alpha * weight
    return _exponent(s, fit, value, value - spread, value + spread)


@register(
    needs=["sigma"],
    formula="log10 sum s_i^(2 alpha)",
    source="Martin, Peng & Mahoney (2021), arXiv:2002.06716",
    range=lambda k: (-math.inf, math.inf),
    invariances=_NO_SCALE,
)
def log_alpha_norm(s: Spectrum) -> Value:
    r"""Logarithm of the alpha-norm, :math:`\log_{10}\sum_i\lambda_i^\alpha`.

    In (-inf, inf); the sum runs over all eigenvalues, not over the tail alone.

    Args:
        s: Spectrum with all values.

    Returns:
        Value with ends from the standard error of ``alpha``.
    """
    fit = _fit(s)
    if fit is None:
        return _NO_TAIL
    # NumPy: logarithms of torch wake all threads, for a few hundred values.
    sigma = sigma_of(s)[0].numpy()
    logs = 2.0 * np.log(sigma[sigma > 0.0])
    low = max(fit.alpha - fit.stderr, 1.0)
    value, one, other = (
        float(np.logaddexp.reduce(a * logs)) / math.log(10.0)
        for a in (fit.alpha, low, fit.alpha + fit.stderr)
    )
    return _exponent(s, fit, value, min(one, other, value), max(one, other, value))


@register(
    needs=["sigma"],
    formula="max_{i<=n} |1 - (s_i^2 / s_n^2)^(1 - alpha) - (n - i)/n|",
    source=_SOURCE,
    range=lambda k: (0.0, 1.0),
    invariances=_ALL,
)
def ks_distance(s: Spectrum) -> Value:
    """Kolmogorov-Smirnov distance between the tail and its power law.

    Dimensionless, in [0, 1]; small for a good fit. Least over all starts of the tail,
    so it is no p-value, and tails of three values fit easily: see `num_tail`.
    Source (stated): Clauset, Shalizi & Newman (2009), arXiv:0706.1062.

    Args:
        s: Spectrum with all values.

    Returns:
        Value with the error that those of the singular values make.
    """
    fit = _fit(s)
    if fit is None:
        return _NO_TAIL
    sigma, error = _known(s)
    tail = slice(fit.num_tail)
    # F = 1 - exp(-b u): dF <= b du + u exp(-b u) db, and u exp(-b u) <= 1/(e b).
    du = 4.0 * float((error[tail] / sigma[tail]).max())
    change = (fit.alpha - 1.0) * du * 2.0
    return Value.around(fit.distance, change + 1e-14)


@register(
    needs=["sigma"],
    formula="sum_i d_i / (sqrt(n) std d), d_i = log p_power(s_i^2) - log p_exp(s_i^2)",
    source=f"Vuong (1989); {_SOURCE}, section 5",
    range=lambda k: (-math.inf, math.inf),
    invariances=_ALL,
)
def power_law_ratio(s: Spectrum) -> Value:
    r"""Likelihood-ratio test of the power law against an exponential tail.

    Dimensionless, in (-inf, inf): above 1.64 the power law fits better at 10 %, below
    -1.64 an exponential does; between, the tail does not tell. p is
    :math:`\mathrm{erfc}(|R|/\sqrt 2)`. Spectra of Gaussian matrices are never above.
    Source (stated): Vuong (1989); Clauset, Shalizi & Newman (2009), arXiv:0706.1062,
    section 5.

    Args:
        s: Spectrum with all values.

    Returns:
        Value with the error that those of the singular values make.
    """
    fit = _fit(s)
    if fit is None:
        return _NO_TAIL
    ratio, change = _ratio(s, fit)
    return Value(ratio, ratio - change, ratio + change)


@register(
    needs=["sigma"],
    formula="s_n^2, n minimising ks_distance",
    source=_SOURCE,
    range=lambda k: (0.0, math.inf),
    invariances=_NO_SCALE,
)
def xmin(s: Spectrum) -> Value:
    r"""Smallest eigenvalue :math:`\sigma_n^2` of the fitted tail.

    In squared units of the weight, in (0, inf); an eigenvalue, not a singular value.
    Source (stated): Clauset, Shalizi & Newman (2009), arXiv:0706.1062.

    Args:
        s: Spectrum with all values.

    Returns:
        Value with the enclosure of that singular value, squared.
    """
    fit = _fit(s)
    if fit is None:
        return _NO_TAIL
    sigma, error = _known(s)
    last = fit.num_tail - 1
    value = Value.around(float(sigma[last]), float(error[last])) ** 2
    if not 0.0 < value.value < math.inf:
        reason = "its square leaves the range of float64; rescale the matrix"
        return Value.undefined("nonfinite", reason)
    return value


@register(
    needs=["sigma"],
    formula="n = #{i : s_i^2 >= xmin}",
    source=_SOURCE,
    range=lambda k: (0.0, float(k)),
    invariances=_ALL,
)
def num_tail(s: Spectrum) -> Value:
    """Number of eigenvalues in the fitted tail.

    A count in [3, k]. The fit chooses it; another count can have nearly the same
    distance. Other tools call it the number of power-law spikes.
    Source (stated): Clauset, Shalizi & Newman (2009), arXiv:0706.1062.

    Args:
        s: Spectrum with all values.

    Returns:
        The count.
    """
    fit = _fit(s)
    return _NO_TAIL if fit is None else Value.exact(float(fit.num_tail))
