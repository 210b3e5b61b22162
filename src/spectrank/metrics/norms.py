"""Norms, and ratios of single singular values."""

from __future__ import annotations

import math

from torch import Tensor

from spectrank.linalg import Spectrum, Value
from spectrank.metrics.registry import register

_ALL = ("scale", "transpose", "orthogonal")
_NO_SCALE = ("transpose", "orthogonal")


def sigma_of(s: Spectrum) -> tuple[Tensor, Tensor]:
    """Return the singular values and their errors of a full spectrum.

    Args:
        s: Spectrum that knows all values.

    Returns:
        ``sigma`` and ``sigma_error``, (k,) each.
    """
    assert s.sigma is not None
    assert s.sigma_error is not None
    return s.sigma, s.sigma_error


def in_range(value: Value, way_out: str = "rescale the matrix") -> Value:
    """Return a value, or a status where it leaves the range of float64.

    Args:
        value: Of a sum or a power of finite numbers.
        way_out: What would keep it in range.

    Returns:
        The same; ``nonfinite`` where it is infinite.
    """
    if not math.isinf(value.value):
        return value
    reason = f"it leaves the range of float64; {way_out}"
    return Value.undefined("nonfinite", reason)


@register(
    needs=["sigma_max"],
    formula="s_1",
    source="standard; the operator 2-norm",
    range=lambda k: (0.0, math.inf),
    invariances=_NO_SCALE,
    on_zero=0.0,
)
def spectral_norm(s: Spectrum) -> Value:
    r"""Spectral norm :math:`\|W\|_2 = \sigma_1`, the largest singular value.

    In units of the weight, in [0, inf). Not its square, which some tools report.

    Args:
        s: Spectrum with ``sigma_max`` known.

    Returns:
        Value with the enclosure of ``sigma_max``.
    """
    return s.sigma_max


@register(
    needs=["frobenius"],
    formula="(sum s_i^2)^(1/2)",
    source="standard; the Hilbert-Schmidt norm",
    range=lambda k: (0.0, math.inf),
    invariances=_NO_SCALE,
    on_zero=0.0,
)
def frobenius_norm(s: Spectrum) -> Value:
    r"""Frobenius norm :math:`\|W\|_F`, from the entries.

    In units of the weight, in [0, inf).

    Args:
        s: Spectrum with ``frobenius`` known.

    Returns:
        Value with the error of a blocked sum.
    """
    return s.frobenius


@register(
    needs=["sigma"],
    formula="sum s_i",
    source="standard; the trace norm",
    range=lambda k: (0.0, math.inf),
    invariances=_NO_SCALE,
    on_zero=0.0,
)
def nuclear_norm(s: Spectrum) -> Value:
    r"""Nuclear norm :math:`\|W\|_* = \sum_i \sigma_i`.

    In units of the weight, in [0, inf); ``nonfinite`` beyond float64.

    Args:
        s: Spectrum with all values known.

    Returns:
        Value with the sum of the errors.
    """
    sigma, error = sigma_of(s)
    total = float(sigma.sum())
    # Summation itself: at most k roundings.
    rounding = total * len(sigma) * 2.3e-16
    return in_range(Value.around(total, float(error.sum()) + rounding))


@register(
    needs=["small_end"],
    formula="s_1 / s_k",
    source="standard; k = min(m, n), the 2-norm condition number",
    range=lambda k: (1.0, math.inf),
    invariances=_ALL,
)
def condition_number(s: Spectrum) -> Value:
    r"""Condition number :math:`\sigma_1/\sigma_k` with k = min(m, n).

    Dimensionless, in [1, inf]; infinite with status ``degenerate`` when the smallest
    singular value cannot be told from zero.

    Args:
        s: Spectrum with all values, small end included known.

    Returns:
        Value with the quotient's enclosure.
    """
    sigma, error = sigma_of(s)
    top, low = float(sigma[0]), float(sigma[-1])
    if low <= float(error[-1]):
        floor = low + float(error[-1])
        lower = top / floor if floor > 0.0 else math.inf
        reason = "the smallest singular value cannot be told from zero"
        return Value(
            math.inf, lower, math.inf, "rounding", status="degenerate", reason=reason
        )
    return Value.around(top, float(error[0])) / Value.around(low, float(error[-1]))


@register(
    needs=["sigma"],
    formula="1 - s_2 / s_1  (s_2 = 0 when k = 1)",
    source="standard; relative gap of the top singular value",
    range=lambda k: (0.0, 1.0),
    invariances=_ALL,
)
def spectral_gap(s: Spectrum) -> Value:
    r"""Relative spectral gap :math:`1 - \sigma_2/\sigma_1`.

    Dimensionless, in [0, 1]; 1 for a rank-one matrix, 0 for a repeated top value.

    Args:
        s: Spectrum with all values known.

    Returns:
        Value with the enclosure of the ratio.
    """
    sigma, error = sigma_of(s)
    if len(sigma) == 1:
        return Value.exact(1.0)
    ratio = Value.around(float(sigma[1]), float(error[1])) / Value.around(
        float(sigma[0]), float(error[0])
    )
    return Value(1 - ratio.value, 1 - ratio.upper, 1 - ratio.lower, ratio.error_kind)
