r"""Directions in which class means differ.

The between-class covariance is :math:`\Sigma_B = M^T M`, row c of M being
:math:`\sqrt{w_c}(\mu_c-\mu)`. Its eigenvectors are read off the singular value
decomposition of M, so that small eigenvalues keep the digits that forming
:math:`\Sigma_B` would lose. It has rank C - 1 at most; the rest of a pseudo-inverse is
rounding noise and is never inverted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from spectrank.collapse.features.summarised import EPS, present
from spectrank.errors import DomainError
from spectrank.linalg.moments import ClassSummary
from spectrank.linalg.shapes import Float64


@final
@dataclass(frozen=True, eq=False)
class Between:
    r"""Eigenvectors of :math:`\Sigma_B` with the roots of their eigenvalues.

    Attributes:
        directions: (r, d) orthonormal rows.
        scales: (r,) positive square roots of the eigenvalues, descending.
        num_possible: Rank that these classes and columns allow, min(C - 1, d).
        relative_error: Bound on the relative error of each scale.
    """

    directions: Float64[Tensor, "r d"]
    scales: Float64[Tensor, " r"]
    num_possible: int
    relative_error: float

    @property
    def rank(self) -> int:
        """Number of directions kept, r."""
        return len(self.scales)

    @property
    def shortage(self) -> str | None:
        """Say that fewer directions than possible were found; None if not."""
        if self.rank == self.num_possible:
            return None
        return (
            f"class means span {self.rank} of {self.num_possible} possible directions; "
            "the others are below rtol and take no part"
        )


KnownBetween = dict[tuple[str, str], Between]
"""Directions that were found, by weights and centre, of one summary and ``rtol``."""


def scaled_means(
    summary: ClassSummary, weights: str = "classes", center: str | None = None
) -> Float64[Tensor, "C d"]:
    r"""Rows :math:`\sqrt{w_c}(\mu_c-\mu)` of the classes that have rows.

    Args:
        summary: Statistics of the features.
        weights: ``classes`` for 1/C, ``samples`` for n_c/N.
        center: Which global mean is subtracted, as ``weights`` by default.

    Returns:
        (C, d) rows whose Gram matrix over columns is the between-class covariance.
    """
    classes = present(summary)
    middle = center or weights
    rows = summary.centred_means("samples" if middle == "samples" else "classes")
    counts = summary.counts[classes].to(torch.float64)
    counts = counts if weights == "samples" else torch.ones_like(counts)
    return rows[classes] * (counts / counts.sum()).sqrt()[:, None]


def resolution(summary: ClassSummary, dtype: torch.dtype) -> float | None:
    """Relative threshold below which class means of this precision are rounding.

    Eight spacings of the dtype, times the size of the rows over their variation: a
    common offset costs the digits it takes.

    Args:
        summary: Statistics of the features.
        dtype: In which the features were computed.

    Returns:
        ``rtol`` for `between_directions`; None for float64, whose own default is finer.
    """
    if dtype == torch.float64:
        return None
    size, variation = summary.mean_square.value, summary.total_variation.value
    offset = (size / variation) ** 0.5 if 0.0 < variation < size else 1.0
    return min(8.0 * float(torch.finfo(dtype).eps) * offset, 0.5)


def between_directions(
    summary: ClassSummary,
    weights: str = "classes",
    center: str | None = None,
    *,
    rtol: float | None = None,
) -> Between:
    r"""Eigenvectors of the between-class covariance that are not rounding noise.

    Kept are at most C - 1 directions, and of those the ones whose scale exceeds
    ``rtol`` times the larger of the first scale and the within-class deviation, with
    which the rounding of a mean grows.

    Args:
        summary: Statistics of at least two classes.
        weights: As in `scaled_means`.
        center: As in `scaled_means`.
        rtol: Relative threshold; ``max(C, d) * 2.2e-16`` by default. Means of features
            computed in float32 resolve no better than about 1e-7.

    Returns:
        The directions; none where all means are equal.

    Raises:
        DomainError: ``rtol`` is not in [0, 1).
    """
    rows = scaled_means(summary, weights, center)
    num_classes, d = rows.shape
    unit = max(num_classes, d) * EPS
    rtol = unit if rtol is None else rtol
    if not 0.0 <= rtol < 1.0:
        raise DomainError(
            f"rtol must lie in [0, 1), got {rtol}; 1e-6 suits float32 features"
        )
    num_possible = min(num_classes - 1, d)
    _, scales, directions = torch.linalg.svd(rows, full_matrices=False)
    scales, directions = scales[:num_possible], directions[:num_possible]
    reach = max(float(scales[0]), max(summary.wcv.value, 0.0) ** 0.5)
    rank = int((scales > max(rtol, unit) * reach).sum())
    scales = scales[:rank]
    worst = unit * reach / float(scales[-1]) if rank else 0.0
    return Between(directions[:rank], scales, num_possible, worst)


def known_directions(
    summary: ClassSummary,
    weights: str,
    center: str,
    rtol: float | None,
    known: KnownBetween | None,
) -> Between:
    """The same, each found once.

    Args:
        summary: Statistics of at least two classes.
        weights: As in `scaled_means`.
        center: As in `scaled_means`.
        rtol: As in `between_directions`.
        known: Of this summary and ``rtol``; filled. None to find them anew.

    Returns:
        The directions. With equal counts those of ``classes`` for any weights and
        centre, which differ by rounding only.
    """
    counts = summary.counts[present(summary)]
    if bool((counts == counts[0]).all()):
        weights = center = "classes"
    if known is None:
        return between_directions(summary, weights, center, rtol=rtol)
    key = (weights, center)
    if key not in known:
        known[key] = between_directions(summary, weights, center, rtol=rtol)
    return known[key]
