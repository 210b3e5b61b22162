"""Targets of a stable rank as a user states them."""

from __future__ import annotations

from numbers import Real

from spectrank.errors import ArgumentTypeError, DomainError
from spectrank.linalg.ensembles.requests import check_stable_rank


def target_rank(stable_rank: object, fraction: object, m: int, n: int) -> float:
    """Return the target of an (m, n) matrix from one of two ways to state it.

    Args:
        stable_rank: Absolute, in [1, min(m, n)]; None where ``fraction`` is given.
        fraction: Share of min(m, n) in (0, 1]; a target below 1 is raised to 1, which
            is the smallest there is.
        m: Number of rows.
        n: Number of columns.

    Returns:
        The stable rank.

    Raises:
        ArgumentTypeError: If ``fraction`` is no number.
        DomainError: If none or both are given, or one is out of its range.
    """
    if (stable_rank is None) == (fraction is None):
        raise DomainError(
            "a target is stated once, as stable_rank= or as fraction= of min(m, n), "
            f"got stable_rank={stable_rank!r} and fraction={fraction!r}; give one"
        )
    if fraction is None:
        return check_stable_rank(stable_rank, m, n)
    if isinstance(fraction, bool) or not isinstance(fraction, Real):
        raise ArgumentTypeError(
            f"fraction is a number in (0, 1], got {fraction!r}; e.g. fraction=0.25"
        )
    if not 0.0 < float(fraction) <= 1.0:
        raise DomainError(
            f"fraction must lie in (0, 1], got {fraction}; it is the share of "
            "min(m, n), the largest stable rank of the matrix"
        )
    return max(1.0, float(fraction) * min(m, n))
