"""How the norm of a homogeneous classifier grows as its loss falls."""

from __future__ import annotations

import math
from collections.abc import Iterable

from spectrank.errors import DomainError


def predicted_norm_squared(log_risk: float, gamma: float, degree: float) -> float:
    r"""Squared norm :math:`L(\log(1/R)/\gamma)^{2/L}` in the max-margin direction.

    Of a deep linear net of L balanced layers at mean loss R, gamma the margin of the
    data; NaN where R >= 1 or gamma <= 0.
    Source (derived): tests/invariance/certificates/test_margins.py.

    Args:
        log_risk: log R, also below -745, where R itself underflows.
        gamma: Margin of the data.
        degree: L.

    Returns:
        The prediction, for log(1 / R) large.
    """
    if not (log_risk < 0.0 < gamma):
        return math.nan
    return float(degree * (-log_risk / gamma) ** (2.0 / degree))


def growth_exponent(
    norms_squared: Iterable[float], log_risks: Iterable[float]
) -> float:
    r"""Slope of :math:`\log\|w\|^2` against :math:`\log\log(1/R)`; 2/L in the limit.

    Dimensionless; least squares over the moments given.
    Source (derived): tests/invariance/certificates/test_margins.py.

    Args:
        norms_squared: ||w||^2 at two or more moments, positive.
        log_risks: log R at the same moments, negative, not all equal.

    Returns:
        The slope.

    Raises:
        DomainError: Fewer than two moments, or a number out of its range.
    """
    pairs = list(zip(norms_squared, log_risks, strict=True))
    usable = all(n > 0.0 and r < 0.0 for n, r in pairs)
    if not usable or len({r for _, r in pairs}) < 2:
        raise DomainError(
            "growth needs two or more moments with ||w||^2 > 0 and different losses "
            f"below 1, got {len(pairs)} moments; start after the loss fell below 1"
        )
    x = [math.log(-r) for _, r in pairs]
    y = [math.log(n) for n, _ in pairs]
    centre = sum(x) / len(x)
    top = sum((a - centre) * b for a, b in zip(x, y, strict=True))
    return top / sum((a - centre) ** 2 for a in x)
