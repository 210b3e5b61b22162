"""Leading singular subspaces, how two of them lie, and how far they may turn.

A leading subspace is known only as well as the gap that cuts it off: where
``sigma_k = sigma_{k+1}`` any basis of the tie will do, and an overlap is chance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import scipy.linalg
import torch
from torch import Tensor

from spectrank.linalg.gram import gram, gram_error
from spectrank.linalg.operand import make_operand
from spectrank.linalg.shapes import Matrix


@dataclass(frozen=True, eq=False)
class LeadingSubspaces:
    """The leading ``k`` singular directions of a matrix (m, n).

    Attributes:
        left: (m, k) float64, orthonormal columns.
        right: (n, k) float64, orthonormal columns.
        sigma: (k,) float64, descending, divided by ``2**exponent``.
        following: ``sigma_{k+1}``, divided likewise; 0 where there is none.
        square_error: Absolute error of the squares of the singular values, by a model
            of rounding.
        exponent: Keeps squares of 1e-200 in range; 0 for everyday matrices.
    """

    left: Tensor
    right: Tensor
    sigma: Tensor
    following: float
    square_error: float
    exponent: int

    def angle_error(self, k: int) -> float:
        """Sine by which the first ``k`` directions may be off (Davis & Kahan).

        Args:
            k: At most the number of directions.

        Returns:
            The bound; from 1 up the directions are tied with those that follow.
        """
        below, last = self._scaled_at(k), self._scaled_at(k - 1)
        gap = (last - below) * (last + below)
        return self.square_error / gap if gap > 0.0 else math.inf

    def value_at(self, index: int) -> float:
        """Singular value number ``index`` from 0, at most one beyond the directions."""
        return math.ldexp(self._scaled_at(index), self.exponent)

    def _scaled_at(self, index: int) -> float:
        if index < len(self.sigma):
            return float(self.sigma[index])
        return self.following


def leading_subspaces(W: Matrix, k: int) -> LeadingSubspaces | None:
    """Leading ``k`` singular directions, from a float64 Gram matrix.

    Directions whose singular value a Gram matrix cannot tell from zero are left out,
    so fewer than ``k`` may come back.
    Source (derived): tests against a dense SVD; the error is the Davis-Kahan bound
    with the eigenvalue error of the Gram matrix.

    Args:
        W: Real matrix (m, n) on any device.
        k: Number of directions, at least 1.

    Returns:
        The subspaces; None for a zero, empty or nonfinite matrix.
    """
    operand = make_operand(W)
    if operand.amax == 0.0 or not math.isfinite(operand.amax):
        return None
    error = gram_error(operand.rows, operand.cols)
    num = min(k + 1, operand.cols)
    values, vectors = scipy.linalg.eigh(
        gram(operand).cpu().numpy(),
        lower=False,
        subset_by_index=[operand.cols - num, operand.cols - 1],
        check_finite=False,
    )
    squares = torch.from_numpy(values.copy()).flip(0).clamp_min(0.0)
    known = int((squares[:k] > error * squares[0]).sum())
    narrow = torch.from_numpy(vectors.copy()).flip(1)[:, :known]
    following = float(squares[known]) if known < len(squares) else 0.0
    wide = _image(operand.tensor, narrow)
    right, left = (narrow, wide) if W.shape[0] >= W.shape[1] else (wide, narrow)
    return LeadingSubspaces(
        left=left,
        right=right,
        sigma=squares[:known].sqrt(),
        following=math.sqrt(following),
        square_error=error * float(squares[0]),
        exponent=operand.exponent,
    )


def _image(tall: Tensor, narrow: Tensor) -> Tensor:
    # A QR of the image: dividing by sigma would carry the error of the small ones.
    image = tall.to(torch.float64).cpu() @ narrow
    basis: Tensor = torch.linalg.qr(image / image.abs().amax()).Q
    return basis


def subspace_overlap(U: Tensor, V: Tensor) -> float:
    r"""Mean squared cosine of the principal angles, ``||U^T V||_F^2 / k``.

    In [0, 1]: 1 for equal subspaces, ``k / m`` in expectation for a random one of
    dimension k in R^m. With bases of different size, k is the smaller.
    Source (derived): the squared cosines sum to the squared Frobenius norm.

    Args:
        U: (m, k) orthonormal columns.
        V: (m, l) orthonormal columns.

    Returns:
        The overlap.
    """
    smaller = min(U.shape[1], V.shape[1])
    return min(float((U.mT @ V).square().sum()) / smaller, 1.0)


def largest_angle(U: Tensor, V: Tensor) -> float:
    """Largest principal angle between two subspaces, in radians, in [0, pi/2].

    Source (stated): Bjorck & Golub (1973); by sines below 45 degrees, where a cosine
    would lose half the digits, as `scipy.linalg.subspace_angles` does.

    Args:
        U: (m, k) orthonormal columns.
        V: (m, l) orthonormal columns.

    Returns:
        The angle.
    """
    return float(scipy.linalg.subspace_angles(U.numpy(), V.numpy())[0])


def wedin_bound(difference: float, kept: float, dropped: float) -> float:
    r"""Wedin's bound :math:`\|E\|_2 / (\sigma_k(A) - \sigma_{k+1}(B))` on the sine.

    Bounds the sine of the largest principal angle between the leading subspaces of
    ``A`` and ``B = A + E``, left and right alike. Says nothing from 1 up.
    Source (stated): Wedin (1972), sin-theta theorem, spectral norm.

    Args:
        difference: ``||E||_2``.
        kept: ``sigma_k(A)``.
        dropped: ``sigma_{k+1}(B)``.

    Returns:
        The bound; infinite where the gap is not positive.
    """
    gap = kept - dropped
    return difference / gap if gap > 0.0 else math.inf
