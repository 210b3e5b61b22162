r"""The scale of the noise that a spectrum shows, whatever sticks out of it.

The noise is independent entries of mean 0 and one variance. Its singular values follow
the Marchenko-Pastur law up to the edge, and the largest one the Tracy-Widom law.
"""

from __future__ import annotations

import bisect
import functools
import math
from typing import Literal, get_args

import torch
from torch import Tensor

from spectrank.errors import ShapeError, UnknownNameError
from spectrank.linalg.marchenko_pastur import MarchenkoPastur
from spectrank.linalg.tracy_widom import largest_eigenvalue_law, tracy_widom_isf

NoiseFit = Literal["bulk", "median", "entries"]

# A value counts as signal, while the scale is sought, where noise would show one as
# large in a hundredth of all matrices.
_LEVEL = 0.01


def noise_scale(
    sigma: Tensor, shape: tuple[int, int], method: NoiseFit = "bulk"
) -> float:
    r"""Standard deviation of the entries of the noise that a spectrum shows.

    - ``bulk``: root mean square of what is left without the values above the noise,
      :math:`\sqrt{\sum_{i>r}\sigma_i^2/((N-r)(k-r))}`, r the number of values above
      `noise_threshold` of an (N - r, k - r) matrix of that very scale: a fixed point,
      sought from the median on. As sharp as the trace, relative error about
      :math:`1/\sqrt{2mn}`, and not moved by spikes. Infinite when more than half of
      the values end up above: no bulk.
      Source (derived): tests/linalg/test_noise.py.
    - ``median``: the median singular value over :math:`\sqrt{N\mu}`, with the median
      :math:`\mu` of the law of ratio k/N. Simple, but one quantile alone fluctuates by
      about a level spacing: several per cent at k = 100, more than the largest value
      does. Moved by about 1/k of itself for each spike.
      Source (stated): Gavish & Donoho (2014), arXiv:1305.5870, who estimate an unknown
      noise level from the median singular value.
    - ``entries``: :math:`\|W\|_F/\sqrt{mn}`, the root mean square of all entries; a
      spike raises it.

    Args:
        sigma: (k,) singular values, descending.
        shape: (m, n) of the matrix, k = min(m, n).
        method: One of the three.

    Returns:
        The scale, in units of the entries; 0 when the median is.

    Raises:
        ShapeError: If there are not min(m, n) values.
        UnknownNameError: If there is no such method.
    """
    k, N = min(shape), max(shape)
    if sigma.shape != (k,) or k == 0:
        raise ShapeError(
            f"a {shape[0]} x {shape[1]} matrix has {k} singular values, "
            f"got {tuple(sigma.shape)}; pass the full spectrum of a non-empty matrix"
        )
    if method not in get_args(NoiseFit):
        raise UnknownNameError(
            f"a noise fit is one of {', '.join(get_args(NoiseFit))}, got {method!r}; "
            "'bulk' is the sharp robust one"
        )
    top = float(sigma[0])
    # Divide first: the square of 1e200 leaves float64.
    x = sigma / top if top else sigma
    if method == "entries":
        return top * float(torch.linalg.vector_norm(x)) / math.sqrt(N * k)
    median = 0.5 * float(x[(k - 1) // 2] + x[k // 2])
    start = median / math.sqrt(N * _law_median(k / N))
    return top * (start if method == "median" else _fixed_point(x, N, start))


def noise_threshold(shape: tuple[int, int], level: float = _LEVEL) -> float:
    r"""Singular value that standard Gaussian noise exceeds with a probability.

    :math:`\sqrt{\mu + t w}` with centre and width of `largest_eigenvalue_law` and t the
    upper ``level`` quantile of the Tracy-Widom law.
    Source (stated): Ma (2012), arXiv:1203.0839, for the law of the largest eigenvalue.

    Args:
        shape: (m, n), both at least 1.
        level: The probability.

    Returns:
        The threshold for entries of variance 1.
    """
    centre, width = largest_eigenvalue_law(*shape)
    return math.sqrt(max(centre + tracy_widom_isf(level) * width, 0.0))


def _fixed_point(x: Tensor, N: int, scale: float) -> float:
    """Return the scale of the values not above the noise of that scale."""
    k = len(x)
    ascending = x.flip(0)
    # Plain numbers: a fit takes tens of rounds, each a look-up and a few operations.
    tails = [0.0, *ascending.square().cumsum(0).tolist()]
    values: list[float] = ascending.tolist()
    num, visited = 0, set[int]()
    while True:
        threshold = scale * noise_threshold((N - num, k - num))
        found = k - bisect.bisect_right(values, threshold)
        if 2 * found > k:
            return math.inf
        cycle = found in visited
        # Two counts that lead to each other: the fewer spikes.
        num = min(found, num) if cycle else found
        scale = math.sqrt(tails[k - num] / ((N - num) * (k - num)))
        if cycle:
            return scale
        visited.add(found)


@functools.lru_cache(maxsize=256)
def _law_median(ratio: float) -> float:
    # A pure number of the shape; models have few shapes and ask several times each.
    return float(MarchenkoPastur(ratio).quantile(0.5))
