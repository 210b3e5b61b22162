r"""Balancing a matrix law A A^T - C C^T: the SVD of C^T A, shared by both sides.

The law holds because A -> S A, C -> S^-T C leaves the function as it is for every
invertible S; what the function depends on is C^T A. With C^T A = U s V^T the balanced
pair is A = O s^{1/2} V^T, C = O s^{1/2} U^T, for any O with orthonormal columns; the
one next to the old pair is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from spectrank.invariance.laws import GramTerm, Law
from spectrank.invariance.pieces import Piece, pieces

Tensors = Mapping[str, Tensor]


def balanced_pair(a: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """The balanced pair with the same C^T A.

    Args:
        a: (n, p), what enters the features.
        c: (n, q), what leaves them, transposed.

    Returns:
        New A and C with A A^T = C C^T, of rank at most min(n, p, q).
    """
    # Of small triangles: C^T A itself may be large.
    q_a, r_a = torch.linalg.qr(a.mT)
    q_c, r_c = torch.linalg.qr(c.mT)
    u, s, vh = torch.linalg.svd(r_c @ r_a.mT, full_matrices=False)
    # Directions that C^T A does not have carry nothing but rounding.
    keep = s > s[0] * max(a.shape[0], 1) * torch.finfo(s.dtype).eps
    root = s[keep].sqrt()[:, None]
    right, left = root * (vh[keep] @ q_a.mT), root * (u[:, keep].mT @ q_c.mT)
    # The nearest O, in the sum of squared changes of both.
    w, _, zh = torch.linalg.svd(a @ right.mT + c @ left.mT, full_matrices=False)
    turn = w @ zh
    return turn @ right, turn @ left


def refusal(law: Law) -> str | None:
    """Why a matrix law is not balanced as a whole.

    Args:
        law: Of form ``gram``.

    Returns:
        The reason; None where it can be.
    """
    terms = [term for term in law.terms if isinstance(term, GramTerm)]
    if any(abs(term.coefficient) != 1.0 for term in terms):
        return "its matrices have other weights than one"
    entering = {term.parameter for term in terms if term.coefficient > 0}
    leaving = {term.parameter for term in terms if term.coefficient < 0}
    shared = {
        name
        for name in entering & leaving
        if any(t.rows is None for t in terms if t.parameter == name)
    }
    if shared or not entering or not leaving:
        return "a matrix both enters and leaves, or nothing does"
    return None


def pair_(law: Law, tensors: Tensors) -> None:
    """Balance a matrix law, in place.

    Args:
        law: Of form ``gram``, without a `refusal`.
        tensors: Name of each parameter to itself.
    """
    own = pieces(law)
    a, c = (_stacked(own, tensors, sign) for sign in (1.0, -1.0))
    unit_a, unit_c = (float(m.abs().max()) or 1.0 for m in (a, c))
    new_a, new_c = balanced_pair(a / unit_a, c / unit_c)
    # The geometric mean of the units; their product may not exist.
    unit = unit_a**0.5 * unit_c**0.5
    _put(own, tensors, 1.0, new_a * unit)
    _put(own, tensors, -1.0, new_c * unit)


def matrix_imbalance(law: Law, tensors: Tensors) -> float:
    """||A A^T - C C^T||_F / (||A||_F^2 + ||C||_F^2), in [0, 1]; NaN where both vanish.

    Args:
        law: Of form ``gram``.
        tensors: Name of each parameter to its values.

    Returns:
        The number.
    """
    own = pieces(law)
    a, c = (_stacked(own, tensors, sign) for sign in (1.0, -1.0))
    unit = max(float(a.abs().max()), float(c.abs().max())) or 1.0
    a, c = a / unit, c / unit
    total = float(a.square().sum() + c.square().sum())
    gap = torch.linalg.matrix_norm(a @ a.mT - c @ c.mT)
    return float(gap) / total if total else float("nan")


def _stacked(own: Sequence[Piece], tensors: Tensors, sign: float) -> Tensor:
    parts = []
    for piece in own:
        if float(piece.coefficients[0]) * sign > 0:
            matrix = piece.matrix(tensors[piece.parameter].detach()).double()
            parts.append(_columns(matrix[piece.indices], piece))
    return torch.cat(parts, 1)


def _columns(matrix: Tensor, piece: Piece) -> Tensor:
    return matrix if piece.columns is None else matrix[:, piece.columns]


def _put(own: Sequence[Piece], tensors: Tensors, sign: float, new: Tensor) -> None:
    start = 0
    for piece in own:
        if float(piece.coefficients[0]) * sign <= 0:
            continue
        tensor = tensors[piece.parameter]
        matrix = piece.matrix(tensor.detach()).clone()
        wide = _columns(matrix, piece).shape[1]
        part = new[:, start : start + wide].to(matrix.dtype)
        start += wide
        if piece.columns is None:
            matrix[piece.indices] = part
        else:
            matrix[piece.indices[:, None], piece.columns[None]] = part
        sizes = [piece.view[a] for a in piece.order]
        back = torch.argsort(torch.tensor(piece.order)).tolist()
        tensor.copy_(matrix.view(sizes).permute(back).reshape(tensor.shape))
