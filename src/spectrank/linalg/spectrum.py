"""`spectrum`: what is known of a matrix's singular values, by the cheapest route.

Routes, from the cheapest: ``lanczos-float32``/``lanczos-float64`` (norms only, an
enclosure of sigma_1), ``gram`` (all values from a float64 Gram matrix), ``svd`` (all
values, small end included). The needs decide, the route is stated in the result.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from spectrank.errors import DomainError, UnknownNameError
from spectrank.linalg import enclosure
from spectrank.linalg.gram import (
    dense_singular_values,
    gram,
    gram_eigenvalues,
    gram_error,
    gram_frobenius,
)
from spectrank.linalg.operand import EPS, Operand, make_operand
from spectrank.linalg.shapes import Matrix, Spectral
from spectrank.linalg.value import Status, Value

Need = Literal["frobenius", "sigma_max", "schatten4", "sigma", "small_end"]
Certify = Literal["probabilistic", "deterministic"]

NEEDS: tuple[Need, ...] = ("frobenius", "sigma_max", "schatten4", "sigma", "small_end")
DEFAULT_RTOL = 1e-4
DEFAULT_FAILURE_PROBABILITY = 1e-9

# A singular value counts as resolved by the Gram matrix to this relative error.
_RESOLVED = 1e-4
# Steps that a typical run takes; the worst everyday case, Gaussian, takes 125 at 4096.
_TYPICAL_STEPS = 100


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Singular values of a matrix, or only its norms, each with an error.

    Attributes:
        shape: (m, n) of the matrix.
        frobenius: Frobenius norm.
        sigma_max: Largest singular value.
        schatten4: Schatten-4 norm ``(sum sigma^4)^(1/4)``; None when not needed.
        sigma: (k,) float64, descending, on the CPU; None when only norms are known.
        sigma_error: (k,) absolute error of each value.
        route: How the numbers were made.
        status: ``ok``, ``degenerate`` (zero or empty), ``nonfinite`` or
            ``not_converged``.
        reason: Why the status is not ``ok``.
        num_resolved: Values whose error is below themselves; the rest are only known
            to be small. None without ``sigma``.
    """

    shape: tuple[int, int]
    frobenius: Value
    sigma_max: Value
    schatten4: Value | None
    sigma: Spectral | None
    sigma_error: Spectral | None
    route: str
    status: Status = "ok"
    reason: str | None = None

    @property
    def num_resolved(self) -> int | None:
        """Number of values whose error is smaller than they are."""
        if self.sigma is None or self.sigma_error is None:
            return None
        return int((self.sigma_error < self.sigma).sum())


def spectrum(
    W: Matrix,
    needs: Iterable[Need] = ("sigma",),
    *,
    rtol: float = DEFAULT_RTOL,
    certify: Certify = "probabilistic",
    failure_probability: float = DEFAULT_FAILURE_PROBABILITY,
    seed: int = 0,
) -> Spectrum:
    """Measure the singular values of a matrix by the cheapest route that serves.

    NaN, infinite, zero, empty, 1 x n, rank-one and extremely scaled matrices never
    raise: they get a status. The tensor is not changed and stays on its device.

    Args:
        W: Real floating-point tensor of shape (m, n), any precision.
        needs: What is wanted: ``frobenius``, ``sigma_max``, ``schatten4``, ``sigma``
            (all values), ``small_end`` (all values, the small ones to relative
            accuracy).
        rtol: Largest relative width of the enclosure of sigma_1, in (0, 1).
        certify: ``probabilistic`` (the upper end fails with ``failure_probability``)
            or ``deterministic`` (proved by Cholesky; costs a Gram matrix).
        failure_probability: Of the probabilistic upper end, over its random start.
        seed: Of the random start.

    Returns:
        The spectrum with error and route.

    Example:
        >>> import torch, spectrank as sr
        >>> s = sr.spectrum(torch.diag(torch.tensor([3.0, 2.0, 1.0])))
        >>> s.sigma.tolist(), s.route
        ([3.0, 2.0, 1.0], 'gram')
    """
    wanted = _check(needs, rtol, certify, failure_probability)
    operand = make_operand(W)
    shape = (W.shape[0], W.shape[1])
    if operand.amax == 0.0:
        word = "empty" if W.numel() == 0 else "zero"
        return _trivial(shape, 0.0, "degenerate", f"the matrix is {word}")
    if not math.isfinite(operand.amax):
        word = "NaN" if math.isnan(operand.amax) else "infinite"
        return _trivial(shape, math.nan, "nonfinite", f"the matrix has {word} entries")
    route = _Route(operand, shape, rtol, certify, failure_probability, seed)
    return route.take(wanted)


def _check(
    needs: Iterable[Need], rtol: float, certify: str, failure_probability: float
) -> frozenset[Need]:
    names = frozenset([needs] if isinstance(needs, str) else needs)
    if unknown := sorted(names - set(NEEDS)):
        raise UnknownNameError(
            f"needs are {', '.join(NEEDS)}, got {unknown[0]!r}; "
            "name what the metric reads, or leave the default 'sigma'"
        )
    for name, x in (("rtol", rtol), ("failure_probability", failure_probability)):
        if not 0.0 < x < 1.0:
            raise DomainError(
                f"{name} must lie in (0, 1), got {x}; try the default by leaving it out"
            )
    if certify not in {"probabilistic", "deterministic"}:
        raise UnknownNameError(
            f"certify is 'probabilistic' or 'deterministic', got {certify!r}; "
            "the first is the fast one"
        )
    return frozenset(need for need in NEEDS if need in names)


