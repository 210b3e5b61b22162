"""`spectrum`: the singular values of a matrix, by the cheapest route that serves."""

from __future__ import annotations

import math
from collections.abc import Iterable

from spectrank.errors import ArgumentTypeError, DomainError, UnknownNameError
from spectrank.linalg.implicit.base import Implicit, Operand, Settings
from spectrank.linalg.implicit.measure import implicit_spectrum
from spectrank.linalg.operand import Operand as DenseOperand
from spectrank.linalg.operand import make_operand
from spectrank.linalg.routes import Certify, Route
from spectrank.linalg.shapes import Matrix
from spectrank.linalg.spectrum import NEEDS, Need, Spectrum, without_values
from spectrank.linalg.subspaces import EigenvectorSolver, LeadingSubspaces

DEFAULT_RTOL = 1e-4
DEFAULT_FAILURE_PROBABILITY = 1e-9


def spectrum(
    W: Operand,
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
        W: Real floating-point tensor of shape (m, n), any precision; or a matrix that
            is never formed (`spectrank.linalg.implicit`), which takes its own route.
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
    wanted = _check(needs, rtol, certify, failure_probability, seed)
    if isinstance(W, Implicit):
        settings = Settings(wanted, rtol, certify, failure_probability, seed)
        return implicit_spectrum(W, settings)
    # Refuses what is not a real matrix, so it comes before anything of W is read.
    operand = make_operand(W)
    shape = (W.shape[0], W.shape[1])
    found = _without_numbers(operand, shape)
    if found is not None:
        return found
    route = Route(operand, shape, rtol, certify, failure_probability, seed)
    return route.take(wanted)


def spectrum_and_subspaces(
    W: Matrix,
    k: int,
    needs: Iterable[Need] = ("sigma",),
    *,
    rtol: float = DEFAULT_RTOL,
    certify: Certify = "probabilistic",
    failure_probability: float = DEFAULT_FAILURE_PROBABILITY,
    seed: int = 0,
) -> tuple[Spectrum, LeadingSubspaces | None]:
    """Measure all singular values and the leading directions, from one Gram matrix.

    Args:
        W: Real floating-point tensor of shape (m, n), any precision.
        k: Number of directions, at least 1; fewer where the matrix has fewer that its
            Gram matrix can tell from zero.
        needs: As for `spectrum`; all values are computed in any case.
        rtol: As for `spectrum`, as are those below.
        certify: ``probabilistic`` or ``deterministic`` upper ends.
        failure_probability: Of the probabilistic upper end.
        seed: Of the random start.

    Returns:
        The spectrum, and the subspaces; None for a zero, empty or nonfinite matrix.
    """
    names: frozenset[Need] = frozenset([*needs, "sigma"])
    wanted = _check(names, rtol, certify, failure_probability, seed)
    operand = make_operand(W)
    shape = (W.shape[0], W.shape[1])
    found = _without_numbers(operand, shape)
    if found is not None:
        return found, None
    solve = EigenvectorSolver(k)
    route = Route(operand, shape, rtol, certify, failure_probability, seed, solve)
    s = route.take(wanted)
    return s, solve.subspaces(operand, shape)


def _without_numbers(operand: DenseOperand, shape: tuple[int, int]) -> Spectrum | None:
    """Return the spectrum of an empty, zero or nonfinite matrix; None for others."""
    if operand.amax == 0.0:
        word = "zero" if min(shape) else "empty"
        return without_values(shape, 0.0, "degenerate", f"the matrix is {word}")
    if not math.isfinite(operand.amax):
        word = "NaN" if math.isnan(operand.amax) else "infinite"
        return without_values(
            shape, math.nan, "nonfinite", f"the matrix has {word} entries"
        )
    return None


def _check(
    needs: Iterable[Need],
    rtol: float,
    certify: str,
    failure_probability: float,
    seed: int,
) -> frozenset[Need]:
    names = frozenset([needs] if isinstance(needs, str) else needs)
    if unknown := sorted(names - set(NEEDS)):
        raise UnknownNameError(
            f"needs are {', '.join(NEEDS)}, got {unknown[0]!r}; "
            "name what the metric reads, or leave the default 'sigma'"
        )
    for name, x in (("rtol", rtol), ("failure_probability", failure_probability)):
        if not isinstance(x, int | float):
            raise ArgumentTypeError(
                f"{name} is a number in (0, 1), got {x!r}; "
                "try the default by leaving it out"
            )
        if not 0.0 < x < 1.0:
            raise DomainError(
                f"{name} must lie in (0, 1), got {x}; try the default by leaving it out"
            )
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise ArgumentTypeError(
            f"seed is a whole number, got {seed!r}; any integer will do"
        )
    if certify not in ("probabilistic", "deterministic"):
        raise UnknownNameError(
            f"certify is 'probabilistic' or 'deterministic', got {certify!r}; "
            "the first is the fast one"
        )
    return frozenset(need for need in NEEDS if need in names)
