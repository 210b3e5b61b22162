"""Patterns that choose among the tensors of a source, refused before any is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from spectrank.errors import ArgumentTypeError, DomainError
from spectrank.model import Skip, Views, WeightMatrix, unmatched_patterns


def check_types(select: object, views: object) -> None:
    """Refuse what is no pattern and no mapping of patterns.

    Args:
        select: Glob pattern or patterns, or None.
        views: Glob pattern to view, one view for all, or None.

    Raises:
        ArgumentTypeError: If one of them is of another type.
    """
    if select is not None and not isinstance(select, str | Sequence):
        raise ArgumentTypeError(
            f"select is a pattern or a list of them, got {type(select).__name__}; "
            "e.g. select='*.mlp.*'"
        )
    if views is not None and not isinstance(views, Mapping | str):
        raise ArgumentTypeError(
            f"views maps patterns to views, got {type(views).__name__}; "
            "e.g. views={'*.c_fc.weight': 'linear'}, or one name for every tensor"
        )


def check_patterns(
    weights: Sequence[WeightMatrix | Skip],
    select: str | Sequence[str] | None,
    views: Views,
    *,
    what: str,
) -> None:
    """Refuse a source without tensors, and patterns that name none of them.

    Args:
        weights: Tensors of the source, after ``select``.
        select: Glob pattern or patterns.
        views: Glob pattern to view, or one view for all.
        what: Who asks, for the message.

    Raises:
        DomainError: If there is no tensor, or a pattern matches none.
    """
    if not weights and select is None:
        raise DomainError(
            f"{what} needs a source with tensors in it, got one without any; pass a "
            "module with parameters, or a mapping of names to torch tensors"
        )
    names = [weight.name for weight in weights]
    mapped = [] if views is None or isinstance(views, str) else list(views)
    for option, patterns in (("select", select), ("views", mapped)):
        if unmatched := unmatched_patterns(names, patterns):
            raise DomainError(
                f"each pattern of {option} names a tensor of the source, "
                f"{unmatched[0]!r} matches none; patterns are globs on whole names, "
                "e.g. '*.mlp.*.weight'"
            )
