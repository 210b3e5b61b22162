"""From a request for a whole model to what is drawn for each weight, all checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, final

from spectrank.errors import ArgumentTypeError, DomainError, SpectrankError
from spectrank.init.blocks import Block
from spectrank.init.control.requests import target_rank
from spectrank.init.follow import Followed, following
from spectrank.init.scale import TYPICAL, Scale, resolved_gain
from spectrank.init.sites import Site
from spectrank.linalg.ensembles.ensemble import Ensemble, check_range
from spectrank.linalg.ensembles.make import (
    OWN_STABLE_RANK,
    ensemble,
    largest_possible,
    largest_shared,
    shared_stable_ranks,
)
from spectrank.linalg.ensembles.mp_spike import largest_sure
from spectrank.model import Skip
from spectrank.model.graph import Graph

Requested = float | Mapping[str, float] | None


@final
@dataclass(frozen=True, eq=False)
class Job:
    """One draw: the matrices of a weight that have one law.

    Attributes:
        site: The weight.
        blocks: Matrices of equal shape.
        ensemble: Their law.
        spectral_norm: Its scale.
        followed: Gain with its reason; None where sigma is a number.
        reason: Why the stable rank is not the one asked for; None where it is.
    """

    site: Site
    blocks: tuple[Block, ...]
    ensemble: Ensemble
    spectral_norm: float
    followed: Followed | None
    reason: str | None

    @property
    def may_fail(self) -> bool:
        """Whether a draw can be refused."""
        e, r = self.ensemble, self.ensemble.stable_rank
        return e.spectrum == "mp-spike" and (r or 0.0) > largest_sure(e.m, e.n)


@final
@dataclass(frozen=True)
class _Rank:
    """A stable rank for one matrix: what to ask for, and why it is not what was."""

    stable_rank: float | None
    reason: str | None = None


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
    """  # noqa: DOC502 - some are raised by the functions called
    own = spectrum in OWN_STABLE_RANK
    # Of an arbitrary size: the name is checked, not the number.
    ensemble(2, 2, stable_rank=None if own else 1.0, spectrum=spectrum)
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
    # Any size that takes every finite number of at least 1.
    target_rank(stable_rank, fraction, 2**62, 2**62)


def plan(
    found: Sequence[Site | Skip],
    *,
    stable_rank: Requested,
    fraction: float | None,
    spectrum: str,
    scale: Scale,
    gain: float | str,
    graph: Graph | None,
) -> list[Job | Skip]:
    """Decide what is drawn for every weight; nothing is drawn or written.

    Args:
        found: Weights and skips of the model.
        stable_rank: Absolute, or by name or glob.
        fraction: Of min(m, n).
        spectrum: Name.
        scale: Which norm is set.
        gain: A number, a name, ``auto`` or ``typical``.
        graph: Of the model, where the gain is read from it.

    Returns:
        Jobs and skips in the order of the model.

    Raises:
        ArgumentTypeError: If a number is none.
        DomainError: If a weight cannot have what is asked for.
    """  # noqa: DOC502 - some are raised by the functions called
    sites = [site for site in found if isinstance(site, Site)]
    chosen = _chosen(sites, found, stable_rank)
    ranks = _ranks(sites, chosen, stable_rank, fraction, spectrum)
    plans: list[Job | Skip] = []
    for item in found:
        if isinstance(item, Skip):
            plans.append(item)
            continue
        of_site = ranks[item.name]
        if isinstance(of_site, str):
            shape = tuple(item.tensor.shape)
            dtype = item.tensor.dtype
            plans.append(Skip(item.name, of_site, shape, dtype, item.layer_type))
            continue
        with _naming(item.name):
            followed = _gain(item, scale, gain, graph)
            plans += _jobs(item, of_site, spectrum, scale, followed, gain)
    return plans


def _jobs(
    site: Site,
    ranks: Sequence[_Rank],
    spectrum: str,
    scale: Scale,
    followed: Followed | None,
    gain: float | str,
) -> Iterator[Job]:
    grouped = len(site.blocks) > 1 and str(site.blocks[0].part).startswith("group.")
    # Groups of one convolution in one draw, as by stable_rank_.
    parts = [site.blocks] if grouped else [(block,) for block in site.blocks]
    for blocks in parts:
        rank = ranks[site.blocks.index(blocks[0])]
        m, n = blocks[0].m, blocks[0].n
        e = ensemble(m, n, stable_rank=rank.stable_rank, spectrum=spectrum)
        word: float | str = 1.0 if followed is None else followed.gain
        if followed is not None and gain in TYPICAL:
            activation = followed.activation
            names = {"relu": "typical", "linear": "typical-linear"}
            word = names.get(activation, word)
        size = scale.spectral_norm(e, word, positions=blocks[0].positions)
        check_range(size, site.tensor.dtype)
        yield Job(site, blocks, e, size, followed, rank.reason)


def _gain(
    site: Site, scale: Scale, gain: float | str, graph: Graph | None
) -> Followed | None:
    if not scale.uses_gain:
        return None
    if gain in {"auto", "typical"}:
        assert graph is not None
        followed = following(graph, site.names)
        if gain == "typical" and followed.activation not in {"relu", "linear"}:
            reason = f"{followed.reason}; typical is known for relu and linear only"
            return Followed(followed.gain, reason, followed.activation)
        return followed
    if gain == "typical-linear":
        return Followed(1.0, "as asked: typical, no activation", "linear")
    number = resolved_gain(gain)
    assert isinstance(number, float)
    return Followed(number, "as asked", gain if isinstance(gain, str) else "")


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


def _ranks(
    sites: Sequence[Site],
    chosen: Mapping[str, str | None],
    stable_rank: Requested,
    fraction: float | None,
    spectrum: str,
) -> dict[str, list[_Rank] | str]:
    """For each weight a rank per matrix, or why it is left."""
    ranks: dict[str, list[_Rank] | str] = {}
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
            ranks[site.name] = [_Rank(None)] * len(site.blocks)
        elif named:
            assert isinstance(stable_rank, Mapping)
            asked = stable_rank[pattern]
            with _naming(site.name):
                for block in site.blocks:
                    ensemble(block.m, block.n, stable_rank=asked, spectrum=spectrum)
            ranks[site.name] = [_Rank(asked)] * len(site.blocks)
        else:
            shared.setdefault(pattern, []).append(site)
    for pattern, together in shared.items():
        value = (
            stable_rank[pattern] if isinstance(stable_rank, Mapping) else stable_rank
        )
        shapes = [(b.m, b.n) for site in together for b in site.blocks]
        with _naming(together[0].name):
            found = iter(_shared(shapes, value, fraction, spectrum))
        for site in together:
            ranks[site.name] = [next(found) for _ in site.blocks]
    return ranks


def _shared(
    shapes: Sequence[tuple[int, int]],
    stable_rank: float | None,
    fraction: float | None,
    spectrum: str,
) -> list[_Rank]:
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
        _Rank(r, _why(r, a, m, n, spectrum))
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


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Put the name of the weight before the message of an error."""
    try:
        yield
    except (ArgumentTypeError, DomainError) as error:
        kind: type[SpectrankError] = type(error)
        raise kind(f"{name}: {error}") from error
