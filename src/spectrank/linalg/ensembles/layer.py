"""The law of one weight matrix of a network, at its scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from spectrank.linalg.ensembles.ensemble import Ensemble


@final
@dataclass(frozen=True)
class LayerLaw:
    """The law of one weight matrix, at its scale.

    Attributes:
        m: Number of outputs.
        n: Number of inputs.
        spectrum: Name of the law of the singular values.
        stable_rank: Of every draw; None for ``gaussian``, where it is random.
        spectral_norm: Of every draw; None for ``gaussian``.
        a1: E sum s^2; like the next two inf or 0 where it leaves the range of
            float64, see ``relative_law``.
        a1_squared: E (sum s^2)^2.
        a2: E sum s^4.
        participation_ratio: a1_squared / a2.
        a2_stderr: Standard error of a2; 0 for every spectrum but ``temper``.
    """

    m: int
    n: int
    spectrum: str
    stable_rank: float | None
    spectral_norm: float | None
    a1: float
    a1_squared: float
    a2: float
    participation_ratio: float
    a2_stderr: float = 0.0


def layer_law(ensemble: Ensemble, spectral_norm: float) -> LayerLaw:
    """Law of ``spectral_norm * W`` for W of an ensemble.

    Args:
        ensemble: Normalised law.
        spectral_norm: Scale.

    Returns:
        The law with its moments.
    """
    moments = ensemble.moments.scaled(spectral_norm)
    r = ensemble.stable_rank
    return LayerLaw(
        ensemble.m,
        ensemble.n,
        ensemble.spectrum,
        r,
        None if r is None else spectral_norm,
        moments.a1,
        moments.a1_squared,
        moments.a2,
        # Of the unscaled law: fourth powers of a tiny scale are zero.
        ensemble.moments.participation_ratio,
        moments.a2_stderr,
    )
