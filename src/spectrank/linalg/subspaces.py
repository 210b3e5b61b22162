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

from spectrank.linalg.gram import (
    FAILED,
    UPDATE_ROWS,
    gram_eigenvalues,
    gram_error,
    refuse_out_of_memory,
)
from spectrank.linalg.operand import Operand
from spectrank.linalg.shapes import Spectral, Square

# Up to this order all eigenvectors at once by torch cost what values by torch and a
# few vectors by SciPy do (384: 14 ms against 12, 768: 82 against 81; 2048: 2.2 s
# against 1.2), and SciPy's idle threads do not get into the way of torch's, which made
# the comparison of a MiniLM three times slower.
_WHOLE = 1024


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
        """Sine by which the first ``k`` directions may be off.

        ``E / (gap - E)`` of Davis & Kahan: their gap is between a computed eigenvalue
        and the true one that follows, which may be E nearer.

        Args:
            k: At most the number of directions.

        Returns:
            The bound; from 1 up the directions are tied with those that follow.
        """
        below, last = self._scaled_at(k), self._scaled_at(k - 1)
        gap = (last - below) * (last + below) - self.square_error
        return self.square_error / gap if gap > 0.0 else math.inf

    def value_at(self, index: int) -> float:
        """Singular value number ``index`` from 0, at most one beyond the directions."""
        return math.ldexp(self._scaled_at(index), self.exponent)

    def _scaled_at(self, index: int) -> float:
        if index < len(self.sigma):
            return float(self.sigma[index])
        return self.following


class EigenvectorSolver:
    """Eigenvalues of a Gram matrix, with the leading eigenvectors kept beside them.

    Takes the place of `gram_eigenvalues`, so that values and directions come from one
    Gram matrix and, up to `_WHOLE` columns, from one factorisation.
    """

    def __init__(self, k: int) -> None:
        """Keep up to ``k`` eigenvectors, and the eigenvalue that follows."""
        self.k = k
        self._values: Tensor | None = None
        self._vectors: Tensor | None = None

    def __call__(self, upper: Square) -> Spectral | None:
        """Return what `gram_eigenvalues` would, and keep the leading vectors.

        Args:
            upper: (n, n) float64 tensor, upper triangle set.

        Returns:
            (n,) float64 tensor on the CPU, descending, cut at zero; None when every
            driver failed.
        """
        try:
            values, vectors = _leading(upper, self.k)
        except FAILED as error:
            refuse_out_of_memory(error)
            return gram_eigenvalues(upper)
        if not bool(torch.isfinite(values).all()):
            return gram_eigenvalues(upper)
        self._values, self._vectors = values, vectors
        return values if len(values) == len(upper) else gram_eigenvalues(upper)

    def subspaces(
        self, operand: Operand, shape: tuple[int, int]
    ) -> LeadingSubspaces | None:
        """Directions of the matrix whose Gram matrix was solved.

        Directions whose singular value a Gram matrix cannot tell from zero are left
        out, so fewer than ``k`` may come back.
        Source (derived): test against a dense SVD; the error is the Davis-Kahan bound
        with the eigenvalue error of the Gram matrix.

        Args:
            operand: The matrix, made tall.
            shape: (m, n) before it was.

        Returns:
            The subspaces; None where no driver converged.
        """
        if self._values is None or self._vectors is None:
            return None
        squares, error = self._values, gram_error(operand.rows, operand.cols)
        known = int((squares[: self.k] > error * squares[0]).sum())
        following = float(squares[known]) if known < len(squares) else 0.0
        narrow = self._vectors[:, :known]
        wide = _image(operand, narrow)
        right, left = (narrow, wide) if shape[0] >= shape[1] else (wide, narrow)
        return LeadingSubspaces(
            left=left,
            right=right,
            sigma=squares[:known].sqrt(),
            following=math.sqrt(following),
            square_error=error * float(squares[0]),
            exponent=operand.exponent,
        )


def _leading(upper: Square, k: int) -> tuple[Tensor, Tensor]:
    """Eigenvalues, all or the leading k + 1, and k vectors; descending, on the CPU."""
    n = len(upper)
    if n <= _WHOLE:
        values, vectors = torch.linalg.eigh(upper, UPLO="U")
        leading = vectors[:, max(n - k, 0) :]
    else:
        found = scipy.linalg.eigh(
            upper.cpu().numpy(),
            lower=False,
            subset_by_index=[max(n - k - 1, 0), n - 1],
            check_finite=False,
        )
        values, vectors = (torch.from_numpy(x.copy()) for x in found)
        leading = vectors[:, -k:]
    return values.cpu().flip(0).clamp_min(0.0), leading.cpu().flip(1)


def _image(operand: Operand, narrow: Tensor) -> Tensor:
    # A QR of the image: dividing by sigma would carry the error of the small ones.
    vectors = narrow.to(operand.tensor.device)
    blocks = operand.blocks(torch.float64, num_rows=UPDATE_ROWS)
    image = torch.cat([block @ vectors for block in blocks]).cpu()
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
    would lose half the digits.

    Args:
        U: (m, k) orthonormal columns.
        V: (m, l) orthonormal columns, l at most k.

    Returns:
        The angle.
    """
    cosines = U.mT @ V
    least = float(torch.linalg.svdvals(cosines)[-1])
    if least * least < 0.5:
        return math.acos(min(least, 1.0))
    return math.asin(min(float(torch.linalg.svdvals(V - U @ cosines)[0]), 1.0))


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
