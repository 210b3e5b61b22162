"""Which stable rank each matrix of a model is asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, final

from spectrank.errors import ArgumentTypeError, DomainError, UnknownNameError
from spectrank.init.control.requests import is_number, naming, target_rank
from spectrank.init.sites import Site
from spectrank.linalg.ensembles.make import (
    OWN_STABLE_RANK,
    ensemble,
    largest_possible,
    largest_shared,
    shared_stable_ranks,
)
from spectrank.model import Skip

Requested = float | Mapping[str, float] | None


@final
@dataclass(frozen=True)
class Rank:
    """A stable rank for one matrix: what to ask for, and why it is not what was.

    Attributes:
        stable_rank: The target; None for a spectrum that has its own.
        reason: Why it is not what was asked for; None where it is.
        asked: What was asked for.
    """

    stable_rank: float | None
    reason: str | None = None
    asked: float | None = None


def checked_request(stable_rank: Requested, fraction: object, spectrum: str) -> None:
    """Refuse a request that is wrong for every model.

    Args:
        stable_rank: Absolute, or by name.
        fraction: Of min(m, n).
        spectrum: Name.

    Raises:
        ArgumentTypeError: If a number is none.
        DomainError: If none or both are given, or a number is out of its range.
        UnknownNameError: If there is no such spectrum.
    """
    own = spectrum in OWN_STABLE_RANK
    try:
        # Of an arbitrary size: the name is checked, not the number.
        ensemble(2, 2, stable_rank=None if own else 1.0, spectrum=spectrum)
    except UnknownNameError as error:
        # The way out of a single weight, profile=, is none for a model.
        rule = str(error).replace("any other shape goes in as profile=", "")
        raise UnknownNameError(
            f"{rule}any other shape weight by weight, "
            "stable_rank_(layer.weight, profile=...)"
        ) from error
    if own:
        if stable_rank is not None or fraction is not None:
            raise DomainError(
                f"spectrum {spectrum!r} has a stable rank of its own, got "
                f"stable_rank={stable_rank!r}, fraction={fraction!r}; leave both out"
            )
        return
    if isinstance(stable_rank, Mapping) and fraction is None:
        if not stable_rank:
            raise DomainError(
                "stable_rank by name needs at least one name, got an empty mapping; "
                "e.g. {'*.mlp.*.weight': 32}"
            )
        return
    if stable_rank is not None and not is_number(stable_rank):
        raise ArgumentTypeError(
            "stable_rank is a number for all weights or a mapping from names to "
            f"numbers, got {stable_rank!r}; e.g. {{'*.mlp.*.weight': 32}}"
        )
    given = stable_rank if fraction is None else None
    if isinstance(given, int | float) and not 1.0 <= given < math.inf:
        raise DomainError(
            f"stable_rank must be a finite number of at least 1, got {stable_rank}; "
            "every matrix but zero has a stable rank of 1 or more"
        )
    # Of an arbitrary size that takes it: the other errors are those of one matrix.
    target_rank(stable_rank, fraction, 2**62, 2**62)


def ranks_of(
    found: Sequence[Site | Skip],
    stable_rank: Requested,
    fraction: float | None,
    spectrum: str,
) -> dict[str, list[Rank] | str]:
    """For each weight a stable rank per matrix, or why it is left.

    Args:
        found: Weights and skips of the model.
        stable_rank: Absolute, or by name or glob.
        fraction: Of min(m, n).
        spectrum: Name.

    Returns:
        By name of the weight.

    Raises:
        ArgumentTypeError: If a number is none.
        DomainError: If a weight cannot have what is asked for, tied weights are asked
            for two values, or a name is that of no weight.
    """  # noqa: DOC502 - some are raised by the functions called
    sites = [site for site in found if isinstance(site, Site)]
    chosen = _chosen(sites, found, stable_rank)
    ranks: dict[str, list[Rank] | str] = {}
    shared: dict[str, list[Site]] = {}
    for site in sites:
        pattern = chosen[site.name]
        named = pattern in site.names
        if pattern is None:
            ranks[site.name] = "not named in stable_rank; left"
        elif not named and all(min(b.m, b.n) == 1 for b in site.blocks):
            ranks[site.name] = (
                "a vector always has stable rank 1; left at the standard scheme, as "
                "it was"
            )
        elif spectrum in OWN_STABLE_RANK:
            ranks[site.name] = [Rank(None)] * len(site.blocks)
        elif named:
            assert isinstance(stable_rank, Mapping)
            ranks[site.name] = _by_name(site, stable_rank[pattern], spectrum)
        else:
            shared.setdefault(pattern, []).append(site)
    for pattern, together in shared.items():
        asked = stable_rank
        value = asked[pattern] if isinstance(asked, Mapping) else asked
        shapes = [(b.m, b.n) for site in together for b in site.blocks]
        with naming(together[0].name):
            each = iter(_shared(shapes, value, fraction, spectrum))
        for site in together:
            ranks[site.name] = [next(each) for _ in site.blocks]
    return ranks


def _by_name(site: Site, stable_rank: float, spectrum: str) -> list[Rank]:
    with naming(site.name):
        for block in site.blocks:
            ensemble(block.m, block.n, stable_rank=stable_rank, spectrum=spectrum)
    return [Rank(stable_rank, None, float(stable_rank))] * len(site.blocks)


def _chosen(
    sites: Sequence[Site], found: Sequence[Site | Skip], stable_rank: Requested
) -> dict[str, str | None]:
    """First pattern of ``stable_rank`` that names each weight; all where it is one."""
    if not isinstance(stable_rank, Mapping):
        return {site.name: "*" for site in sites}
    chosen = {site.name: _pattern(site, stable_rank) for site in sites}
    used = set(chosen.values())
    for pattern in stable_rank:
        matching = [site for site in sites if _matches(site, pattern)]
        if pattern in used or matching:
            continue
        skipped = [s for s in found if isinstance(s, Skip) and _named(s.name, pattern)]
        why = f" but {skipped[0].name} ({skipped[0].reason})" if skipped else ""
        raise DomainError(
            "each name in stable_rank is that of a selected weight or a glob that "
            f"matches one, {pattern!r} matches none{why}; sr.scan(model) lists the "
            "names"
        )
    return chosen


def _pattern(site: Site, stable_rank: Mapping[str, float]) -> str | None:
    asked: dict[str, float] = {}
    found: str | None = None
    for name in site.names:
        # An exact name before a glob, then the first glob.
        first = (
            name
            if name in stable_rank
            else next((p for p in stable_rank if _named(name, p)), None)
        )
        if first is not None:
            asked[name] = stable_rank[first]
            found = first if found is None or first in site.names else found
    if len(set(asked.values())) > 1:
        values = ", ".join(f"{name}: {value}" for name, value in asked.items())
        raise DomainError(
            f"tied weights are one tensor with one stable rank, got {values}; "
            "ask for one of them only"
        )
    return found


def _matches(site: Site, pattern: str) -> bool:
    return any(_named(name, pattern) for name in site.names)


def _named(name: str, pattern: str) -> bool:
    return name == pattern or fnmatchcase(name, pattern)


def _shared(
    shapes: Sequence[tuple[int, int]],
    stable_rank: float | None,
    fraction: float | None,
    spectrum: str,
) -> list[Rank]:
    """One request for many matrices, as each can have it."""
    if fraction is None:
        given = shared_stable_ranks(shapes, stable_rank, [spectrum] * len(shapes))
        asked: list[Any] = [stable_rank] * len(shapes)
    else:
        asked = [fraction * min(m, n) for m, n in shapes]
        wanted = [max(1.0, r) for r in asked]
        # As a shared number: lowered where it must be, refused where no one has it.
        tops = [largest_shared(m, n, spectrum) for m, n in shapes]
        possible = any(
            r <= largest_possible(m, n, spectrum)
            for r, (m, n) in zip(wanted, shapes, strict=True)
        )
        given = [
            min(r, top) if possible else r for r, top in zip(wanted, tops, strict=True)
        ]
    # Refuse here what no matrix can have, or what is no number.
    ensemble(*shapes[0], stable_rank=given[0], spectrum=spectrum)
    return [
        Rank(r, _why(r, a, m, n, spectrum), float(a))
        for r, a, (m, n) in zip(given, asked, shapes, strict=True)
    ]


def _why(given: float, asked: float, m: int, n: int, spectrum: str) -> str | None:
    if given == asked:
        return None
    if given > asked:
        return f"raised from {asked:.6g} to 1, the least there is"
    reach = f"min(m, n) is {min(m, n)}"
    if spectrum == "mp-spike":
        reach = f"mp-spike reliably reaches {given:.6g} on {m} x {n}"
    return f"lowered from {asked:.6g}: {reach}"
