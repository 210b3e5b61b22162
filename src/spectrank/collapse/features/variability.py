r"""NC1: variation within classes against the distance between them.

    Sigma_W  within-class covariance, divided by N
    Sigma_B  between-class covariance      C  classes that have rows

==============  =====================================  ===================  ========
variant         formula                                global mean          weights
==============  =====================================  ===================  ========
papyan          tr(Sigma_W Sigma_B^+)                  of the class means   1/C
pinv            tr(Sigma_W Sigma_B^+) / C              of the class means   1/C
zhu             tr(Sigma_W Sigma_B^+) / C              of all samples       1/C
he-su           tr(SS_w SS_b^+)                        of all samples       n_c/N
trace-ratio     tr Sigma_W / tr Sigma_B                of the class means   1/C
cdnv            mean (v_a + v_b)/(2 |mu_a - mu_b|^2)   none                 pairs
==============  =====================================  ===================  ========

The numbers differ by more than a factor (2.29, 0.23, 0.90, 0.41 on one set), so each
row names its variant. The pseudo-inverse keeps the C - 1 directions that the means can
span, or the fewer that they do: a default tolerance inverts rounding noise and has
returned -3.7e8 where 1.7 was true. No variant is ever negative.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from spectrank.collapse.features.between import (
    Between,
    KnownBetween,
    known_directions,
    resolution,
)
from spectrank.collapse.features.summarised import (
    EPS,
    class_summary,
    present,
    refusal,
    rounded,
)
from spectrank.errors import DomainError, UnknownNameError
from spectrank.linalg import Value
from spectrank.linalg.moments import ClassSummary

Nc1Variant = Literal["papyan", "zhu", "pinv", "trace-ratio", "cdnv", "he-su"]
NC1_VARIANTS: tuple[Nc1Variant, ...] = get_args(Nc1Variant)
SPAN_VARIANTS = ("papyan", "zhu", "pinv", "he-su")

# Rows of a tile of pairs of classes: 10,000 classes would make 800 MB at once.
_TILE = 256
_PAIRS = 1 << 14
# Where squares cancel by more, they are taken from the difference itself.
_CANCELLED = 2.0**-4


def nc1(
    features: Tensor,
    labels: Tensor,
    variant: Nc1Variant = "papyan",
    *,
    num_classes: int | None = None,
    rtol: float | None = None,
) -> Value:
    r"""NC1 of features, e.g. :math:`\operatorname{tr}(\Sigma_W\Sigma_B^+)`.

    Dimensionless, from 0 (every class is one point) up, without upper end. Invariant to
    scale, shift and rotation. Status ``degenerate`` with fewer than two classes or
    with equal class means. With Sigma_B about the mean of class means and weights 1/C:

    - ``papyan``: tr(Sigma_W Sigma_B^+), not divided by C, as the notebook codes it;
      the paper's formula has the 1/C;
    - ``pinv``: tr(Sigma_W Sigma_B^+) / C, the paper's formula;
    - ``zhu``: the same with Sigma_B about the mean of all samples;
    - ``he-su``: tr(SS_w SS_b^+), SS_b about the mean of all samples, weights n_c/N;
    - ``trace-ratio``: tr Sigma_W / tr Sigma_B;
    - ``cdnv``: mean over pairs of (v_a + v_b) / (2 |mu_a - mu_b|^2).

    Source (stated): Papyan, Han & Donoho (2020) as coded in their reference notebook
    (papyan); script of Zhu et al. (2021) (zhu); He & Su (2023), arXiv:2210.17020
    (he-su); cdnv after Galanti, Gyorgy & Hutter.

    Args:
        features: (N, d) rows.
        labels: (N,) classes.
        variant: One of ``NC1_VARIANTS``.
        num_classes: K; by default the largest label plus one.
        rtol: Directions between class means below it are left out; by default the
            resolution of the dtype of ``features``.

    Returns:
        Value with its rounding error.

    Example:
        >>> features = torch.tensor([[0.0], [2.0], [10.0], [12.0]])
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> round(nc1(features, labels).value, 12)  # 1 within, 25 between
        0.04
        >>> round(nc1(features, labels, "cdnv").value, 12)  # (1 + 1) / (2 * 100)
        0.01
    """
    full = check_nc1_variant(variant) in SPAN_VARIANTS
    summary = class_summary(features, labels, num_classes=num_classes, full=full)
    if rtol is None:
        rtol = resolution(summary, features.dtype)
    return nc1_of(summary, variant, rtol=rtol)


def nc1_of(
    summary: ClassSummary,
    variant: Nc1Variant = "papyan",
    *,
    rtol: float | None = None,
) -> Value:
    """NC1 from class statistics; see `nc1`.

    Args:
        summary: Statistics; with the full scatter but for trace-ratio and cdnv.
        variant: One of ``NC1_VARIANTS``.
        rtol: Directions between class means below it are left out; by default what
            float64 resolves.

    Returns:
        Value with its rounding error.
    """
    if check_nc1_variant(variant) == "cdnv":
        return cdnv_of(summary)
    if variant == "trace-ratio":
        return _trace_ratio(summary)
    return nc1_on_span(summary, variant, rtol=rtol)[0]


def nc1_on_span(
    summary: ClassSummary,
    variant: Nc1Variant,
    *,
    rtol: float | None = None,
    known: KnownBetween | None = None,
) -> tuple[Value, Between | None]:
    """NC1 through a pseudo-inverse, with the directions that it was taken on.

    Args:
        summary: Statistics with the full scatter.
        variant: One of ``SPAN_VARIANTS``.
        rtol: As in `nc1_of`.
        known: Directions of this summary and ``rtol``, filled here: variants that weigh
            and centre alike share one decomposition, and all do where classes have
            equal counts. Of K outputs by K classes each would take K^3.

    Returns:
        The value, and the directions; None where there is no value.

    Raises:
        DomainError: The full scatter was not kept.
    """
    if summary.kind != "full":
        raise DomainError(
            f"NC1 {variant!r} needs the full scatter, got {summary.kind!r}; accumulate "
            "with scatter='full', or take 'trace-ratio' or 'cdnv'"
        )
    if refused := refusal(summary):
        return refused, None
    weights = "samples" if variant == "he-su" else "classes"
    center = "classes" if variant in {"papyan", "pinv"} else "samples"
    between = known_directions(summary, weights, center, rtol, known)
    if not between.rank:
        return _no_distance(summary), None
    within = summary.within_covariance()
    # v^T Sigma_W v: positive semidefinite but for rounding.
    along = ((between.directions @ within) * between.directions).sum(1).clamp(min=0.0)
    # Divided twice: the square of a scale may underflow.
    value = float((along / between.scales / between.scales).sum())
    inverse = float((1.0 / between.scales / between.scales).sum())
    relative = summary.scatter_error + 8.0 * between.relative_error
    error = relative * float(within.trace()) * inverse
    divisor = summary.num_present if variant in {"pinv", "zhu"} else 1
    return rounded(value / divisor, error / divisor), between


def cdnv(features: Tensor, labels: Tensor, *, num_classes: int | None = None) -> Value:
    r"""CDNV, mean over :math:`a\ne b` of :math:`(v_a+v_b)/(2\|\mu_a-\mu_b\|^2)`.

    Class-distance normalised variance; :math:`v_c=\operatorname{tr}S_c/n_c`.
    Dimensionless, from 0 up; not NC1 on the span, which weighs directions. Status
    ``degenerate`` with fewer than two classes or where two classes have equal means.
    Source (stated): Galanti, Gyorgy & Hutter, as NC1 surrogate.

    Args:
        features: (N, d) rows.
        labels: (N,) classes.
        num_classes: K; by default the largest label plus one.

    Returns:
        Value with its rounding error.
    """
    return cdnv_of(class_summary(features, labels, num_classes=num_classes))


def cdnv_of(summary: ClassSummary) -> Value:
    """CDNV from class statistics; see `cdnv`.

    Args:
        summary: Statistics of any scatter.

    Returns:
        Value with its rounding error.
    """
    if refused := refusal(summary):
        return refused
    classes = present(summary)
    means, variances = summary.shifts[classes], summary.class_variances[classes]
    means = means - means.mean(0)
    num, d = means.shape
    total, smallest = 0.0, float("inf")
    for rows in torch.split(torch.arange(num, device=means.device), _TILE):
        squares = _squared_distances(means[rows], means)
        squares[torch.arange(len(rows), device=rows.device), rows] = torch.inf
        smallest = min(smallest, float(squares.min()))
        total += float(((variances[rows, None] + variances) / squares).sum())
    if smallest == 0.0:
        return Value.undefined("degenerate", "two classes have equal means")
    reach = float(means.square().sum(1).max())
    relative = d * EPS * (2.0 / _CANCELLED) + 4.0 * EPS * (reach / smallest) ** 0.5
    value = total / (2.0 * num * (num - 1))
    return rounded(value, value * relative)


def check_nc1_variant(variant: str) -> str:
    """Return a variant that exists.

    Args:
        variant: What was given.

    Returns:
        The same.

    Raises:
        UnknownNameError: There is none of that name.
    """
    if variant not in NC1_VARIANTS:
        raise UnknownNameError(
            f"variant must be one of {', '.join(NC1_VARIANTS)}, got {variant!r}; "
            "'papyan' is the default"
        )
    return variant


def _trace_ratio(summary: ClassSummary) -> Value:
    if refused := refusal(summary):
        return refused
    between = float(summary.between_variance("classes"))
    if between == 0.0:
        return _no_distance(summary)
    return summary.wcv / rounded(between, between * 8.0 * EPS * summary.num_present)


def _no_distance(summary: ClassSummary) -> Value:
    if summary.wcv.value == 0.0:
        return Value.undefined("degenerate", "all rows are equal: 0/0")
    return Value.undefined("degenerate", "all class means are equal")


def _squared_distances(left: Tensor, right: Tensor) -> Tensor:
    """(a, b) squared distances; where squares cancel, from the difference."""
    sums = left.square().sum(1)[:, None] + right.square().sum(1)
    squares = torch.addmm(sums, left, right.mT, alpha=-2.0)
    for pairs in torch.split((squares < sums * _CANCELLED).nonzero(), _PAIRS):
        i, j = pairs.unbind(1)
        squares[i, j] = (left[i] - right[j]).square().sum(1)
    return squares
