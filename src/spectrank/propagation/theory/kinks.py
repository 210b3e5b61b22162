r"""Expected number of linear pieces along a curve, whatever the spectrum.

W^T e_i has a uniform direction, so by Crofton's formula neuron i of layer l changes
sign (angular length of h_{l-1}) / pi times in mean, and layers keep the mean angular
length but for the chance that fewer than two units are active. Per unit of (angular
length of the input curve / pi). The variance does depend on the spectrum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from spectrank.linalg.ensembles.layer import LayerLaw


def new_kinks(layers: Sequence[LayerLaw], slope: float) -> list[float]:
    r"""Expected sign changes of the neurons of a hidden layer where its input is not 0.

    relu: :math:`n_l \prod_{j<l} (1 - (n_j + 1) 2^{-n_j})`; with a slope above 0 no unit
    ever dies and it is n_l. NaN behind a layer of rank one with several outputs: there
    the curve passes through zero and the angular length is not kept. Not so behind a
    single relu unit: from there on the curve lies on a ray, and no sign changes but
    by dying.
    Source (derived): tests/propagation/theory/test_theory_golden.py.

    Args:
        layers: Laws, first layer first.
        slope: In [0, 1): 0 for relu.

    Returns:
        For the hidden layers 1..L-1.
    """
    return _counts(layers, [_two_active(law.m, slope) for law in layers], slope)


def pattern_changes(layers: Sequence[LayerLaw], slope: float) -> list[float]:
    r"""Expected changes of the pattern z_l > 0 of a hidden layer.

    relu: :math:`n_l \prod_{j<l} (1 - 2^{-n_j})`: what comparing signs at neighbouring
    points counts, units switched by a layer that dies or revives included.
    Source (derived): tests/propagation/theory/test_theory_golden.py.

    Args:
        layers: Laws, first layer first.
        slope: In [0, 1): 0 for relu.

    Returns:
        For the hidden layers 1..L-1.
    """
    kept = [
        1.0 if slope > 0.0 else -math.expm1(-law.m * math.log(2.0)) for law in layers
    ]
    return _counts(layers, kept, slope)


def _two_active(m: int, slope: float) -> float:
    """Probability that at least two of m units are active."""
    if slope > 0.0:
        return 1.0
    return 1.0 - (m + 1.0) * math.ldexp(1.0, -m) if m < 1000 else 1.0


def _counts(
    layers: Sequence[LayerLaw], kept: Sequence[float], slope: float
) -> list[float]:
    counts, factor, on_ray = [], 1.0, False
    for law, share in zip(layers[:-1], kept, strict=False):
        counts.append(law.m * factor)
        # A single relu unit is right by the product: it never turns, it only dies. On
        # the ray behind it rank one loses nothing: W h keeps its direction or is zero.
        on_ray = on_ray or (law.m == 1 and slope == 0.0)
        lost = law.stable_rank == 1.0 or min(law.m, law.n) == 1
        factor = math.nan if lost and not on_ray else factor * share
    return counts
