"""The routes to a spectrum and what they cost.

From the cheapest: ``lanczos-float32`` and ``lanczos-float64`` (norms only, an
enclosure of sigma_1), ``gram-lanczos`` (norms, among them the Schatten-4 norm),
``gram`` (all values from a float64 Gram matrix), ``svd`` (all values, small end
included). Norms with a Cholesky certificate come by ``gram-lanczos-cholesky``; on the
routes with all values the error kind tells a certificate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from spectrank.linalg import certificate, enclosure
from spectrank.linalg.gram import (
    dense_error,
    dense_singular_values,
    gram,
    gram_eigenvalues,
    gram_error,
    gram_frobenius,
    trace_norm,
)
from spectrank.linalg.operand import EPS, Operand
from spectrank.linalg.shapes import Spectral, Square
from spectrank.linalg.spectrum import (
    RESOLVED,
    Need,
    Spectrum,
    rescaled,
    without_values,
)
from spectrank.linalg.value import Value

Certify = Literal["probabilistic", "deterministic"]

# Steps that a typical run takes; the worst everyday case, Gaussian, takes 125 at 4096.
_TYPICAL_STEPS = 100


@dataclass(frozen=True, eq=False)
class Route:
    """The choice of route for one finite, non-zero matrix.

    Attributes:
        operand: The matrix.
        shape: (m, n) as the user has it.
        rtol: Largest relative width of the enclosure of sigma_1.
        certify: ``probabilistic`` or ``deterministic`` upper ends.
        failure_probability: Of a probabilistic upper end.
        seed: Of the random start.
        solve: Upper triangle of the Gram matrix to its eigenvalues.
    """

    operand: Operand
    shape: tuple[int, int]
    rtol: float
    certify: Certify
    failure_probability: float
    seed: int
    solve: Callable[[Square], Spectral | None] = gram_eigenvalues

    def take(self, wanted: frozenset[Need]) -> Spectrum:
        """Return the spectrum by the cheapest route that serves what is wanted."""
        if not wanted & {"sigma", "small_end"}:
            norms = self._norms(wanted)
            if norms is not None:
                return norms
        return self._full("small_end" in wanted)

    def _norms(self, wanted: frozenset[Need]) -> Spectrum | None:
        """Norms without a full spectrum; None where that is cheaper or has to help."""
        costs = Costs(self.operand)
        from_gram = "schatten4" in wanted or self.certify == "deterministic"
        if costs.lanczos(from_gram) > costs.full:
            return None
        if from_gram:
            return self._gram_norms(costs.max_steps(from_gram=True))
        found = enclosure.enclose_sigma_max(
            self.operand,
            rtol=self.rtol,
            failure_probability=self.failure_probability,
            max_steps=costs.max_steps(from_gram=False),
            seed=self.seed,
        )
        if found is None:
            return None
        sigma_max, frobenius, route = found
        return self._result(frobenius, sigma_max, None, None, None, route)

    def _gram_norms(self, max_steps: int) -> Spectrum | None:
        op = self.operand
        upper = gram(op)
        sigma_max = enclosure.enclose_from_gram(
            upper,
            gram_error(op.rows, op.cols),
            rtol=self.rtol,
            failure_probability=self.failure_probability,
            max_steps=max_steps,
            seed=self.seed,
        )
        route = "gram-lanczos"
        if sigma_max is not None and self.certify == "deterministic":
            sigma_max = certificate.certify(op, upper, sigma_max)
            route = "gram-lanczos-cholesky"
        if sigma_max is None:
            return None
        schatten4 = self._schatten4(gram_frobenius(upper))
        norm = trace_norm(upper, op.rows)
        return self._result(norm, sigma_max, schatten4, None, None, route)

    def _full(self, small_end: bool) -> Spectrum:
        """All values: from the Gram matrix, by a dense SVD where that cannot serve."""
        op = self.operand
        upper = gram(op)
        norm = trace_norm(upper, op.rows)
        eigenvalues = self.solve(upper)
        proved: Value | None = None
        if eigenvalues is None:
            schatten4 = self._schatten4(gram_frobenius(upper))
        else:
            schatten4 = self._schatten4(float(torch.linalg.vector_norm(eigenvalues)))
            sigma, error = singular_values_of(eigenvalues, gram_error(op.rows, op.cols))
            proved = self._proved(float(sigma[0]), upper)
            if not (small_end and bool((error > RESOLVED * sigma).any())):
                top = proved or Value.around(float(sigma[0]), float(error[0]))
                return self._result(norm, top, schatten4, sigma, error, "gram")
        # The dense route holds the matrix twice in float64; a third time is too much.
        del upper
        values = dense_singular_values(op)
        if values is None:
            reason = "every LAPACK driver failed to converge"
            return without_values(self.shape, math.nan, "not_converged", reason)
        error = torch.full_like(
            values, dense_error(op.rows, op.cols) * float(values[0])
        )
        top = proved or Value.around(float(values[0]), float(error[0]))
        return self._result(norm, top, schatten4, values, error, "svd")

    def _proved(self, sigma_1: float, upper: Tensor) -> Value | None:
        """Certified enclosure around a value known to rounding, where asked for."""
        if self.certify != "deterministic":
            return None
        op = self.operand
        # Room for what the proof itself loses to rounding.
        room = 8.0 * (op.rows + (op.cols + 1) * op.cols) * EPS
        around = Value.around(sigma_1, sigma_1 * room)
        proved = certificate.certify(op, upper, around)
        if proved is not None:
            return proved
        reason = (
            "no certificate: the matrix is too large for one by Cholesky in float64"
        )
        return replace(around, reason=reason)

    def _schatten4(self, squared: float) -> Value:
        """Schatten-4 norm from its square, the Frobenius norm of the Gram matrix."""
        op = self.operand
        error = gram_error(op.rows, op.cols)
        return Value.around(squared, squared * error) ** 0.5

    def _result(
        self,
        frobenius: Value,
        sigma_max: Value,
        schatten4: Value | None,
        sigma: Tensor | None,
        error: Tensor | None,
        route: str,
    ) -> Spectrum:
        found = Spectrum(
            self.shape, frobenius, sigma_max, schatten4, sigma, error, route
        )
        return rescaled(found, self.operand.exponent)


def singular_values_of(eigenvalues: Tensor, relative: float) -> tuple[Tensor, Tensor]:
    """Square roots of eigenvalues, with the error that an error of theirs makes.

    Args:
        eigenvalues: (..., k) descending along the last axis, non-negative.
        relative: Their error over the largest of each row.

    Returns:
        Singular values and absolute errors, (..., k) each.
    """
    e = relative * eigenvalues[..., :1]
    sigma = eigenvalues.sqrt()
    below = sigma - (eigenvalues - e).clamp_min(0.0).sqrt()
    above = (eigenvalues + e).sqrt() - sigma
    return sigma, torch.maximum(below, above)


@dataclass(frozen=True)
class Costs:
    """Seconds on two ordinary cores, good to a factor of two: only ratios matter."""

    operand: Operand

    @property
    def full(self) -> float:
        """Gram matrix and its eigenvalues."""
        n = self.operand.cols
        return self.gram + n**3 * (2.5e-11 + 3e-8 / n)

    @property
    def gram(self) -> float:
        """Symmetric rank-k update."""
        return self.operand.rows * self.operand.cols**2 / 1.5e11

    def step(self, from_gram: bool) -> float:
        """One Lanczos step."""
        n = self.operand.cols
        num_bytes = 8 * n * n if from_gram else 4 * self.operand.rows * n
        return 1.5e-4 + num_bytes / 2.5e10

    def lanczos(self, from_gram: bool) -> float:
        """A typical run."""
        start = self.gram if from_gram else 0.0
        return start + _TYPICAL_STEPS * self.step(from_gram)

    def max_steps(self, from_gram: bool) -> int:
        """Steps after which the full spectrum would have been the better choice."""
        budget = self.full - (self.gram if from_gram else 0.0)
        return max(int(budget / self.step(from_gram)), _TYPICAL_STEPS)
