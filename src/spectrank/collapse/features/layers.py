r"""The law of He & Su: log D_l falls on a line in the number l of the layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from spectrank.linalg import Value

# Half width of an interval, in standard errors.
_WIDTH = 4.0


@final
@dataclass(frozen=True)
class LayerLaw:
    r"""Least-squares line through :math:`(l, \log D_l)`.

    Attributes:
        rate: :math:`\rho=\exp(\text{slope})`, by which D changes a layer; below 1 where
            layers separate the classes. Its interval is four standard errors of the
            slope; two layers give no standard error.
        initial: exp(intercept), D of layer 0 on the line.
        correlation: Of l and log D_l, in [-1, 1]; NaN where D is constant.
        deviations: log D_l less the line; layers far off are over- or under-collapsed.
    """

    rate: Value
    initial: float
    correlation: float
    deviations: tuple[float, ...]


def layer_law(values: Sequence[float]) -> LayerLaw:
    r"""Fit :math:`D_l\approx\rho^l D_0` to the NC1 (he-su) of consecutive layers.

    ``degenerate`` with fewer than two layers or where a value is not positive and
    finite: a layer that has collapsed to rounding has no logarithm.
    Source (stated): He & Su (2023), arXiv:2210.17020, law of equi-separation.

    Args:
        values: D of layers 0, 1, ..., in order.

    Returns:
        The line.
    """
    num = len(values)
    bad = [i for i, x in enumerate(values) if not (x > 0.0 and math.isfinite(x))]
    if num < 2 or bad:
        reason = (
            f"layer {bad[0]} has D = {values[bad[0]]:g}, which has no logarithm"
            if bad
            else f"a line needs two layers, got {num}"
        )
        nan = math.nan
        return LayerLaw(Value.undefined("degenerate", reason), nan, nan, (nan,) * num)
    x, y = np.arange(num, dtype=np.float64), np.log(np.asarray(values, np.float64))
    dx, dy = x - x.mean(), y - y.mean()
    sxx, syy = float(dx @ dx), float(dy @ dy)
    slope = float(dx @ dy) / sxx
    off = dy - slope * dx
    correlation = slope * math.sqrt(sxx / syy) if syy > 0.0 else math.nan
    rate = math.exp(slope)
    value = Value.around(rate, 0.0)
    if num > 2:
        width = _WIDTH * math.sqrt(float(off @ off) / (num - 2) / sxx)
        value = Value(rate, rate * math.exp(-width), rate * math.exp(width), "stderr")
    initial = math.exp(float(y.mean()) - slope * float(x.mean()))
    return LayerLaw(value, initial, correlation, tuple(off.tolist()))
