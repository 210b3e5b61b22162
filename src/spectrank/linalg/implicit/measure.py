"""The spectrum of a matrix that is never formed: status, range and route."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from spectrank.linalg.implicit.base import Implicit, Settings, amax_of
from spectrank.linalg.operand import ldexp
from spectrank.linalg.spectrum import Spectrum, rescaled, without_values

# Up to 2**+-40 even sums of squares of many entries stay in float64's range.
_SAFE_EXPONENT = 40


def implicit_spectrum(op: Implicit, settings: Settings) -> Spectrum:
    """Measure a matrix by the route of its structure; never raises for its values.

    Args:
        op: The matrix.
        settings: What is wanted of it.

    Returns:
        The spectrum; ``degenerate`` for a matrix with an empty or zero factor,
        ``nonfinite`` where an entry of a factor is.
    """
    sizes = [amax_of(factor) for factor in op.factors]
    if not all(map(math.isfinite, (*sizes, op.gain))):
        word = "NaN" if any(map(math.isnan, (*sizes, op.gain))) else "infinite"
        reason = f"the matrix is made of {word} entries"
        return without_values(op.shape, math.nan, "nonfinite", reason)
    if op.gain == 0.0 or not all(sizes):
        word = "empty" if 0 in op.shape else "zero"
        return without_values(op.shape, 0.0, "degenerate", f"the matrix is {word}")
    # A gain of f 2^e: f in [1, 2) goes into a factor, 2^e to the end.
    fraction, exponent = math.frexp(abs(op.gain))
    fraction, exponent = 2.0 * fraction, exponent - 1
    scaled: list[Tensor] = []
    for factor, amax in zip(op.factors, sizes, strict=True):
        size = math.frexp(amax)[1]
        size = size if abs(size) > _SAFE_EXPONENT else 0
        double = factor.detach().to(torch.float64)
        scaled.append(ldexp(double, -size) if size else double)
        exponent += size
    if fraction != 1.0:
        scaled[0] = scaled[0] * fraction
    found = op.with_factors(tuple(scaled)).measure(settings)
    if found.status == "ok" and found.frobenius.value == 0.0:
        reason = "the matrix is zero: its factors cancel"
        return without_values(op.shape, 0.0, "degenerate", reason)
    return rescaled(found, exponent)
