r"""Theorem A: how far a weight can be from rank K, at any parameter value.

    W         (m, n) = (outputs, inputs), entering its layer linearly
    delta_i   (m,) derivative of the SUM of the loss with respect to the layer's output
    z_i       (n,) the layer's input
    F         divisor: the sum of the loss over F is the loss as trained
    lambda    weight_decay: the coefficient in (lambda / 2) ||W||_F^2
    e         gradient of the decayed loss, (1/F) sum delta z^T + lambda W
    R         (1/F) sum_c sum_{i in c} (delta_i - dbar_c)(z_i - zbar_c)^T

For any partition of the pairs into K cells the between-cells part of the gradient has
rank at most K, so

    dist(W, rank K) <= (|||R||| + |||e|||) / lambda

in every unitarily invariant norm. Nothing is assumed of the network but that W enters
linearly, and nothing of stationarity: far from it e is large and the bound says little.
Source (derived): tests/collapse/certificates/test_collapse_bounds.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from spectrank.collapse.certificates.tails import Norm, add, ratio
from spectrank.errors import DomainError
from spectrank.linalg import Value


@final
@dataclass(frozen=True, eq=False)
class RankBounds:
    r"""A weight's distance to low rank and what bounds it.

    ``b3``, ``b2``, ``b1`` and ``a3`` are the parts of the bounds that stay at a
    stationary point; ``excess`` is to be added to them elsewhere, as ``bound`` does.

    Attributes:
        shape: (m, n).
        num_cells: K, the cells that have rows.
        weight_decay: lambda.
        ranks: The ranks k of the profile.
        norms: The norms that are measured.
        weight_norms: |||W|||.
        within_norms: |||R|||.
        residual_norms: |||e|||.
        gradient_norm: Frobenius norm of the gradient of the loss, without decay.
        distances: (norm, k) to the weight's distance to rank k.
        gradient_distances: k to the relative Frobenius distance of the gradient.
        b3: (norm, k) to the bound from R: its distance to rank k - K over lambda from
            k = K on, the norm alone at k = K; below K the between-cells part adds its
            own distance to rank k.
        b2: From the scatters of both sides, for k = K and all three norms.
        b1: From the second moment of delta and the scatter of z, likewise.
        a3: k to the bound from the spectrum of the second moment of z, for all three
            norms; empty unless ``cross.inputs`` kept its full scatter.
        excess: |||e||| / lambda.
    """

    shape: tuple[int, int]
    num_cells: int
    weight_decay: float
    ranks: tuple[int, ...]
    norms: tuple[Norm, ...]
    weight_norms: Mapping[Norm, Value]
    within_norms: Mapping[Norm, Value]
    residual_norms: Mapping[Norm, Value]
    gradient_norm: Value
    distances: Mapping[tuple[Norm, int], Value]
    gradient_distances: Mapping[int, Value]
    b3: Mapping[tuple[Norm, int], Value]
    b2: Value
    b1: Value
    a3: Mapping[int, Value]
    excess: Mapping[Norm, Value]

    def bound(
        self, level: str = "B3", norm: Norm = "frobenius", k: int | None = None
    ) -> Value:
        """Return a whole bound, the part due to e included.

        Args:
            level: ``B3``, ``B2``, ``B1`` or ``A3``.
            norm: In which the distance is measured.
            k: Rank; K by default, and always K for B2 and B1.

        Returns:
            The bound; NaN with the reason without decay or without finite statistics.

        Raises:
            DomainError: There is no such bound.
        """
        k = self.num_cells if k is None else k
        parts: Mapping[object, Value] = {
            ("B2", norm, self.num_cells): self.b2,
            ("B1", norm, self.num_cells): self.b1,
            **{("A3", norm, rank): value for rank, value in self.a3.items()},
            **{("B3", *key): value for key, value in self.b3.items()},
        }
        if (level, norm, k) not in parts or norm not in self.norms:
            raise DomainError(
                f"bounds are B3 and A3 at ranks {self.ranks} and B2, B1 at rank "
                f"{self.num_cells}, got {level!r} in the {norm} norm at rank {k}; ask "
                "with ranks= and norms= for more, and for A3 keep scatter_in='full'"
            )
        return add(parts[level, norm, k], self.excess[norm])

    @property
    def within_gradient_share(self) -> Value:
        r"""Within-cells share :math:`\|R\|_F/\|\nabla L_0\|_F` of the gradient.

        Free of scale and of the decay. Bounds the gradient's relative distance to rank
        K at any time, the weight's at a stationary point. It can exceed 1, the two
        parts of the gradient not being orthogonal, and says nothing then.
        """
        R = self.within_norms["frobenius"]
        return ratio(R, self.gradient_norm, "the gradient is zero")

    @property
    def residual_share(self) -> Value:
        r"""Share :math:`\|e\|_F/(\|R\|_F+\|e\|_F)` of the bound due to e, in [0, 1]."""
        e = self.residual_norms["frobenius"]
        whole = add(self.within_norms["frobenius"], e)
        return ratio(e, whole, "both R and e are zero").clip(0.0, 1.0)

    @property
    def relative_residual(self) -> Value:
        r"""Stationarity residual :math:`\|e\|_F/(\lambda\|W\|_F)`, without unit."""
        whole = self.weight_norms["frobenius"] * self.weight_decay
        e = self.residual_norms["frobenius"]
        return ratio(e, whole, "no weight decay, or a zero weight")


def sufficient_weight_decay(
    bounds: RankBounds, distance: float, norm: Norm = "frobenius"
) -> Value:
    r"""Decay from which theorem A promises a distance: :math:`(|R|+|e|)/\epsilon`.

    With R and e as they are now; both change with the decay, so train with it and
    measure again. In units of the decay.
    Source (derived): tests/collapse/certificates/test_collapse_bounds.py.

    Args:
        bounds: Of the weight as it is.
        distance: Wanted distance to rank K, above 0, in units of the weight.
        norm: Of the distance.

    Returns:
        The decay.

    Raises:
        DomainError: The distance is not above 0.
    """
    if not distance > 0.0:
        raise DomainError(
            f"a distance that a finite decay can promise is above 0, got {distance}; "
            "name a share of the weight's norm"
        )
    return add(bounds.within_norms[norm], bounds.residual_norms[norm]) / distance
