r"""Random matrices with a prescribed stable rank between Haar factors.

W = U diag(s) V^T with independent Haar U and V (or a law equal to that), so its law is
the same after any rotation of inputs or outputs. Then means depend on the stable rank
r = sum s^2 / s_1^2 and fluctuations on the participation ratio
rho = (sum s^2)^2 / sum s^4, r <= rho <= min(m, n). Spectra, with t = s^2, t_1 = 1:

    flat        floor(r) ones, one remainder, zeros; rho smallest
    spike       one, then equal values; rho largest
    slice       (t_2..t_p) uniform on {0 <= t <= 1, sum = r - 1}
    mp-spike    one outlier over a Gaussian bulk; O(mn); r up to about n/4 if square
    power       t_i = i^(-2a)
    exp         t_i = e^(-2a(i-1))
    temper      singular values of a Gaussian matrix to a power
    orthogonal  all one
    gaussian    independent entries; its stable rank is random
    profile     any given singular values

The laws are choices of this library, made for exactness; none is known to be that of
Georgiev et al. (2021), arXiv:2110.02333, whose sampling scheme is not public.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Real
from types import MappingProxyType
from typing import Any

from torch import Tensor

from spectrank.errors import ArgumentTypeError, DomainError
from spectrank.linalg.ensembles import profiles
from spectrank.linalg.ensembles.assembly import FixedLaw
from spectrank.linalg.ensembles.ensemble import Ensemble
from spectrank.linalg.ensembles.gaussian import GaussianLaw
from spectrank.linalg.ensembles.law import Law
from spectrank.linalg.ensembles.mp_spike import (
    MpSpikeLaw,
    largest_reliable,
    largest_sure,
    largest_typical,
)
from spectrank.linalg.ensembles.requests import (
    check_agrees,
    check_name,
    check_stable_rank,
    normalised_profile,
)
from spectrank.linalg.ensembles.slices import SliceLaw
from spectrank.linalg.ensembles.temper import TemperLaw
from spectrank.linalg.haar import check_count

_FIXED: MappingProxyType[str, Callable[[int, float], Tensor]] = MappingProxyType(
    {
        "flat": profiles.flat,
        "spike": profiles.spike,
        "power": profiles.power,
        "exp": profiles.exponential,
    }
)
_RANDOM: MappingProxyType[str, Callable[[int, int, float], Law]] = MappingProxyType(
    {"mp-spike": MpSpikeLaw, "slice": SliceLaw, "temper": TemperLaw}
)
SPECTRA = (*_RANDOM, *_FIXED, "orthogonal", "gaussian")
"""Names that ``ensemble`` takes."""

OWN_STABLE_RANK = ("orthogonal", "gaussian")
"""Spectra whose stable rank is no choice."""


def ensemble(
    m: int,
    n: int,
    *,
    stable_rank: float | None = None,
    spectrum: str | None = None,
    profile: Tensor | Sequence[float] | None = None,
) -> Ensemble:
    """Law of (m, n) matrices with a prescribed stable rank.

    Source (derived): tests/linalg/ensembles; the laws are this library's own choice.

    Args:
        m: Number of outputs (rows).
        n: Number of inputs (columns).
        stable_rank: In [1, min(m, n)], ends included; ``mp-spike`` ends at
            1 + mn / (sqrt m + sqrt n)^2. Left out for ``orthogonal``, ``gaussian`` and
            a profile, which have their own.
        spectrum: Shape of the singular values, one of ``SPECTRA``; ``mp-spike`` unless
            a profile is given.
        profile: At most min(m, n) descending singular values, in place of a spectrum;
            normalised to a largest of one, the missing ones zero.

    Returns:
        The ensemble; nothing is drawn yet.

    Raises:
        ArgumentTypeError: If an argument is of another type.
        DomainError: If no such matrix exists or ``mp-spike`` does not reach it.
        ShapeError: If the profile has the wrong shape.
        UnknownNameError: If there is no such spectrum.

    Example:
        >>> import torch
        >>> spiked = ensemble(64, 64, stable_rank=8, spectrum="spike")
        >>> spiked, round(spiked.participation_ratio, 2)
        (Ensemble(64 x 64, spike, stable_rank=8), 36.0)
        >>> W = spiked.sample(torch.Generator().manual_seed(0), frobenius_norm=8.0)
        >>> round(float(W.norm()), 12)
        8.0
    """  # noqa: DOC502 - some are raised by the functions called
    m, n = check_count("m", m), check_count("n", n)
    if profile is not None:
        return _given(m, n, stable_rank, spectrum, profile)
    name = "mp-spike" if spectrum is None else spectrum
    check_name(name, SPECTRA)
    if name in OWN_STABLE_RANK:
        return _own(m, n, stable_rank, name)
    if stable_rank is None:
        raise ArgumentTypeError(
            f"spectrum {name!r} needs a stable_rank in [1, {min(m, n)}], got None; "
            "only orthogonal, gaussian and a profile have one of their own"
        )
    r = check_stable_rank(stable_rank, m, n)
    if name in _FIXED:
        squares = _FIXED[name](min(m, n), r)
        return Ensemble(m, n, name, FixedLaw(m, n, tuple(squares.tolist())))
    if name == "mp-spike" and r > largest_typical(m, n):
        raise DomainError(
            f"mp-spike leaves room for a stable_rank up to "
            f"{largest_typical(m, n):.4g} on {m} x {n} (surely up to "
            f"{largest_sure(m, n):.4g}), got {stable_rank}; spectrum='temper' reaches "
            f"every stable rank up to {min(m, n)}"
        )
    return Ensemble(m, n, name, _RANDOM[name](m, n, r))


def _given(
    m: int,
    n: int,
    stable_rank: float | None,
    spectrum: str | None,
    profile: Tensor | Sequence[float],
) -> Ensemble:
    if spectrum is not None:
        raise DomainError(
            f"a profile is a spectrum of its own, got spectrum={spectrum!r} too; "
            "leave one of them out"
        )
    law = FixedLaw(m, n, normalised_profile(profile, m, n))
    if stable_rank is not None:
        check_agrees(check_stable_rank(stable_rank, m, n), law.stable_rank)
    return Ensemble(m, n, "profile", law)


def _own(m: int, n: int, stable_rank: float | None, name: str) -> Ensemble:
    if name == "gaussian":
        if stable_rank is not None:
            raise DomainError(
                "a gaussian matrix has a random stable rank, got stable_rank="
                f"{stable_rank}; leave it out, or choose spectrum='temper'"
            )
        return Ensemble(m, n, name, GaussianLaw(m, n))
    law = FixedLaw(m, n, (1.0,) * min(m, n))
    if stable_rank is not None:
        check_agrees(check_stable_rank(stable_rank, m, n), law.stable_rank)
    return Ensemble(m, n, name, law)


def shared_stable_ranks(
    shapes: Sequence[tuple[int, int]],
    stable_rank: object,
    spectra: Sequence[str],
) -> list[Any]:
    """One stable rank meant for many layers, as each of them can have it.

    min(stable_rank, `largest_shared`) in every layer, so a larger number never gives a
    smaller stable rank. A number that no layer can have at all is left for `ensemble`
    to refuse. Layers whose spectrum has a stable rank of its own are left out, unless
    all are: then the number has no meaning and `ensemble` refuses it.

    Args:
        shapes: (m, n) of every layer.
        stable_rank: Meant for all layers.
        spectra: One name of ``SPECTRA`` per layer.

    Returns:
        What to ask `ensemble` for, layer by layer.
    """
    layers = list(zip(shapes, spectra, strict=True))
    free = [(m, n, name) for (m, n), name in layers if name not in OWN_STABLE_RANK]
    r = float(stable_rank) if isinstance(stable_rank, Real) else math.nan
    shared = any(r <= largest_possible(m, n, name) for m, n, name in free)
    ranks: list[object] = []
    for (m, n), name in layers:
        if free and name in OWN_STABLE_RANK:
            ranks.append(None)
        elif shared and r > (top := largest_shared(m, n, name)):
            ranks.append(top)
        else:
            ranks.append(stable_rank)
    return ranks


def largest_possible(m: int, n: int, spectrum: str) -> float:
    """Largest stable rank that `ensemble` takes.

    Args:
        m: Number of rows.
        n: Number of columns.
        spectrum: One of ``SPECTRA`` whose stable rank is a choice.

    Returns:
        min(m, n); for ``mp-spike`` 1 + mn / (sqrt m + sqrt n)^2, where every fifth
        draw may be refused.
    """
    return largest_typical(m, n) if spectrum == "mp-spike" else float(min(m, n))


def largest_shared(m: int, n: int, spectrum: str) -> float:
    """Largest stable rank that a number meant for many layers gives one of them.

    Args:
        m: Number of rows.
        n: Number of columns.
        spectrum: One of ``SPECTRA`` whose stable rank is a choice.

    Returns:
        min(m, n); for ``mp-spike`` what its draws reliably reach.
    """
    return largest_reliable(m, n) if spectrum == "mp-spike" else float(min(m, n))
