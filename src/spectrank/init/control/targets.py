"""Which target each matrix of a model has in a penalty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from spectrank.errors import DomainError
from spectrank.init.control.matrices import LiveMatrix
from spectrank.init.control.requests import is_number, naming, target_rank
from spectrank.model import unmatched_patterns

Target = float | Mapping[str, float]


def targets_of(
    found: Sequence[LiveMatrix],
    target: Target | None,
    fraction: float | None,
    *,
    lowered: bool,
) -> list[float | None]:
    """The target of each matrix, None for one that is left out.

    Args:
        found: Matrices of the model.
        target: Absolute: one number, or by glob.
        fraction: Of min(m, n).
        lowered: Whether a matrix that cannot have the target has its largest instead,
            where another one can have it.

    Returns:
        In the order of the matrices.

    Raises:
        ArgumentTypeError: If a number is none.
        DomainError: If a key matches no matrix, or a matrix cannot have its target.
    """  # noqa: DOC502 - some are raised by the functions called
    if isinstance(target, Mapping):
        _check_globs(target, found)
    asked = [_asked(matrix.weight.name, target) for matrix in found]
    if fraction is not None:
        return [target_rank(None, fraction, *matrix.shape) for matrix in found]
    targets: list[float | None] = []
    for matrix, (glob, r) in zip(found, asked, strict=True):
        sides = [
            min(m.shape) for m, (g, _) in zip(found, asked, strict=True) if g == glob
        ]
        top, own = max(sides), min(matrix.shape)
        if r is None or (own == 1 < top):
            targets.append(None)
            continue
        if lowered and is_number(r) and own < r <= top:
            r = own
        with naming(matrix.weight.name):
            targets.append(target_rank(r, None, *matrix.shape))
    return targets


def _check_globs(target: Mapping[str, float], found: Sequence[LiveMatrix]) -> None:
    # A misspelt name would leave its weight without a penalty, in silence.
    unmatched = unmatched_patterns([m.weight.name for m in found], list(target))
    if unmatched or not target:
        got = repr(unmatched[0]) if unmatched else "no keys"
        raise DomainError(
            f"each key of target must match at least one matrix, got {got}; "
            "keys are globs on whole names, e.g. '*.weight'"
        )


def _asked(name: str, target: Target | None) -> tuple[str, float | None]:
    """The glob that names a matrix, and its target; None where none does."""
    if not isinstance(target, Mapping):
        return "*", target
    matching = ((g, r) for g, r in target.items() if fnmatchcase(name, g))
    return next(matching, ("", None))
