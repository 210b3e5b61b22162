"""From a request for a whole model to what is drawn for each weight, all checked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

from spectrank.init.blocks import Block
from spectrank.init.control.requests import naming
from spectrank.init.follow import Followed, following
from spectrank.init.ranks import Rank, Requested, ranks_of
from spectrank.init.scale import TYPICAL, Scale, resolved_gain
from spectrank.init.sites import Site
from spectrank.linalg.ensembles.ensemble import Ensemble, check_range
from spectrank.linalg.ensembles.make import ensemble
from spectrank.linalg.ensembles.mp_spike import largest_sure
from spectrank.model import Skip
from spectrank.model.graph import Graph


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
        asked: The stable rank asked for; None for a spectrum that has its own.
    """

    site: Site
    blocks: tuple[Block, ...]
    ensemble: Ensemble
    spectral_norm: float
    followed: Followed | None
    reason: str | None
    asked: float | None

    @property
    def may_fail(self) -> bool:
        """Whether a draw can be refused."""
        e, r = self.ensemble, self.ensemble.stable_rank
        return e.spectrum == "mp-spike" and (r or 0.0) > largest_sure(e.m, e.n)


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
    ranks = ranks_of(found, stable_rank, fraction, spectrum)
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
        with naming(item.name):
            followed = _gain(item, scale, gain, graph)
            plans += _jobs(item, of_site, spectrum, scale, followed, gain)
    return plans


def _jobs(
    site: Site,
    ranks: Sequence[Rank],
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
        yield Job(site, blocks, e, size, followed, rank.reason, rank.asked)


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
