"""The scale of the noise in a spectrum, and where there is none to speak of."""

from __future__ import annotations

import functools
import math
from dataclasses import replace

from spectrank.linalg import Spectrum, Value
from spectrank.linalg.noise import NoiseFit, noise_scale
from spectrank.linalg.tracy_widom import largest_eigenvalue_law
from spectrank.metrics.norms import sigma_of

# Routes of matrices with zeros or repetitions by construction: no law of noise is
# theirs.
_STRUCTURED = ("block-", "fft-", "padded-", "qr-")
# Widths below the edge: Tracy-Widom's law has 2e-12 of its mass beyond.
_FAR_BELOW = 8.0
_FLAT = "the values are flatter than noise of any scale: no Marchenko-Pastur bulk"


# The six metrics of one matrix share its fit.
@functools.lru_cache(maxsize=2)
def noise_of(s: Spectrum, method: NoiseFit) -> Value:
    """Scale of the noise, or why there is none.

    Args:
        s: Spectrum with all values; of ``entries`` the norms alone.
        method: How it is fitted.

    Returns:
        Standard deviation of the entries of the noise, with the enclosure of the
        values it is fitted to.
    """
    if s.route.startswith(_STRUCTURED):
        reason = (
            f"noise has independent entries everywhere, a matrix by {s.route} has "
            "zeros or repetitions by construction; take a dense view"
        )
        return Value.undefined("skipped", reason)
    if min(s.shape) == 1:
        reason = "a single singular value is no bulk: the noise would be fitted to it"
        return Value.undefined("degenerate", reason)
    if method == "entries":
        return s.frobenius / math.sqrt(s.shape[0] * s.shape[1])
    sigma, error = sigma_of(s)
    middle = len(sigma) // 2
    if float(sigma[middle]) <= float(error[middle]):
        reason = "the median singular value cannot be told from zero: no noise to fit"
        return Value.undefined("degenerate", reason)
    value = noise_scale(sigma, s.shape, method)
    low = noise_scale((sigma - error).clamp_min(0.0), s.shape, method)
    high = noise_scale(sigma + error, s.shape, method)
    if not all(map(math.isfinite, (value, low, high))):
        reason = "more than half of the values lie above the noise: there is no bulk"
        return Value.undefined("degenerate", reason)
    # One more value above the noise makes the scale fall, so either end may be lowest.
    found = Value(value, min(low, value, high), max(low, value, high))
    centre, width = largest_eigenvalue_law(*s.shape)
    flat = (s.sigma_max / found).value ** 2 < centre - _FAR_BELOW * width
    return replace(found, reason=_FLAT) if flat else found
