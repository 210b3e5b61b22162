r"""Scale at which the *typical* signal is kept: the mean of its logarithm.

With the mean norm kept, the typical network of a deep stack loses its signal: E log of
a product of fluctuating factors is below the log of its mean. Here s_1 is such that

    E log(|h|^2 / m) = log(|x|^2 / n)

per layer, h = phi(W x) with phi relu (given that some unit is active) or linear. The
log moments are those of `spectrank.linalg.layer_moments.log_norms`; for r equal values
they are the digamma form, psi(r/2) - psi(n/2).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from spectrank.linalg.ensembles.assembly import FixedLaw
from spectrank.linalg.ensembles.ensemble import Ensemble
from spectrank.linalg.ensembles.layer import layer_law
from spectrank.linalg.layer_moments.log_norms import (
    layer_log_norm,
    mask_log_norm,
    sphere_log_norm,
)


# A memo: equal layers of a model have one scale, up to a second of integrals each.
@lru_cache(maxsize=64)
def typical_spectral_norm(e: Ensemble, *, relu: bool) -> float:
    r"""Spectral norm at which :math:`E \log(|h|^2/m) = \log(|x|^2/n)`.

    Exact for every fixed spectrum, ``gaussian`` and ``mp-spike``; for ``slice`` and
    ``temper`` a mean over drawn singular values: the standard error of the logarithm is
    3e-3 at a width of 3 and below 1e-3 from 16 on. Flat spectra of a whole stable rank
    r and relu: :math:`\log s^2 = \log(m/n) + \psi(n/2) -
    \psi(r/2) + \psi(m/2) - E\,\psi(N/2)`.
    Source (derived): tests/init/test_init_typical.py.

    Args:
        e: The ensemble, normalised to a largest singular value of one.
        relu: Whether relu follows; else nothing does.

    Returns:
        The spectral norm; for ``gaussian`` the factor of the ensemble.
    """
    if isinstance(e.law, FixedLaw):
        # A law of a layer does not carry the values of a profile.
        layer = sphere_log_norm(np.array(e.law.squares), e.n)
    else:
        layer = layer_log_norm(layer_law(e, 1.0))
    log_gain = layer.mean + (mask_log_norm(e.m, 0.0).mean if relu else 0.0)
    return math.exp(0.5 * (math.log(e.m / e.n) - log_gain))
