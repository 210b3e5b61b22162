"""Moments of a layer apart from its scale, which may leave the range of float64."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import final

from spectrank.errors import DomainError
from spectrank.linalg.ensembles.layer import LayerLaw


@final
@dataclass(frozen=True)
class RelativeLaw:
    """A layer's moments over powers of its mean E sum s^2, safe at every scale.

    Attributes:
        m: Number of outputs.
        n: Number of inputs.
        log_a1: log E sum s^2.
        a1_squared: E (sum s^2)^2 / (E sum s^2)^2; 1 where the Frobenius norm is fixed.
        a2: E sum s^4 / (E sum s^2)^2.
    """

    m: int
    n: int
    log_a1: float
    a1_squared: float
    a2: float


def check_scale(law: LayerLaw) -> None:
    """Refuse a scale whose square leaves the range of float64.

    Args:
        law: Of the layer.

    Raises:
        DomainError: If E sum s^2 is 0 or inf.
    """
    if not 0.0 < law.a1 < math.inf:
        raise DomainError(
            f"the mean square of a {law.spectrum} layer must lie in the "
            f"range of float64, one of {law.m} x {law.n} has E sum s^2 = {law.a1}; "
            "choose a gain nearer to 1"
        )


def relative_law(law: LayerLaw) -> RelativeLaw:
    """Divide the moments of a layer by its scale.

    Args:
        law: Of the layer.

    Returns:
        Ratios that neither overflow nor vanish.

    Raises:
        DomainError: If the scale of a Gaussian layer leaves the range of float64.
    """  # noqa: DOC502 - raised by the function called
    if law.stable_rank is None or law.spectral_norm is None:
        check_scale(law)
        log_a1 = math.log(law.a1)
        random = 1.0 + 2.0 / (law.m * law.n)
    else:
        # Not log(a1): the square of a spectral norm of 1e-200 is zero.
        log_a1 = 2.0 * math.log(law.spectral_norm) + math.log(law.stable_rank)
        random = 1.0
    return RelativeLaw(law.m, law.n, log_a1, random, random / law.participation_ratio)


def moved_law(law: LayerLaw) -> LayerLaw:
    """Return the law with E sum s^4 moved by its standard error.

    Args:
        law: Of the layer.

    Returns:
        The same where there is none, or where it left the range of float64.
    """
    if not (law.a2_stderr > 0.0 and 0.0 < law.a2 < math.inf):
        return law
    share = 1.0 + law.a2_stderr / law.a2
    # Of min(m, n) values: their mean fourth power cannot leave its range.
    ratio = min(max(law.participation_ratio / share, 1.0), min(law.m, law.n))
    return replace(law, a2=law.a1_squared / ratio, participation_ratio=ratio)
