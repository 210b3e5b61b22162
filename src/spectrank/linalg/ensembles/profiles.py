r"""Descending profiles t = s^2 with t_1 = 1 and a prescribed sum, the stable rank.

    r  stable rank, in [1, p]
    p  number of singular values, min(m, n)

Source of every law here (derived): tests/linalg/ensembles/test_ensembles_profiles.py.
"""

from __future__ import annotations

import math

import torch

from spectrank.linalg.ensembles.law import Profiles

# Newton's method needs about ten steps; this many would be a mistake of ours.
_MAX_STEPS = 200
# Steps shrink quadratically: after one of this relative size rounding is what is left.
_LAST_STEP = 1e-9


def flat(p: int, r: float) -> Profiles:
    r"""floor(r) ones, then r - floor(r), then zeros.

    The smallest participation ratio of all with this stable rank:
    :math:`r^2 / (\lfloor r \rfloor + (r - \lfloor r \rfloor)^2)`; r for whole r.

    Args:
        p: Number of values.
        r: Their sum.

    Returns:
        (p,) float64.
    """
    i = torch.arange(p, dtype=torch.float64, device="cpu")
    return (r - i).clamp(0.0, 1.0)


def spike(p: int, r: float) -> Profiles:
    r"""One, then p - 1 equal values.

    The largest participation ratio of all with this stable rank:
    :math:`r^2 / (1 + (r - 1)^2 / (p - 1))`.

    Args:
        p: Number of values.
        r: Their sum.

    Returns:
        (p,) float64.
    """
    rest = (r - 1.0) / (p - 1) if p > 1 else 0.0
    t = torch.full((p,), rest, dtype=torch.float64, device="cpu")
    t[0] = 1.0
    return t


def power(p: int, r: float) -> Profiles:
    r"""Power law :math:`t_i = i^{-2a}`, a >= 0 such that the sum is r.

    Args:
        p: Number of values.
        r: Their sum.

    Returns:
        (p,) float64.
    """
    i = torch.arange(1, p + 1, dtype=torch.float64, device="cpu")
    return tempered(-i.log(), r)


def exponential(p: int, r: float) -> Profiles:
    r"""Geometric decay :math:`t_i = e^{-2a(i-1)}`, a >= 0 such that the sum is r.

    Args:
        p: Number of values.
        r: Their sum.

    Returns:
        (p,) float64.
    """
    return tempered(-torch.arange(p, dtype=torch.float64, device="cpu"), r)


def tempered(log_s: Profiles, r: float) -> Profiles:
    r"""Raise singular values to the power that gives a stable rank.

    :math:`t_i = e^{2 \gamma \log s_i}`, :math:`\gamma \ge 0`:
    :math:`\log \sum_{i \ge 2} t_i` is convex and strictly decreasing in gamma, from
    log(p - 1) at 0, so Newton's method from 0 on its equation with log(r - 1) ascends
    to the only root. In that form r = 1 + 1e-15 is no harder than r = 2.

    Args:
        log_s: (*num, p) descending, first 0, second below 0.
        r: Sum of the result, in [1, p].

    Returns:
        (*num, p) float64, the first one.
    """
    rest = 2.0 * log_s[..., 1:]
    if rest.shape[-1] == 0 or r == 1.0:
        t = torch.zeros_like(log_s)
        t[..., 0] = 1.0
        return t
    target = math.log(r - 1.0)
    gamma = torch.zeros_like(rest[..., :1])
    for _ in range(_MAX_STEPS):
        exponents = gamma * rest
        height = exponents.logsumexp(-1, keepdim=True)
        slope = (rest * (exponents - height).exp()).sum(-1, keepdim=True)
        step = ((target - height) / slope).clamp_min(0.0)
        gamma = gamma + step
        if bool((step <= _LAST_STEP * gamma).all()):
            break
    t = (gamma * rest).exp()
    # The last rounding: the sum is r, not nearly r.
    t = (t * ((r - 1.0) / t.sum(-1, keepdim=True))).clamp_max(1.0)
    return torch.cat([torch.ones_like(gamma), t], dim=-1)
