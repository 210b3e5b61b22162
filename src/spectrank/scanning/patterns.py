"""Patterns that choose among the tensors of a source, refused before any is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from itertools import chain

from spectrank.errors import ArgumentTypeError, DomainError
from spectrank.model import Skip, Views, WeightMatrix, unmatched_patterns


def check_types(select: object, views: object) -> None:
    """Refuse what is no pattern and no mapping of patterns.

    Args:
        select: Glob pattern or patterns, or None.
        views: Glob pattern to view, one view for all, or None.

    Raises:
        ArgumentTypeError: If one of them, or an entry, is of another type.
        DomainError: If ``select`` is an empty list.
    """  # noqa: DOC502
    _check_select(select)
    if views is None or isinstance(views, str):
        return
    wrong: list[object] = [views]
    if isinstance(views, Mapping):
        entries = chain.from_iterable(views.items())
        wrong = [entry for entry in entries if not isinstance(entry, str)]
    if wrong:
        raise ArgumentTypeError(
            f"views maps patterns to views, got {wrong[0]!r:.80} of type "
            f"{type(wrong[0]).__name__}; e.g. views={{'*.c_fc.weight': 'linear'}}, or "
            "one name for every tensor"
        )


def check_callback(progress: object) -> None:
    """Refuse what cannot be called, before the work that it would watch.

    Args:
        progress: As given; None for none.

    Raises:
        ArgumentTypeError: It cannot be called.
    """
    if progress is not None and not callable(progress):
        raise ArgumentTypeError(
            "progress is a function that is called as the work goes on, got "
            f"{progress!r:.80}; leave it out for none"
        )


def check_known(
    options: Iterable[str],
    known: Sequence[str],
    *,
    what: str,
    instead: Mapping[str, str] | None = None,
) -> None:
    """Refuse options of names that a function does not have.

    Args:
        options: Names as given.
        known: Names that it has.
        what: The function.
        instead: Names of other functions to what the same is called here.

    Raises:
        ArgumentTypeError: It has none of that name.
    """
    for name in options:
        if name in known:
            continue
        close = (instead or {}).get(name) or get_close_matches(name, known, n=1)
        near = close if isinstance(close, str) else "".join(close)
        raise ArgumentTypeError(
            f"the options of {what} are {', '.join(known)}, got {name!r}; "
            + (f"did you mean {near!r}?" if near else "leave it out")
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


def _check_select(select: object) -> None:
    if select is None or isinstance(select, str):
        return
    entries: list[object] = [select]
    if isinstance(select, Sequence) and not isinstance(select, bytes):
        entries = list(select)
    if wrong := [entry for entry in entries if not isinstance(entry, str)]:
        raise ArgumentTypeError(
            f"select is a pattern or a list of them, got {wrong[0]!r:.80} of type "
            f"{type(wrong[0]).__name__}; e.g. select='*.mlp.*'"
        )
    if not entries:
        raise DomainError(
            "select has at least one pattern, got an empty list; leave it out for "
            "every tensor"
        )
