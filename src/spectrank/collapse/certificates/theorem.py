"""Measure what theorem A needs of a layer and put its bounds together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from torch import Tensor

from spectrank.collapse.certificates.bounds import RankBounds
from spectrank.collapse.certificates.levels import (
    Levels,
    between_values,
    feature_tails,
)
from spectrank.collapse.certificates.tails import (
    NORMS,
    Norm,
    add,
    check_norm,
    needs_of,
    norm_of,
    tail,
    tail_of_values,
    values_of,
    widen,
)
from spectrank.errors import DomainError, ShapeError
from spectrank.linalg import Need, Spectrum, Value, spectrum
from spectrank.linalg.moments import CrossSummary
from spectrank.linalg.shapes import Float64, Matrix
from spectrank.linalg.value import Status
from spectrank.metrics.ranks import relative_distance_to_rank

# Roundings of the sum that makes e from the gradient and the decayed weight.
_SUM_ROUNDOFF = 4.5e-16
# Largest relative width of the gradient's distances, which bound nothing themselves.
_GRADIENT_RTOL = 1e-3


def rank_bounds(
    weight: Matrix,
    cross: CrossSummary,
    *,
    divisor: float,
    weight_decay: float,
    ranks: Sequence[int] | None = None,
    norms: Sequence[Norm] = NORMS,
    gradient: Matrix | None = None,
) -> RankBounds:
    r"""Bound a weight's distance to low rank by theorem A, at any parameter value.

    Costs three or four spectra of an (m, n) matrix; without ``nuclear`` only those of
    the weight and of the gradient are whole.
    Source (derived): tests/collapse/certificates/test_collapse_bounds.py.

    Args:
        weight: (m, n) real matrix; not changed.
        cross: Statistics of the pairs (delta, z) over any partition into cells. Every
            pair that the gradient sums over is in a cell.
        divisor: F, above 0.
        weight_decay: lambda, at least 0; the bounds are NaN at 0.
        ranks: Ranks k of the profile; 1, K - 1, K, 2 K and 4 K by default, below
            min(m, n). K is always among them.
        norms: Which distances; Frobenius is always among them.
        gradient: (m, n) gradient of the loss as trained, without decay, where it is
            known from elsewhere. By default it is that of ``cross``, and the inequality
            is then a consequence of an identity that no data can break.

    Returns:
        Distances and bounds; NaN with the reason where the statistics are not finite,
        there are no pairs, or there is no decay.

    Raises:
        DomainError: A number out of its range, or statistics that contradict each
            other.
        ShapeError: ``weight`` or ``gradient`` has not the shape of the statistics.
        UnknownNameError: No such norm.
    """  # noqa: DOC502 - raised by the checks called
    kept = tuple(norm for norm in NORMS if norm in _checked(norms))
    _check(weight, cross, gradient, divisor, weight_decay)
    cells = cross.inputs.num_present
    profile = _profile(ranks, cells, min(weight.shape))
    setting = _Setting.of(cross, divisor, weight_decay, kept, profile)
    levels = Levels.of(cross, divisor)
    found = _measure(weight, gradient, setting, levels)
    if setting.problem is None:
        _assert_consistent(found.within_norms, levels.scatters)
    over = setting.over
    return RankBounds(
        shape=(weight.shape[0], weight.shape[1]),
        num_cells=cells,
        weight_decay=weight_decay,
        ranks=profile,
        norms=kept,
        weight_norms={norm: norm_of(found.weight, norm) for norm in kept},
        within_norms=found.within_norms,
        residual_norms=found.residual_norms,
        gradient_norm=norm_of(found.gradient, "frobenius"),
        distances={
            (norm, k): tail(found.weight, k, norm) for norm in kept for k in profile
        },
        gradient_distances={k: _relative(found.gradient, k) for k in profile},
        b3={
            (norm, k): over(found.split(k, norm))
            for norm in kept
            for k in profile
            if norm == "frobenius" or k == cells
        },
        b2=over(levels.scatters),
        b1=over(levels.moments),
        a3={k: over(v) for k, v in feature_tails(cross, divisor, profile).items()},
        excess={norm: over(found.residual_norms[norm]) for norm in kept},
    )


@final
@dataclass(frozen=True, eq=False)
class _Setting:
    """What is asked of which statistics, and why they have no numbers if so."""

    cross: CrossSummary
    divisor: float
    weight_decay: float
    norms: tuple[Norm, ...]
    profile: tuple[int, ...]
    problem: tuple[Status, str] | None

    @classmethod
    def of(
        cls,
        cross: CrossSummary,
        divisor: float,
        weight_decay: float,
        norms: tuple[Norm, ...],
        profile: tuple[int, ...],
    ) -> _Setting:
        # The status is worked out at every look; one is enough.
        status = cross.status
        problem = None if status == "ok" else (status, cross.reason or status)
        return cls(cross, divisor, weight_decay, norms, profile, problem)

    def settled(self, value: Value) -> Value:
        """Return the value, or NaN with the reason that the statistics have none."""
        return value if self.problem is None else Value.undefined(*self.problem)

    def over(self, value: Value) -> Value:
        """Return the value over the decay; NaN with a reason where that fails."""
        if self.problem is None and self.weight_decay == 0.0:
            return Value.undefined(
                "degenerate", "no weight decay, no bound on the rank"
            )
        settled = self.settled(value)
        return settled / self.weight_decay if settled.status == "ok" else settled


@final
@dataclass(frozen=True, eq=False)
class _Measured:
    """The matrices of theorem A, measured."""

    num_cells: int
    weight: Spectrum
    gradient: Spectrum
    within: Spectrum
    between: Float64[Tensor, " K"]
    within_norms: Mapping[Norm, Value]
    residual_norms: Mapping[Norm, Value]

    def split(self, k: int, norm: Norm) -> Value:
        """Bound the gradient's distance to rank k, its parts approximated apart.

        The between-cells part to rank min(k, K), and R to what is left of k.

        Args:
            k: Rank.
            norm: Of the distance.

        Returns:
            The bound times the decay.
        """
        if k == self.num_cells:
            return self.within_norms[norm]
        if k < self.num_cells:
            return add(tail_of_values(self.between, k, norm), self.within_norms[norm])
        whole = self.within_norms[norm]
        # Weyl: singular values move by no more than the error of R.
        lost = max(whole.upper - whole.value, 0.0)
        return widen(tail(self.within, k - self.num_cells, norm), lost)


def _measure(
    weight: Matrix, gradient: Matrix | None, setting: _Setting, levels: Levels
) -> _Measured:
    cross, divisor = setting.cross, setting.divisor
    W = weight.detach().to(cross.within)
    R = cross.within / divisor
    own = cross.moment() * (cross.num_samples / divisor)
    slope = own if gradient is None else gradient.detach().to(own)
    e = slope + setting.weight_decay * W
    lost_R, lost_e = 0.0, _SUM_ROUNDOFF * setting.weight_decay * float(W.norm())
    between = R.new_empty(0)
    if setting.problem is None:
        lost_R = levels.within_error
        lost_e += levels.gradient_error
        between = between_values(cross, divisor)
    needs = needs_of(setting.norms)
    cells = cross.inputs.num_present
    all_values: tuple[Need, ...] = ("sigma",) if max(setting.profile) > cells else ()
    within = spectrum(R, (*needs, *all_values))
    return _Measured(
        num_cells=cells,
        weight=values_of(W, setting.profile, setting.norms),
        gradient=values_of(slope, setting.profile, ("frobenius",), rtol=_GRADIENT_RTOL),
        within=within,
        between=between,
        within_norms=_enclosed(within, lost_R, setting),
        residual_norms=_enclosed(spectrum(e, needs), lost_e, setting),
    )


def _enclosed(s: Spectrum, lost: float, setting: _Setting) -> dict[Norm, Value]:
    """Return the norms of a matrix known up to an error of Frobenius norm ``lost``."""
    # Whose nuclear norm is at most root times that.
    root = math.sqrt(min(s.shape))
    return {
        norm: setting.settled(
            widen(norm_of(s, norm), lost * (root if norm == "nuclear" else 1.0))
        )
        for norm in setting.norms
    }


def _relative(s: Spectrum, k: int) -> Value:
    if s.status != "ok":
        return Value.undefined(s.status, s.reason or s.status)
    return relative_distance_to_rank(s, k=k)


def _profile(ranks: Sequence[int] | None, cells: int, size: int) -> tuple[int, ...]:
    if ranks is None:
        ranks = [k for k in (1, cells - 1, 2 * cells, 4 * cells) if 0 < k < size]
    for k in ranks:
        if not isinstance(k, int) or isinstance(k, bool) or k < 0:
            raise DomainError(
                f"ranks are whole numbers from 0, got {k!r}; leave ranks out for a "
                "profile about the number of cells"
            )
    return tuple(sorted({*ranks, cells}))


def _checked(norms: Iterable[Norm]) -> set[Norm]:
    wanted = {norms} if isinstance(norms, str) else set(norms)
    for norm in sorted(wanted):
        check_norm(norm)
    return {*wanted, "frobenius"}


def _check(
    weight: Matrix,
    cross: CrossSummary,
    gradient: Matrix | None,
    divisor: float,
    weight_decay: float,
) -> None:
    for name, matrix in (("weight", weight), ("gradient", gradient)):
        if matrix is not None and matrix.shape != cross.within.shape:
            raise ShapeError(
                f"{name} must have the shape of the statistics, "
                f"{tuple(cross.within.shape)} = (outputs, inputs), got "
                f"{tuple(matrix.shape)}; pass the matrix that multiplies the rows z"
            )
    if not 0.0 < divisor < math.inf:
        raise DomainError(
            f"divisor must be above 0 and finite, got {divisor}; pass what the sum of "
            "the loss is divided by (describe_loss(loss).mean_factor)"
        )
    if math.isnan(weight_decay):
        raise DomainError(
            "weight_decay must be known, got nan: the optimizer did not tell it; pass "
            "0 for the distances alone, or the coefficient"
        )
    if not 0.0 <= weight_decay < math.inf:
        raise DomainError(
            f"weight_decay must be at least 0 and finite, got {weight_decay}; pass the "
            "coefficient lambda of (lambda / 2) ||W||^2"
        )


def _assert_consistent(within_norms: Mapping[Norm, Value], b2: Value) -> None:
    """Assert B3 <= B2 in every norm, which is what centring on the cells gives."""
    for norm, value in within_norms.items():
        if value.lower > b2.upper:
            raise DomainError(
                f"the {norm} norm of R must not exceed sqrt(S(delta) S(z)) / F = "
                f"{b2.value:g}, got {value.value:g}: the products are not centred on "
                "the cells of the scatters; accumulate both in one CrossMoments"
            )
