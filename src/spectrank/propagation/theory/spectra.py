"""Squared singular values of a layer's law, where they are fixed."""

from __future__ import annotations

import numpy as np

from spectrank.linalg.ensembles.assembly import FixedLaw
from spectrank.linalg.ensembles.layer import LayerLaw
from spectrank.linalg.ensembles.make import ensemble


def fixed_squares(law: LayerLaw) -> np.ndarray | None:
    """Squared singular values of a law, normalised to a largest of one.

    Args:
        law: Of one layer.

    Returns:
        (min(m, n),) descending; None where they are random, or a profile that the law
        does not carry.
    """
    if law.stable_rank is None or law.spectrum == "profile":
        return None
    made = ensemble(
        law.m, law.n, stable_rank=law.stable_rank, spectrum=law.spectrum
    ).law
    if isinstance(made, FixedLaw):
        return np.array(made.squares)
    return None
