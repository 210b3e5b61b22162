r"""An existing matrix raised or lowered to a stable rank; its singular vectors stay.

W = U diag(s) V^T becomes U diag(s') V^T with sum s'^2 / s'_1^2 = r. How s' is made:

    optimal   g (s_1, gamma s_2, ..): nearest to W in Frobenius norm; lowers
    keep      (s_1, gamma s_2, ..): the spectral norm stays; lowers
    clip      min(s_i, tau): raises
    temper    s_1 (s_i / s_1)^g: both

with gamma = sqrt(r - 1) s_1 / ||S_2||_F, S_2 the rest beside s_1. ``optimal`` and
``keep`` also raise, as long as gamma s_2 <= s_1. The SVD is exact and in float64.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from spectrank.errors import ArgumentTypeError, DomainError, ShapeError
from spectrank.linalg.ensembles.profiles import tempered
from spectrank.linalg.ensembles.requests import check_choice, check_stable_rank
from spectrank.linalg.shapes import Matrix, Spectral
from spectrank.linalg.srn import SrnVariant, srn_factors

StableRankMethod = Literal["auto", "optimal", "keep", "clip", "temper"]
KeptNorm = Literal["keep-frobenius", "keep-spectral"]

# A matrix this near to its target is at it: rounding of the SVD moves it as far.
_AT = 1e-13
_HALF = (torch.float16, torch.bfloat16)


def with_stable_rank(
    W: Matrix,
    stable_rank: float,
    *,
    method: StableRankMethod = "auto",
    norm: KeptNorm | None = None,
) -> Matrix:
    r"""Bring a matrix to a stable rank: :math:`\sum s_i'^2 / s_1'^2 = r`.

    Met to 1e-10 relative in float64; singular vectors and their order stay. A matrix at
    its target comes back as it is. The ways, on s descending:

    - ``optimal``: the nearest matrix of stable rank r, at distance
      :math:`\|S_2\|_F\,|1-\gamma|/\sqrt r`. Changes both norms.
    - ``keep``: the spectral norm stays, at :math:`\sqrt r` times that distance.
    - ``clip``: :math:`s_i' = \min(s_i, \tau)`, tau in closed form. Raises only, up to
      the rank; the Frobenius norm falls.
    - ``temper``: :math:`s_i' = s_1 (s_i/s_1)^g`, g > 0. From the multiplicity of s_1 up
      to the rank; zeros stay zeros.
    - ``auto``: ``optimal`` to lower, ``clip`` to raise.

    Not a projection of the spectrum alone: of all matrices with a *given* spectrum this
    one is nearest to W, since it keeps the singular vectors.
    Source (derived): tests/linalg/test_stable_rank.py; ``keep`` and ``optimal`` as in
    `spectrank.linalg.srn`.

    Args:
        W: (m, n), real and finite, not zero, any precision.
        stable_rank: Target r in [1, rank W]; values below `rounding_share` are zero.
        method: How the singular values are changed.
        norm: ``keep-frobenius`` or ``keep-spectral`` rescales the result to that norm
            of W; None leaves the scale that the method gives.

    Returns:
        (m, n) in the dtype and on the device of W, detached; W is not changed.

    Raises:
        ArgumentTypeError: If W is no real floating-point tensor.
        ShapeError: If W is not 2-D.
        DomainError: If the target lies outside [1, min(m, n)], or W is zero or not
            finite, or the method cannot take W there.
        UnknownNameError: If there is no such method or norm.

    Example:
        >>> W = torch.diag(torch.tensor([2.0, 1.0, 1.0]))
        >>> torch.linalg.svdvals(with_stable_rank(W, 3)).tolist()
        [1.0, 1.0, 1.0]
        >>> lowered = with_stable_rank(W, 1.25, method="keep")
        >>> round(float(lowered.square().sum()), 6)
        5.0
    """  # noqa: DOC502 - some are raised by the functions called
    check_choice("method", method, get_args(StableRankMethod))
    if norm is not None:
        check_choice("norm", norm, get_args(KeptNorm))
    _check_matrix(W)
    r = check_stable_rank(stable_rank, *W.shape)
    values = W.detach().to(torch.float64)
    top = float(values.abs().max())
    if not 0.0 < top < math.inf:
        word = "zero" if top == 0.0 else "not finite"
        raise DomainError(
            f"a stable rank is set on a finite matrix other than zero, got one that is "
            f"{word}; draw one instead, with init.stable_rank_"
        )
    U, s, Vh = torch.linalg.svd(values / top, full_matrices=False)
    m, n = W.shape
    zero = rounding_share(m, n, W.dtype)
    changed = adjusted_values(s, r, method=method, norm=norm, zero=zero)
    if changed is None:
        return W.detach().clone()
    result: Tensor = ((U * (top * changed)) @ Vh).to(W.dtype)
    return result


def rounding_share(m: int, n: int, dtype: torch.dtype) -> float:
    r"""Share of the largest singular value below which values are rounding.

    A convention: eps sqrt(max(m, n)) of float32 and float64, above the noise of a
    product that was summed in that precision and of a float64 SVD; eps / 2 of half
    precisions, whose products are summed in float32 and rounded when stored.
    Source (derived): tests/linalg/test_stable_rank.py.

    Args:
        m: Number of rows.
        n: Number of columns.
        dtype: In which the matrix is stored.

    Returns:
        The share, below 1 for every matrix that fits in memory.
    """
    eps = torch.finfo(dtype).eps
    return 0.5 * eps if dtype in _HALF else eps * math.sqrt(max(m, n))


def adjusted_values(
    s: Spectral,
    r: float,
    *,
    method: StableRankMethod = "auto",
    norm: KeptNorm | None = None,
    zero: float = 0.0,
) -> Spectral | None:
    """Singular values changed to a stable rank, as `with_stable_rank` does.

    Args:
        s: (p,) float64, descending, the first positive.
        r: Target.
        method: How.
        norm: Which norm stays.
        zero: Share of the largest up to which a value counts as zero.

    Returns:
        (p,) descending; None where they are at the target.

    Raises:
        DomainError: If the method cannot take them there.
    """
    s = torch.where(s > zero * s[0], s, torch.zeros_like(s))
    now = float((s / s[0]).square().sum())
    if abs(now - r) <= _AT * r:
        return None
    rank = int((s > 0.0).sum())
    if r > rank * (1.0 + _AT):
        raise DomainError(
            f"singular vectors that stay allow a stable_rank up to the rank, here "
            f"{rank}, got {r:g}; draw another matrix, with init.stable_rank_"
        )
    if method == "auto":
        method = "optimal" if r < now else "clip"
    if method == "clip":
        changed = _clipped(s, r, now)
    elif method == "temper":
        changed = _tempered(s, r, rank)
    else:
        changed = _scaled(s, r, method)
    factor = torch.ones_like(s[0])
    if norm == "keep-frobenius":
        factor = torch.linalg.vector_norm(s) / torch.linalg.vector_norm(changed)
    elif norm == "keep-spectral":
        factor = s[0] / changed[0]
    return changed * factor


def _clipped(s: Spectral, r: float, now: float) -> Spectral:
    if r < now:
        raise DomainError(
            f"clipping only raises a stable rank, here {now:g}, got {r:g}; "
            "method='optimal' lowers it"
        )
    # With k values at tau, k + tail_k / tau^2 = r, where tail_k = sum_{i > k} s_i^2. It
    # is the last k at which that tau is at most s_k: s_k^2 (r - k) - tail_k falls in k.
    sums = s.square().flip(0).cumsum(0).flip(0)
    tails = torch.cat([sums[1:], torch.zeros_like(sums[:1])])
    k = torch.arange(1, len(s) + 1, dtype=s.dtype, device=s.device)
    fits = (s > 0.0) & (s.square() * (r - k) >= tails)
    count = max(int(fits.sum()), 1)
    rest = r - count
    tail = float(tails[count - 1])
    tau = math.sqrt(tail / rest) if rest > 0.0 and tail > 0.0 else float(s[count - 1])
    return s.clamp_max(tau)


def _tempered(s: Spectral, r: float, rank: int) -> Spectral:
    logs = (s[:rank] / s[0]).log()
    equal = int((logs == 0.0).sum())
    if r <= equal and equal > 1:
        raise DomainError(
            f"tempering leaves {equal} equal largest singular values equal, so the "
            f"stable rank stays above {equal}, got {r:g}; method='optimal' parts them"
        )
    changed = torch.zeros_like(s)
    changed[:rank] = s[0] * tempered(logs, min(r, float(rank))).sqrt()
    return changed


def _scaled(s: Spectral, r: float, variant: SrnVariant) -> Spectral:
    tail = torch.linalg.vector_norm(s[1:])
    top, rest = srn_factors(s[0], tail, r, variant=variant, lower_only=False)
    changed: Spectral = torch.cat([top * s[:1], rest * s[1:]])
    if len(s) > 1 and float(changed[1]) > float(changed[0]) * (1.0 + _AT):
        raise DomainError(
            f"method={variant!r} raises a stable rank until the second singular value "
            f"meets the first, got a target of {r:g} beyond that; method='clip' or "
            "'temper' goes up to the rank"
        )
    return changed


def _check_matrix(W: Tensor) -> None:
    if not isinstance(W, Tensor) or not W.is_floating_point():
        kind = W.dtype if isinstance(W, Tensor) else type(W).__name__
        raise ArgumentTypeError(
            f"a stable rank is set on a real floating-point tensor, got {kind}; "
            "convert first, e.g. W.double()"
        )
    if W.ndim != 2 or W.numel() == 0:
        raise ShapeError(
            f"a stable rank is set on a 2-D matrix with entries, got shape "
            f"{tuple(W.shape)}; unfold a kernel first, e.g. W.flatten(1)"
        )
