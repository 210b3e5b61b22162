r"""`Estimate`: a smooth function of means, with its standard error.

The delta method's, :math:`\sqrt{\nabla g^T \hat\Sigma \nabla g / C}`, over C
independent clusters.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from spectrank.linalg.moments import MomentSummary

# A tail is called heavy where the relative variance exceeds this (1 for an exponential
# law), and known where so many effective samples are in it.
_HEAVY, _ENOUGH = 3.0, 100.0
LOGS = "read the logarithms"
MORE = "measure more of them"
"""What to do about a heavy tail, where there are rows of logarithms and elsewhere."""
SILENT = (
    "every gain is zero: nothing arrives, or amplitudes fall below the range of "
    "floating-point numbers"
)


class Estimate(NamedTuple):
    """A number with its standard error.

    Attributes:
        value: The estimate; NaN where there is none.
        standard_error: Of it; NaN for a single cluster.
        num_samples: Clusters that entered.
        log_value: Natural logarithm of the estimate where it is known beyond the range
            of float64; None otherwise.
        reason: What to beware of; None where there is nothing.
        trusted: False where the clusters are too few for what they scatter.
        finite: False where a draw was infinite or NaN.
    """

    value: float
    standard_error: float
    num_samples: int
    log_value: float | None = None
    reason: str | None = None
    trusted: bool = True
    finite: bool = True


def told_by(
    s: MomentSummary, column: int, what: str, advice: str = LOGS
) -> tuple[str | None, bool]:
    """Whether C clusters tell the mean of y >= 0, or a few of them make it.

    The effective number of clusters is (sum y)^2 / sum y^2: a few for a log-normal law
    whose variance of the logarithm is beyond the sample, where mean and standard error
    are both too small.

    Args:
        s: Of the clusters.
        column: Of y.
        what: Name of the mean.
        advice: What to do about a heavy tail.

    Returns:
        What to say, and whether the mean may be trusted.
    """
    mean = float(s.mean[column])
    if s.count < 2 or not mean > 0.0:
        return None, True
    relative = float(s.scatter[column, column]) / s.count / mean**2
    effective = s.count / (1.0 + relative)
    if relative <= _HEAVY or effective >= _ENOUGH:
        return None, True
    return (
        f"{what} has a heavy tail: {effective:.3g} effective samples of {s.count} "
        f"tell it; {advice}",
        False,
    )


def ratio_of_means(s: MomentSummary, above: int, below: int) -> Estimate:
    """Ratio of two means.

    Args:
        s: Of the clusters.
        above: Column of the numerator.
        below: Column of the denominator.

    Returns:
        The estimate; NaN where the denominator is zero.
    """
    a, b = float(s.mean[above]), float(s.mean[below])
    if not b > 0.0:
        return no_estimate(s, "every pair has a zero")
    return by_delta_method(s, a / b, {above: 1.0 / b, below: -a / b**2})


def by_delta_method(
    s: MomentSummary, value: float | Tensor, g: dict[int, float]
) -> Estimate:
    """A function of the means with the standard error of the delta method.

    Args:
        s: Of C clusters.
        value: The function at the means.
        g: Column to the derivative of the function there.

    Returns:
        The estimate; its standard error is NaN for one cluster.
    """
    gradient = torch.zeros(len(s.mean), dtype=torch.float64)
    for place, slope in g.items():
        gradient[place] = slope
    error = math.nan
    if s.count > 1:
        spread = gradient @ s.scatter.cpu() @ gradient
        error = math.sqrt(max(float(spread), 0.0) / (s.count - 1) / s.count)
    finite = s.status != "nonfinite"
    reason = None if finite else s.reason
    return Estimate(float(value), error, s.count, reason=reason, finite=finite)


def rescaled(
    found: Estimate, log_factor: float, reason: str | None, trusted: bool
) -> Estimate:
    """An estimate times a factor that may be outside the range of floats.

    Args:
        found: The estimate.
        log_factor: Logarithm of the factor.
        reason: What to say of it; None leaves what is said.
        trusted: Whether the mean behind it may be trusted.

    Returns:
        The estimate with its logarithm.
    """
    log_value = -math.inf
    if found.value > 0.0:
        log_value = math.log(found.value) + log_factor
    factor = math.exp(log_factor) if abs(log_factor) < 700.0 else math.nan
    value = math.exp(log_value) if log_value < 709.0 else math.inf
    return found._replace(
        value=value if not math.isnan(found.value) else math.nan,
        standard_error=found.standard_error * factor,
        log_value=log_value,
        reason=reason or found.reason,
        trusted=trusted,
    )


def only_alive(alive: float) -> str | None:
    """Say over which draws a mean is, where that is not all.

    Args:
        alive: Share of draws where something arrives.

    Returns:
        The reason; None for all.
    """
    if alive == 1.0:
        return None
    return f"over the {100.0 * alive:.4g} % of draws where something arrives"


def no_estimate(s: MomentSummary, reason: str) -> Estimate:
    """An estimate without a number.

    Args:
        s: Of the clusters.
        reason: Why there is none.

    Returns:
        NaN with the reason.
    """
    if s.status == "nonfinite":
        return Estimate(math.nan, math.nan, s.count, reason=s.reason, finite=False)
    return Estimate(math.nan, math.nan, s.count, reason=reason)