def _trivial(shape: tuple[int, int], x: float, status: Status, reason: str) -> Spectrum:
    value = Value(x, x, x, "certified", 0.0, status, reason)
    sigma = torch.full((min(shape),), x, dtype=torch.float64)
    return Spectrum(
        shape,
        value,
        value,
        value,
        sigma,
        torch.zeros_like(sigma),
        "none",
        status,
        reason,
    )


@dataclass(frozen=True, eq=False)
class _Route:
    """The choice of route for one finite, non-zero matrix."""

    operand: Operand
    shape: tuple[int, int]
    rtol: float
    certify: Certify
    failure_probability: float
    seed: int

    def take(self, wanted: frozenset[Need]) -> Spectrum:
        """Return the spectrum by the cheapest route that serves what is wanted."""
        if not wanted & {"sigma", "small_end"}:
            norms = self._norms(wanted)
            if norms is not None:
                return norms
        return self._full("small_end" in wanted)

    def _norms(self, wanted: frozenset[Need]) -> Spectrum | None:
        """Norms without a full spectrum; None where that is cheaper or has to help."""
        op, costs = self.operand, _Costs(self.operand)
        needs_gram = "schatten4" in wanted or self.certify == "deterministic"
        if costs.lanczos(needs_gram) > costs.full:
            return None
        max_steps = costs.max_steps(needs_gram)
        upper = gram(op) if needs_gram else None
        found: tuple[Value, str] | None
        if upper is None:
            found = enclosure.enclose_sigma_max(
                op,
                rtol=self.rtol,
                failure_probability=self.failure_probability,
                max_steps=max_steps,
                seed=self.seed,
            )
        else:
            value = enclosure.enclose_from_gram(
                upper,
                gram_error(op.rows, op.cols),
                rtol=self.rtol,
                failure_probability=self.failure_probability,
                max_steps=max_steps,
                seed=self.seed,
            )
            found = None if value is None else (value, "gram-lanczos")
        if found is None:
            return None
        sigma_max, route = found
        if self.certify == "deterministic" and upper is not None:
            proved = enclosure.certify_upper(op, upper, sigma_max)
            if proved is None:
                return None
            sigma_max, route = proved, route + "-cholesky"
        schatten4 = self._schatten4(upper) if upper is not None else None
        return self._result(sigma_max, schatten4, None, None, route)

    def _full(self, small_end: bool) -> Spectrum:
        """All values: from the Gram matrix, by a dense SVD where that cannot serve."""
        op = self.operand
        upper = gram(op)
        schatten4 = self._schatten4(upper)
        eigenvalues = gram_eigenvalues(upper)
        if eigenvalues is not None:
            sigma, error = _from_eigenvalues(eigenvalues, gram_error(op.rows, op.cols))
            unresolved = bool((error > _RESOLVED * sigma).any())
            if not (small_end and unresolved):
                top = self._top(sigma, error, upper)
                return self._result(top, schatten4, sigma, error, "gram")
        values = dense_singular_values(op)
        if values is None:
            reason = "every LAPACK driver failed to converge"
            return _trivial(self.shape, math.nan, "not_converged", reason)
        error = torch.full_like(values, (op.cols + 4) * EPS * float(values[0]))
        top = self._top(values, error, upper)
        return self._result(top, schatten4, values, error, "svd")

    def _top(self, sigma: Tensor, error: Tensor, upper: Tensor) -> Value:
        value = Value.around(float(sigma[0]), float(error[0]))
        if self.certify != "deterministic":
            return value
        op = self.operand
        # Room for what the proof itself loses to rounding.
        room = 8.0 * (op.rows + (op.cols + 1) * op.cols) * EPS
        wider = Value.around(value.value, value.value * room)
        proved = enclosure.certify_upper(op, upper, wider)
        return value if proved is None else proved

    def _schatten4(self, upper: Tensor) -> Value:
        op = self.operand
        squared = gram_frobenius(upper)
        error = gram_error(op.rows, op.cols)
        return Value.around(squared, squared * error) ** 0.5

    def _result(
        self,
        sigma_max: Value,
        schatten4: Value | None,
        sigma: Tensor | None,
        error: Tensor | None,
        route: str,
    ) -> Spectrum:
        factor = self.operand.unscale(1.0)
        return Spectrum(
            shape=self.shape,
            frobenius=_times(self.operand.frobenius(), self.operand),
            sigma_max=_times(sigma_max, self.operand),
            schatten4=None if schatten4 is None else _times(schatten4, self.operand),
            sigma=None if sigma is None else sigma * factor,
            sigma_error=None if error is None else error * factor,
            route=route,
        )


def _times(value: Value, operand: Operand) -> Value:
    """Undo the scaling, exactly unless the result leaves float64's range."""
    u = operand.unscale
    return Value(
        u(value.value),
        u(value.lower),
        u(value.upper),
        value.error_kind,
        value.failure_probability,
        value.status,
        value.reason,
    )


def _from_eigenvalues(eigenvalues: Tensor, relative: float) -> tuple[Tensor, Tensor]:
    """Square roots of eigenvalues that err by ``relative * lambda_1``."""
    e = relative * eigenvalues[0]
    sigma = eigenvalues.sqrt()
    below = sigma - (eigenvalues - e).clamp_min(0.0).sqrt()
    above = (eigenvalues + e).sqrt() - sigma
    return sigma, torch.maximum(below, above)


@dataclass(frozen=True)
class _Costs:
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
