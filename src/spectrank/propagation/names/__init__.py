r"""Names of everything told about signal in a deep network, predicted or measured.

One row is one (subject, metric, variant, index): ``subject`` is a weight's name or
``network``, ``index`` the number l of its layer, 1 to L. W_l is (n_l, n_{l-1}),
z_l = W_l h_{l-1}, h_l = phi(z_l) for l < L, the output f = z_L carries no activation,
biases are zero. ``post`` rows tell of h_l and end at L - 1, ``pre`` rows of z_l. E is
the mean over random networks of one law. ``g`` is E phi(z)^2 / E z^2 (1/2 for relu, 1
for linear); a1 = sum s^2, a2 = sum s^4 over a layer's singular values, rho = a1^2 / a2,
m = n_l, n = n_{l-1}.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import polars as pl

from spectrank.propagation.names.angles import ANGLE_NAMES
from spectrank.propagation.names.capacity import CAPACITY_NAMES
from spectrank.propagation.names.name import Name as Name
from spectrank.propagation.names.norms import NORM_NAMES
from spectrank.random_nets.rows import NETWORK as NETWORK

COLUMNS: Mapping[str, Any] = MappingProxyType(
    {
        "m": pl.Int64,
        "n": pl.Int64,
        "standard_error": pl.Float64,
        "num_samples": pl.Int64,
        "log_value": pl.Float64,
        "input_cosine": pl.Float64,
    }
)
"""Producer columns that prediction and measurement share.

``log_value`` is the natural logarithm of a positive value, there also where the value
itself leaves the range of float64; ``input_cosine`` tells apart the rows of several
pairs of inputs.
"""

METRICS: Mapping[str, Name] = MappingProxyType(
    {name.name: name for name in (*NORM_NAMES, *ANGLE_NAMES, *CAPACITY_NAMES)}
)
"""Every metric of `predict`, `measure` and `capacity` by its name."""
