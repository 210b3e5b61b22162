r"""The levels of the rank bound from statistics alone: B2, B1, A3, and errors of sums.

    F  divisor: what the sum of the loss is divided by to give the loss as trained
    N  pairs (delta_i, z_i) taken in; for convolutions and tokens one per position

With S(x) the sum of squared deviations of x from its cell means,

    B2 = (S(delta) S(z))^(1/2) / (F weight_decay)
    B1 = (sum ||delta||^2 S(z))^(1/2) / (F weight_decay)
    A3 = (sum ||delta||^2 N sum_{i>k} nu_i)^(1/2) / (F weight_decay),

nu the eigenvalues of the second moment of z about zero. Each bounds the distance in all
three norms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from spectrank.linalg import Value
from spectrank.linalg.moments import ClassSummary, CrossSummary
from spectrank.linalg.shapes import Spectral


@final
@dataclass(frozen=True)
class Levels:
    r"""B2 and B1 times the decay, and the errors of R and of the gradient.

    Attributes:
        scatters: :math:`\sqrt{S(\delta)S(z)}/F`, which bounds the nuclear norm of R.
        moments: :math:`\sqrt{\sum\|\delta\|^2S(z)}/F`.
        within_error: Bound on the Frobenius error of R, from that of the accumulator.
        gradient_error: The same of the gradient of the loss.
    """

    scatters: Value
    moments: Value
    within_error: float
    gradient_error: float

    @classmethod
    def of(cls, cross: CrossSummary, divisor: float) -> Levels:
        """Read them from the statistics.

        Args:
            cross: Statistics over cells.
            divisor: F.

        Returns:
            The levels; NaN with the reason where the statistics have none.
        """
        share = cross.num_samples / divisor
        S_delta, S_z = cross.outputs.wcv, cross.inputs.wcv
        whole_delta = cross.outputs.mean_square
        scatters = _root(S_delta, S_z, share)
        whole = _root(whole_delta, cross.inputs.mean_square, share)
        within = cross.inputs.scatter_error * scatters.upper
        return cls(
            scatters=scatters,
            moments=_root(whole_delta, S_z, share),
            within_error=within,
            gradient_error=(whole.upper - whole.value) + within,
        )


def feature_tails(
    cross: CrossSummary, divisor: float, ranks: tuple[int, ...]
) -> dict[int, Value]:
    """Return A3 times the decay by rank; empty unless z kept its full scatter.

    Args:
        cross: Statistics over cells.
        divisor: F.
        ranks: Ranks k.

    Returns:
        Rank to enclosed number.
    """
    if cross.inputs.kind != "full" or cross.status != "ok":
        return {}
    nu = torch.linalg.eigvalsh(cross.inputs.second_moment()).flip(0).clamp_min(0.0)
    # Every eigenvalue errs by at most the norm of the error of the moment.
    error = _moment_error(cross.inputs) + len(nu) * 2.3e-16 * float(nu[0])
    share = cross.num_samples / divisor
    return {
        k: _root(cross.outputs.mean_square, _tail_sum(nu, k, error), share)
        for k in ranks
    }


def between_values(cross: CrossSummary, divisor: float) -> Spectral:
    r"""Return the singular values of the between-cells part of the gradient.

    Of :math:`\frac1F\sum_cn_c\bar\delta_c\bar z_c^T`, through its factors: at most K
    values, where those of the (m, n) product would end in rounding noise.

    Args:
        cross: Statistics over cells.
        divisor: F.

    Returns:
        (min(K, m, n),) values, descending.
    """
    m, n = cross.within.shape
    cells = cross.inputs.counts.nonzero().flatten()
    if len(cells) >= min(m, n):
        product = cross.between_moment() * (cross.num_samples / divisor)
        values: Tensor = torch.linalg.svdvals(product)
        return values.cpu()
    weights = cross.inputs.counts[cells].to(torch.float64).div(divisor).sqrt()[:, None]
    left = torch.linalg.qr((cross.outputs.means[cells] * weights).mT, mode="r").R
    right = torch.linalg.qr((cross.inputs.means[cells] * weights).mT, mode="r").R
    core: Tensor = torch.linalg.svdvals(left @ right.mT)
    return core.cpu()


def _root(first: Value, second: Value, factor: float) -> Value:
    # Roots before the product: 1e-200 squared would be zero.
    return first**0.5 * second**0.5 * factor


def _tail_sum(nu: Tensor, k: int, error: float) -> Value:
    rest = nu[k:]
    return Value.around(float(rest.sum()), error * len(rest))


def _moment_error(summary: ClassSummary) -> float:
    square = summary.mean_square
    lost = square.upper - square.value
    return math.fsum((lost, summary.scatter_error * summary.wcv.value))
