r"""What weight decay caps: norms of weights, of all layers together and of each.

    L_0  the loss as trained, without decay;  lambda  weight_decay;  l = 1..L  layers

    below the zero network   lambda sum ||W_l||^2 <= 2 (L_0(0) - L_0)
    homogeneous, bias-free   <W_l, grad L_0> is the same for all l, so that
                             lambda (||W_l||^2 - ||W_k||^2) = <W_l, e_l> - <W_k, e_k>
    products                 2 ||A^T B||_* <= ||A||_F^2 + ||B||_F^2

Source (derived): tests/collapse/certificates/test_collapse_norm_caps.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from spectrank.collapse.certificates.tails import norm_of
from spectrank.errors import DomainError, ShapeError
from spectrank.linalg import Value, spectrum
from spectrank.linalg.shapes import Matrix
from spectrank.scanning.rows import value_columns

Row = dict[str, Any]

_SOURCE = "derived: tests/collapse/certificates/test_collapse_norm_caps.py"
_ROUNDOFF = 2.3e-16


def norm_cap_rows(
    weights: Mapping[str, Matrix],
    *,
    weight_decay: float,
    loss: float,
    loss_at_zero: float,
    lowest_loss: float = 0.0,
    gradients: Mapping[str, Matrix] | None = None,
) -> list[Row]:
    r"""Judge the caps that decay puts on squared norms.

    Args:
        weights: Name to (m, n) matrix of every decayed weight, all of them.
        weight_decay: lambda, above 0.
        loss: L_0 now.
        loss_at_zero: L_0 with every weight zero.
        lowest_loss: Infimum of L_0.
        gradients: Name to gradient of L_0; given, the net is declared bias-free and
            positively homogeneous in each of the weights (ReLU, linear), and every
            layer is judged against its share.

    Returns:
        Checks ``norm_cap`` with variant ``all`` on the sum of squared Frobenius norms,
        and ``layer`` on each; ``not_applicable`` where the decayed loss is not below
        that of the zero network, which promises nothing.

    Raises:
        DomainError: No weights, or no decay.
        ShapeError: Gradients of other names or shapes.
    """  # noqa: DOC502 - the latter by the function called
    if not weights or not 0.0 < weight_decay < float("inf"):
        raise DomainError(
            "a norm is capped by a decay above 0 on at least one weight, got "
            f"weight_decay={weight_decay} on {len(weights)} weights; pass what trained"
        )
    squares = {name: _square(W) for name, W in weights.items()}
    total = sum(squares.values())
    room = loss_at_zero - loss - 0.5 * weight_decay * total
    blocked = None
    if room < 0.0:
        blocked = (
            "the decayed loss is not below that of the zero network, so nothing is "
            "promised"
        )
    if math.isnan(room):
        blocked = f"the loss is {loss}, so nothing is promised"
    cap = 2.0 * (loss_at_zero - lowest_loss) / weight_decay
    rows = [_row("all", None, total, cap, blocked)]
    if gradients is None:
        return rows
    slopes = _slopes(weights, gradients, weight_decay)
    mean = sum(slopes.values()) / len(slopes)
    for name, square in squares.items():
        own = cap / len(squares) + (slopes[name] - mean) / weight_decay
        rows.append(_row("layer", name, square, own, blocked))
    return rows


def equal_norms_row(
    weights: Mapping[str, Matrix],
    gradients: Mapping[str, Matrix],
    *,
    weight_decay: float,
) -> Row:
    r"""Check that squared norms differ by no more than the residuals allow.

    For bias-free positively homogeneous nets :math:`\max-\min` of the squared norms is
    at most :math:`\max-\min` of :math:`\langle W_l,e_l\rangle/\lambda`: the norms are
    equal at a stationary point.

    Args:
        weights: Name to (m, n) matrix of every layer.
        gradients: Name to gradient of L_0.
        weight_decay: lambda, above 0.

    Returns:
        A check ``norm_cap`` with variant ``equal``.
    """
    squares = [_square(W) for W in weights.values()]
    slopes = list(_slopes(weights, gradients, weight_decay).values())
    spread = max(squares) - min(squares)
    bound = (max(slopes) - min(slopes)) / weight_decay
    lost = 64.0 * _ROUNDOFF * sum(squares)
    return _row("equal", None, spread, bound + lost, None, trivial=max(squares))


def product_row(name: str, left: Matrix, right: Matrix) -> Row:
    r"""Compare :math:`2\|A^TB\|_*` with :math:`\|A\|_F^2+\|B\|_F^2`, equal if balanced.

    For the query-key and value-output products of attention, whose two factors are both
    decayed: the penalty is then at least the nuclear norm of the product, and equal to
    it where the slack is zero.

    Args:
        name: Of the product.
        left: (r, n) factor A.
        right: (r, q) factor B.

    Returns:
        A check ``norm_cap`` with variant ``product``.

    Raises:
        ShapeError: The factors do not fit.
    """
    if left.shape[0] != right.shape[0]:
        raise ShapeError(
            f"A^T B needs as many rows of A as of B, got {tuple(left.shape)} and "
            f"{tuple(right.shape)}; transpose one of them"
        )
    A, B = (factor.detach().to(torch.float64) for factor in (left, right))
    nuclear = norm_of(spectrum(A.mT @ B, ("small_end",)), "nuclear") * 2.0
    bound = _square(A) + _square(B)
    row = _row("product", name, nuclear.value, bound, None)
    return {**row, **value_columns(nuclear), "reason": row["reason"]}


def _slopes(
    weights: Mapping[str, Matrix], gradients: Mapping[str, Matrix], weight_decay: float
) -> dict[str, float]:
    """<W_l, e_l> of every layer."""
    slopes = {}
    for name, W in weights.items():
        gradient = gradients.get(name)
        if gradient is None or gradient.shape != W.shape:
            got = "none" if gradient is None else str(tuple(gradient.shape))
            raise ShapeError(
                f"every weight needs a gradient of its shape, {name} is "
                f"{tuple(W.shape)}, got {got}; name the gradients as the weights"
            )
        W64 = W.detach().to(torch.float64)
        e = gradient.detach().to(torch.float64) + weight_decay * W64
        slopes[name] = float((W64 * e).sum())
    return slopes


def _square(W: Matrix) -> float:
    return float(W.detach().to(torch.float64).square().sum())


def _row(
    variant: str,
    subject: str | None,
    square: float,
    bound: float,
    blocked: str | None,
    *,
    trivial: float = float("inf"),
) -> Row:
    found = Value.around(square, 16.0 * _ROUNDOFF * abs(square))
    limit = Value.around(bound, 16.0 * _ROUNDOFF * abs(bound))
    verdict, reason = "holds", f"{square:.3g} is at most {bound:.3g}"
    if found.lower > limit.upper:
        verdict, reason = (
            "violated",
            (
                f"{square:.3g} exceeds {bound:.3g} by more than rounding: decay acts "
                "on other weights too, or the net is not homogeneous in them"
            ),
        )
    elif bound >= trivial:
        verdict, reason = "vacuous", f"{bound:.3g} is not below {trivial:.3g}"
    if blocked is not None:
        verdict, reason = "not_applicable", blocked
    row: Row = {
        **value_columns(found),
        "kind": "check",
        "metric": "norm_cap",
        "variant": variant,
        "bound": bound,
        "slack": bound - square,
        "verdict": verdict,
        "reason": reason,
        "source": _SOURCE,
    }
    return row if subject is None else {**row, "subject": subject}
