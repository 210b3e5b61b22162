r"""NC2 and NC3: class means and classifier rows as a simplex.

    M  (C, d) rows: class means less their mean, or rows of the classifier, not centred
    W  (C, d) classifier      C  classes that have rows

The C vertices of a simplex equiangular tight frame (ETF) have equal norms and pairwise
cosines -1/(C-1); their Gram matrix is a multiple of I - 11^T/C.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

import torch
from torch import Tensor

from spectrank.collapse.features.summarised import (
    EPS,
    class_summary,
    matrix,
    present,
    refusal,
    rounded,
    same_width,
)
from spectrank.errors import ShapeError, UnknownNameError
from spectrank.linalg import Value
from spectrank.linalg.moments import ClassSummary

Nc2Variant = Literal["equinorm", "equiangular", "etf"]
Nc3Variant = Literal["papyan", "zhu"]
NC2_VARIANTS: tuple[Nc2Variant, ...] = get_args(Nc2Variant)
NC3_VARIANTS: tuple[Nc3Variant, ...] = get_args(Nc3Variant)

# Rows of a tile of a Gram matrix: 10,000 classes would make 800 MB at once.
_TILE = 512
# Most products that are held at once, 128 MB; of more each is formed twice.
_HELD = 1 << 24
# So many times more classes than columns are no simplex, by more than one.
_FAR = 4


def nc2(
    features: Tensor,
    labels: Tensor,
    variant: Nc2Variant = "etf",
    *,
    num_classes: int | None = None,
) -> Value:
    r"""NC2 of the class means, about the mean of the class means; 0 at a simplex ETF.

    ``equinorm``: std / mean of the norms (unbiased std). ``equiangular``: mean over
    :math:`c\ne c'` of :math:`|\cos + 1/(C-1)|`. ``etf``: see `etf_error`. All
    dimensionless, from 0 up, invariant to scale, shift and rotation. Status
    ``degenerate`` with fewer than two classes or with a mean at the centre.
    Source (stated): Papyan, Han & Donoho (2020), reference notebook (equinorm,
    equiangular); etf after the script of Zhu et al. (2021), which takes the classifier.

    Args:
        features: (N, d) rows.
        labels: (N,) classes.
        variant: One of ``NC2_VARIANTS``.
        num_classes: K; by default the largest label plus one.

    Returns:
        Value with its rounding error.
    """
    return nc2_of(class_summary(features, labels, num_classes=num_classes), variant)


def nc2_of(summary: ClassSummary, variant: Nc2Variant = "etf") -> Value:
    """NC2 from class statistics; see `nc2`.

    Args:
        summary: Statistics of any scatter.
        variant: One of ``NC2_VARIANTS``.

    Returns:
        Value with its rounding error.
    """
    _check("variant", variant, NC2_VARIANTS)
    if refused := refusal(summary):
        return refused
    rows, error = _centred(summary)
    return _simplex(rows, error, variant)


def nc2_classifier(weight: Tensor, variant: Nc2Variant = "etf") -> Value:
    """NC2 of the rows of a classifier, not centred; see `nc2`.

    Args:
        weight: (C, d) classifier.
        variant: One of ``NC2_VARIANTS``.

    Returns:
        Value with its rounding error.
    """
    _check("variant", variant, NC2_VARIANTS)
    rows = matrix("weight", weight).to(torch.float64)
    if len(rows) < 2:
        return Value.undefined("degenerate", f"a simplex of {len(rows)} vertices")
    if not bool(torch.isfinite(rows).all()):
        return Value.undefined("nonfinite", "the weight has entries not finite")
    return _simplex(rows, 0.0, variant)


def etf_error(vectors: Tensor) -> Value:
    r"""Distance from a simplex ETF in the Gram matrix :math:`G=VV^T` of C vectors.

    :math:`\|G/\|G\|_F-(I-11^T/C)/\sqrt{C-1}\|_F`, in :math:`[0,\sqrt2]`; 0 at an ETF
    of any scale and rotation. Vectors are not centred: an ETF and an offset reads 1.41;
    subtract the mean of class means first (`nc2` does).
    Source (stated): script of Zhu et al. (2021), applied there to classifier rows.

    Args:
        vectors: (C, d) rows.

    Returns:
        Value with its rounding error.
    """
    return nc2_classifier(vectors, "etf")


def nc3(
    features: Tensor,
    labels: Tensor,
    weight: Tensor,
    variant: Nc3Variant = "papyan",
) -> Value:
    r"""NC3: distance of the classifier W from the centred class means M.

    ``papyan``: :math:`\|W/\|W\|_F-M/\|M\|_F\|_F^2`, in [0, 4]. ``zhu``:
    :math:`\|WM^T/\|WM^T\|_F-(I-11^T/C)/\sqrt{C-1}\|_F`, in [0, 2]. Dimensionless, 0
    where both are the same simplex ETF; ``papyan`` is 0 for any W proportional to M,
    ``zhu`` is not. Classes without rows take no part, nor do their rows of W.
    Source (stated): Papyan, Han & Donoho (2020), reference notebook; script of Zhu et
    al. (2021).

    Args:
        features: (N, d) rows, the input of the classifier.
        labels: (N,) classes.
        weight: (K, d) classifier.
        variant: One of ``NC3_VARIANTS``.

    Returns:
        Value with its rounding error.
    """
    num_classes = len(matrix("weight", weight))
    summary = class_summary(features, labels, num_classes=num_classes)
    return nc3_of(summary, weight, variant)


def nc3_of(
    summary: ClassSummary, weight: Tensor, variant: Nc3Variant = "papyan"
) -> Value:
    """NC3 from class statistics; see `nc3`.

    Args:
        summary: Statistics of any scatter.
        weight: (K, d) classifier.
        variant: One of ``NC3_VARIANTS``.

    Returns:
        Value with its rounding error.

    Raises:
        ShapeError: The weight has another number of rows than there are classes.
    """
    _check("variant", variant, NC3_VARIANTS)
    weight = same_width(weight, summary)
    if len(weight) != len(summary.counts):
        raise ShapeError(
            f"a classifier of {len(summary.counts)} classes has as many rows, got "
            f"{len(weight)}; pass the weight of the last layer"
        )
    if refused := refusal(summary):
        return refused
    rows, error = _centred(summary)
    weight = _unit(weight[present(summary)])
    norm = float(weight.norm())
    if not 0.0 < norm < float("inf") or not bool(rows.any()):
        if not norm < float("inf"):
            return Value.undefined("nonfinite", "the weight has entries not finite")
        return Value.undefined(
            "degenerate", "the classifier or all centred means are zero"
        )
    error = error / float(rows.abs().max()) + 4.0 * EPS * rows.shape[1] ** 0.5
    rows = _unit(rows)
    if variant == "papyan":
        gap = weight / norm - rows / rows.norm()
        value = float(gap.square().sum())
        return rounded(value, 4.0 * value**0.5 * error + 4.0 * error**2)
    return _from_simplex(weight, rows, error)


def _simplex(rows: Tensor, error: float, variant: Nc2Variant) -> Value:
    """NC2 of rows, each of which errs by ``error`` in length."""
    if not bool(rows.any()):
        return Value.undefined("degenerate", "all vectors are zero")
    largest = float(rows.abs().max())
    rows, error = rows / largest, error / largest
    num, d = rows.shape
    norms = rows.norm(dim=1)
    unit = 4.0 * EPS * d**0.5
    if variant == "equinorm":
        mean = float(norms.mean())
        bound = 4.0 * (error + unit * float(norms.max())) / mean
        return rounded(float(norms.std()) / mean, bound)
    if variant == "etf":
        return _from_simplex(rows, rows, error / float(norms.max()) + unit)
    if not bool(norms.all()):
        return Value.undefined("degenerate", "a vector is zero and has no angle")
    rows = rows / norms[:, None]
    total = 0.0
    for products, diagonal in _products(rows, rows):
        gap = products + 1.0 / (num - 1)
        gap[diagonal] = 0.0
        total += float(gap.abs().sum())
    bound = 4.0 * (error / float(norms.min()) + unit)
    return rounded(total / (num * (num - 1)), bound)


def _from_simplex(left: Tensor, right: Tensor, error: float) -> Value:
    """Distance of ``left @ right.T`` from the Gram matrix of a simplex ETF."""
    num, d = left.shape
    if num - 1 >= _FAR * d:
        return _far_from_simplex(left, right, error)
    held = list(_products(left, right)) if num * num <= _HELD else None
    first, again = (
        _products(left, right) if held is None else held for _ in ("norm", "gap")
    )
    norm = sum(float(p.square().sum()) for p, _ in first) ** 0.5
    if norm == 0.0:
        return Value.undefined("degenerate", "all products are zero")
    squares = 0.0
    for products, diagonal in again:
        gap = products / norm + 1.0 / (num * (num - 1) ** 0.5)
        gap[diagonal] -= 1.0 / (num - 1) ** 0.5
        squares += float(gap.square().sum())
    # Products of norm one at most; those of W and M may cancel among each other.
    scale = float(left.norm() * right.norm()) / norm
    return rounded(squares**0.5, 4.0 * error * scale)


def _far_from_simplex(left: Tensor, right: Tensor, error: float) -> Value:
    """The same from (d, d) products, where a rank of d keeps the distance above one.

    |A - P|^2 = 2 - 2 <A, P> loses no digit then, and 10,000 classes need no tiles.

    Args:
        left: (C, d) rows, C - 1 >= 4 d.
        right: (C, d) rows.
        error: Relative error of a row.

    Returns:
        Value with its rounding error.
    """
    num = len(left)
    norm = max(float(((left.mT @ left) * (right.mT @ right)).sum()), 0.0) ** 0.5
    if norm == 0.0:
        return Value.undefined("degenerate", "all products are zero")
    inner = float((left * right).sum() - (left.sum(0) * right.sum(0)).sum() / num)
    squares = 2.0 - 2.0 * inner / (norm * (num - 1) ** 0.5)
    scale = float(left.norm() * right.norm()) / norm
    return rounded(squares**0.5, 4.0 * error * scale)


def _products(
    left: Tensor, right: Tensor
) -> Iterator[tuple[Tensor, tuple[Tensor, Tensor]]]:
    """Tiles of ``left @ right.T`` with the places of its diagonal in them."""
    rows = torch.arange(len(left), device=left.device)
    for tile in torch.split(rows, _TILE):
        yield left[tile] @ right.mT, (tile - tile[0], tile)


def _centred(summary: ClassSummary) -> tuple[Tensor, float]:
    """Centred means of the classes with rows, and the error of their lengths."""
    rows = summary.centred_means("classes")[present(summary)]
    # A mean errs with its distance from the common origin and with its class's spread.
    reach = float(summary.shifts[present(summary)].abs().max())
    reach += max(summary.wcv.value, 0.0) ** 0.5
    return rows, 4.0 * EPS * rows.shape[1] ** 0.5 * reach


def _unit(rows: Tensor) -> Tensor:
    """Rows over the largest entry, so that no square leaves float64's range."""
    largest = rows.abs().max()
    return rows / largest if float(largest) > 0.0 else rows


def _check(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UnknownNameError(
            f"{name} must be one of {', '.join(allowed)}, got {value!r}; "
            f"e.g. {name}={allowed[0]!r}"
        )
