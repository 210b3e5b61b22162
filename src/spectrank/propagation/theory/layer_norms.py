"""Norms of one matrix or of its law that capacity bounds read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from spectrank.linalg import spectrum
from spectrank.linalg.ensembles.layer import LayerLaw
from spectrank.linalg.layer_moments.log_norms import layer_log_norm
from spectrank.model import WeightMatrix

_UNIT = 2.0**-53


@final
@dataclass(frozen=True)
class LayerNorms:
    """Three norms of one matrix, each as (value, lower, upper).

    Attributes:
        sigma: Spectral norm.
        frobenius: Frobenius norm.
        rows: Sum of the norms of the rows, ||W^T||_{2,1}.
        error_kind: ``rounding`` or ``probabilistic``; None for a law.
        failure_probability: That an enclosure misses.
        reason: Why the numbers are leading order; None if they are not.
    """

    sigma: tuple[float, float, float]
    frobenius: tuple[float, float, float]
    rows: tuple[float, float, float]
    error_kind: str | None = None
    failure_probability: float = 0.0
    reason: str | None = None


def measured_norms(
    matrices: Sequence[WeightMatrix],
) -> tuple[list[LayerNorms], tuple[str, str] | None]:
    """Measure every matrix, one in memory at a time.

    Args:
        matrices: Of the source.

    Returns:
        Norms, and status and reason of the first matrix without any (zero or not
        finite), where measuring stops; None if there is none.
    """
    norms: list[LayerNorms] = []
    for weight in matrices:
        W = weight.tensor()
        s = spectrum(W, ("frobenius", "sigma_max"))
        if s.status != "ok":
            return norms, (s.status, f"{weight.name}: {s.reason}")
        rows = _sum_of_row_norms(W.detach(), s.sigma_max.value)
        error = (sum(weight.shape) + 8) * _UNIT * rows
        norms.append(
            LayerNorms(
                (s.sigma_max.value, s.sigma_max.lower, s.sigma_max.upper),
                (s.frobenius.value, s.frobenius.lower, s.frobenius.upper),
                (rows, rows - error, rows + error),
                s.sigma_max.error_kind,
                s.sigma_max.failure_probability,
            )
        )
    return norms, None


def _sum_of_row_norms(W: Tensor, sigma: float) -> float:
    # Squares of 1e-200 and 1e200 leave float64; a power of two costs no digit.
    scale = 1.0
    if not 1e-100 < sigma < 1e100:
        scale = math.ldexp(1.0, math.frexp(sigma)[1])
        W = W / scale
    lengths = torch.linalg.vector_norm(W, dim=1, dtype=torch.float64)
    return scale * float(lengths.sum())


def law_norms(law: LayerLaw) -> LayerNorms:
    """Norms of a law: the spectral norm it prescribes, the mean of the row norms.

    Args:
        law: Of one layer.

    Returns:
        Norms without enclosures.
    """
    # A row is W^T e, so its mean norm is a root moment of the transposed layer.
    rows = law.m * math.exp(layer_log_norm(law, transposed=True).log_half)
    sigma, reason = law.spectral_norm, "the sum of row norms is replaced by its mean"
    if sigma is None:
        deviation = math.sqrt(law.a1 / (law.m * law.n))
        sigma = deviation * (math.sqrt(law.m) + math.sqrt(law.n))
        reason = "norms of gaussian layers by their large-width values"
    # Not sqrt(a1): the square of a spectral norm of 1e-200 is zero.
    r = law.stable_rank
    frobenius = math.sqrt(law.a1) if r is None else sigma * math.sqrt(r)
    return LayerNorms((sigma,) * 3, (frobenius,) * 3, (rows,) * 3, None, 0.0, reason)
